"""The results of the reproduction as a document, from their files alone.

python -m magi.reproduce.document results/reproduce/cpu > docs/reproduction.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from magi.report.studies import Study, Table, read_study

WIDTH = 145
INTRODUCTION = (
    "Bouncing discs at 64 pixels in place of UCF-101 and Kinetics-600, a model of {parameters} parameters in place of "
    "850 M, {clips:,} training clips in place of 18.6 million. The questions are the paper's. Models that are compared "
    "begin with the same weights and see the same clips in the same order, for the same number of steps, and sample in "
    "as many steps; learning rate and temperature are tuned for each paradigm from the same choices. What would be "
    "run, measured and concluded was written down before the first headline run (`{plan}`, sha256 `{digest}`). A "
    "miniature can show that a claim holds here; that it does not hold here says little about the paper's scale."
)
HEAD = """# The paper, asked again in miniature

{introduction}
    {command}
    magi report {results} --out report.html

| question | verdict | answer |
|---|---|---|
{rows}
"""
TRAINED = """
## Every training

Each run is a file in `{results}/runs`; learning rates were chosen by `{results}/tuning.json`.

| run | clips | loss on held-out clips, comparable within one paradigm and data |
|---|---|---|
{rows}
"""


def document(results: Path) -> str:
    """Markdown of all studies in a folder, in the order of their files."""
    studies = [read_study(path) for path in sorted(results.glob("[0-9]*.json"))]
    if not studies:
        raise ValueError(f"{results} holds no studies; run magi reproduce first, or name its folder of results")
    plan = json.loads((results / "plan.json").read_text(encoding="utf-8"))
    runs = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "runs").glob("*.json"))
    }
    introduction = INTRODUCTION.format(
        parameters=f"{max(run['parameters'] for run in runs.values()) / 1e6:.1f} M",
        clips=plan["settings"]["train_clips"],
        plan=(results / "plan.json").as_posix(),
        digest=plan["sha256"],
    )
    head = HEAD.format(
        introduction=wrapped(introduction),
        command=studies[0].command,
        results=results.as_posix(),
        rows="\n".join(f"| {study.title} | {study.verdict} | {study.answer} |" for study in studies),
    )
    trained = TRAINED.format(
        results=results.as_posix(),
        rows="\n".join(
            f"| {name} | {run['run']['train']['total_samples']:,} | "
            + (f"{run['held-out loss']:.4f} |" if run["held-out loss"] is not None else "|")
            for name, run in runs.items()
        ),
    )
    return head + "".join(map(section, studies)) + trained


def section(study: Study) -> str:
    """One study: the claim, the answer and the numbers behind it."""
    parts = [f"\n## {study.title}\n", wrapped(study.question)]
    if study.claim:
        parts.append(wrapped(f"The paper: {study.claim}"))
    parts.append(wrapped(f"**{study.verdict.capitalize()}.** {study.answer}"))
    parts += [markdown(table) for table in study.tables]
    parts += [wrapped(note) for note in study.notes]
    parts.append(wrapped("; ".join(f"{name}: {value}" for name, value in study.protocol.items()) + "."))
    parts.append(f"{study.machine}, {study.date}.\n")
    return "\n".join(parts)


def markdown(table: Table) -> str:
    """A table with its caption."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = "|" + "---|" * len(table.columns)
    return "\n".join([f"{table.caption}:\n", line(table.columns), rule, *map(line, table.rows)]) + "\n"


def wrapped(text: str) -> str:
    """A paragraph."""
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


if __name__ == "__main__":
    print(document(Path(sys.argv[1])), end="")
