"""Several steps at a time, each in a process of its own, until all are done or the time is up.

A small model leaves most of an accelerator idle, and its one process a core busy with launching: many trainings side by
side take little longer than one. Knows names, commands and what must wait for what; not what the steps do.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from magi.training.loop import stop_requests

POLL = 0.25  # seconds between two looks
REPORT = 20.0  # seconds between two reports
SAVING = 60.0  # seconds a training may take to save its state when it is asked to stop


@dataclass(frozen=True)
class Crew:
    """How many processes, and for how long."""

    jobs: int
    minutes: float | None = None
    """Then trainings are asked to save their state, and nothing is begun; None waits for the end."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"--jobs is {self.jobs}: at least one process is needed")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"--minutes is {self.minutes:g}: give more than 0")

    def work(
        self,
        needs: Mapping[str, Sequence[str]],
        command: Callable[[str], Sequence[str]],
        *,
        logs: Path,
        already: Iterable[str] = (),
    ) -> Outcome:
        """Do the steps, those that are named first first.

        Args:
            needs: by the name of a step, the steps that must be done before it.
            command: the words of the process that does a step.
            logs: a folder; what a step prints goes to NAME.log there.
            already: the steps that are done.

        Returns:
            What became of the steps. A SIGINT or SIGTERM ends them as the clock does.
        """
        end = time.monotonic() + 60 * self.minutes if self.minutes else float("inf")
        logs.mkdir(parents=True, exist_ok=True)
        done, failed = set(already), set[str]()
        waiting = [name for name in needs if name not in done]
        running: dict[str, subprocess.Popen[bytes]] = {}
        reported = time.monotonic()
        with stop_requests() as asked:
            try:
                while running or _ready(waiting, needs, done):
                    if asked() or time.monotonic() >= end:
                        break
                    for name in _ready(waiting, needs, done)[: self.jobs - len(running)]:
                        waiting.remove(name)
                        running[name] = _begin(command(name), logs / f"{name}.log")
                        print(f"{name}: begun", flush=True)
                    for name, code in [(name, process.poll()) for name, process in running.items()]:
                        if code is not None:
                            del running[name]
                            (failed if code else done).add(name)
                            print(f"{name}: {_told(code, logs / f'{name}.log')}", flush=True)
                    if time.monotonic() - reported > REPORT:
                        reported = time.monotonic()
                        for name in running:
                            print(f"  {name}: {_last_line(logs / f'{name}.log')}", flush=True)
                    time.sleep(POLL)
            finally:  # nobody else knows these processes
                done |= _stop(running)
        left = [name for name in needs if name not in done and name not in failed]
        return Outcome([name for name in needs if name in failed], left, asked())


@dataclass(frozen=True)
class Outcome:
    """What became of the steps that are not done."""

    failed: list[str]
    left: list[str]
    """Not begun or not finished, for want of time or because they wait for one that failed."""
    signal: int = 0
    """That ended the work; 0 if none did."""


def _ready(waiting: Sequence[str], needs: Mapping[str, Sequence[str]], done: set[str]) -> list[str]:
    return [name for name in waiting if done.issuperset(needs[name])]


def _begin(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as sink:  # threads of many processes would only wait for each other
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(list(words), stdout=sink, stderr=subprocess.STDOUT, env=alone)  # noqa: S603, our own


def _stop(running: Mapping[str, subprocess.Popen[bytes]]) -> set[str]:
    """Ask processes to save and end; the names of those that had just finished."""
    for process in running.values():
        process.terminate()
    end = time.monotonic() + SAVING
    for process in running.values():
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return {name for name, process in running.items() if process.returncode == 0}


def _told(code: int, log: Path) -> str:
    return f"failed with status {code}, see {log}: {_last_line(log)}" if code else "done"


def _last_line(log: Path) -> str:
    with log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - 4096))
        lines = [line for line in source.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
