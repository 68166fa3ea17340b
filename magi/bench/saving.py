"""What saving costs a training: seconds that it stops for the copy, and how much slower steps are beside the writing.

    python -m magi.bench.saving --model small --json saving.json

In turn: steps alone, a save that is begun with steps while it is written, and a save that is waited for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from magi.bench.measure import Spread, machine, now
from magi.bench.training import TrainingStep
from magi.distributed import Distributed, pick_device
from magi.model.config import PRESETS
from magi.model.magi import Magi
from magi.threads import configure_threads
from magi.training.ema import Ema
from magi.training.saving import Saver
from magi.training.state import TrainingState


def measure_saving(model: Magi, *, batch: int, repeats: int, device: torch.device, folder: Path) -> dict[str, Any]:
    """Time saves of whole states.

    Args:
        model: is trained.
        batch: clips per step.
        repeats: turns.
        device: where it is.
        folder: of the checkpoints, two of which are kept.

    Returns:
        ``bytes`` of a checkpoint; summaries of seconds of a ``step`` alone, of the ``copy`` that training waits for,
        until the step after it was ``written`` ended, of a save that is ``waited`` for; and of the ratio of a step
        ``beside`` the writing to one alone.
    """
    step = TrainingStep(model, batch=batch, device=device, copied=False)
    state = TrainingState(step.model, Ema(step.model, half_life_samples=1e6), step.optimizer)
    saver = Saver(folder, {}, Distributed(device=device), keep=2)
    times: dict[str, list[float]] = {name: [] for name in ("step", "copy", "written", "waited", "beside")}

    def timed_step() -> float:
        start = now(device)
        step("bf16" if device.type == "cuda" else "fp32")
        state.step += 1
        return now(device) - start

    timed_step()
    for _ in range(repeats):
        alone = median(timed_step() for _ in range(3))
        start = now(device)
        saver.begin(state)
        times["copy"].append(time.perf_counter() - start)
        beside = [timed_step()]
        while saver.is_writing:
            beside.append(timed_step())
        times["written"].append(time.perf_counter() - start)
        saver.finish()
        times["step"].append(alone)
        times["beside"].append(median(beside) / alone)
        timed_step()
        start = now(device)
        saver.begin(state)
        saver.finish()
        times["waited"].append(time.perf_counter() - start)
    found = {name: Spread(tuple(values)).summary() for name, values in times.items()}
    return {"bytes": sum(path.stat().st_size for path in max(folder.glob("step-*")).iterdir()), **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m magi.bench.saving", description="What saving costs a training.")
    parser.add_argument("--model", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    configure_threads(given.threads)
    device = pick_device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        model = Magi(PRESETS[given.model]).to(device)
        found = measure_saving(model, batch=given.batch, repeats=given.repeats, device=device, folder=Path(folder))
    found = {"machine": machine(device), "model": given.model, "batch": given.batch, **found}
    print(json.dumps(found, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
