"""`magi bench peer`: how fast we are beside MAR's own code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.bench.peer import run_peer_bench
from magi.cli.arguments import Common, CommonOptions, asks_for_help, parse, split_name


@dataclass(frozen=True)
class BenchPeerArguments:
    """Measure sampling and training beside MAR's own code, at the same work and in turn, on one CPU thread.

    $ git clone https://github.com/LTH14/mar
    $ pip install timm scipy
    $ magi bench peer mar --json peer.json

    The folder of MAR's code comes first; it is imported from there. One image of MAR's is compared with one frame of
    ours that has no past.
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    json: Path | None = None
    """Write every measurement to this file."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    folder, words = split_name(words)
    chosen = parse(BenchPeerArguments, words, usage="bench peer PATH")
    if folder is None:
        assert not asks_for_help(words), "the help has been printed"
        raise ValueError("name the folder of MAR's code, as in magi bench peer mar; --help tells where it is from")
    if chosen.common.threads not in (None, 1):
        raise ValueError(f"bench peer measures one thread, got --threads {chosen.common.threads}; leave it out")
    run_peer_bench(Path(folder), quick=chosen.quick, json_path=chosen.json)
    return 0
