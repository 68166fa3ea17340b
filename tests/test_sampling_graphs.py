"""Claims about sampling in CUDA graphs that need no CUDA: what is recorded may be replayed.

A recording computes again what was computed when it was made, whatever has changed since but for its inputs. A
rehearsal does that with the functions themselves: it calls, for all later inputs of a key, the function that came with
the first. So a number missing from the key, or a count that a replay would not repeat, makes another video.
`python -m magi.bench.suite` compares graphs with plain sampling on CUDA.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from magi import graphs
from magi.bench import suite
from magi.graphs import Compute, Inputs, Recorder, Recording, leaves, map_tensors
from magi.model.config import MagiConfig
from magi.model.head import SOLVERS, HeadConfig, Kind, Solver
from magi.model.magi import Finished, Magi
from magi.sampling import rollout
from magi.sampling.config import SampleConfig
from magi.sampling.graphs import GraphedMagi, graphed
from magi.sampling.noise import SampleNoise
from magi.sampling.rollout import generate
from tests.test_graphs import META, Crossings
from tests.toys import random_latents, tiny, trained_looking

QUICK = SampleConfig(mask_steps=3, head_steps=4, solver="ddpm")


class Rehearsed:
    """Stands for a graph: calls the function it was made of on its own inputs, and writes where it wrote."""

    def __init__(self, compute: Compute, inputs: Inputs, outputs: Any) -> None:
        self.compute, self.inputs, self.outputs = compute, inputs, outputs

    def replay(self) -> None:
        for kept, new in zip(leaves(self.outputs), leaves(self.compute(self.inputs)), strict=True):
            kept.copy_(new)


class Rehearsal(Recorder):
    """A recorder without CUDA."""

    def __init__(self, most: int = 1000) -> None:
        self.most, self.recordings = most, {}

    def record(self, compute: Compute, inputs: Inputs, kept: tuple[Tensor, ...]) -> Recording:
        own = map_tensors(inputs, torch.clone)
        compute(own)  # as the warm-ups do
        outputs = compute(own)
        return Recording(cast(Any, Rehearsed(compute, own, outputs)), leaves(own), outputs, kept)


def videos(model: Magi, seeds: Sequence[int], *, frames: int = 5, given: int = 1, **settings: Any) -> Tensor:
    """Latents (B, T, C', h, w)."""
    context = random_latents(model.config, len(seeds), frames=given) if given else None
    made = generate(
        model, context, num_frames=frames, seeds=seeds, interval=[1, 2, 3][: len(seeds)],
        settings=replace(QUICK, **settings),
    )  # fmt: skip
    return torch.stack(list(made), dim=1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"given": 0},
        {"given": 3, "window": 3},
        {"observation_noise": 0.3},
        {"frames": 9, "time_mode": "interpolate"},
        {"head_steps_last": 2, "temperature": 0.5},
        {"mask_steps": 1},
        {"solver": "dpm++"},
    ],
    ids=str,
)
def test_graphs_change_no_video(settings: dict[str, Any]) -> None:
    """Bit for bit, in the rollout that records and in a later one, which records nothing any more."""
    model, recorder = trained_looking(tiny()), Rehearsal()
    recorded = GraphedMagi(model, recorder)
    for seeds in ([1, 2], [3, 4]):
        before = len(recorder.recordings)
        assert torch.equal(videos(recorded, seeds, **settings), videos(model, seeds, **settings))
        assert bool(before) == (len(recorder.recordings) == before)


def test_other_rollouts_do_not_take_each_others_graphs() -> None:
    """Other lengths, whose frames stand at other times, other numbers of videos, noise and steps, one after another and
    back again; intervals and seeds are inputs."""
    model, recorded = trained_looking(tiny()), GraphedMagi(trained_looking(tiny()), Rehearsal())
    ways: list[tuple[list[int], dict[str, Any]]] = [
        ([1], {}), ([1, 2, 3], {}), ([2], {"frames": 9}), ([2], {"frames": 9, "time_mode": "extrapolate"}),
        ([2], {"frames": 7}), ([2], {"observation_noise": 0.3}), ([2], {"observation_noise": 0.1}), ([2], {"given": 2}),
        ([2], {"head_steps": 3}), ([2], {"temperature": 0.7}), ([2], {"spacing": "trimmed"}), ([2], {"solver": "ddim"}),
    ]  # fmt: skip
    for seeds, settings in [*ways, *ways[:3]]:
        assert torch.equal(videos(recorded, seeds, **settings), videos(model, seeds, **settings)), settings


def test_rollouts_side_by_side_have_their_own_memory() -> None:
    """Two streams from one model, a frame of each in turn, do not write into each other's past."""
    model = trained_looking(tiny())
    recorded = GraphedMagi(model, Rehearsal())
    streams = [generate(recorded, None, num_frames=4, seeds=[seed], settings=QUICK) for seed in (1, 2)]
    frames = [[next(stream) for stream in streams] for _ in range(4)]
    for seed, made in zip((1, 2), zip(*frames, strict=True), strict=True):
        expected = generate(model, None, num_frames=4, seeds=[seed], settings=QUICK)
        assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
    assert sum(map(len, recorded.lent.values())) == 2


def test_memory_of_a_cache_comes_back() -> None:
    """Of a finished rollout and of one that was given up; else every rollout would record anew."""
    recorded = GraphedMagi(trained_looking(tiny()), Rehearsal())
    addresses = set()
    for _ in range(3):
        stream = generate(recorded, None, num_frames=4, seeds=[1], settings=QUICK)
        next(stream)
        addresses.add(recorded.lent[1, 4][0].empty.store.data_ptr())
        stream.close()
        gc.collect()
    assert len(addresses) == 1 and len(recorded.lent[1, 4]) == 1
    first, second = recorded.new_cache(1, 4), recorded.new_cache(1, 4)
    assert first.store.data_ptr() != second.store.data_ptr()


def test_there_are_few_graphs() -> None:
    """As many as different numbers of revealed tokens, for the head once, for the transformer once a frame and once
    more for the first pass, which reads the frame before: here steps reveal 1, 2 and 3 of the 6 tokens."""
    recorder = Rehearsal()
    videos(GraphedMagi(trained_looking(tiny()), recorder), [1], frames=4, given=0, mask_steps=3)
    kinds = [key[0][0] for key in cast("list[Any]", list(recorder.recordings))]
    assert kinds.count("head") == 3
    assert kinds.count("predict") == 4 * 3


def test_too_many_graphs_are_computed_plainly() -> None:
    """Where no more are recorded nothing changes but the speed."""
    model, recorder = trained_looking(tiny()), Rehearsal(most=2)
    assert torch.equal(videos(GraphedMagi(model, recorder), [1, 2]), videos(model, [1, 2]))
    assert len(recorder.recordings) == 2


def test_parameters_are_shared() -> None:
    """What is changed in the model after a recording is changed in what is replayed."""
    model = trained_looking(tiny())
    recorded = GraphedMagi(model, Rehearsal())
    videos(recorded, [1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(videos(recorded, [1]), videos(model, [1]))


def solvers() -> list[tuple[Kind, Solver]]:
    return [(kind, solver) for kind, some in SOLVERS.items() for solver in some]


@pytest.mark.parametrize(("kind", "solver"), solvers())
def test_the_head_copies_nothing_to_the_device(kind: Kind, solver: Solver) -> None:
    """A loop that waits for the device, or takes a constant to it, could not be recorded: from the second on there is
    none."""
    with META:
        model = Magi(tiny(head=HeadConfig(kind=kind, width=16, depth=1)))
        z, noise = torch.empty(3, model.config.width), torch.empty(6, 3, model.config.token_channels)
    assert not second(lambda: model.head.sample(z, noise[: 6 if solver == "ddpm" else 1], num_steps=5, solver=solver))


@pytest.mark.parametrize("mode", ["token", "channel", "add"])
@pytest.mark.parametrize("forcing", ["ctf", "mtf"])
def test_a_pass_copies_nothing_to_the_device(forcing: Any, mode: Any) -> None:
    """Nor does a pass over a frame, alone or with the frames before it."""
    config: MagiConfig = tiny(forcing=forcing, noise_embedding=mode)
    with META:
        model, pace = Magi(config).eval(), torch.ones(2, dtype=torch.long)
        tokens, masked = torch.empty(2, 6, 8), torch.empty(2, 6, dtype=torch.bool)
        chosen, before = torch.zeros(2, 3, dtype=torch.long), torch.empty(2, 2, 6, 8)
    for finished in (None, Finished(before, torch.arange(2.0, device="cpu"))):
        cache = model.new_cache(2, 4)

        def run(cache: Any = cache, finished: Finished | None = finished) -> object:
            cache.rewind(0)
            return model.predict(cache, tokens, masked, time=2.0, interval=pace, chosen=chosen, finished=finished)

        assert not second(run)


def test_noise_of_the_device_stays_there() -> None:
    """Unlike NumPy's it is never copied to the device, for which that would have to wait."""
    like: dict[str, Any] = {"tokens": 6, "channels": 8, "dtype": torch.float32, "device": META}
    with META:
        chosen = torch.zeros(2, 3, dtype=torch.long)
    for source, waits in (("device", False), ("cpu", True)):
        noise = SampleNoise([1, 2], source=source, **like)
        assert bool(second(lambda noise=noise: noise.head(1, 2, head_steps=5, chosen=chosen))) == waits


@torch.inference_mode()
def second(run: Callable[[], object]) -> list[str]:
    """What crosses between devices in the second run."""
    run()
    with Crossings() as seen:
        run()
    return seen.found


def test_the_suite_can_run_what_it_will_run_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its comparison of graphs with plain sampling, rehearsed; and it would see a graph that forgets its inputs."""
    models: dict[int, GraphedMagi] = {}
    monkeypatch.setattr(rollout, "check_device", lambda _device: None)
    monkeypatch.setattr(rollout, "graphed", lambda model: models.setdefault(id(model), GraphedMagi(model, Rehearsal())))
    model = trained_looking(tiny())
    assert all(off <= bound for _, off, bound in suite.replayed_checks(model, ""))
    assert len(models) == 1
    told = suite.pace(model, replace(QUICK, cuda_graphs=True), batch=2)
    assert all(len(told[turn]) == suite.SPEED_FRAMES and min(told[turn]) > 0 for turn in ("first", "second"))
    monkeypatch.setattr(graphs, "fill", lambda kept, given: None)
    found = [off for _, off, _ in suite.replayed_checks(model, "")]
    assert min(found) > 1e-3


def test_graphs_are_refused_on_a_cpu() -> None:
    """At once, before a frame is asked for."""
    model = trained_looking(tiny())
    for asked in (replace(QUICK, cuda_graphs=True), replace(QUICK, cuda_graphs=True, deterministic=True)):
        with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device; the model is on cpu: leave it off"):
            generate(model, None, num_frames=1, seeds=[1, 2], settings=asked)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        graphed(model)
