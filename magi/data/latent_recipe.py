"""What decides the latents of a cache: the tokenizer, the pixels it saw, the clips drawn for it. Knows no file.

``C`` channels, ``h`` x ``w`` cells.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch

from magi.choices import check_choices
from magi.data.order import ClipShape, Draws, IntervalRule
from magi.seeds import generator

Crop = Literal["centre", "random"]
Precision = Literal["float16", "bfloat16", "float32"]
ComputedIn = Literal["fp32", "bf16"]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class DrawnClips:
    """Clips drawn beforehand, for a tokenizer that sees several frames at once: the interval comes before it.

    What is random about a clip follows from the seed, the name of its video and its number, so that it stays the same
    when the source grows.
    """

    per_video: int
    num_frames: int
    min_interval: int
    max_interval: int
    interval_rule: IntervalRule
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_video < 1:
            raise ValueError(f"clips_per_video must be at least 1, got {self.per_video}")
        if self.interval_rule == "reject":
            raise ValueError(
                "interval_rule reject keeps all intervals equally frequent by taking another video, which clips that "
                "are drawn of each video beforehand cannot: take clamp, or train from the videos"
            )
        _ = self.shape

    @property
    def shape(self) -> ClipShape:
        """How the clips lie in a video."""
        return ClipShape(self.num_frames, self.min_interval, self.max_interval, self.interval_rule)

    def draws(self, name: str, clip: int) -> Draws:
        """What is random about clip 0..M - 1 of the video of this name."""
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        return Draws(*generator(self.seed, "cached clip", key, clip).random(5).tolist())


@dataclass(frozen=True)
class Recipe:
    """All that decides the latents of a video.

    In float16 a latent v is off by at most 2^-11 |v| (or 2^-25, below 6e-5): of those within 4 deviations, by 0.002 of
    one; bfloat16 is off by 2^-9 |v|.
    """

    tokenizer: str
    """Fingerprint: what the tokenizer is, not where it lies."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of a latent frame."""
    temporal_stride: int
    size: int
    """Pixels on a side of the frames that were encoded."""
    crop: Crop
    flip: bool
    """Per frame, the latents of the mirror image are stored too: an encoder does not commute with mirroring. In drawn
    clips, half of them are mirrored."""
    max_frames: int
    """Of a video that are decoded."""
    deviation: bool
    """Whether the deviations of the posterior are stored beside its means."""
    dtype: Precision = "float16"
    precision: ComputedIn = "fp32"
    """Of the tokenizer while it encoded."""
    drawn: DrawnClips | None = None
    """None where each frame is encoded alone, whose latents serve every interval and start."""

    def __post_init__(self) -> None:
        check_choices(self)
        if (self.temporal_stride > 1) != (self.drawn is not None):
            raise ValueError(
                f"clips are drawn beforehand if and only if the temporal stride {self.temporal_stride} > 1"
            )
        if self.drawn is None and self.crop == "random":
            raise ValueError(
                "crop must be 'centre' in a cache of single frames, which serve every clip of a video; got 'random'"
            )

    @property
    def sides(self) -> tuple[str, ...]:
        """Whether frames are there as they are alone, or mirrored too; in drawn clips it is a matter of the draws."""
        return ("", "mirrored/") if self.flip and self.drawn is None else ("",)

    @property
    def moments(self) -> tuple[str, ...]:
        """The numbers stored of each latent."""
        return ("mean", "deviation") if self.deviation else ("mean",)

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one latent frame, of one side: its moments."""
        return torch.Size(self.latent_shape).numel() * DTYPES[self.dtype].itemsize * len(self.moments)
