"""Claims about the parts of a batch: however many processes share them and however they are summed, it is one batch."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from magi import checkpoint, distributed
from magi.checkpoint import CheckpointError
from magi.distributed import Distributed
from magi.model.magi import Magi
from magi.training.gradients import TreeSum
from magi.training.loop import step_of
from tests.toy_runs import MODEL, RUN, Crash, assert_same_bits, crash, everything, metrics, run

ELASTIC = replace(RUN, parts=4, reduction="tree", batch_size=8, total_samples=80, checkpoint_every=24)
WET = replace(MODEL, dropout=0.1)
"""Ten steps of four parts, with dropout, stopped after three and after seven."""


def continue_as(rank: int, port: int, size: int, folder: str, at: int) -> None:
    """One of several processes that start or resume a run, up to a sample."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(size), RANK=str(rank), LOCAL_RANK=str(rank)
    )
    with distributed.session("cpu") as here:
        try:
            state = run(Path(folder), model=WET, config=ELASTIC, here=here, at=at, event=crash)
            torch.save(everything(state), Path(folder, f"rank-{rank}.pt"))
        except Crash:
            here.barrier()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def in_processes(size: int, folder: Path, at: int = 1 << 30) -> None:
    """Start or resume the elastic run on so many processes."""
    arguments = (free_port(), size, str(folder), at)
    torch.multiprocessing.start_processes(continue_as, arguments, nprocs=size, start_method="fork")


@pytest.mark.parametrize("sizes", [(1, 2, 1), (4,)], ids=str)
def test_a_tree_is_the_same_on_any_number_of_processes(sizes: tuple[int, ...], tmp_path: Path) -> None:
    """Every part of a batch is computed alike wherever it is, dropout included, and the parts' gradients and losses are
    summed in one order: so one process, one and then two and then one, and four end with the same bits and wrote the
    same log. Each sample is seen once: its clip is a function of its position."""
    expected = everything(run(tmp_path / "one", model=WET, config=ELASTIC))
    for size, at in zip(sizes, [24, 56, 1 << 30][-len(sizes) :], strict=True):
        in_processes(size, tmp_path / "many", at)
    for rank in range(sizes[-1]):
        assert_same_bits(torch.load(tmp_path / "many" / f"rank-{rank}.pt"), expected)
    assert metrics(tmp_path / "many") == metrics(tmp_path / "one")


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_the_batch(parts: int, tmp_path: Path) -> None:
    """The gradient of a batch is the mean of its parts', as they come or in a tree: a step later the weights agree to
    rounding, at a part's memory."""
    config = replace(RUN, total_samples=4)
    whole = everything(run(tmp_path / "whole", config=config, dtype=torch.float64))
    for reduction in ("fast", "tree"):
        cut = replace(config, parts=parts, reduction=reduction)
        found = everything(run(tmp_path / reduction, config=cut, dtype=torch.float64))
        for name, value in whole.items():
            if name.startswith("exp_avg."):
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12 * float(value.abs().max() + 1))


def test_a_tree_sums_neighbours_first() -> None:
    """((1 + 2) + (3 + 4)) + ...: shown by numbers whose sum depends on the order, however many have come."""
    terms = [torch.tensor([1.0, 3e-8]) * 3**k for k in range(8)]
    tree = TreeSum()
    for term in terms:
        tree.add([term])
    pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=True)]
    expected = (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
    assert torch.equal(tree.total[0], expected) and len(tree.branches) == 1
    assert not torch.equal(sum(terms[1:], terms[0]), expected), "another order gives other bits"


def test_parts_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    """With the numbers, before a step is made."""
    two, three = Distributed(world_size=2), Distributed(world_size=3)
    for config, here, message in (
        (replace(RUN, parts=3), two, "a batch of 4 in 3 parts cannot be shared by 2 processes"),
        (replace(RUN, parts=8), Distributed(), "a batch of 4 in 8 parts cannot be shared by 1 processes"),
        (replace(RUN, batch_size=6, total_samples=60, reduction="tree"), three, "must be powers of two, got 3 and 3"),
    ):
        with pytest.raises(ValueError, match=message):
            step_of(Magi(MODEL), config, here)
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        replace(RUN, parts=0)


def test_a_run_from_before_there_were_parts_goes_on(tmp_path: Path) -> None:
    """A setting that came later is taken as what was done without it."""
    run(tmp_path, config=replace(RUN, total_samples=12))
    for path in tmp_path.glob("step-*/config.json"):
        saved = json.loads(path.read_text())
        del saved["train"]["parts"], saved["train"]["reduction"]
        path.write_text(json.dumps(saved))
        manifest = path.with_name("MANIFEST.json")
        files = json.loads(manifest.read_text())
        files["files"]["config.json"] = checkpoint._fingerprint(path)
        manifest.write_text(json.dumps(files))
    assert run(tmp_path).samples == 40
    with pytest.raises(CheckpointError, match=r"train.parts: saved None, now 2"):
        run(tmp_path, config=replace(RUN, parts=2))
