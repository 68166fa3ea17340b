"""`magi checkpoint SUBVERB ...`: knows what can be done with checkpoints; each is in its own module."""

from __future__ import annotations

from collections.abc import Sequence

from magi.cli.subverbs import run

SUBVERBS: dict[str, tuple[str, str]] = {
    "list": ("magi.cli.checkpoint_list", "say which checkpoints a run has, and which of them are whole"),
    "verify": (
        "magi.cli.checkpoint_verify",
        "compare every byte of checkpoints, releases or runs with their manifests",
    ),
    "export": ("magi.cli.checkpoint_export", "make a release of a checkpoint, to sample from a run that goes on"),
    "convert": ("magi.cli.checkpoint_convert", "turn pickled weights into a folder that holds no code"),
}
ABOUT = "A checkpoint is a folder whose manifest has the size and SHA-256 of every file."


def main(words: Sequence[str]) -> int:
    """Run one of the subverbs."""
    return run("checkpoint", SUBVERBS, words, about=ABOUT, question="what is to be done with checkpoints?")
