"""`magi checkpoint convert`: pickled weights, once, to a folder that holds no code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from magi import checkpoint
from magi.cli.arguments import Common, CommonOptions, parse
from magi.tokenizers.published.trust import Trust, read_code, sha256_of


@dataclass(frozen=True)
class ConvertArguments:
    """Turn a pickled file of tensors (.pt, .pth, .ckpt, .bin) into a folder with safetensors and a manifest.

    $ magi checkpoint convert weights.pt --out weights

    Such files are code. They are read in a process of their own, with limits, as plain tensors, which runs nothing; in
    full only if they are trusted. What is not a tensor or a plain value is left out and named.
    """

    file: tyro.conf.Positional[Path]
    """The pickled file."""
    out: Path
    """A folder that does not exist yet."""
    trust_code: bool = False
    """Let the file run, with your rights, if it cannot be read otherwise."""
    sha256: tuple[str, ...] = ()
    """What the file must hash to; such a file is trusted."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(ConvertArguments, words, usage="checkpoint convert")
    if not arguments.file.is_file():
        raise ValueError(f"{arguments.file}: no such file")
    digest = sha256_of(arguments.file)
    trust = Trust(arguments.trust_code, frozenset(arguments.sha256))
    if arguments.sha256 and digest not in trust.sha256:
        raise ValueError(f"{arguments.file} has sha256 {digest}, expected {', '.join(sorted(trust.sha256))}")
    found = read_code(arguments.file, "pickle", digest=digest, trust=trust)
    source = {"file": arguments.file.name, "sha256": digest, "arguments": dict(found.arguments)}
    checkpoint.save(arguments.out, {"tensors": found.tensors}, {"source.json": source})
    left_out = f", left out: {', '.join(sorted(found.omitted))}" if found.omitted else ""
    print(f"{arguments.out}: {len(found.tensors)} tensors of {arguments.file}, sha256 {digest}{left_out}")
    return 0
