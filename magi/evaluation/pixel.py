"""How far pixels are from the truth: PSNR and SSIM of single frames. Knows no model and no clip.

Shapes: ... any leading dimensions, H x W pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

HIGHEST_PSNR = 100.0  # dB; two equal frames would have infinity, which no mean survives
SSIM_WINDOW = 11  # pixels on a side, Gaussian of deviation 1.5 (Wang et al., 2004)
FRAMES_PER_CHUNK = 256
VALUES_PER_CHUNK = 2**22  # whose differences take 16 MiB


def psnr(video: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame, all three channels together.

    Args:
        video, truth: (..., 3, H, W) uint8.

    Returns:
        (...) float64 in dB, at most `HIGHEST_PSNR`. Clips are taken in chunks: no float copy of all is made.
    """
    _check(video, truth)
    flat, flat_truth = (rearrange(x, "... c h w -> (...) c h w") for x in (video, truth))
    values = flat[0].numel() if len(flat) else 1
    frames = max(1, VALUES_PER_CHUNK // values)
    # In whole numbers the sum is exact, and so the same in chunks of any size.
    squares = [
        (one.int() - two.int()).square().sum(dim=(-3, -2, -1), dtype=torch.int64)
        for one, two in zip(flat.split(frames), flat_truth.split(frames), strict=True)
    ]
    error = torch.cat(squares).double() / values
    return (10 * torch.log10(255**2 / error)).clamp(max=HIGHEST_PSNR).reshape(video.shape[:-3])


def ssim(video: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each frame (Wang et al., 2004), averaged over channels, mirrored at the borders.

    Args:
        video, truth: (..., 3, H, W) uint8, at least `SSIM_WINDOW` pixels on a side.

    Returns:
        (...) float64, 1 for equal frames.

    Raises:
        ImportError: torchmetrics is not installed.
        ValueError: frames smaller than the window.
    """
    _check(video, truth)
    if min(video.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM compares windows of {SSIM_WINDOW} pixels, frames are {tuple(video.shape[-2:])}")
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ImportError("SSIM needs torchmetrics: pip install 'torchmetrics>=1.6,<2'") from error
    values = []
    flat, flat_truth = (rearrange(x, "... c h w -> (...) c h w") for x in (video, truth))
    for one, two in zip(flat.split(FRAMES_PER_CHUNK), flat_truth.split(FRAMES_PER_CHUNK), strict=True):
        similarity = structural_similarity_index_measure(one.float(), two.float(), data_range=255.0, reduction="none")
        assert isinstance(similarity, Tensor)
        values.append(similarity.double())
    return torch.cat(values).reshape(video.shape[:-3])


def _check(video: Tensor, truth: Tensor) -> None:
    for tensor in (video, truth):
        if tensor.dtype != torch.uint8 or tensor.ndim < 3 or tensor.shape[-3] != 3:
            raise ValueError(f"frames are {tensor.dtype} {tuple(tensor.shape)}; expected uint8 (..., 3, height, width)")
    if video.shape != truth.shape:
        raise ValueError(f"video is {tuple(video.shape)}, its truth {tuple(truth.shape)}; expected one shape")


def copy_last(reconstructed: Tensor, *, frames: int) -> Tensor:
    """The baseline that nothing moves: the last given frame as the tokenizer shows it, held still.

    It goes through the tokenizer because the model's frames do: what the tokenizer loses is no fault of either.

    Args:
        reconstructed: (B, T, 3, H, W), clips through the tokenizer.
        frames: F, how many frames at the end of the clips are to be predicted; fewer than T.

    Returns:
        (B, F, 3, H, W).
    """
    return reconstructed[:, -frames - 1 : -frames].expand(-1, frames, -1, -1, -1)
