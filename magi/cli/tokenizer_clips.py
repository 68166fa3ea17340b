"""The clips on which a tokenizer is looked at. Knows where they come from, not what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from magi.cli.runs import check_data
from magi.data.folder import FolderConfig
from magi.data.world import WorldConfig
from magi.experiments.data import DataConfig
from magi.tokenizers.protocol import Tokenizer, to_pixels

WORLD_SIZE, FOLDER_SIZE = 64, 256  # px, unless another is given


@dataclass(frozen=True)
class ClipChoice:
    """Clips of one shape from one place, at intervals from 1 to the largest."""

    place: str
    clips: int
    frames: int
    size: int | None
    max_interval: int

    @property
    def data(self) -> DataConfig:
        """As settings of a data source."""
        size = self.size or (WORLD_SIZE if self.place == "world" else FOLDER_SIZE)
        if self.place == "world":
            return DataConfig("world", world=WorldConfig(size, self.frames, max_interval=self.max_interval))
        folder = FolderConfig(
            path=self.place, num_frames=self.frames, size=size, max_interval=self.max_interval, flip=False
        )
        return DataConfig("folder", folder=folder)

    def pixels(self, tokenizer: Tokenizer, *, batch: int, device: torch.device) -> Iterator[Tensor]:
        """The clips as pixels (B, T, 3, S, S) in [-1, 1], so many at a time.

        Raises:
            ValueError: there is nothing at the place, or no latents can be made of such clips.
        """
        data = self.data
        tokenizer.latent_shape(self.frames, data.chosen.size, data.chosen.size)
        check_data(data)
        source = data.source()
        for start in range(0, self.clips, batch):
            video = source.clips(range(start, min(start + batch, self.clips))).video
            yield to_pixels(video.to(device))

    def describe(self) -> dict[str, int | str]:
        """As plain data, for a record: of a folder its name alone."""
        place = "world" if self.place == "world" else Path(self.place).resolve().name
        size, interval = self.data.chosen.size, self.max_interval
        return {"data": place, "clips": self.clips, "frames": self.frames, "size": size, "max_interval": interval}
