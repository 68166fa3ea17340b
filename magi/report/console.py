"""What a long command says while it works: numbered steps, how far each is, how long it took; and small tables.

Knows the terminal and nothing of the work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

WIDTH = 72  # columns up to which a line is filled
Progress = Callable[[int, int], None]


class Steps:
    """Numbered steps and the seconds that each of them took, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, *, talks: bool = False) -> Iterator[Progress]:
        """Announce a step and, when it is over, say how long it took; yields a function that shows (done, total).

        Args:
            name: what is done.
            talks: it prints lines of its own, which appear below its name.
        """
        line, renewed = f"  {len(self.seconds) + 1}  {name}", sys.stdout.isatty() and not talks
        start = time.perf_counter()
        if talks or renewed:
            print(line, end="\r" if renewed else "\n", flush=True)

        def progress(done: int, total: int) -> None:
            if renewed:
                print(f"{line:<{WIDTH - 14}}{f'{done} of {total}':>14}", end="\r", flush=True)

        try:
            yield progress
            self.seconds[name] = time.perf_counter() - start
            line = f"{'     ...' if talks else line:<{WIDTH - 12}}{self.seconds[name]:>10.1f} s"
        finally:
            if name in self.seconds or renewed:  # what failed keeps its line, for the error to come below
                print(line, flush=True)


def table(rows: Sequence[Sequence[str]], *, words: Collection[int] = (0,)) -> str:
    """Rows of cells as aligned lines, the columns of `words` to the left and the others, of numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
