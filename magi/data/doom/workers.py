"""Episodes recorded by worker processes, which are stopped with their engines if they do not answer.

An engine can crash, and can hang inside a call that Python cannot interrupt: so it runs in a process of its own, in a
session of its own. The conversation is a line of JSON for each episode. This file is both its ends:
`python -m magi.data.doom.workers` is a worker.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from magi.checkpoint import read_config
from magi.data.doom.engine import Doom, play
from magi.data.doom.files import RecordConfig, Take, write_episode

Answer: TypeAlias = dict[str, Any]  # "checks" of an episode that is written, or why it is "refused", or "stopped"

COMMAND = (sys.executable, "-m", "magi.data.doom.workers")
EPISODES_PER_ENGINE = 100  # then it is started anew, whatever it may have leaked
TRIES = 2  # of an episode at which a worker stopped
SECONDS, SECONDS_PER_FRAME = 120.0, 0.2  # that an episode may take; it takes some milliseconds per frame
FAREWELL = 10.0  # seconds for a worker to finish its episode when it is asked to go


@dataclass(frozen=True)
class Recorded:
    """An episode that is on the disk."""

    take: Take
    checks: dict[str, Any]


def record(
    folder: Path,
    config: RecordConfig,
    wanted: Sequence[Take],
    *,
    workers: int = 1,
    time_limit: float | None = None,
    command: Sequence[str] = COMMAND,
) -> Iterator[Recorded]:
    """Record episodes into `folder`, which `open_folder` has prepared; yields each as soon as it is written.

    Args:
        folder: where.
        config: how.
        wanted: which; what the files hold does not depend on their order or on the number of workers.
        workers: processes, each of which keeps about one core busy.
        time_limit: seconds for one episode; by default far more than it needs.
        command: what starts a worker.

    Raises:
        ValueError: an episode that cannot be played.
        ChildProcessError: a worker or its engine stopped, or did not answer in time, twice at one episode.
    """
    limit = SECONDS + SECONDS_PER_FRAME * config.doom.num_frames if time_limit is None else time_limit
    queue = deque((take, 1) for take in sorted(wanted, key=lambda take: take.map_name))  # a level is loaded anew
    idle: list[_Worker] = []
    busy: dict[_Worker, tuple[Take, int]] = {}
    with (
        selectors.DefaultSelector() as selector,
        tempfile.TemporaryDirectory(prefix="magi-record-") as scratch,  # what a worker leaves that had to be killed
    ):
        try:
            while queue or busy:
                while queue and len(busy) < workers:
                    worker = idle.pop() if idle else _Worker(folder, config, command, selector, scratch)
                    busy[worker] = queue.popleft()
                    worker.ask(busy[worker][0], limit)
                wait = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
                answered = {key.data for key, _ in selector.select(wait)}
                for worker in [w for w in busy if w in answered or w.deadline <= time.monotonic()]:
                    take, tried = busy.pop(worker)
                    answer: Answer = {"stopped": f"no answer within {limit:g} s"}
                    if worker in answered:
                        answer = worker.answer()
                    if "checks" in answer:
                        idle.append(worker)
                        yield Recorded(take, answer["checks"])
                        continue
                    worker.stop(at_once=True)
                    if "refused" in answer:
                        raise ValueError(answer["refused"])
                    told = f"{take.map_name} with seed {take.seed}: {answer['stopped']}"
                    if tried == TRIES:
                        raise ChildProcessError(f"{told}, {TRIES} times; run the same command again, or leave it out")
                    warnings.warn(f"{told}; trying once more", stacklevel=2)
                    queue.appendleft((take, tried + 1))
        finally:
            for worker in busy:
                worker.dismiss()
            for worker in (*idle, *busy):
                worker.stop()


class _Worker:
    """One worker process, seen from outside."""

    def __init__(
        self, folder: Path, config: RecordConfig, command: Sequence[str], selector: selectors.BaseSelector, scratch: str
    ) -> None:
        self.deadline = 0.0
        self._selector = selector
        self._process = subprocess.Popen(  # noqa: S603, the command is ours
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that it can be stopped together with its engine
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": scratch},
        )
        selector.register(self._output, selectors.EVENT_READ, self)
        self._say({"folder": str(folder), "config": asdict(config)})

    def ask(self, take: Take, limit: float) -> None:
        """Give it an episode to record within `limit` seconds."""
        self.deadline = time.monotonic() + limit
        self._say(asdict(take))

    def answer(self) -> Answer:
        """What it has to say of its episode."""
        line = self._output.readline()
        return json.loads(line) if line else {"stopped": "the worker process stopped"}

    def dismiss(self) -> None:
        """Let it finish what it does, and go."""
        with suppress(OSError):  # it may be gone
            self._input.close()

    def stop(self, *, at_once: bool = False) -> None:
        """End it and its engine; nothing of a half written episode is left under a final name."""
        self._selector.unregister(self._output)
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if at_once else FAREWELL)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # then its output has ended too, which is found when it is read
            self._input.write(json.dumps(message) + "\n")
            self._input.flush()

    @property
    def _input(self) -> Any:
        return self._process.stdin

    @property
    def _output(self) -> Any:
        return self._process.stdout


def work() -> None:
    """Be a worker: record the episodes that standard input names until it ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what the engine prints is no answer
    first = json.loads(sys.stdin.readline())
    folder, config = Path(first["folder"]), read_config(RecordConfig, first["config"])
    with Doom(config.doom) as game:
        for number, line in enumerate(sys.stdin, start=1):
            take = Take(**json.loads(line))
            try:
                answer: Answer = {"checks": write_episode(folder, play(game, take.map_name, take.seed), config)}
            except (ValueError, ImportError) as error:
                answer = {"refused": str(error)}
            except OSError as error:
                answer = {"stopped": str(error)}
            try:
                os.write(answers, f"{json.dumps(answer)}\n".encode())
            except BrokenPipeError:  # whoever asked is gone, killed perhaps
                return
            if number % EPISODES_PER_ENGINE == 0:
                game.close()


if __name__ == "__main__":
    work()
