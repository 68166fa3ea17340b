"""Claims that `magi selftest` provokes, in the numbers of a quick look; and that it would see them broken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from magi.checkpoint import load_tensors, verify
from magi.selftest import command, toy
from magi.selftest.command import TESTS
from magi.selftest.damage import damage_checkpoints
from magi.selftest.kills import kill_trainings
from magi.selftest.outcome import Outcome
from magi.training.state import TrainingState

QUIET: Any = lambda _message: None  # noqa: E731


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """Children are forked from a process that has imported everything."""
    toy.prepare()


@pytest.mark.parametrize("name", TESTS)
def test_promises_are_kept(name: Any, tmp_path: Path) -> None:
    """SIGKILL at random moments, a third of them inside a save, damaged checkpoints, other numbers of processes: each
    in a real training by the real command, with workers and dropout, and nothing is lost."""
    test, trials = TESTS[name]
    outcome = test(tmp_path, trials=trials["quick"], seed=0, say=QUIET)
    assert not outcome.failures and outcome.trials >= trials["quick"] and outcome.kept
    if name == "kills":
        assert int(outcome.details["inside a save"]) >= outcome.trials / 4


def test_a_broken_resume_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not take up the moving average again ends with other bits, in every run that was resumed."""
    load = TrainingState.load

    def forgetful(self: TrainingState, directory: Path, config: Mapping[str, Any]) -> None:
        load(self, directory, config)
        self.ema.model.load_state_dict(self.model.state_dict())

    monkeypatch.setattr(TrainingState, "load", forgetful)
    outcome = kill_trainings(tmp_path, trials=6, seed=1, say=QUIET)
    assert any("other bits than undisturbed" in failure for failure in outcome.failures) and not outcome.kept


def test_unnoticed_damage_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes alone do not tell of a flipped bit."""
    monkeypatch.setattr("magi.checkpoint.verify", lambda directory: verify(directory, sizes_only=True))
    outcome = damage_checkpoints(tmp_path, trials=20, seed=0, say=QUIET)
    assert any(failure.startswith("flip of") for failure in outcome.failures)


def test_the_numbers_of_a_checkpoint_are_all_in_its_state(tmp_path: Path) -> None:
    """Two runs are compared by every weight, average and moment: another bit in any of them is another state."""
    expected = toy.uninterrupted(tmp_path, "--train.total-samples", "8", "--train.parts", "1")
    step = toy.steps_of(tmp_path)[-1]
    for stem in ("model", "ema", "optimizer"):
        tensors = load_tensors(step, stem, None)
        name = sorted(tensors)[len(tensors) // 2]
        changed = {**tensors, name: torch.nextafter(tensors[name], torch.tensor(9.0))}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "magi.checkpoint.load_tensors",
                lambda path, each, _expected, stem=stem, changed=changed: (
                    changed if each == stem else load_tensors(path, each, None)
                ),
            )
            assert toy.state_of(step) != expected
    assert toy.state_of(step) == expected


def test_an_outcome_says_how_sure_it_makes() -> None:
    """No failure in N trials bounds the rate by 1 - .05^(1/N), about 3 / N; no trials and failures say nothing."""
    assert Outcome("", 0, trials=1000).bound == pytest.approx(0.003, rel=0.01)
    assert Outcome("", 0).bound == 1 and not Outcome("", 0).kept
    assert not Outcome("", 0, trials=5, failures=["one"]).kept


def test_the_command_tells_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table with counts, seeds and what to type to see it again; the file says the same; a broken promise is an exit
    code of 1."""

    def test(_folder: Path, *, trials: int, seed: int, say: Any) -> Outcome:
        say("half way")
        return Outcome("a promise", seed, trials=trials, failures=["trial 3: lost"] if seed else [])

    monkeypatch.setattr(command, "TESTS", {"kills": (test, {"quick": 7, "full": 9})})
    for seed, level, code in ((0, "full", 0), (2, "quick", 1)):
        out = tmp_path / f"{seed}.json"
        assert command.main(["--level", level, "--seed", str(seed), "--json", str(out)]) == code
        printed, (row,) = capsys.readouterr().out, json.loads(out.read_text())["rows"]
        assert f"magi selftest --only kills --seed {seed}" in printed and "half way" in printed
        assert row["trials"] == (7 if code else 9) and row["kept"] == (not code) and row["seed"] == seed
        assert ("1 FAILED" in printed and "trial 3: lost" in printed) == bool(code)
