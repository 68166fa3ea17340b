"""A process of several dies: does torchrun start them again, and does the run end as if nothing had happened?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from magi.seeds import generator
from magi.selftest import toy
from magi.selftest.outcome import Outcome

PROCESSES = 2
LIMIT = 300.0  # seconds of a run with restarts
# Without it processes that start again may wait for keys of the start before them
RENDEZVOUS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}


def restart_trainings(folder: Path, *, trials: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Kill one of two processes once in each run, and compare what the run ends with to one process undisturbed.

    Args:
        folder: for the runs.
        trials: runs.
        seed: of which process is killed, and after how many checkpoints.
        say: hears of the progress.
    """
    outcome = Outcome("torchrun --max_restarts after a process was killed: the same weights, bit for bit", seed)
    numbers, start = generator(seed, "restarts"), time.perf_counter()
    expected = toy.uninterrupted(folder / "one")
    for trial in range(trials):
        out = folder / f"run-{trial}"
        victim, after = int(numbers.integers(PROCESSES)), int(numbers.integers(1, 5))
        trouble = _disturbed(out, victim=victim, after=after)
        if trouble is not None:
            outcome.failures.append(f"run {trial}: {trouble}")
        elif toy.final_state(out) != expected:
            outcome.failures.append(f"run {trial}: other bits than undisturbed")
        outcome.trials += 1
        say(f"{outcome.trials} runs, {len(outcome.failures)} failures")
    outcome.seconds = time.perf_counter() - start
    return outcome


def _disturbed(out: Path, *, victim: int, after: int) -> str | None:
    """Train with torchrun and kill a process of that rank when there have been so many checkpoints; what went wrong."""
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(PROCESSES), "--max_restarts", "3",
        "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0",
    ]  # fmt: skip
    environment = {**os.environ, **RENDEZVOUS, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    job = subprocess.Popen(  # noqa: S603, our own command
        [*torchrun, "-m", "magi", *toy.command(out)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.perf_counter() + LIMIT
        while len(seen := toy.steps_of(out)) == 0 or int(seen[-1].name[5:]) < after * 6:
            if time.perf_counter() > deadline or job.poll() is not None:
                return f"no checkpoint {after} came before it ended with code {job.poll()}"
            time.sleep(0.01)
        killed = _rank_of(job.pid, victim)
        if killed is None:
            return f"process {victim} was not found"
        os.kill(killed, signal.SIGKILL)
        code = job.wait(max(1.0, deadline - time.perf_counter()))
        return f"it ended with code {code}" if code else None
    except subprocess.TimeoutExpired:
        return f"it did not end in {LIMIT:.0f} s"
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def _rank_of(parent: int, rank: int) -> int | None:
    """The child of torchrun that has this rank; from Linux's /proc."""
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    return None
