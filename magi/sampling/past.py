"""What a rollout sees: the finished frames, of which a window may forget the oldest.

Shapes: B videos, F finished frames, N tokens per frame, C token channels, n chosen tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magi.model.draws import noise_bucket, signal_scale
from magi.model.embeddings import temporal_positions
from magi.model.magi import Finished, Magi
from magi.sampling.config import SampleConfig
from magi.sampling.noise import SampleNoise


def window_start(frame: int, window: int | None) -> int:
    """First frame that frame number `frame` may see: whenever the window is full, its older half is forgotten."""
    if window is None or frame < window:
        return 0
    forgotten = window - window // 2
    return forgotten * ((frame - window) // forgotten + 1)


class Past:
    """The committed frames of a rollout: their cache, their positions, and what a window forgets."""

    def __init__(
        self, model: Magi, noise: SampleNoise, *, total: int, interval: Tensor, settings: SampleConfig
    ) -> None:
        config, length = model.config, min(total, settings.window or total)
        self.model, self.noise, self.interval, self.settings = model, noise, interval, settings
        self.positions = temporal_positions(length, config.num_frames, settings.time_mode)
        self.cache = model.new_cache(len(noise.seeds), length)
        self.level = int(noise_bucket(config, settings.observation_noise))
        self.signal = float(signal_scale(config, settings.observation_noise))
        self.first, self.count = 0, 0  # absolute index of the first cached frame; frames committed since the beginning
        self._recent: list[Tensor] = []  # as observed, for re-reading when a window moves
        self._unread: Finished | None = None

    @property
    def next_time(self) -> float:
        """Temporal position of the frame to be made."""
        return float(self.positions[self.count - self.first])

    def predict(self, tokens: Tensor, masked: Tensor, *, chosen: Tensor) -> Tensor:
        """The head's conditions (B, n, D) for the `chosen` tokens (B, n) of the next frame, of which tokens (B, N, C)
        are there but for those that are still masked (B, N)."""
        finished, self._unread = self._unread, None
        return self.model.predict(
            self.cache, tokens, masked, time=self.next_time, interval=self.interval, chosen=chosen, finished=finished
        )

    def commit(self, tokens: Tensor) -> None:
        """Add finished frames (B, F, N, C). They are read in the first pass over the next one: with few mask steps a
        pass of their own would be a good part of all."""
        if self._unread is not None:
            self.model.commit(self.cache, self._unread, interval=self.interval)
        frames = list(tokens.unbind(1))
        if self.settings.observation_noise:
            indices = range(self.count, self.count + len(frames))
            frames = [
                self.signal * x + self.settings.observation_noise * self.noise.observation(i)
                for i, x in zip(indices, frames, strict=True)
            ]
        self.count += len(frames)
        start = window_start(self.count, self.settings.window)
        if self.settings.window is not None:
            self._recent = [*self._recent, *frames][-(self.count - start) :]
        if start != self.first:
            # cached keys carry the positions they were read at, so a moved window is read again
            self.cache.rewind(0)
            self.first, frames = start, self._recent
        cached = self.cache.frames
        times = self.positions[cached : cached + len(frames)]
        self._unread = Finished(torch.stack(frames, dim=1), times, self.level)
