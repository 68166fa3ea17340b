"""The layers of the per-token head: an embedding of times, residual blocks and an output that are modulated (adaLN).

The network is MAR's ``SimpleMLPAdaLN`` (Li et al., "Autoregressive Image Generation without Vector Quantization",
2024).

Shapes: C channels of a token, W width of the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time, then an MLP."""

    def __init__(self, time_dim: int, width: int) -> None:
        super().__init__()
        self.time_dim = time_dim
        self.expand = nn.Linear(time_dim, width)
        self.project = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """(...) -> (..., W). Angles are float32 or wider: bfloat16 cannot tell t = 999 from t = 1000.

        Autocast, which would round the waves before the MLP, is off in here: all is in the type of the weights.
        """
        dtype = torch.promote_types(self.expand.weight.dtype, torch.float32)
        half = self.time_dim // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=dtype) / half)
        angles = t.to(dtype).unsqueeze(-1) * frequencies  # (..., time_dim / 2)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        kind = t.device.type
        has_autocast = torch.amp.is_autocast_available(kind)  # the meta device has none
        with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
            return self.project(F.silu(self.expand(waves.to(self.expand.weight.dtype))))


class ResidualBlock(nn.Module):
    """``x + gate * MLP(modulate(norm(x)))``; shift, scale and gate are linear in y (adaLN, Peebles & Xie, 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.expand = nn.Linear(width, width)  # MAR's MLP keeps the width
        self.project = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(y).chunk(3, dim=-1)  # (..., W) each
        hidden = self.norm(x) * (1 + scale) + shift
        return x + gate * self.project(F.silu(self.expand(hidden)))


class OutputLayer(nn.Module):
    """Modulated norm without parameters of its own, then a linear map to the outputs."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(width, out_channels)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale = self.modulation(y).chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


class HeadLayers(NamedTuple):
    """What a token passes through in one evaluation of the head."""

    input_proj: nn.Linear  # C to W
    blocks: Sequence[ResidualBlock]
    output: OutputLayer
