"""`magi bench`: how fast things are on this machine. Knows what can be measured; each is in a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from magi.cli import bench_cache, bench_decode, bench_model, bench_peer, bench_presets, bench_stream

BENCHES: dict[str, Callable[[Sequence[str]], int]] = {
    "sampling": partial(bench_model.main, part="sampling"),
    "training": partial(bench_model.main, part="training"),
    "decode": bench_decode.main,
    "cache": bench_cache.main,
    "peer": bench_peer.main,
    "presets": bench_presets.main,
    "stream": bench_stream.main,
}


def main(words: Sequence[str]) -> int:
    """Run the verb: what its first word says, or both halves of the model that it names."""
    if words and words[0] in BENCHES:
        return BENCHES[words[0]](words[1:])
    return bench_model.main(words)
