"""Claims that `magi selftest` provokes, in the numbers of a quick look; and that it would see them broken."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from magi.checkpoint import load_tensors
from magi.sampling.past import Past
from magi.selftest import command, toy
from magi.selftest.children import attempts
from magi.selftest.command import TESTS
from magi.selftest.crashes import watch
from magi.selftest.endless import roll_endlessly
from magi.selftest.files import told, watched
from magi.selftest.kills import kill_trainings
from magi.selftest.outcome import Outcome
from magi.selftest.planted import Bug, plant_bugs
from magi.selftest.traps import pickles, traps
from magi.training.state import TrainingState

QUIET: Any = lambda _message: None  # noqa: E731


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """Children are forked from a process that has imported everything."""
    toy.prepare()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in TESTS if name != "restarts"])  # which import for half a minute
def test_promises_are_kept(name: Any, tmp_path: Path) -> None:
    """SIGKILL at random moments, a third of them inside a save, power loss at all moments of a save, damaged
    checkpoints, other numbers of processes: each in a real training by the real command, with workers and dropout, and
    nothing is lost. Damaged and malicious files of models and videos are refused or read, and nothing else. A seed is a
    video however it is made, and a video may be endless. And each of these tests sees the bugs that are planted for
    it."""
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


def test_a_bug_that_is_not_seen_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that changes nothing, and one at which its test breaks off without a verdict, turn the table red."""

    def breaks(_folder: Path, **_options: Any) -> Outcome:
        raise KeyError

    def passes(_folder: Path, *, seed: int, say: Any) -> Outcome:
        return Outcome("", seed, trials=1)

    bugs = (Bug("harmless", lambda: None, passes), Bug("broken", lambda: None, breaks))
    monkeypatch.setattr("magi.selftest.planted.BUGS", bugs)
    outcome = plant_bugs(tmp_path, trials=2, seed=0, say=QUIET)
    assert outcome.failures == ["harmless: was not seen", "broken: ended its process, code 70"]


def test_what_ends_a_process_is_told_and_the_next_attempt_made() -> None:
    """A crash, a hang, too much memory: each is told of its attempt alone."""

    def attempt(number: int) -> str:
        if number == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 3:
            time.sleep(60)
        if number == 4:
            return told(lambda: bytearray(2**30))
        return str(number)

    found = list(attempts(range(6), attempt, seconds=1, memory_bytes=2**28))
    if sys.platform != "linux":  # which alone enforces it
        found[4] = (4, "MemoryError: ")
    assert found == [
        (0, "0"), (1, "ended its process, code -11"), (2, "2"), (3, "took longer than 1 s"), (4, "MemoryError: "),
        (5, "5"),
    ]  # fmt: skip


def test_code_that_runs_is_noticed(tmp_path: Path) -> None:
    """Every trap, sprung: by what Python hears of it, or by what it leaves."""
    left = tmp_path / "left"
    names = list(traps(left))
    pickles(tmp_path, left)

    def spring(number: int) -> str:
        content = pickle.dumps(traps(left)[names[number]])
        return watched(lambda: told(lambda: pickle.loads(content)), left=left, own=tmp_path / "out")

    for number, verdict in attempts(range(len(names)), spring, seconds=20, batch=1):
        assert "code was run" in verdict or verdict == "ended its process, code 0", names[number]  # execv leaves nobody
        left.unlink(missing_ok=True)


def test_a_disk_keeps_what_was_flushed_and_perhaps_more(tmp_path: Path) -> None:
    """A file may be there with its content, half of it or none, or not be there, until it and its folder were flushed;
    a renamed file has one of its names."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"old")

    def flush(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def act() -> None:
        (root / "new").write_bytes(b"news")
        flush(root / "new")
        flush(root)
        os.rename(root / "new", root / "newest")

    moments = [[dict(tree) for tree in moment.left] for moment in watch(root, act)]
    old = {"old": b"old"}
    assert all(tree in moments[0] for tree in (old, *({**old, "new": content} for content in (b"news", b"ne", b""))))
    assert [tree for tree in moments[1] if tree not in (old, {**old, "new": b"news"})] == []
    assert moments[2] == [{**old, "new": b"news"}] * 3
    assert moments[3][:2] == [{**old, "newest": b"news"}, {**old, "new": b"news"}]
    assert {len(tree) for tree in moments[3]} == {2}


def test_a_rollout_that_slows_down_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that takes a little more time than the one before, as with a past that is never forgotten."""
    commit = Past.commit

    def slower(self: Past, tokens: torch.Tensor) -> None:
        commit(self, tokens)
        until = time.process_time() + 3e-3 * self.count
        while time.process_time() < until:
            pass

    monkeypatch.setattr(Past, "commit", slower)
    monkeypatch.setattr("magi.selftest.endless.ATTEMPTS", 1)
    outcome = roll_endlessly(tmp_path, trials=26, seed=0, say=QUIET)
    assert len(outcome.failures) == 1 and "later frames take +" in outcome.failures[0]


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
