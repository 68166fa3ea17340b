"""Claims about real trainings that something happens to: `magi train`, in a process of its own, with two workers.

Whatever it is, the run ends soon, says in one line what it was, and the same command ends with the bits of a run that
nothing happened to.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from magi import checkpoint
from magi.data import loader
from magi.data.clips import Clips
from magi.data.loader import batches
from magi.selftest import elastic, toy
from magi.training import loop
from magi.training.ema import Ema

FAST = ("--train.parts", "1", "--train.evaluate-every", "48")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """Children are forked from a process that has imported everything."""
    toy.prepare()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run ends with."""
    return toy.uninterrupted(tmp_path_factory.mktemp("undisturbed") / "run", *FAST)


class Child:
    """A training in a process of its own, what it says, and where it is."""

    def __init__(self, out: Path, *more: str, patch: Callable[[Callable[[], None]], None] | None = None) -> None:
        """Start it.

        Args:
            out: the run's folder.
            more: settings.
            patch: is called in the child with a function that tells the parent that something has come to pass.
        """
        self.out, self.told = out, out.with_name(f"{out.name}-stderr")
        self.heard, tell = os.pipe()

        def run() -> int:
            def told() -> None:
                os.write(tell, b"!")

            if patch is not None:
                patch(told)
            with self.told.open("w", buffering=1) as sys.stderr:
                return toy.train(out, *FAST, *more)

        self.pid = toy.fork(run)
        os.close(tell)

    def wait(self) -> None:
        """Until the child has told."""
        assert os.read(self.heard, 1) == b"!", self.said()

    def ended(self) -> int:
        """Its exit code, or minus the signal."""
        code = toy.ended(self.pid)
        os.close(self.heard)
        return code

    def said(self) -> str:
        """The last line of its errors."""
        lines = [line for line in self.told.read_text().splitlines() if ": warning: " not in line]
        return lines[-1] if lines else ""


def assert_resumes(out: Path, expected: str) -> None:
    """The same command ends as if nothing had happened, and leaves no litter."""
    assert toy.ended(toy.fork(partial(toy.train, out, *FAST))) == 0
    assert toy.final_state(out) == expected
    assert not [path for path in out.iterdir() if path.name.startswith((".tmp-", ".trash-"))]


def at_a_step(told: Callable[[], None], *, number: int = 15) -> None:
    """Tell when a step is due."""
    due, calls = loop.due, [0]

    def noted(*arguments: int) -> bool:
        calls[0] += 1
        if calls[0] == number:
            told()
            time.sleep(0.2)
        return due(*arguments)

    loop.due = noted


def in_a_save(told: Callable[[], None]) -> None:
    """Tell in the thread that writes the second checkpoint, and write slowly."""
    write, calls = checkpoint.write_part, [0]

    def noted(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            told()
            time.sleep(0.2)
        write(*arguments, **options)

    checkpoint.write_part = noted


def in_an_evaluation(told: Callable[[], None]) -> None:
    """Tell when the average is about to be looked at, and take time."""
    whole = Ema.whole

    def noted(self: Ema) -> torch.nn.Module:
        told()
        time.sleep(0.2)
        return whole(self)

    Ema.whole = noted


@pytest.mark.parametrize("moment", [at_a_step, in_a_save, in_an_evaluation])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_sigterm_saves(moment: Callable[..., None], group: bool, tmp_path: Path, undisturbed: str) -> None:
    """To the process, as `kill` sends it, or to it and its workers, as Slurm and Kubernetes do; in a step, while a
    checkpoint is written, while the average is looked at: the step is finished and saved, the code is 143."""
    child = Child(tmp_path / "run", patch=moment)
    child.wait()
    start = time.perf_counter()
    (os.killpg if group else os.kill)(child.pid, signal.SIGTERM)
    assert child.ended() == 143, child.said()
    assert time.perf_counter() - start < 10
    assert "run the same command again to resume" in child.said()
    assert_resumes(tmp_path / "run", undisturbed)


def test_a_second_sigterm_acts_at_once(tmp_path: Path, undisturbed: str) -> None:
    """Who asks twice does not wait for the step, and loses what was not saved yet and no more."""
    child = Child(tmp_path / "run", patch=partial(at_a_step, number=20))
    child.wait()
    os.killpg(child.pid, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGTERM)
    assert child.ended() == -signal.SIGTERM
    assert_resumes(tmp_path / "run", undisturbed)


def test_a_full_disk(tmp_path: Path, undisturbed: str) -> None:
    """From some moment on no file may grow: the run stops with one line, the checkpoint before is whole, and with room
    again it goes on."""

    def patch(_told: Callable[[], None]) -> None:
        commit = checkpoint.commit

        def then_full(*arguments: Any, **options: Any) -> None:
            commit(*arguments, **options)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

        checkpoint.commit = then_full

    child = Child(tmp_path / "run", patch=patch)
    assert child.ended() == 2, child.said()
    said = child.said()
    assert "step-00000012 could not be written" in said and "too large" in said
    assert "The checkpoint before it is step-00000006" in said and "run the same command again" in said
    assert [path.name for path in toy.steps_of(tmp_path / "run")] == ["step-00000006"]
    assert_resumes(tmp_path / "run", undisturbed)


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    """Deleted, or on a disk that is gone: the next save says so and does not make it again elsewhere."""
    out = tmp_path / "run"

    def patch(_told: Callable[[], None]) -> None:
        commit = checkpoint.commit

        def then_gone(*arguments: Any, **options: Any) -> None:
            commit(*arguments, **options)
            shutil.rmtree(out)

        checkpoint.commit = then_gone

    child = Child(out, patch=patch)
    assert child.ended() == 2, child.said()
    assert f"the folder {out} has vanished" in child.said() and not out.exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Misuse, before anything is trained."""
    (tmp_path / "file").write_text("")
    assert toy.ended(toy.fork(partial(toy.train, tmp_path / "file" / "run", *FAST))) == 2


def children_of(parent: int) -> Iterator[int]:
    """Processes whose parent it is; from Linux's /proc."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(entry.name)
        except (OSError, IndexError):
            continue


def test_a_worker_that_is_killed(tmp_path: Path, undisturbed: str) -> None:
    """As by a machine that is out of memory: within seconds one line that says what to do, and nothing is lost."""
    child = Child(tmp_path / "run", patch=at_a_step)
    child.wait()
    workers = list(children_of(child.pid))
    assert len(workers) == 2
    start = time.perf_counter()
    os.kill(workers[0], signal.SIGKILL)
    assert child.ended() == 2 and time.perf_counter() - start < 10
    assert "a process that loads clips died" in child.said() and "run the same command again" in child.said()
    assert_resumes(tmp_path / "run", undisturbed)


class Stuck:
    """Clips of which the third batch never comes."""

    def clips(self, samples: Any) -> Clips:
        if samples[0] >= 4:
            time.sleep(2)
        return Clips(torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8), torch.ones(2), torch.tensor(list(samples)))


def test_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end."""
    monkeypatch.setattr(loader, "PATIENCE", 0.4)
    clips = batches(Stuck(), batch_size=2, start=0, workers=1)
    assert [next(clips).sample.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ChildProcessError, match=r"no clips came for 0 s, .*timed out"):
        next(clips)


def start_ranks(out: Path, *more: str, patch: Callable[[int], None] = lambda _rank: None) -> list[int]:
    """Two processes of one training; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank: int) -> int:
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
        )
        patch(rank)
        return toy.train(out, *more)

    return [toy.fork(partial(run, rank)) for rank in range(2)]


def test_a_process_that_dies(tmp_path: Path) -> None:
    """The first of two, which writes: the other does not wait for it, ends within seconds and not with success; both
    go on from what was saved, in a tree to the bits of one process."""
    out = tmp_path / "run"
    ranks = start_ranks(out)
    while not toy.steps_of(out):
        time.sleep(0.02)
    os.kill(ranks[0], signal.SIGKILL)
    start = time.perf_counter()
    codes = [toy.ended(rank) for rank in ranks]
    assert codes[0] == -signal.SIGKILL and codes[1] not in (0, -signal.SIGKILL)
    assert time.perf_counter() - start < 30
    assert elastic.together(out, 2, []) == [0, 0]
    assert toy.final_state(out) == toy.uninterrupted(tmp_path / "one")


def test_a_number_that_is_none_on_one_process(tmp_path: Path) -> None:
    """One clip of one process becomes NaN: both stop at that step, before any weight is touched, its clips are named,
    and without it the run goes on."""
    out = tmp_path / "run"

    def patch(rank: int) -> None:
        prepared = loop.prepared

        def poisoned(part: int, batch: Any, *arguments: Any, step: int, **options: Any) -> Any:
            latents, *rest = prepared(part, batch, *arguments, step=step, **options)
            return (latents * float("nan") if rank == 1 and step == 9 else latents), *rest

        loop.prepared = poisoned

    ways = ["--train.reduction", "fast"]
    codes = [toy.ended(child) for child in start_ranks(out, *ways, patch=patch)]
    assert codes == [2, 2]
    assert [path.name for path in toy.steps_of(out)] == ["step-00000006"]
    assert [path.name for path in out.glob("nonfinite-*")] == ["nonfinite-step-9-rank-1.json"]
    assert elastic.together(out, 2, ways) == [0, 0]
