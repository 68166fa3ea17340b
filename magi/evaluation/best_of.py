"""One sample or the best of K: two numbers of one measure, which never share a name.

Where the future is open, a model is often given K tries and the best is kept, chosen by the truth itself. That number
grows with K and says nothing of a single try, so each carries its own name and K.

The best is chosen per clip by its mean over frames, as FAR does (arXiv 2503.19325): one try must be good from its first
frame to its last. Choosing anew for each frame would join tries that no model made, and is higher still.

Shapes: K samples of each clip, B clips, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

Better = Literal["higher", "lower"]
"""Which end of a measure is the good one."""
BETTER: Final[dict[str, Better]] = {"PSNR": "higher", "SSIM": "higher", "LPIPS": "lower", "position error": "lower"}


@dataclass(frozen=True)
class SingleAndBest:
    """One measure of K samples per clip, both ways."""

    single: Tensor  # (F,) float64, mean over all samples and clips: what one try is worth
    best: Tensor  # (F,) float64, mean over clips of the sample that is best in that clip
    chosen: Tensor  # (B,) int64, which sample that is
    samples: int  # K

    def named(self, measure: str) -> dict[str, Tensor]:
        """Both under names that cannot be mixed up; of one sample there is no best."""
        single = {f"{measure}, single sample": self.single}
        return single if self.samples == 1 else single | {f"{measure}, best of {self.samples}": self.best}


def single_and_best(values: Tensor, *, better: Better) -> SingleAndBest:
    """Reduce the values of one measure.

    Args:
        values: (K, B, F), sample by sample.
        better: whether higher or lower is better; `BETTER` knows it of common measures.

    Raises:
        ValueError: values of another rank, empty, or not all numbers: NaN is neither better nor worse.
    """
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"values are {tuple(values.shape)}; expected (samples, clips, frames), none of them 0")
    if values.isnan().any():
        raise ValueError(
            f"{int(values.isnan().sum())} of {values.numel()} values are NaN, so no best can be chosen; "
            "give a measure that is a number for every frame"
        )
    values = values.double()
    by_clip = values.mean(2)  # (K, B)
    chosen = by_clip.argmax(0) if better == "higher" else by_clip.argmin(0)
    best = values[chosen, torch.arange(values.shape[1], device=values.device)]  # (B, F)
    return SingleAndBest(single=values.mean((0, 1)), best=best.mean(0), chosen=chosen, samples=len(values))


def measure_samples(samples: Iterable[Tensor], truth: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Measure K continuations of each clip, of which one set at a time need be in memory.

    Args:
        samples: K tensors (B, F, 3, H, W) uint8.
        truth: (B, F, 3, H, W) uint8.
        measure: of one set and the truth, (B, F); `pixel.psnr`, `pixel.ssim`, or an LPIPS with weights of one's own.

    Returns:
        (K, B, F) float64.

    Raises:
        ValueError: no samples, or a measure that does not give one value per frame.
    """
    parts = [measure(made, truth).double() for made in samples]
    if not parts:
        raise ValueError("there are no samples; give at least 1")
    for part in parts:
        if part.shape != truth.shape[:2]:
            raise ValueError(f"the measure gave {tuple(part.shape)} for {tuple(truth.shape)}; expected one per frame")
    return torch.stack(parts)
