"""`magi tokenizer convert`: published weights that are pickled or TorchScript, once, to a folder that holds no code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from magi.cli.arguments import Common, CommonOptions, parse
from magi.tokenizers.published.convert import convert
from magi.tokenizers.published.trust import Trust, sha256_of
from magi.tokenizers.store import fingerprint


@dataclass(frozen=True)
class ConvertArguments:
    """Turn the files of a published tokenizer into a folder that holds no code, for --tokenizer.

    $ magi tokenizer convert sd14 vae/diffusion_pytorch_model.bin --out tokenizers/sd14
    $ magi tokenizer convert cosmos-cv4x8x8 encoder.jit decoder.jit --out tokenizers/cosmos --trust-code
    $ magi tokenizer convert omnitokenizer imagenet_k600_vae.ckpt --out tokenizers/omni

    Pickled and TorchScript files are code. They are read in a process of their own: a pickle as plain tensors, which
    runs nothing, and in full only if it is trusted; TorchScript only if it is trusted, because it has to run.
    """

    kind: tyro.conf.Positional[str]
    """sd14, sd-vae-ft-ema, sd-vae-ft-mse, cosmos-cv4x8x8, cosmos-cv8x8x8 or omnitokenizer."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """As published; config.json and statistics.json beside them are heeded."""
    out: Path
    """A folder that does not exist yet."""
    trust_code: bool = False
    """Let the files run, with your rights, if they cannot be read otherwise."""
    sha256: tuple[str, ...] = ()
    """What the files must hash to; such files are trusted."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(ConvertArguments, words, usage="tokenizer convert")
    trust = Trust(arguments.trust_code, frozenset(arguments.sha256))
    tokenizer = convert(arguments.kind, arguments.files, arguments.out, trust=trust)
    for path in arguments.files:
        print(f"{path}: sha256 {sha256_of(path)}")
    print(
        f"{arguments.out}: {arguments.kind}, {tokenizer.latent_channels} channels, "
        f"{tokenizer.temporal_stride}x{tokenizer.spatial_stride}x{tokenizer.spatial_stride}, fingerprint "
        f"{fingerprint(tokenizer)}"
    )
    return 0
