"""`magi tokenizer train`: the autoencoder that a model works in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from magi.cli.arguments import Common, CommonOptions
from magi.cli.runs import check_data, execute, resolve
from magi.distributed import Device
from magi.experiments.autoencoder import AutoencoderRun, check_clips, train_autoencoder
from magi.experiments.presets import TOKENIZERS


@dataclass(frozen=True)
class TokenizerArguments:
    """Train an autoencoder, which makes frames small for a model, and write it to RUN/release.

    $ magi tokenizer train tiny --data path/to/videos --out runs/tokenizer
    $ magi train tiny --data path/to/videos --tokenizer runs/tokenizer/release --out runs/mine

    PRESET, the model it is for, is tiny, small, base, large, xl or world64; settings files and flags overrule it as in
    magi train. Unless it is given one, magi train does this by itself. tiny-causal and small-causal make one latent
    frame of four frames. How good it is, is told at each evaluation and at the end in RUN/reconstruction.html.
    """

    out: Path
    """The run's folder."""
    run: Annotated[AutoencoderRun, tyro.conf.FlagConversionOff, tyro.conf.arg(name="")]
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    verb = "tokenizer train"
    arguments = resolve(TokenizerArguments, words, verb=verb, presets=TOKENIZERS, fallback=AutoencoderRun())
    check_clips(arguments.run)
    check_data(arguments.run.data, pixels=True)
    return execute(
        arguments,
        lambda distributed: train_autoencoder(arguments.run, run_dir=arguments.out, distributed=distributed),
        verb=verb,
        words=words,
    )
