"""`magi tokenizer stats`: the mean and deviation of each latent channel on a user's videos, and the tokenizer with
them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from magi import __version__, checkpoint
from magi.cli.arguments import TokenizerOptions, WithTokenizer, asks_for_help, check_counts, parse, split_name
from magi.cli.show import progress
from magi.cli.tokenizer_clips import ClipChoice
from magi.distributed import Device, pick_device
from magi.report.console import table
from magi.tokenizers.statistics import Normalised, measure_statistics
from magi.tokenizers.store import describe, load_tokenizer, origin, weights


@dataclass(frozen=True)
class StatsArguments:
    """Measure the latents of a tokenizer on clips, and write it so normalised that each channel has mean 0, variance 1.

    $ magi tokenizer stats path/to/vae --data path/to/videos --out tokenizers/mine
    $ magi train small --data path/to/videos --tokenizer tokenizers/mine --out runs/mine

    TOKENIZER is named as in magi train --tokenizer, and comes first. A model that learns latents of another scale than
    1 meets more noise, or less, than its settings say.
    """

    data: str
    """The folder of videos that a model will be trained on, or world."""
    out: Path
    """A new folder for the tokenizer with its statistics."""
    clips: int = 256
    """Clips to measure."""
    frames: int = 17
    """Frames of a clip; 17 are whole latent frames at temporal strides of 1, 2, 4 and 8."""
    size: int | None = None
    """Side of the square pictures; by default 64 of the world, 256 of a folder."""
    max_interval: int = 1
    """Frames of a clip are up to so many frames of the video apart."""
    batch: int = 4
    """Clips at a time; a matter of memory."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)

    def __post_init__(self) -> None:
        check_counts(self, "clips", "frames", "size", "max_interval", "batch")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, rest = split_name(words)
    if name is None and not asks_for_help(rest):
        raise ValueError("name a tokenizer first: a folder with one, or the name of a model that ships")
    default = StatsArguments(data=tyro.MISSING, out=tyro.MISSING)
    arguments = parse(StatsArguments, rest, usage="tokenizer stats TOKENIZER", default=default)
    assert name is not None, "the help has been printed"
    tokenizer = load_tokenizer(name)
    if not isinstance(tokenizer, Normalised):
        raise ValueError(f"tokenizer {name!r} has no statistics: its latents are what they are")
    if arguments.out.exists():
        raise ValueError(f"{arguments.out} exists; give another --out, or delete it")
    device = pick_device(arguments.device)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(device)
    choice = ClipChoice(
        arguments.data, arguments.clips, arguments.frames, arguments.size, max_interval=arguments.max_interval
    )

    def counted() -> Iterator[Tensor]:
        done = 0
        for pixels in choice.pixels(tokenizer, batch=arguments.batch, device=device):
            yield pixels
            done += len(pixels)
            progress(done, arguments.clips, "clips")

    with torch.no_grad():
        values = measure_statistics(tokenizer, counted())
    print(show(tokenizer))
    print(f"{values:,} values of each channel")
    facts = {**choice.describe(), "values": values}
    source = origin(name)
    of_origin = {"source": source} if source else {}
    documents = {
        "config.json": {"tokenizer": describe(tokenizer), **of_origin, "statistics": facts},
        "README.md": card(name, facts, source),
    }
    checkpoint.save(arguments.out, weights(tokenizer), documents)
    print(f"done: {arguments.out}")
    return 0


def show(tokenizer: Normalised) -> str:
    """A table of the statistics, a channel per line."""
    pairs = zip(tokenizer.shift.tolist(), tokenizer.scale.tolist(), strict=True)
    rows = [[str(channel), f"{mean:+.4f}", f"{deviation:.4f}"] for channel, (mean, deviation) in enumerate(pairs)]
    return table([["channel", "mean", "deviation"], *rows], words=())


def card(name: str, facts: Mapping[str, int | str], source: Mapping[str, Any]) -> str:
    """What a user must know about the tokenizer."""
    licence = f"\nPublished as {source['repository']} under the licence {source['licence']}.\n" if source else ""
    return f"""# Tokenizer with measured statistics

`{Path(name).name}`, its channels normalised by magi {__version__} on {facts["clips"]} clips of `{facts["data"]}`:
{facts["frames"]} frames at {facts["size"]} pixels, intervals 1..{facts["max_interval"]};
{facts["values"]:,} values of each channel.
{licence}"""
