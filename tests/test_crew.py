"""Several steps at a time: what must wait waits, what fails stops nothing else, and the clock is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from magi.cli import main
from magi.reproduce.crew import Crew, Outcome

ALL_DONE = Outcome([], [])


def run(crew: Crew, folder: Path, programs: Mapping[str, str], needs: Mapping[str, Sequence[str]]) -> Outcome:
    """Let a crew run Python programs by name."""
    return crew.work(needs, lambda name: [sys.executable, "-c", programs[name]], logs=folder)


def noting(path: Path, name: str, seconds: float = 0.1) -> str:
    """A program that writes when it began and when it ended."""
    lines = [
        "import time", f"file = open({str(path)!r}, 'a')", f"file.write('begin {name}\\n'); file.flush()",
        f"time.sleep({seconds})", f"file.write('end {name}\\n')",
    ]  # fmt: skip
    return "; ".join(lines)


def test_a_step_waits_for_what_it_needs(tmp_path: Path) -> None:
    """With room for all, the last one still begins after both that it needs have ended; the first two overlap."""
    path = tmp_path / "noted"
    programs = {name: noting(path, name, seconds=0.5) for name in ("one", "two", "sum")}
    assert run(Crew(3), tmp_path, programs, {"sum": ("one", "two"), "one": (), "two": ()}) == ALL_DONE
    noted = path.read_text().splitlines()
    assert {line.split()[0] for line in noted[:2]} == {"begin"} and noted[-2:] == ["begin sum", "end sum"]


def test_no_more_at_a_time_than_there_are_jobs(tmp_path: Path) -> None:
    """One job: every beginning is followed by its own end."""
    path = tmp_path / "noted"
    programs = {name: noting(path, name, seconds=0) for name in "abc"}
    assert run(Crew(1), tmp_path, programs, dict.fromkeys("abc", ())) == ALL_DONE
    assert path.read_text().split() == ["begin", "a", "end", "a", "begin", "b", "end", "b", "begin", "c", "end", "c"]


def test_a_failure_stops_only_what_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its status, log and last words are told, its dependants are left, all else is done."""
    programs = {"bad": "raise SystemExit('no such thing')", "after": "", "other": ""}
    assert run(Crew(2), tmp_path, programs, {"bad": (), "after": ("bad",), "other": ()}) == Outcome(["bad"], ["after"])
    assert f"bad: failed with status 1, see {tmp_path / 'bad.log'}: no such thing" in capsys.readouterr().out


def test_a_step_that_is_killed_has_failed(tmp_path: Path) -> None:
    """By a signal too, which is no positive status."""
    assert run(Crew(1), tmp_path, {"a": "import os; os.kill(os.getpid(), 9)"}, {"a": ()}).failed == ["a"]


def test_the_clock_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    """A step that would take a minute is asked to stop, and may take a second to save; what comes after it is left."""
    saved = tmp_path / "saved"
    program = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), open({str(saved)!r}, 'w').close(), sys.exit(143)))\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    outcome = run(Crew(1, minutes=1.5 / 60), tmp_path, {"long": program, "next": ""}, {"long": (), "next": ()})
    assert outcome == Outcome([], ["long", "next"]) and saved.exists() and time.monotonic() - start < 20


def test_a_signal_to_the_crew_ends_its_steps(tmp_path: Path) -> None:
    """None of them lives on, to write beside those that the same command begins anew."""
    program = (
        "from pathlib import Path; import sys\n"
        "from magi.reproduce.crew import Crew\n"
        "step = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "words = [sys.executable, '-c', step]\n"
        f"outcome = Crew(1).work({{'long': ()}}, lambda name: words, logs=Path({str(tmp_path)!r}))\n"
        "print(outcome.left, outcome.signal)"
    )
    crew = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    log = tmp_path / "long.log"
    while not (log.exists() and log.read_text().strip()):
        assert crew.poll() is None
        time.sleep(0.05)
    crew.terminate()
    told, _ = crew.communicate(timeout=30)
    assert "['long'] 15" in told
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_what_is_done_is_not_begun(tmp_path: Path) -> None:
    """A step that is done counts as done for those that need it."""
    path = tmp_path / "noted"
    crew, programs = Crew(1), {name: noting(path, name, seconds=0) for name in ("first", "second")}
    needs: dict[str, Sequence[str]] = {"first": (), "second": ("first",)}
    words = {name: [sys.executable, "-c", program] for name, program in programs.items()}
    assert crew.work(needs, words.__getitem__, logs=tmp_path, already=["first"]) == ALL_DONE
    assert path.read_text().splitlines() == ["begin second", "end second"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "--jobs is 0"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--jobs", "2", "--only", "forcing"], "leave out --only"),
    ],
)
def test_a_crew_that_cannot_be_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, in one line."""
    assert main(["reproduce", "--out", str(tmp_path), "--results", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
