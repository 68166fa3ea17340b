"""`magi checkpoint verify`: is every byte what it was when it was written?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from magi.checkpoint import MANIFEST, CheckpointError, steps, verify
from magi.cli.arguments import Common, CommonOptions, parse


@dataclass(frozen=True)
class VerifyArguments:
    """Compare every byte of checkpoints or releases with their manifests.

    $ magi checkpoint verify runs/mine
    $ magi checkpoint verify runs/mine/release runs/other/step-00012000

    Of a run all checkpoints and the release are looked at. The exit code is 1 if anything is missing, changed or too
    much; nothing is changed.
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Checkpoints, releases, or folders of runs."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(VerifyArguments, words, usage="checkpoint verify")
    code = 0
    for directory in [each for path in arguments.paths for each in manifests(path)]:
        try:
            verify(directory)
            print(f"{directory}: whole")
        except CheckpointError as error:
            print(error)
            code = 1
    return code


def manifests(path: Path) -> list[Path]:
    """What is to be verified: a folder with a manifest, or all such in a run's folder.

    Raises:
        ValueError: there is none.
    """
    inside = [*reversed(steps(path)), path / "release", path / "tokenizer" / "release"]
    found = [path] if (path / MANIFEST).exists() else [each for each in inside if each.is_dir()]
    if not found and checkpoint_named(path):
        return [path]  # its manifest is what is missing
    if not found:
        raise ValueError(f"{path} is neither a checkpoint nor a release nor a run: it holds no {MANIFEST}")
    return found


def checkpoint_named(path: Path) -> bool:
    """Whether a folder is called a checkpoint or a release."""
    return path.is_dir() and (path.name.startswith("step-") or path.name == "release")
