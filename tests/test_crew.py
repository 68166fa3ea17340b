"""Several steps at a time: what must wait waits, what fails stops nothing else, and the clock is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from magi.reproduce.crew import Crew


def run(crew: Crew, folder: Path, programs: Mapping[str, str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Let a crew run Python programs by name; what it leaves undone."""
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
    assert not run(Crew(3), tmp_path, programs, {"sum": ("one", "two"), "one": (), "two": ()})
    noted = path.read_text().splitlines()
    assert {line.split()[0] for line in noted[:2]} == {"begin"} and noted[-2:] == ["begin sum", "end sum"]


def test_no_more_at_a_time_than_there_are_jobs(tmp_path: Path) -> None:
    """One job: every beginning is followed by its own end."""
    path = tmp_path / "noted"
    programs = {name: noting(path, name, seconds=0) for name in "abc"}
    assert not run(Crew(1), tmp_path, programs, dict.fromkeys("abc", ()))
    assert path.read_text().split() == ["begin", "a", "end", "a", "begin", "b", "end", "b", "begin", "c", "end", "c"]


def test_a_failure_stops_only_what_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last words are told, its dependants are left, all else is done."""
    programs = {"bad": "raise SystemExit('no such thing')", "after": "", "other": ""}
    assert run(Crew(2), tmp_path, programs, {"bad": (), "after": ("bad",), "other": ()}) == ["bad", "after"]
    assert "bad: no such thing" in capsys.readouterr().out


def test_the_clock_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    """A step that would take a minute is asked to stop, and may save; what comes after it is left."""
    saved = tmp_path / "saved"
    program = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(saved)!r}, 'w').close(), sys.exit(143)))\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    left = run(Crew(1, minutes=1.5 / 60), tmp_path, {"long": program, "next": ""}, {"long": (), "next": ()})
    assert left == ["long", "next"] and saved.exists() and time.monotonic() - start < 20


def test_what_is_done_is_not_begun(tmp_path: Path) -> None:
    """A step that is done counts as done for those that need it."""
    path = tmp_path / "noted"
    crew, programs = Crew(1), {name: noting(path, name, seconds=0) for name in ("first", "second")}
    needs: dict[str, Sequence[str]] = {"first": (), "second": ("first",)}
    assert not crew.work(needs, lambda name: [sys.executable, "-c", programs[name]], logs=tmp_path, already=["first"])
    assert path.read_text().splitlines() == ["begin second", "end second"]


@pytest.mark.parametrize(("jobs", "minutes", "message"), [(0, None, "--jobs is 0"), (2, 0.0, "--minutes is 0")])
def test_a_crew_of_nobody_is_refused(jobs: int, minutes: float | None, message: str) -> None:
    """In one line, with the value."""
    with pytest.raises(ValueError, match=message):
        Crew(jobs, minutes)
