"""Several samples of one continuation: the mean of all, and the best one of each clip, never under one name.

A future is uncertain, so one sample may be right and look wrong. The best of K rewards a model that can reach what
happened; it grows with K and must never be compared with a single sample.

Shapes: K samples, B clips, F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor


def single(values: Tensor) -> Tensor:
    """What one sample scores on average, by frame: (K, B, F) to (F,)."""
    _check(values)
    return values.mean((0, 1))


def best_of(values: Tensor, *, higher_is_better: bool) -> Tensor:
    """The best sample of each clip, by frame: (K, B, F) to (F,).

    The best is the one whose mean over frames is best, so the frames of a clip are of one sample (as FAR does it for
    PSNR and SSIM). Report it as the best of K.

    Args:
        values: of a measure, by sample, clip and frame.
        higher_is_better: as of PSNR and SSIM; not of LPIPS and of errors.
    """
    _check(values)
    means = values.mean(2)  # (K, B)
    chosen = means.argmax(0) if higher_is_better else means.argmin(0)  # (B,)
    return values[chosen, torch.arange(values.shape[1])].mean(0)


def _check(values: Tensor) -> None:
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"values are {tuple(values.shape)}; expected (samples, clips, frames), at least one of each")
