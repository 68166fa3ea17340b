"""`magi tokenizer SUBVERB ...`: knows what can be done with tokenizers; each is in its own module."""

from __future__ import annotations

from collections.abc import Sequence

from magi.cli.subverbs import run

SUBVERBS: dict[str, tuple[str, str]] = {
    "train": ("magi.cli.tokenizer_train", "train an autoencoder on your own videos"),
    "audit": ("magi.cli.tokenizer_audit", "look whether a tokenizer keeps what it claims: shapes, axes, causality"),
    "stats": ("magi.cli.tokenizer_stats", "measure the mean and deviation of its channels on your videos"),
    "convert": ("magi.cli.tokenizer_convert", "turn a published checkpoint into a folder that holds no code"),
}
ABOUT = "Tokenizers turn videos into the few numbers that a model works in, and back."


def main(words: Sequence[str]) -> int:
    """Run one of the subverbs."""
    return run("tokenizer", SUBVERBS, words, about=ABOUT, question="what is to be done with a tokenizer?")
