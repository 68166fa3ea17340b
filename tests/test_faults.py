"""Claims about real trainings that something happens to: `magi train`, in a process of its own, with two workers.

Whatever it is, the run ends soon, says in one line what it was, and the same command ends with the bits of a run that
nothing happened to.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from magi import checkpoint, distributed
from magi.cli.runs import execute
from magi.cli.train import TrainArguments
from magi.data import loader
from magi.data.clips import Clips
from magi.data.world import World
from magi.distributed import Distributed
from magi.experiments.video import VideoRun
from magi.selftest import elastic, toy
from magi.training import loop
from magi.training.ema import Ema

FAST = (
    "--train.parts", "2", "--train.total-samples", "64", "--train.checkpoint-every", "16",
    "--train.evaluate-every", "32",
)  # fmt: skip
"""16 steps, with checkpoints of the steps 4, 8, 12 and 16; the same bits on one process and on two."""
LONG = 30.0  # seconds: what waits for so long would wait for ever

Told = Callable[[], None]


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """Children are forked from a process that has imported everything."""
    toy.prepare()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    toy.uninterrupted(out, *FAST)
    return out


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> str:
    """What it ended with."""
    return toy.final_state(finished)


class Child:
    """A training in a process of its own, and what it says."""

    def __init__(
        self,
        out: Path,
        *more: str,
        patch: Callable[[Told], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            out: the run's folder.
            more: settings.
            patch: is called in the child with a function that tells the parent that something has come to pass.
            environment: more of it.
        """
        self.heard, tell = os.pipe()
        self.errors, stderr = os.pipe()  # a file could not be written where no file may grow

        def run() -> int:
            os.environ.update(environment or {})
            if patch is not None:
                patch(lambda: os.write(tell, b"!") and None)
            with os.fdopen(stderr, "w", buffering=1) as sys.stderr:
                return toy.train(out, *FAST, *more)

        self.pid = toy.fork(run)
        os.close(tell)
        os.close(stderr)

    def wait(self) -> None:
        """Until the child has told."""
        assert os.read(self.heard, 1) == b"!", f"it has ended: {self.ended()}"

    def ended(self) -> tuple[int, str]:
        """Its exit code, or minus the signal; and its error, which is one line."""
        killing = threading.Timer(LONG, os.kill, (self.pid, signal.SIGKILL))  # it hangs; the code will tell
        killing.start()
        code = toy.ended(self.pid)
        killing.cancel()
        os.set_blocking(self.errors, False)  # a worker may hold it open for some seconds
        try:
            lines = os.read(self.errors, 1 << 16).decode().splitlines()
        except BlockingIOError:
            lines = []
        for pipe in (self.heard, self.errors):
            os.close(pipe)
        lines = [line for line in lines if ": warning: " not in line]
        assert len(lines) <= 1, lines
        return code, "".join(lines)


def assert_resumes(out: Path, expected: str, *more: str) -> None:
    """The same command ends as if nothing had happened, and leaves no litter."""
    assert Child(out, *more).ended() == (0, "")
    assert toy.final_state(out) == expected
    assert not [path for path in out.iterdir() if path.name.startswith((".tmp-", ".trash-"))]


# Signals


def until_asked() -> None:
    """Wait for the first SIGTERM, whose handler gives itself up."""
    start = time.perf_counter()
    while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL and time.perf_counter() - start < LONG:
        time.sleep(0.01)


def at_a_step(told: Told, *, number: int = 20, then: Callable[[], None] = until_asked) -> None:
    """Tell when the seventh step is made."""
    due, calls = loop.due, [0]

    def noted(*arguments: int) -> bool:
        calls[0] += 1
        if calls[0] == number:
            told()
            then()
        return due(*arguments)

    loop.due = noted


def in_a_save(told: Told) -> None:
    """Tell in the thread that writes the second checkpoint."""
    write, calls = checkpoint.write_part, [0]

    def noted(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            told()
            until_asked()
        write(*arguments, **options)

    checkpoint.write_part = noted


def in_an_evaluation(told: Told) -> None:
    """Tell when the average is about to be looked at."""
    whole = Ema.whole

    def noted(self: Ema) -> torch.nn.Module:
        told()
        until_asked()
        return whole(self)

    Ema.whole = noted


@pytest.mark.parametrize(
    ("moment", "send"),
    [(at_a_step, os.kill), (at_a_step, os.killpg), (in_a_save, os.killpg), (in_an_evaluation, os.kill)],
    ids=["process", "group", "group-in-a-save", "process-in-an-evaluation"],
)
def test_sigterm_saves(
    moment: Callable[[Told], None], send: Callable[[int, int], None], tmp_path: Path, undisturbed: str
) -> None:
    """To the process, as `kill` sends it, or to it and its workers, as Slurm and Kubernetes do; in a step, while a
    checkpoint is written, while the average is looked at: the step is finished and saved, the code is 143."""
    child = Child(tmp_path / "run", patch=moment)
    child.wait()
    send(child.pid, signal.SIGTERM)
    code, said = child.ended()
    saved = max(checkpoint.step_of(path) for path in toy.steps_of(tmp_path / "run"))
    assert code == 143 and f"stopped at {4 * saved} of 64 samples; run the same command again to resume" in said
    assert saved in range(7, 12), "lost is not one step, and made are none but those under way"
    assert_resumes(tmp_path / "run", undisturbed)


def test_a_second_sigterm_acts_at_once(tmp_path: Path, undisturbed: str) -> None:
    """Who asks twice does not wait for the step, and loses what was not saved yet and no more."""

    def patch(told: Told) -> None:
        def then() -> None:
            until_asked()
            told()
            time.sleep(LONG)

        at_a_step(told, then=then)

    child = Child(tmp_path / "run", patch=patch)
    for _ in range(2):
        child.wait()
        os.killpg(child.pid, signal.SIGTERM)
    assert child.ended() == (-signal.SIGTERM, "")
    assert {path.name for path in toy.steps_of(tmp_path / "run")} <= {"step-00000004"}
    assert_resumes(tmp_path / "run", undisturbed)


# Disks


def after_a_commit(action: Callable[[], object]) -> Callable[[Told], None]:
    """A patch: when the first checkpoint has its name, something happens in the training's process."""

    def patch(_told: Told) -> None:
        commit = checkpoint.commit

        def then(*arguments: Any, **options: Any) -> None:
            commit(*arguments, **options)
            checkpoint.commit = commit
            action()

        checkpoint.commit = then

    return patch


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[..., bool]]:
    """A disk of 16 MB, in memory, for who may mount one; yields what mounts it again with other options."""

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", *options, str(place)], capture_output=True).returncode == 0

    place.mkdir()
    if not sys.platform.startswith("linux") or not mount("-t", "tmpfs", "-o", "size=16m", "tmpfs"):
        pytest.skip("needs the right to mount a disk")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_others_fill(tmp_path: Path, undisturbed: str) -> None:
    """The next checkpoint is not even begun: one line has the bytes it needs, those that are free, and what is safe.
    With room again the run goes on."""
    with small_disk(tmp_path / "disk"):
        out, filler = tmp_path / "disk" / "run", tmp_path / "disk" / "filler"

        def fill() -> None:
            filler.write_bytes(bytes(shutil.disk_usage(out).free - 65536))

        code, said = Child(out, patch=after_a_commit(fill)).ended()
        assert code == 2 and f"{out}/step-00000008 could not be written" in said
        assert re.search(
            r"needs 1,\d\d\d,\d\d\d bytes and the disk has \d\d,\d\d\d free\. The checkpoint before it is ", said
        )
        assert "is step-00000004, untouched; put that right and run the same command again" in said
        assert [path.name for path in toy.steps_of(out)] == ["step-00000004"]
        filler.unlink()
        assert_resumes(out, undisturbed)


def no_file_beyond(size: int) -> None:
    """No file may grow over this size; a limit that every user and every disk has."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (8192, "run/step-00000008 could not be written: .*too large.* before it is step-00000004, untouched; .*again$"),
        (1, r"run: File too large, [\d,]+ bytes are free\. Checkpoints are whole: make room and run the same .*again$"),
    ],
    ids=["checkpoint", "metrics"],
)
def test_a_disk_that_is_full_in_the_middle(size: int, message: str, tmp_path: Path, undisturbed: str) -> None:
    """Of a checkpoint, or of a line of metrics: what was saved before is whole, no litter stays, and with room again
    the run goes on."""
    code, said = Child(tmp_path / "run", patch=after_a_commit(partial(no_file_beyond, size))).ended()
    assert code == 2 and re.search(message, said), said
    assert [path.name for path in toy.steps_of(tmp_path / "run")] == ["step-00000004"]
    assert_resumes(tmp_path / "run", undisturbed)


def test_a_disk_that_is_read_only(tmp_path: Path, undisturbed: str) -> None:
    """As after an error of the disk: a run that would begin or go on there says so before it trains, and goes on when
    it may write again."""
    with small_disk(tmp_path / "disk") as mount:
        out = tmp_path / "disk" / "run"
        assert Child(out, "--train.total-samples", "32").ended() == (0, "")
        assert mount("-o", "remount,ro")
        for folder in (out, tmp_path / "disk" / "new"):
            code, said = Child(folder).ended()
            assert code == 2 and re.search(
                rf"{folder} cannot be written: Read-only file system \(.*\); put that right, or give another folder",
                said,
            ), said
        assert mount("-o", "remount,rw")
        assert_resumes(out, undisturbed)


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    """Deleted, or on a disk that is gone: the next save says so and does not make it again elsewhere."""
    out = tmp_path / "run"
    code, said = Child(out, patch=after_a_commit(lambda: shutil.rmtree(out))).ended()
    assert code == 2 and f"the folder {out} has vanished" in said and not out.exists()


@pytest.mark.parametrize(("place", "reason"), [("file", "File exists"), ("file/run", "Not a directory")])
def test_a_folder_that_cannot_be_made(place: str, reason: str, tmp_path: Path) -> None:
    """Misuse, before anything is trained."""
    (tmp_path / "file").write_text("")
    code, said = Child(tmp_path / place).ended()
    assert code == 2 and f"{tmp_path / place} cannot be written: {reason}" in said and "another folder" in said


# Settings


def test_another_configuration_is_told_whole(finished: Path, undisturbed: str) -> None:
    """Each setting that differs with both values, in one line, before anything is changed; in files of settings or in
    flags is the same. `tests/test_resume.py` has every setting there is."""
    code, said = Child(finished, "--model.depth", "2", "--train.seed", "5", "--data.world.seed", "7").ended()
    assert code == 2 and f"{finished}/step-00000016: trained under another configuration: " in said
    for difference in ("model.depth: saved 1, now 2", "train.seed: saved 0, now 5", "data.world.seed: saved 0, now 7"):
        assert difference in said
    assert said.count(", now ") == 3 and "Nothing was loaded. Resume with the saved one, or train into another" in said
    assert toy.final_state(finished) == undisturbed


# Workers


def children_of(parent: int) -> Iterator[int]:
    """Processes whose parent it is; from Linux's /proc."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(entry.name)
        except (OSError, IndexError):
            continue


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the workers in /proc")
def test_a_worker_that_is_killed(tmp_path: Path, undisturbed: str) -> None:
    """As by a machine that is out of memory: within seconds one line that says what to do, and nothing is lost."""
    child = Child(tmp_path / "run", patch=partial(at_a_step, then=lambda: time.sleep(LONG)))
    child.wait()
    workers = list(children_of(child.pid))
    assert len(workers) == 2
    start = time.perf_counter()
    os.kill(workers[0], signal.SIGKILL)
    code, said = child.ended()
    assert code == 2 and time.perf_counter() - start < 10
    assert "a process that loads clips died; checkpoints are whole, run the same command again" in said
    assert_resumes(tmp_path / "run", undisturbed)


def test_a_worker_that_hangs(tmp_path: Path, undisturbed: str) -> None:
    """As on a network disk that is gone: it is not waited for without end, and its clips are named."""

    def patch(_told: Told) -> None:
        clips, loader.PATIENCE = World.clips, 0.5

        def slowly(self: World, samples: Sequence[int]) -> Clips:
            if samples[0] >= 40:
                time.sleep(1)
            return clips(self, samples)

        World.clips = slowly

    code, said = Child(tmp_path / "run", patch=patch).ended()
    assert code == 2 and "no clips came for 0.5 s; waiting for samples 40 to 41" in said
    assert "Checkpoints are whole: run the same command again" in said
    assert_resumes(tmp_path / "run", undisturbed)


# Several processes


def start_ranks(out: Path, *more: str, patch: Callable[[int, Told], None]) -> list[Child]:
    """Two processes of one training, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    return [
        Child(
            out, *more, patch=partial(patch, rank), environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize(("victim", "workers"), [(0, "2"), (1, "0")])
def test_a_process_that_dies(victim: int, workers: str, tmp_path: Path, undisturbed: str) -> None:
    """The one that writes, or another: the rest does not wait for it, but says within seconds that it is gone. Both go
    on from what was saved, or one alone does, to the same bits."""
    out = tmp_path / "run"

    def patch(rank: int, told: Told) -> None:
        if rank == victim:
            at_a_step(told, then=lambda: time.sleep(LONG))

    ranks = start_ranks(out, "--train.workers", workers, patch=patch)
    ranks[victim].wait()
    start = time.perf_counter()
    os.kill(ranks[victim].pid, signal.SIGKILL)
    code, said = ranks[1 - victim].ended()
    assert code == 2 and time.perf_counter() - start < 15
    assert "another process of this training has ended, and what it said tells why; checkpoints are whole, run" in said
    assert ranks[victim].ended() == (-signal.SIGKILL, "")
    if victim == 0:
        assert elastic.together(out, 2, FAST) == [0, 0]
    assert_resumes(out, undisturbed)


def a_clip(rank: int, _told: Told) -> None:
    """In the sixth step what the second process trains on is no number."""
    prepared = loop.prepared

    def poisoned(part: int, batch: Any, *arguments: Any, step: int, **options: Any) -> Any:
        latents, *rest = prepared(part, batch, *arguments, step=step, **options)
        return (latents * float("nan") if rank == 1 and step == 5 else latents), *rest

    loop.prepared = poisoned


def a_gradient(rank: int, _told: Told) -> None:
    """In the sixth step a gradient of the second process is infinite, of a finite loss."""
    step_of, passes = loop.step_of, [0]

    def spoilt(gradient: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        return gradient * (float("inf") if rank == 1 and passes[0] == 6 else 1)

    def hooked(model: torch.nn.Module, *rest: Any) -> Any:
        next(model.parameters()).register_hook(spoilt)
        return step_of(model, *rest)

    loop.step_of = hooked


@pytest.mark.parametrize(
    ("poison", "reduction", "named"),
    [
        pytest.param(a_clip, "fast", {1: [22, 23]}, id="clip"),
        pytest.param(a_gradient, "fast", {0: [20, 21], 1: [22, 23]}, id="gradient"),
        pytest.param(a_clip, "tree", {0: [20, 21], 1: [22, 23]}, id="clip in a tree"),
    ],
)
def test_a_number_that_is_none_on_one_process(
    poison: Callable[[int, Told], None], reduction: str, named: dict[int, list[int]], tmp_path: Path
) -> None:
    """Both stop at that step, before any weight is touched. If a loss tells whose clips it was, these alone are named;
    a gradient is that of all, and so is a loss that is summed in a tree. Without it the run goes on."""
    out = tmp_path / "run"
    ways = ["--train.reduction", reduction, "--train.workers", "0"]
    for code, said in [rank.ended() for rank in start_ranks(out, *ways, patch=poison)]:
        assert code == 2 and "at step 5; stopped before the weights were touched. nonfinite-step-*.json names" in said
    assert {path.name for path in toy.steps_of(out)} <= {"step-00000004"}
    records = {path.name: json.loads(path.read_text())["samples"] for path in out.glob("nonfinite-*")}
    assert records == {f"nonfinite-step-5-rank-{rank}.json": samples for rank, samples in named.items()}
    assert elastic.together(out, 2, [*FAST, *ways]) == [0, 0]


def test_an_error_holds_no_model_when_the_group_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that averages gradients would else be the last to hold the group, and torch may end that by waiting for a
    thread that waits for Python's lock: one training in three hung so with its error told."""
    alive: list[bool] = []

    def train(_here: Distributed) -> Path:
        model = torch.nn.Linear(1, 1)
        known = weakref.ref(model)
        monkeypatch.setattr(distributed, "shutdown", lambda: alive.append(known() is not None))
        raise loop.NonFiniteError(f"of {model}")

    with pytest.raises(loop.NonFiniteError) as caught:
        execute(TrainArguments(tmp_path / "run", VideoRun(), device="cpu"), train, verb="train", words=[])
    assert alive == [False] and caught.value.__traceback__ is not None
