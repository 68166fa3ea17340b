"""`magi tokenizer SUBVERB ...`: knows what can be done with tokenizers; each is in its own module."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

SUBVERBS: dict[str, tuple[str, str]] = {
    "train": ("magi.cli.tokenizer_train", "train an autoencoder on your own videos"),
    "audit": ("magi.cli.tokenizer_audit", "look whether a tokenizer keeps what it claims: shapes, axes, causality"),
    "stats": ("magi.cli.tokenizer_stats", "measure the mean and deviation of its channels on your videos"),
    "convert": ("magi.cli.tokenizer_convert", "turn a published checkpoint into a folder that holds no code"),
}
"""Module, whose `main` takes the arguments after the subverb and returns the exit code, and what it is for."""


def usage() -> str:
    """What `magi tokenizer --help` prints."""
    lines = "\n".join(f"  {name:<8} {purpose}" for name, (_, purpose) in SUBVERBS.items())
    return f"""usage: magi tokenizer SUBVERB ...

Tokenizers turn videos into the few numbers that a model works in, and back.

{lines}

magi tokenizer SUBVERB --help explains one and gives an example.
"""


def main(words: Sequence[str]) -> int:
    """Run one of the subverbs."""
    if words[:1] and words[0] in ("-h", "--help"):
        print(usage(), end="", file=sys.stdout)
        return 0
    every = ", ".join(f"magi tokenizer {name}" for name in SUBVERBS)
    if not words:
        raise ValueError(f"what is to be done with a tokenizer? {every}")
    if words[0] not in SUBVERBS:
        near = get_close_matches(words[0], SUBVERBS, n=1)
        hint = f"did you mean magi tokenizer {near[0]}?" if near else f"expected {every}"
        raise ValueError(f"there is no magi tokenizer {words[0]}; {hint}")
    code: int = import_module(SUBVERBS[words[0]][0]).main(words[1:])
    return code
