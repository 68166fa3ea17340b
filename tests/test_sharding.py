"""Claims about parameters that no process holds whole: the training is the same, and any processes resume it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from magi import checkpoint, distributed
from magi.distributed import Distributed
from magi.model.magi import Magi
from magi.training import loop
from magi.training.loop import TrainConfig
from magi.training.sharding import Sharding, blank_copy, mesh_of, rows_of
from tests.test_parts import free_port
from tests.toy_runs import MODEL, RUN, Crash, crash, metrics, run, score

PARTS = replace(RUN, parts=8, batch_size=8, total_samples=80, checkpoint_every=24, evaluate_every=40)
WET = replace(MODEL, dropout=0.1)
"""Ten steps of eight parts, with dropout."""


def take_part(rank: int, port: int, size: int, machines: int, folder: str, sharding: Sharding, at: int) -> None:
    """One of several processes that start or resume a run, up to a sample."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(size), RANK=str(rank),
        LOCAL_RANK=str(rank % (size // machines)), LOCAL_WORLD_SIZE=str(size // machines),
    )  # fmt: skip
    with distributed.session("cpu") as here:
        try:
            config = replace(PARTS, sharding=sharding)
            state = run(
                Path(folder),
                model=WET,
                config=config,
                here=here,
                at=at,
                event=crash,
                evaluate=score,
                dtype=torch.float64,
            )
        except Crash:
            here.barrier()
            return
        held = sum(parameter.to_local().numel() for parameter in state.model.parameters() if sharding != "none")
        whole = sum(parameter.numel() for parameter in state.model.parameters())
        average = state.ema.whole().state_dict()
        if here.is_first:
            torch.save({"held": held, "whole": whole, "average": average}, Path(folder, "found.pt"))


def in_processes(folder: Path, size: int, sharding: Sharding, *, machines: int = 1, at: int = 1 << 30) -> None:
    """Start or resume the run."""
    arguments = (free_port(), size, machines, str(folder), sharding, at)
    torch.multiprocessing.start_processes(take_part, arguments, nprocs=size, start_method="fork")


def numbers(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's last checkpoint."""
    step = checkpoint.steps(folder)[0]
    checkpoint.verify(step)
    stems = ("model", "ema", "optimizer")
    return {f"{stem}.{name}": v for stem in stems for name, v in checkpoint.load_tensors(step, stem, None).items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same tensors, to what another order of summing changes in ten steps. In float64, for in float32 Adam makes
    steps of the rounding in gradients that are zero, those of the keys' biases."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(
            found[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, model=WET, config=PARTS, evaluate=score, dtype=torch.float64)
    return folder


WAYS: list[list[tuple[int, Sharding, int, int]]] = [
    [(2, "full", 1, 1 << 30)],
    [(2, "none", 1, 24), (4, "full", 1, 56), (1, "none", 1, 1 << 30)],
    [(1, "none", 1, 24), (4, "hybrid", 2, 1 << 30)],
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " then ".join(f"{size} {kind}" for size, kind, *_ in way))
def test_sharded_training_is_training(
    way: list[tuple[int, Sharding, int, int]], expected: Path, tmp_path: Path
) -> None:
    """Rows of parameters in every process, or of each of two machines, stopped and taken up by other numbers of
    processes cut in other ways: the same order of clips, and the weights, average and moments of one process."""
    for size, sharding, machines, at in way:
        in_processes(tmp_path, size, sharding, machines=machines, at=at)
    assert_close(numbers(tmp_path), numbers(expected))
    lines, wanted = metrics(tmp_path), metrics(expected)
    assert [line["samples"] for line in lines] == [line["samples"] for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert all(line[name] == pytest.approx(other[name], rel=1e-6) for name in other)
    found: dict[str, Any] = torch.load(tmp_path / "found.pt")
    size, sharding, machines, _ = way[-1]
    if sharding != "none":
        assert found["held"] < 1.15 * found["whole"] / (size // machines)
    saved = checkpoint.load_tensors(checkpoint.steps(tmp_path)[0], "ema", None)
    assert all(torch.equal(found["average"][name], value) for name, value in saved.items()), (
        "what is evaluated is saved"
    )


def test_each_process_writes_a_share(tmp_path: Path) -> None:
    """A checkpoint of two processes is two files of whole tensors for each kind, about half of the bytes in each, and
    their names and shapes are those that one process writes."""
    in_processes(tmp_path, 2, "full", at=48)
    step = checkpoint.steps(tmp_path)[0]
    sizes = {path.name: path.stat().st_size for path in step.glob("*.safetensors")}
    halves = [sizes[f"model-{number:05d}-of-00002.safetensors"] for number in (0, 1)]
    assert max(halves) < 2 * min(halves)
    assert sorted(sizes) == [f"{s}-{n:05d}-of-00002.safetensors" for s in ("ema", "model", "optimizer") for n in (0, 1)]
    whole = {name: tuple(v.shape) for name, v in checkpoint.load_tensors(step, "model", None).items()}
    assert whole == {name: tuple(v.shape) for name, v in Magi(WET).state_dict().items()}


def test_a_missing_part_is_no_checkpoint(tmp_path: Path) -> None:
    """What one of two processes wrote has no name that a run would resume from, and becomes none."""
    temporary, directory = tmp_path / ".tmp-step-00000001", tmp_path / "step-00000001"
    checkpoint.write_part(temporary, {"model-00000-of-00002": {"a": torch.ones(2)}}, {"state.json": {}}, part=0)
    with pytest.raises(checkpoint.CheckpointError, match=r"parts \[1\] of 2 were not written"):
        checkpoint.commit(temporary, directory, parts=2)
    assert checkpoint.newest_valid(tmp_path) is None
    checkpoint.write_part(temporary, {"model-00001-of-00002": {"b": torch.zeros(3)}}, {}, part=1)
    checkpoint.commit(temporary, directory, parts=2)
    checkpoint.verify(directory)
    assert sorted(checkpoint.load_tensors(directory, "model", None)) == ["a", "b"]
    assert torch.equal(checkpoint.load_tensors(directory, "model", None, rows={"b": slice(1, 3)})["b"], torch.zeros(2))


def show_rows(rank: int, port: int, size: int) -> None:
    """Cut matrices of many heights, and compare with what `rows_of` says."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(size), RANK=str(rank), LOCAL_RANK=str(rank)
    )
    with distributed.session("cpu") as here:
        from torch.distributed.fsdp import fully_shard

        for height in range(1, 10):
            module = torch.nn.Linear(3, height)
            whole = module.weight.detach().clone()
            fully_shard(module, mesh=mesh_of("full", here))
            assert torch.equal(module.weight.to_local(), whole[rows_of(module.weight)])
        here.barrier()  # who is done first must not leave while others still join


def test_rows_are_those_that_torch_keeps() -> None:
    """Of matrices with fewer rows than processes and with a remainder, too."""
    torch.multiprocessing.start_processes(show_rows, (free_port(), 4), nprocs=4, start_method="fork")


def test_a_blank_copy_has_no_memory() -> None:
    """Parameters are shapes alone, buffers are there, and the model itself is untouched."""
    model = Magi(MODEL)
    blank = blank_copy(model)
    assert all(parameter.is_meta for parameter in blank.parameters())
    assert [(n, p.shape) for n, p in blank.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(blank.buffers(), model.buffers(), strict=True))
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_what_cannot_be_sharded_is_refused(tmp_path: Path) -> None:
    """One process has nobody to share with; a tree needs whole gradients; machines must be alike."""
    with pytest.raises(ValueError, match="sharding full is for several processes; start them with torchrun"):
        run(tmp_path, config=replace(RUN, sharding="full"))
    with pytest.raises(ValueError, match="reduction tree sums whole gradients, which sharding hybrid has not"):
        loop.step_of(Magi(MODEL), TrainConfig(sharding="hybrid", reduction="tree"), Distributed())
    with pytest.raises(ValueError, match="6 are not 4 on each"):
        mesh_of("hybrid", Distributed(world_size=6, local_world_size=4))
