"""AdamW as MAR sets it up, and its learning rate as a function of samples seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from magi.choices import check_choices


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule (A.3; the rest follows MAR)."""

    lr: float = 1e-4
    """Peak learning rate (blank in our text; MAR's 1e-4 per 256 samples gives 1e-4 for Kinetics-600, 5e-5 for UCF-101).
    """
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.02
    warmup_samples: int = 1_280_000
    """Linear warm-up; the paper's 10,000 steps at batch 128."""
    decay: Literal["none", "tail", "cosine"] = "none"
    """After warm-up: constant as MAR; constant, then a linear fall to zero at the end; or a cosine down to a tenth."""
    decay_samples: int = 0
    """Length of the tail."""
    clip: float = 3.0
    """Largest gradient norm."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup_samples", "decay_samples", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if (self.decay == "tail") != (self.decay_samples > 0):
            raise ValueError(
                f"decay {self.decay!r} with decay_samples {self.decay_samples}: "
                "a tail needs a length, the others take none"
            )


def learning_rate(config: OptimConfig, samples: int, total_samples: int) -> float:
    """Learning rate for the step that starts at `samples` samples seen."""
    if samples < config.warmup_samples:
        return config.lr * (samples + 1) / config.warmup_samples
    left = total_samples - samples
    if config.decay == "tail":
        return config.lr * min(1.0, left / config.decay_samples)
    if config.decay == "cosine":
        share = 1 - left / max(1, total_samples - config.warmup_samples)
        return config.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
    return config.lr


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with MAR's decay groups: no weight decay for vectors (norms, biases) nor for anything in the diffusion
    head."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim <= 1 or name.startswith("head.")
        (free if exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    # one kernel for many parameters, where launching them is what takes time
    fused = all(parameter.device.type == "cuda" for parameter in model.parameters()) or None
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
