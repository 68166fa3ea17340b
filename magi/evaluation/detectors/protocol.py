"""What a detector is: from clips or frames to the features whose statistics are compared.

Shapes: B clips, T frames, D features.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Detector(Protocol):
    """Features of whole clips, or of single frames where a frame is a clip of one."""

    @property
    def name(self) -> str:
        """What a distance in its features is called after, for example ``world-FVD``: never another detector's name."""
        ...

    @property
    def dim(self) -> int:
        """D, features per clip."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of every choice that moves a feature; 64 hexadecimal digits."""
        ...

    @property
    def frames(self) -> int | None:
        """The number of frames a clip must have; None if any number will do."""
        ...

    def features(self, video: Tensor) -> Tensor:
        """Features of clips.

        Args:
            video: (B, T, 3, H, W) uint8, of any size; how it is resized is part of the detector.

        Returns:
            (B, D) float32 on the CPU; a clip's features do not depend on the other clips of the batch.

        Raises:
            ValueError: another type, number of channels or number of frames.
        """
        ...
