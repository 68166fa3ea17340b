"""Named ways to sample faster than the paper does, each at a cost in quality that `magi bench presets MODEL` measures.

The paper's 64 mask steps and 100 denoising steps are exact: they sample what the model has learned. These sample
something near it. What they change is written out; whatever else was asked for stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from magi.model.head import HeadConfig, Solver
from magi.sampling.config import SampleConfig

Preset = Literal["exact", "annealed", "fast", "fastest"]

STEPS: dict[Preset, dict[str, Any]] = {
    "exact": {"mask_steps": 64, "head_steps": 100, "head_steps_last": None},
    "annealed": {"mask_steps": 16, "head_steps": 25, "head_steps_last": 5},
    "fast": {"mask_steps": 4, "head_steps": 10, "head_steps_last": None},
    "fastest": {"mask_steps": 2, "head_steps": 5, "head_steps_last": None},
}
"""Annealed spends its steps on the first tokens, which the others follow (DiSA, arXiv 2505.20297); fast and fastest lay
on the front of the study of speed and quality (docs/reproduction.md)."""


def with_preset(settings: SampleConfig, preset: Preset, head: HeadConfig) -> SampleConfig:
    """Settings with the steps of a preset, and the solver that suits them: exact is the head's own, the others take
    DPM-Solver++ for a diffusion head, which is of second order and adds no noise, and Euler for a flow."""
    solver: Solver | None = None if preset == "exact" or head.kind == "flow" else "dpm++"
    return replace(settings, **STEPS[preset], solver=solver, spacing=None)
