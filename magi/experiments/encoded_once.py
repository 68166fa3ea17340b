"""Clips that are drawn and encoded once, whatever trainings see them: all runs of a seed share their latents.

Drawing and encoding a clip costs a processor more than launching a recorded step on it costs, and the trainings of one
seed see the same clips. A chunk that is not there is made by whoever asks for it first.

FOLDER/KEY/00000012.safetensors: the clips of chunk 12, KEY standing for the world and the tokenizer.

Shapes: K clips of a chunk, T frames, C channels, h x w latent pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magi.data.clips import LatentClips
from magi.data.world import World, WorldConfig
from magi.experiments.video import posterior_of
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.store import fingerprint


class EncodedOnce:
    """The latents of a world's clips. A `LatentClipSource`."""

    def __init__(
        self, folder: Path, world: WorldConfig, tokenizer: Tokenizer, *, size: int, device: torch.device
    ) -> None:
        """Open or begin the clips of a world.

        Args:
            folder: of the clips of all worlds.
            world: what is drawn.
            tokenizer: encodes it; it is on `device`.
            size: K, clips that are drawn and encoded together.
            device: where to encode.
        """
        described = {
            "world": asdict(world), "tokenizer": fingerprint(tokenizer), "size": size,
            "device": device.type,  # devices round otherwise
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
        self.folder, self.world, self.tokenizer, self.size, self.device = folder / key, world, tokenizer, size, device
        self._last: tuple[int, dict[str, Tensor]] | None = None  # batches are read in order

    def clips(self, samples: Sequence[int]) -> LatentClips:
        """The latents of the clips at these positions."""
        rows = [(self.chunk(sample // self.size), sample % self.size) for sample in samples]
        return LatentClips(
            mean=torch.stack([chunk["latents"][row] for chunk, row in rows]),
            deviation=None,
            interval=torch.stack([chunk["interval"][row] for chunk, row in rows]),
            sample=torch.tensor(list(samples)),
        )

    def chunk(self, number: int) -> dict[str, Tensor]:
        """``latents`` (K, T, C, h, w) float32 and ``interval`` (K,) of the clips from number x K on."""
        if self._last is None or self._last[0] != number:
            path = self.folder / f"{number:08d}.safetensors"
            self._last = number, self._read(path) or self._make(number, path)
        return self._last[1]

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        try:
            return load_file(path) if path.is_file() else None
        except SafetensorError:  # cut short by a crash: to be made again
            return None

    def _make(self, number: int, path: Path) -> dict[str, Tensor]:
        clips = World(self.world).clips(range(number * self.size, (number + 1) * self.size))
        latents = posterior_of(clips, self.tokenizer, self.device).mean.cpu().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        chunk = {"latents": latents, "interval": clips.interval}
        save_file(chunk, partial)
        partial.replace(path)
        return chunk
