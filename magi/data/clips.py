"""What the rest of the code sees of a data set: batches of clips, addressed by position.

Knows no file format and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

BEYOND = 1 << 40
"""A position no run reaches. Clips from here on can be watched during training without being trained on; of a folder
they are other clips of the same videos, so only of a generated world are they truly unseen."""


@dataclass(frozen=True)
class Clips:
    """A batch of clips. ``B`` clips of ``T`` frames, ``H`` x ``W`` pixels."""

    video: Tensor  # (B, T, 3, H, W) uint8
    interval: Tensor  # (B,) int64, 1..25: the frame interval that was really used, hence the one to embed
    sample: Tensor  # (B,) int64, position in the run's endless order; everything random about a sample is keyed on it
    label: Tensor | None = None  # (B,) int64, number of the class; None where the data knows no classes


@dataclass(frozen=True)
class LatentClips:
    """A batch of clips that were encoded before. ``B`` clips, ``t`` latent frames, ``C`` channels, ``h`` x ``w``."""

    mean: Tensor  # (B, t, C, h, w) float32, normalised
    deviation: Tensor | None  # (B, t, C, h, w) float32; None where the tokenizer is deterministic
    interval: Tensor  # (B,) int64, as in `Clips`
    sample: Tensor  # (B,) int64, as in `Clips`
    label: Tensor | None = None  # (B,) int64, as in `Clips`


class LatentClipSource(Protocol):
    """A source of clips that were encoded before: it has no pixels."""

    def clips(self, samples: Sequence[int]) -> LatentClips:
        """Return the latents of the clips at these positions, the same ones at every call."""
        ...


class ClipSource(Protocol):
    """Anything that can be trained on: a pure function from positions to clips."""

    def clips(self, samples: Sequence[int]) -> Clips:
        """Return the clips at these positions of the endless order, the same ones at every call."""
        ...
