"""One process, one and then two and then one, four: do they end with the same bits? Through `magi train`, as torchrun
starts it, with the gradient summed in a tree."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from magi.selftest import toy
from magi.selftest.outcome import Outcome

WAYS = ((1, 2, 1), (4,))  # numbers of processes, one after another


def change_processes(
    folder: Path,
    *,
    trials: int,
    seed: int,
    say: Callable[[str], None],
    ways: Sequence[tuple[int, ...]] = WAYS,
    settings: Sequence[str] = (),
) -> Outcome:
    """Train for `trials` steps in each way and compare with one process.

    Args:
        folder: for the runs.
        trials: optimizer steps of each run; a multiple of 20.
        seed: of the training.
        say: hears of the progress.
        ways: numbers of processes, one after another.
        settings: more of them, for every run.
    """
    outcome = Outcome("1, 1 then 2 then 1, and 4 processes: the same weights, bit for bit", seed)
    start = time.perf_counter()
    whole = trials * toy.BATCH
    more = [*settings, "--train.seed", str(seed), "--train.checkpoint-every", str(whole // 5)]
    began = time.perf_counter()
    expected = toy.uninterrupted(folder / "one", *more, "--train.total-samples", str(whole))
    alone = time.perf_counter() - began
    for way in ways:
        out, name = folder / "-".join(map(str, way)), " then ".join(map(str, way))
        for turn, processes in enumerate(way, start=1):
            length = whole if turn == len(way) else (turn * trials // len(way) // 5) * 5 * toy.BATCH
            began = time.perf_counter()
            codes = together(out, processes, [*more, "--train.total-samples", str(length)])
            if any(codes):
                outcome.failures.append(f"{name}: on {processes} processes it ended with codes {codes}")
                break
        else:
            outcome.trials += trials
            if toy.final_state(out) != expected:
                outcome.failures.append(f"{name}: other bits than one process")
            if way == (4,):
                outcome.details["times the seconds of one process on four"] = round(
                    (time.perf_counter() - began) / alone, 2
                )
        say(f"{name}: {'as one' if not outcome.failures else outcome.failures[-1]}")
    outcome.seconds = time.perf_counter() - start
    return outcome


def together(out: Path, processes: int, more: Sequence[str]) -> list[int]:
    """Train on so many processes at once, with the environment that torchrun gives them; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank: int) -> int:
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes), RANK=str(rank),
            LOCAL_RANK=str(rank),
        )  # fmt: skip
        return toy.train(out, *more)

    return [toy.ended(child) for child in [toy.fork(partial(run, rank)) for rank in range(processes)]]
