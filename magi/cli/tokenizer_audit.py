"""`magi tokenizer audit`: whether a tokenizer keeps what it claims."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from magi import __version__
from magi.cli.arguments import TokenizerOptions, WithTokenizer, asks_for_help, check_counts, parse, split_name
from magi.cli.tokenizer_clips import ClipChoice
from magi.distributed import Device, pick_device
from magi.report.console import table
from magi.tokenizers.audit import Finding, audit
from magi.tokenizers.store import load_tokenizer

BROKEN = 1  # exit code: it ran, and a claim does not hold


@dataclass(frozen=True)
class AuditArguments:
    """Look whether a tokenizer keeps what it claims, and leave with code 1 if it does not.

    $ magi tokenizer audit runs/tokenizer/release --data path/to/videos
    $ magi tokenizer audit world64 --json audit.json

    TOKENIZER is named as in magi train --tokenizer, and comes first. Looked at are shapes and the count of frames, the
    round trip, brightness and contrast, the order of the axes, causality (noise replaces the end of a clip: what moves
    in its beginning?), prefixes encoded alone, latents decoded one by one, and what bf16 changes.
    """

    data: str = "world"
    """A folder of videos like those it is for, or world."""
    clips: int = 2
    """Clips to look at."""
    frames: int = 17
    """Frames of a clip; 17 are whole latent frames at temporal strides of 1, 2, 4 and 8."""
    size: int | None = None
    """Side of the square pictures; by default 64 of the world, 256 of a folder."""
    least_psnr: float | None = None
    """PSNR in dB that the round trip must reach; by default that of the mean colour of each clip."""
    json: Path | None = None
    """Write every finding to this file."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)

    def __post_init__(self) -> None:
        check_counts(self, "clips", "frames", "size")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, rest = split_name(words)
    if name is None and not asks_for_help(rest):
        raise ValueError("name a tokenizer first: a folder with one, the name of a model that ships, or pixel:4")
    arguments = parse(AuditArguments, rest, usage="tokenizer audit TOKENIZER")
    assert name is not None, "the help has been printed"
    tokenizer, device = load_tokenizer(name), pick_device(arguments.device)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(device)
    choice = ClipChoice(arguments.data, arguments.clips, arguments.frames, arguments.size, max_interval=1)
    (pixels,) = choice.pixels(tokenizer, batch=arguments.clips, device=device)
    # rounding to 10 bits of mantissa would look like a leak
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        findings = list(audit(tokenizer, pixels, least_psnr=arguments.least_psnr))
    print(show(findings))
    if not tokenizer.is_causal:
        print("\nit does not claim to be causal: contexts are encoded alone, whole videos decoded at once")
    broken = [finding for finding in findings if finding.holds is False]
    if arguments.json is not None:
        record = {
            "magi": __version__, "tokenizer": name, **choice.describe(), "device": str(device),
            "holds": not broken, "findings": [asdict(finding) for finding in findings],
        }  # fmt: skip
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    claims = sum(finding.holds is not None for finding in findings)
    if broken:
        print(f"\n{len(broken)} of {claims} claims broken:")
        print("\n".join(f"  {one.check}: expected {one.claim}, found {one.found}" for one in broken))
        return BROKEN
    print(f"\nall {claims} claims hold")
    return 0


def show(findings: Sequence[Finding]) -> str:
    """A table of the findings."""
    marks = {True: "holds", False: "BROKEN", None: ""}
    rows = [[one.check, one.claim, one.found, marks[one.holds]] for one in findings]
    return table([["what", "claimed or expected", "found", ""], *rows], words=range(4))
