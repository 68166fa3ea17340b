"""Plant every bug of the catalogue, one after the other, and require the tests named with it to fail.

`python -m tests.mutants.run` prints a table and exits with 1 if a bug survives, or if a test fails without any bug.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


class Outcomes:
    """A pytest plugin that notes which tests passed and which claims failed.

    A test that breaks on another error than its own assertions has not found the bug, it has stumbled over it.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def pytest_exception_interact(self, node: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is not None and call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)):
            self.failed.add(node.nodeid)


def outcomes(tests: Iterable[str]) -> Outcomes:
    """Run tests in this process, with whatever is patched, and say how they went."""
    noted = Outcomes()
    options = [
        "-o",
        "addopts=",
        "-q",
        "--rootdir",
        str(ROOT),
        "-p",
        "no:cacheprovider",
        "-p",
        "no:timeout",
        "-W",
        "ignore",
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*options, *(f"{ROOT / test}" for test in tests)], plugins=[noted])
    return noted


def forget() -> None:
    """Empty what functions of the project remember: a bug must not outlive its patch there, nor the truth hide it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "magi":
            for member in list(vars(module).values()):
                if hasattr(member, "cache_clear"):
                    member.cache_clear()


def survived(mutant: Mutant) -> list[str]:
    """The tests that do not find the bug, though they should."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        mutant.plant(patch)
        noted = outcomes(mutant.tests)
    forget()
    return [test for test in mutant.tests if test not in noted.failed]


def main() -> int:
    """Print the table; return the exit code."""
    needed = sorted({test for mutant in MUTANTS for test in mutant.tests})
    sound = outcomes(needed)
    if sound.passed != set(needed):
        print("without any bug these tests must pass:", *sorted(set(needed) - sound.passed), sep="\n  ")
        return 1
    alive = 0
    for mutant in MUTANTS:
        start = time.perf_counter()
        blind = survived(mutant)
        alive += bool(blind)
        verdict = "SURVIVED" if blind else f"found by {len(mutant.tests)}"
        print(f"{mutant.name:46} {verdict:10} {time.perf_counter() - start:5.1f} s", *blind, sep="\n    ", flush=True)
    print(f"{len(MUTANTS) - alive} of {len(MUTANTS)} planted bugs found")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
