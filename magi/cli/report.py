"""`magi report`: one page of results, from their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from magi.checkpoint import write_whole
from magi.cli.arguments import Common, CommonOptions, parse
from magi.report.results import read_results
from magi.report.study_page import study_page


@dataclass(frozen=True)
class ReportArguments:
    """Make one self-contained HTML page of results: claims, verdicts and answers, then tables, curves and films.

    $ magi report results/reproduce/cpu
    $ magi report scores.json runs/mine --out page.html

    RUN is a folder of studies as magi reproduce writes them, one of its files, what magi evaluate --json wrote, or the
    folder of a training run. Nothing is measured again, and no model is needed.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """RUN...: one or more; each has its part of the page."""
    out: Path = Path("report.html")
    """The page; one that is there is replaced."""
    common: CommonOptions = field(default_factory=Common)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one RUN; --help explains")
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--out must end in .html, got {self.out}")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(ReportArguments, words, usage="report")
    results = [read_results(path) for path in arguments.runs]
    page = study_page(results)
    write_whole(arguments.out, page)
    studies = sum(len(each.studies) for each in results)
    print(f"{arguments.out}: {studies} {'study' if studies == 1 else 'studies'}, {len(page) / 1e6:.1f} MB")
    return 0
