"""Claims about checkpoints that are written beside the training: they are of one moment, and announced when durable."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.distributed import Distributed
from magi.model.magi import Magi
from magi.training.ema import Ema
from magi.training.optim import build_optimizer
from magi.training.saving import Saver
from magi.training.state import TrainingState
from tests.toy_runs import MODEL, RUN, Crash, assert_same_bits, checkpoints, crash, everything, run


class Held:
    """Holds back the writing until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.write = threading.Event(), checkpoint.write_part
        monkeypatch.setattr(checkpoint, "write_part", self)

    def __call__(self, *arguments: Any, **options: Any) -> None:
        assert self.gate.wait(30)
        self.write(*arguments, **options)


@pytest.fixture
def state() -> TrainingState:
    """A run after one step."""
    torch.manual_seed(0)
    model = Magi(MODEL)
    optimizer = build_optimizer(model, RUN.optim)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return TrainingState(model, Ema(model, half_life_samples=10), optimizer, samples=4, step=1)


def saver_of(folder: Path, keep: int = 2) -> Saver:
    return Saver(folder, {}, Distributed(), keep=keep)


def test_a_checkpoint_is_of_the_moment_it_was_begun(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing has not even begun when the next steps change weights, average and moments in place: saved is what
    was, bit for bit; and until it is on the disk nothing is visible and nothing is said."""
    held, saver = Held(monkeypatch), saver_of(tmp_path)
    before = {name: tensor.clone() for name, tensor in everything(state).items()}
    saver.begin(state)
    with torch.no_grad():
        for tensor in everything(state).values():
            tensor += 1
    assert saver.is_writing and checkpoints(tmp_path) == []
    held.gate.set()
    assert saver.finish() == f"saved {tmp_path / 'step-00000001'} at 4 samples"
    assert not saver.is_writing and saver.finish() is None
    model = Magi(MODEL)
    again = TrainingState(model, Ema(model, half_life_samples=10), build_optimizer(model, RUN.optim))
    again.load(tmp_path / "step-00000001", {})
    assert_same_bits(everything(again), before)


def test_never_two_at_a_time(state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that is due while one is on its way waits for it, so memory is that of one copy, and order is kept."""
    held, saver = Held(monkeypatch), saver_of(tmp_path)
    saver.begin(state)
    state.step, state.samples = 2, 8
    threading.Timer(0.2, held.gate.set).start()
    assert "step-00000001" in str(saver.begin(state))
    assert checkpoints(tmp_path) == ["step-00000001"]
    saver.finish()
    assert checkpoints(tmp_path) == ["step-00000001", "step-00000002"]


def test_what_is_not_written_is_not_announced(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is the training's error at its next step, and the checkpoint before stays what it was."""
    saver = saver_of(tmp_path, keep=1)
    saver.begin(state)
    saver.finish()

    def full(temporary: Path, *_: Any, **__: Any) -> None:
        temporary.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_part", full)
    state.step = 2
    saver.begin(state)
    with pytest.raises(CheckpointError, match=r"step-00000002 could not .* No space .* before it is step-00000001"):
        saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "and what there was of it is gone"
    checkpoint.verify(tmp_path / "step-00000001")


def test_what_was_begun_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that breaks off while a checkpoint is on its way leaves it behind whole, and is resumed from it."""
    held = Held(monkeypatch)
    threading.Timer(0.5, held.gate.set).start()
    with pytest.raises(Crash):
        run(tmp_path, at=12, event=crash)  # in the step after the first save
    assert checkpoints(tmp_path) == ["step-00000003"]
    assert_same_bits(everything(run(tmp_path)), everything(run(tmp_path / "undisturbed")))
