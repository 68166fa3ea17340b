"""What a test of many trials found, and how sure that makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Trials of one promise."""

    promise: str
    seed: int
    trials: int = 0
    failures: list[str] = field(default_factory=list)
    """In words, of each trial that broke it."""
    details: dict[str, int | float | str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether there were trials and none failed."""
        return self.trials > 0 and not self.failures

    @property
    def bound(self) -> float:
        """With 95 % confidence a trial fails with at most this probability, if none of them did (Clopper & Pearson)."""
        return 1 - 0.05 ** (1 / self.trials) if self.kept else 1.0


def told(outcomes: Sequence[tuple[str, Outcome]]) -> list[tuple[str, str, str, str]]:
    """Lines of a table: the promise, trials, what came of them, and how to see it again."""
    lines = [("", "trials", "", "again")]
    for name, outcome in outcomes:
        found = f"{len(outcome.failures)} FAILED" if outcome.failures else f"none failed (95 %: < {outcome.bound:.2g})"
        details = "".join(f", {value} {what}" for what, value in outcome.details.items())
        again = f"magi selftest --only {name} --seed {outcome.seed}"
        lines.append((outcome.promise, f"{outcome.trials:,}", f"{found}{details}, {outcome.seconds:.0f} s", again))
    return lines
