"""A training step as CUDA graphs: what it launches is recorded once and launched again as a whole.

A small model's step is some thousand kernels of a few microseconds each, and the processor that launches them one by
one takes several times as long as they do. A graph is recorded for every shape of the inputs that comes up: how many
tokens are hidden is drawn for each step, so there are about as many shapes as tokens in a frame.

Numbers are those of the plain step. Knows functions of tensors; neither the model nor the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...]
Outputs = tuple[dict[str, Tensor], Tensor]  # parts of the loss, norm of the gradient
Compute = Callable[[Inputs], Outputs]

WARM_UPS = 2  # runs before a recording, in which libraries choose kernels and take their memory
MOST = 512  # graphs; what comes up beyond these is computed plainly


@dataclass(frozen=True)
class Recording:
    """A graph, where it reads and where it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]
    outputs: Outputs


class GraphedStep:
    """Computes what `compute` does, gradients included, by replaying its kernels.

    What it returns is overwritten by the next call.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter]) -> None:
        """Wrap a step.

        Args:
            compute: from inputs to outputs, leaving gradients at the parameters; it waits for the device nowhere and
                copies nothing to it.
            parameters: whose gradients these are.

        Raises:
            ValueError: the parameters are not on a CUDA device.
        """
        if any(parameter.device.type != "cuda" for parameter in parameters):
            raise ValueError(
                f"cuda_graphs needs a CUDA device; the model is on {parameters[0].device.type}: leave it off there"
            )
        self.compute = compute
        self.parameters = parameters
        self.recordings: dict[tuple[Any, ...], Recording] = {}
        self.pool = torch.cuda.graph_pool_handle()  # graphs run one after another, and so share memory
        self.stream = torch.cuda.Stream()  # gradients must be recorded where they were first gathered

    def __call__(self, inputs: Inputs) -> Outputs:
        """Outputs of a step; the gradients are at the parameters."""
        tensors = leaves(inputs)
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        if key not in self.recordings:
            if len(self.recordings) >= MOST:
                return self.compute(inputs)
            self.recordings[key] = self._record(inputs)
        recording = self.recordings[key]
        fill(recording.inputs, tensors)
        recording.graph.replay()
        for parameter, gradient in zip(self.parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.outputs

    def _record(self, inputs: Inputs) -> Recording:
        kept = map_tensors(inputs, torch.clone)
        before = torch.cuda.get_rng_state()  # the warm-ups must not move the dropout of the step itself
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                self.compute(kept)
        torch.cuda.current_stream().wait_stream(self.stream)
        torch.cuda.set_rng_state(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = self.compute(kept)
        gradients = tuple(parameter.grad for parameter in self.parameters)
        return Recording(graph, leaves(kept), gradients, outputs)


def fill(kept: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Put the inputs of a step where the recording reads them."""
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
        f"inputs of a recorded step are tensors, tuples and dataclasses of them; got {type(value).__name__}"
    )


def leaves(value: Any) -> tuple[Tensor, ...]:
    """The tensors of nested tuples and dataclasses, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return tuple(found)
