"""SIGKILL at random moments of training, some of them inside a save, until runs end: do they end with the same bits?

A killed run is started again with the same command, and killed again, until it is through; then the next one begins.
After every kill all checkpoints that can be seen must verify, and the newest must not be older than before.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from numpy.random import Generator

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.seeds import generator
from magi.selftest import toy
from magi.selftest.outcome import Outcome

QUICKER = ("--train.parts", "1")
SAVE_SECONDS = 0.03  # about how long a save of the toy takes


def kill_trainings(folder: Path, *, trials: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Kill so often.

    Args:
        folder: for the runs; what failed stays there.
        trials: how many kills that hit.
        seed: of the moments.
        say: hears of the progress.
    """
    outcome = Outcome("SIGKILL at random moments of training: the same weights, bit for bit", seed)
    numbers, start = generator(seed, "kills"), time.perf_counter()
    expected = toy.uninterrupted(folder / "undisturbed", *QUICKER)
    length = time.perf_counter() - start
    inside = runs = 0
    while outcome.trials < trials:
        out = folder / f"run-{runs}"
        runs += 1
        newest = -1
        while outcome.trials < trials:
            in_save = numbers.random() < 0.6
            killed, hit_save = _killed(out, numbers, length=length, in_save=in_save)
            if not killed:
                break
            outcome.trials += 1
            inside += hit_save
            try:
                for step in toy.steps_of(out):
                    checkpoint.verify(step)
            except CheckpointError as error:
                outcome.failures.append(f"kill {outcome.trials}: a torn checkpoint is visible: {error}")
            now = int(steps[-1].name.removeprefix("step-")) if (steps := toy.steps_of(out)) else -1
            if now < newest:
                outcome.failures.append(f"kill {outcome.trials}: step {newest} was there and is gone")
            newest = max(newest, now)
            if outcome.trials % 50 == 0:
                say(f"{outcome.trials} kills, {inside} inside a save, {len(outcome.failures)} failures")
        code = toy.ended(toy.fork(partial(toy.train, out, *QUICKER)))
        if code:
            outcome.failures.append(f"run {runs}: resumed after kills it ended with code {code}")
        elif toy.final_state(out) != expected:
            outcome.failures.append(f"run {runs}: other bits than undisturbed")
        if not outcome.failures:
            shutil.rmtree(out)
    outcome.details = {"inside a save": inside, "runs": runs}
    outcome.seconds = time.perf_counter() - start
    return outcome


def _killed(out: Path, numbers: Generator, *, length: float, in_save: bool) -> tuple[bool, bool]:
    """Start or resume a run and kill it, with its workers or alone: whether that hit it, and inside a save."""
    heard, told = os.pipe()

    def run() -> int:
        write: Callable[..., None] = checkpoint.write_part
        commit: Callable[..., None] = checkpoint.commit

        def noted_begin(*arguments: Any, **options: Any) -> None:
            os.write(told, b"(")
            write(*arguments, **options)

        def noted_end(*arguments: Any, **options: Any) -> None:
            commit(*arguments, **options)
            os.write(told, b")")

        checkpoint.write_part, checkpoint.commit = noted_begin, noted_end
        return toy.train(out, *QUICKER)

    child = toy.fork(run)
    os.close(told)
    saves = b""
    if in_save:  # wait for one of the saves to begin, then for some part of it
        for _ in range(numbers.integers(1, 4)):
            while not saves.endswith(b"("):
                byte = os.read(heard, 1)
                saves += byte
                if not byte:
                    break
            saves += b" "
        time.sleep(numbers.random() * SAVE_SECONDS)
    else:
        time.sleep(numbers.random() * length)
    alone = numbers.random() < 0.5
    try:
        (os.kill if alone else os.killpg)(child, signal.SIGKILL)
    except ProcessLookupError:  # not yet a session of its own
        os.kill(child, signal.SIGKILL)
    hit = toy.ended(child) == -signal.SIGKILL
    while select.select([heard], [], [], 0)[0] and (byte := os.read(heard, 64)):
        saves += byte
    os.close(heard)
    return hit, hit and saves.count(b"(") > saves.count(b")")
