"""CUDA graphs: what a function launches is recorded once and launched again as a whole.

A small model's step is some thousand kernels of a few microseconds each, and the processor that launches them one by
one takes several times as long as they do. What a recording computes is what the function computed then: everything
that may differ between two calls is either a tensor among the inputs or part of the key.

Numbers are those of the plain function. Knows functions of tensors; neither models nor optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]  # tensors, and tuples and dataclasses of them
Compute = Callable[[Inputs], Any]

WARM_UPS = 2  # runs before a recording, in which libraries choose kernels and take their memory


@dataclass(frozen=True)
class Recording:
    """A graph, where it reads and where it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Any
    kept: tuple[Tensor, ...]


class Recorder:
    """Runs functions: at the first call with a key and shapes it records, at later ones it replays.

    What it returns is overwritten by the next call of the same recording. Recordings share memory, and so must run one
    after another.
    """

    def __init__(self, *, most: int) -> None:
        """An empty one; what comes up beyond `most` recordings is computed plainly."""
        self.most = most
        self.recordings: dict[Hashable, Recording] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()  # of all recordings: gradients must be gathered where they first were

    def __call__(self, key: Hashable, compute: Compute, inputs: Inputs, *, kept: Sequence[Tensor] = ()) -> Any:
        """What `compute` returns for these inputs.

        Args:
            key: tells functions apart, with every number they use that is not among the inputs.
            compute: waits for the device nowhere and copies nothing to it, at the latest when called for the second
                time. What it does beside computing is done at recording and not in a replay.
            inputs: may be overwritten as soon as this returns.
            kept: what it reads besides, which then lives as long as the recording.
        """
        tensors = leaves(inputs)
        key = (key, tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors))
        if key not in self.recordings:
            if len(self.recordings) >= self.most:
                return compute(inputs)
            self.recordings[key] = self.record(compute, inputs, tuple(kept))
        recording = self.recordings[key]
        fill(recording.inputs, tensors)
        recording.graph.replay()
        return recording.outputs

    def record(self, compute: Compute, inputs: Inputs, kept: tuple[Tensor, ...]) -> Recording:
        """A recording of the function, which reads copies of the inputs."""
        own = map_tensors(inputs, torch.clone)
        before = torch.cuda.get_rng_state()  # the warm-ups must not move the dropout of the step itself
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                compute(own)
        torch.cuda.current_stream().wait_stream(self.stream)
        torch.cuda.set_rng_state(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = compute(own)
        return Recording(graph, leaves(own), outputs, kept)


def check_device(device: torch.device) -> None:
    """Refuse graphs where there is no CUDA.

    Raises:
        ValueError: the device is another.
    """
    if device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a CUDA device; the model is on {device.type}: leave it off there")


def fill(kept: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Put the inputs of a call where the recording reads them."""
    for own, new in zip(kept, given, strict=True):
        own.copy_(new)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested tuples and dataclasses with every tensor replaced.

    Raises:
        TypeError: there is something else in them, which a recording would not notice the change of.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(each, function) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
    raise TypeError(
        f"inputs of a recorded function are tensors, tuples and dataclasses of them; got {type(value).__name__}"
    )


def leaves(value: Any) -> tuple[Tensor, ...]:
    """The tensors of nested tuples and dataclasses, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return tuple(found)
