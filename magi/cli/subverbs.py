"""Verbs that are several: from the next word to the module that does it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module

Subverbs = Mapping[str, tuple[str, str]]  # module, whose `main` takes the words after the subverb; and what it is for


def usage(verb: str, subverbs: Subverbs, about: str) -> str:
    """What `magi VERB --help` prints."""
    lines = "\n".join(f"  {name:<8} {purpose}" for name, (_, purpose) in subverbs.items())
    return f"""usage: magi {verb} SUBVERB ...

{about}

{lines}

magi {verb} SUBVERB --help explains one and gives an example.
"""


def run(verb: str, subverbs: Subverbs, words: Sequence[str], *, about: str, question: str) -> int:
    """Run one of the subverbs; returns its exit code.

    Args:
        verb: as it was typed.
        subverbs: by name.
        words: after the verb.
        about: one line for the help.
        question: what is asked of who names none.

    Raises:
        ValueError: none is named, or one that is not there.
    """
    if words[:1] and words[0] in ("-h", "--help"):
        print(usage(verb, subverbs, about), end="", file=sys.stdout)
        return 0
    every = ", ".join(f"magi {verb} {name}" for name in subverbs)
    if not words:
        raise ValueError(f"{question} {every}")
    if words[0] not in subverbs:
        near = get_close_matches(words[0], subverbs, n=1)
        hint = f"did you mean magi {verb} {near[0]}?" if near else f"expected {every}"
        raise ValueError(f"there is no magi {verb} {words[0]}; {hint}")
    code: int = import_module(subverbs[words[0]][0]).main(words[1:])
    return code
