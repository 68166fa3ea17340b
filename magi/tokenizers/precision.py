"""In which precision a tokenizer computes while others wait for it. Knows no tokenizer.

Shapes: B videos, T frames, H x W pixels; t latent frames, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from magi.tokenizers.protocol import Posterior, Tokenizer

ComputedIn = Literal["fp32", "bf16"]


def posterior_in(precision: ComputedIn, tokenizer: Tokenizer, pixels: Tensor) -> Posterior:
    """What `tokenizer.posterior` tells of `pixels` (B, T, 3, H, W), in float32, computed in this precision.

    bf16 is autocast: products and convolutions in bfloat16, several times faster where a GPU has units for it, and
    latents that are off by about half a percent of their spread.
    """
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        posterior = tokenizer.posterior(pixels)
    if precision == "fp32":
        return posterior
    deviation = posterior.deviation
    return Posterior(posterior.mean.float(), None if deviation is None else deviation.float())
