"""From words to a verb's arguments: a frozen dataclass in, its instance out, errors as one line.

tyro makes options, types and help of the dataclass. Knows no verb.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

import tyro

Arguments = TypeVar("Arguments")


@dataclass(frozen=True)
class Common:
    """What every verb takes."""

    threads: int | None = None
    """CPU threads; by default OMP_NUM_THREADS, or one per core and at most 8."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class WithTokenizer(Common):
    """What verbs take that load a tokenizer."""

    trust_code: bool = False
    """Let weights that are TorchScript or pickled run, with your rights: you know where they come from."""


CommonOptions: TypeAlias = Annotated[Common, tyro.conf.arg(name="")]
TokenizerOptions: TypeAlias = Annotated[WithTokenizer, tyro.conf.arg(name="")]


def parse(kind: type[Arguments], words: Sequence[str], *, usage: str, default: Arguments | None = None) -> Arguments:
    """Return the arguments that the words stand for; prints the help and leaves with code 0 if that is asked for.

    Args:
        kind: a dataclass; its docstring opens the help, those of its fields explain the options.
        words: after the verb. Where an option is repeated the last one counts.
        usage: the verb, and what comes before the options.
        default: where fields without a word come from; `tyro.MISSING` in a field makes it required.

    Raises:
        ValueError: in one line, what is wrong and what was perhaps meant.
    """
    printed = io.StringIO()
    start = tyro.MISSING_NONPROP if default is None else default
    config = (tyro.conf.FlagCreatePairsOff,)
    try:
        with redirect_stderr(printed):
            return tyro.cli(kind, args=list(words), prog=f"magi {usage}", config=config, default=start)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_in_one_line(printed.getvalue())) from None


def split_name(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take what a verb is about, a preset or a model, off the front: it decides the defaults of the options."""
    if words and not words[0].startswith("-"):
        return words[0], list(words[1:])
    return None, list(words)


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether the help is to be printed, for which nothing need be named."""
    return not {"-h", "--help"}.isdisjoint(words)


def check_counts(arguments: object, *names: str) -> None:
    """Refuse counts, as they are called in the arguments, of less than one; None leaves the count to the verb.

    Raises:
        ValueError: naming the option and its value.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _in_one_line(box: str) -> str:
    """What tyro says in a box below its title: the first part, and of the second the options that it finds similar."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip("─-"):
            parts.append([])
        else:
            parts[-1].append(line)
    if not box.startswith("╭"):  # where the terminal has no lines to draw, the title is a part of its own
        parts = parts[1:]
    message = " ".join(" ".join(parts[0]).split())
    if message.startswith("Missing from"):
        return f"give {' and '.join(re.findall(r'--[a-z][a-z0-9.-]*', message))}; --help explains"
    message = re.sub(r"^Error parsing (?=--)|^Error parsing [\w.]+: ", "", message.partition(" Got errors:")[0])
    similar = [line.split()[0] for line in parts[1] if line.startswith("--")] if message.startswith("Unrec") else []
    hint = f"; did you mean {' or '.join(dict.fromkeys(similar[:3]))}?" if similar else ""
    return message.rstrip(".") + hint
