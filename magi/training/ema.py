"""The moving average of the weights that all samples are made with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def half_life(decay: float, batch_size: int) -> float:
    """Half-life in samples of a per-step decay: .9999 at batch 128 is 887,000 samples."""
    return batch_size * math.log(0.5) / math.log(decay)


class Ema:
    """Exponential moving average, paced by samples seen (EDM2): its memory does not change with the batch size.

    While training is young the half-life is a fixed share of the samples seen, so the initial weights are soon
    forgotten. A ramp of 0 leaves the half-life alone.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        half_life_samples: float,
        ramp: float = 0.05,
        average: nn.Module | None = None,
        whole: Callable[[], nn.Module] | None = None,
    ) -> None:
        """Begin at a model's weights.

        Args:
            model: as it is now.
            half_life_samples: after so many samples a weight counts half.
            ramp: share of the samples seen that the half-life is at most; 0 is no such bound.
            average: a copy of the model to keep the average in; made here by default.
            whole: makes the average whole where processes have parts of it.
        """
        self.model = (copy.deepcopy(model) if average is None else average).eval().requires_grad_(False)
        self.half_life_samples = half_life_samples
        self.ramp = ramp
        self._whole = whole

    def whole(self) -> nn.Module:
        """The average, whole in every process. Where it is cut all of them must ask at the same time."""
        return self.model if self._whole is None else self._whole()

    @torch.no_grad()
    def update(self, model: nn.Module, *, samples: int, batch: int) -> None:
        """Move towards the model's weights, after a step that took `batch` samples and ended at `samples` seen."""
        memory = min(self.half_life_samples, self.ramp * samples) if self.ramp else self.half_life_samples
        weight = 1.0 - 0.5 ** (batch / memory)
        averages: list[Tensor] = list(self.model.parameters())
        currents: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averages, currents, weight)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
