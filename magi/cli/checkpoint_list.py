"""`magi checkpoint list`: which checkpoints a run has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from magi.checkpoint import CheckpointError, steps, verify
from magi.cli.arguments import Common, CommonOptions, parse
from magi.cli.show import quantity
from magi.report.console import table


@dataclass(frozen=True)
class ListArguments:
    """Say which checkpoints a run has, oldest first, and which of them are whole.

    $ magi checkpoint list runs/mine

    The newest that is whole is where the same training command goes on.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb; the exit code is 1 if a checkpoint is damaged."""
    arguments = parse(ListArguments, words, usage="checkpoint list")
    found = steps(arguments.run)
    if not found:
        raise ValueError(f"{arguments.run} holds no checkpoints (step-XXXXXXXX); give the folder of a run")
    lines, damaged = [("checkpoint", "samples", "size", "")], 0
    for directory in reversed(found):
        try:
            verify(directory)
            state = "whole"
        except CheckpointError as error:
            state, damaged = f"DAMAGED: {str(error).removeprefix(f'{directory}: ')}", damaged + 1
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        lines.append((directory.name, samples_of(directory), quantity(size, "B"), state))
    print(table(lines, words=(0, 3)))
    return 1 if damaged else 0


def samples_of(directory: Path) -> str:
    """How far the run was, as far as that can be read."""
    try:
        return f"{json.loads((directory / 'state.json').read_text(encoding='utf-8'))['samples']:,}"
    except (OSError, ValueError, KeyError, TypeError):
        return "?"
