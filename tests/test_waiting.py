"""What `magi bench cache` says of the time that training waits for its data is what the loop really spends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from magi.bench.cache import rows
from magi.bench.waiting import measure_waiting, waiting_rows
from magi.data.clips import Clips
from magi.distributed import Distributed
from magi.experiments.data import stream
from magi.model.draws import draw_training
from magi.model.magi import Magi
from tests.toy_runs import MODEL, RUN, Noise

READ, PREPARE = 0.02, 0.06  # s that a batch and its preparation take at least


class Slow(Noise):
    """Clips that take their time."""

    def clips(self, samples: Sequence[int]) -> Clips:
        time.sleep(READ)
        return super().clips(samples)


def prepare(clips: Clips, step: int) -> tuple[Any, ...]:
    time.sleep(PREPARE)
    draws = draw_training(MODEL, 0, step=step, samples=clips.sample.tolist())
    return clips.video / 127.5 - 1, clips.interval, draws


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Three counted steps without and with a worker."""
    device, measured = torch.device("cpu"), {}
    torch.manual_seed(0)
    for workers in (0, 1):
        config = replace(RUN, workers=workers)
        measured[f"slow, {workers} workers"] = measure_waiting(
            Magi(MODEL), stream(Slow(), config, Distributed()), prepare,
            config=config, steps=3, run_dir=tmp_path_factory.mktemp("run") / "new", device=device, warm=2,
        )  # fmt: skip
    return measured


def test_seconds_are_those_that_were_spent(found: dict[str, dict[str, Any]]) -> None:
    """Reading and preparing are told apart, belong to the step, and the counted steps alone are counted."""
    here = found["slow, 0 workers"]
    assert here["wait"]["min"] >= READ and here["prepare"]["min"] >= PREPARE
    assert here["step"]["min"] > READ + PREPARE
    assert here["wait"]["repeats"] == here["prepare"]["repeats"] == here["step"]["repeats"] == 3
    assert here["share"]["min"] <= here["share"]["all"] <= here["share"]["max"]
    assert here["share"]["all"] < here["data_share"]["all"] < 1
    assert here["share"]["all"] * here["step"]["max"] >= READ


def test_a_worker_reads_while_a_step_is_computed(found: dict[str, dict[str, Any]]) -> None:
    """A batch that takes less than a step is there when it is asked for."""
    assert found["slow, 1 workers"]["wait"]["median"] < READ


def test_nothing_is_printed_and_the_model_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loop's own lines would come between those of the table, and what is timed next must be the same model."""
    model = Magi(MODEL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_waiting(
        model, stream(Noise(), RUN, Distributed()), prepare,
        config=RUN, steps=1, run_dir=tmp_path / "run", device=torch.device("cpu"), warm=0,
    )  # fmt: skip
    assert capsys.readouterr().out == ""
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_table_has_both_shares(found: dict[str, dict[str, Any]]) -> None:
    """Each source has a line for waiting and one with encoding; a report of before has none and can be compared."""
    lines = list(waiting_rows(found))
    assert len({line.key for line in lines}) == 4
    assert lines[1].figures == (found["slow, 0 workers"]["data_share"]["all"],)
    assert "waiting for a batch, slow, 0 workers" in lines[0].cells[0]
    assert list(rows({"encoding": {}, "bytes": {}, "training": TRAINING})) != []


def summaries() -> dict[str, Any]:
    rate = {"median": 1.0, "min": 1.0, "max": 1.0}
    return {what: {"clips_per_second": rate, **rate} for what in ("batch", "step")}


TRAINING = {"videos": summaries(), "latents": summaries(), "ratio": summaries()}
