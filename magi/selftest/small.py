"""Small models whose weights look trained.

A new model's head is zero by design, so that gradients and samples of it would hide what they should show. Here every
parameter is random, at scales that keep hidden states, conditions and samples of order one.
"""

from __future__ import annotations

import torch
from torch import nn

from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.model.magi import Magi

TINY = MagiConfig(
    latent_channels=2, latent_height=4, latent_width=6, num_frames=4, max_interval=5,
    depth=2, width=24, mlp_width=32, heads=2, dropout=0.0, noise_buckets=4, clean_probability=0.25,
    head=HeadConfig(depth=2, width=16, train_steps=10, time_dim=16), head_repeats=2,
)  # fmt: skip
"""2 x 3 tokens of 8 numbers per frame; few diffusion steps, so that a head that knows nothing cannot blow samples up.
"""
FLOW = HeadConfig(kind="flow", depth=2, width=16, time_dim=16)


def trained_looking(config: MagiConfig, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Magi:
    """A model in evaluation mode with every parameter random: Xavier weights, small biases, norms about one."""
    model = Magi(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.normal_(0.0, 0.2, generator=rng)
                if isinstance(module, nn.Linear) and name == "weight":
                    parameter.mul_(5.0 * (2.0 / sum(parameter.shape)) ** 0.5)
                elif isinstance(module, nn.LayerNorm) and name == "weight":
                    parameter.add_(1.0)
                elif isinstance(module, nn.Embedding) or not isinstance(module, nn.Linear | nn.LayerNorm):
                    parameter.mul_(2.5)  # tables
    return model.to(dtype).eval()
