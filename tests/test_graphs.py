"""A training step can be recorded: it waits for the device nowhere and copies nothing to it.

A machine without CUDA cannot record, but it can watch: with a model on the meta device, which holds shapes alone, what
comes from the host is seen by its device. `python -m magi.bench.suite` compares recorded steps with plain ones on CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from magi.bench.suite import latents
from magi.distributed import Distributed
from magi.graphs import fill, leaves, map_tensors
from magi.model.config import PRESETS, Forcing
from magi.model.draws import draw_training
from magi.model.head import HeadConfig, Kind
from magi.model.magi import Magi
from magi.training.loop import TrainConfig, step_of
from magi.training.optim import OptimConfig

META = torch.device("meta")


class Crossings(TorchDispatchMode):
    """Notes every operation that takes something from one device to another, or that looks at a value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)}
        if len(devices) > 1 or func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("forcing", ["ctf", "mtf"])
@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_nothing_crosses_after_the_first_step(forcing: Forcing, kind: Kind) -> None:
    """The first step may copy constants to the device; a later one, forwards and backwards, finds them there."""
    config = replace(PRESETS["tiny"], forcing=forcing, head=HeadConfig(kind=kind, width=128))
    with META:
        model, interval = Magi(config), torch.ones(2, dtype=torch.long)
    crossings = []
    for step in (0, 1):
        draws = draw_training(config, 0, step=step, samples=range(2)).to(META)
        given = latents(config, 2).to(META)
        compute = step_of(model, TrainConfig(precision="fp32"), Distributed(device=META))  # meta has no autocast
        with Crossings() as seen:
            compute([(given, interval, draws)])
        crossings.append(seen.found)
    assert not crossings[1], crossings[1]


def test_a_crossing_would_be_seen() -> None:
    """The watch itself: a copy from the host, and a look at a value."""
    with Crossings() as seen:
        torch.ones(2).to(META)
        torch.ones(1).item()
    assert len(seen.found) == 2


def test_inputs_are_found_in_order_and_rebuilt() -> None:
    """Tensors of nested tuples and dataclasses; anything else would be recorded as it is, and so is refused."""
    config = PRESETS["tiny"]
    draws = draw_training(config, 0, step=0, samples=[0])
    inputs = (torch.ones(1), (torch.zeros(2), draws))
    found = leaves(map_tensors(inputs, torch.clone))
    assert [tensor.shape for tensor in found[:3]] == [(1,), (2,), draws.masked_tokens.shape]
    assert all(torch.equal(a, b) and a is not b for a, b in zip(found, leaves(inputs), strict=True))
    with pytest.raises(TypeError, match="got int"):
        leaves((torch.ones(1), 3))


def test_every_input_is_put_where_it_is_read() -> None:
    """Not only the first: the others would be those of the step that was recorded."""
    kept = (torch.zeros(2), torch.zeros(3), torch.zeros(1, dtype=torch.long))
    given = (torch.ones(2), torch.full((3,), 2.0), torch.tensor([3]))
    fill(kept, given)
    assert all(torch.equal(own, new) for own, new in zip(kept, given, strict=True))


def test_a_step_cuts_its_gradient() -> None:
    """A gradient longer than `clip` is left at that length, and its own length is told."""
    model = torch.nn.Linear(1, 1, bias=False)

    class Steep(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": 100 * model(x).sum()}

    loss = Steep()
    loss.add_module("model", model)
    config = TrainConfig(precision="fp32", optim=OptimConfig(clip=0.5))
    parts, norm = step_of(loss, config, Distributed())([(torch.ones(1, 1),)])
    assert float(norm) == pytest.approx(100) and not parts["loss"].requires_grad
    assert model.weight.grad is not None and float(model.weight.grad.norm()) == pytest.approx(0.5, rel=1e-4)


def test_graphs_are_refused_where_there_are_none() -> None:
    """On a CPU, and where several processes share the gradients."""
    model = torch.nn.Linear(1, 1)
    with pytest.raises(
        ValueError, match=r"is for one process and whole batches; this run has 2 and 2 parts"
    ):
        step_of(model, TrainConfig(cuda_graphs=True), Distributed(world_size=2))
    with pytest.raises(ValueError, match=r"this run has 1 and 4 parts"):
        step_of(model, TrainConfig(cuda_graphs=True, parts=4), Distributed())
    with pytest.raises(ValueError, match=r"cuda_graphs needs a CUDA device; the model is on cpu"):
        step_of(model, TrainConfig(cuda_graphs=True), Distributed())
