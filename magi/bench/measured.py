"""What sampling the paper's model took on GPUs, for `magi info` to set beside what would be possible.

The package carries no results; these are copied from the files that are named, and a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from magi.model.config import PRESETS, MagiConfig


@dataclass(frozen=True)
class MeasuredFrame:
    """Seconds of a frame of all videos of a batch, the pass that commits the frame before it included."""

    source: str
    """File and entry."""
    config: MagiConfig
    precision: str
    batch: int
    mask_steps: int
    head_steps: int
    total: float
    transformer: float
    head: float

    @property
    def transformer_pass(self) -> float:
        """Of one pass: one per mask step, and one that commits."""
        return self.transformer / (self.mask_steps + 1)

    @property
    def denoising_step(self) -> float:
        """Of one step of the head on the tokens of one mask step."""
        return self.head / (self.mask_steps * self.head_steps)

    def at_steps(self, *, mask_steps: int, head_steps: int) -> float:
        """What a frame would take at more steps, at most: as many passes and denoising steps, and the same rest.

        A denoising step of fewer tokens is taken to cost the same: so it is where starting kernels is all it does, and
        of many videos it costs less.
        """
        rest = self.total - self.transformer - self.head
        return rest + (mask_steps + 1) * self.transformer_pass + mask_steps * head_steps * self.denoising_step


SUITE = "results/gpu/suite-h200-2026-11-26.json"
SUITE_H100 = "results/gpu/suite-h100-2026-11-27.json"

MEASURED: dict[str, tuple[MeasuredFrame, ...]] = {
    "h200": (
        MeasuredFrame(SUITE, PRESETS["xl"], "fp32", 1, 4, 100, total=0.396315, transformer=0.137149, head=0.222853),
        MeasuredFrame(SUITE, PRESETS["xl"], "fp32", 8, 4, 100, total=1.234918, transformer=0.645016, head=0.320993),
    ),
    "h100": (
        MeasuredFrame(
            SUITE_H100, PRESETS["xl"], "fp32", 1, 4, 100, total=0.316430, transformer=0.119048, head=0.192017
        ),
        MeasuredFrame(
            SUITE_H100, PRESETS["xl"], "fp32", 8, 4, 100, total=0.907886, transformer=0.582871, head=0.316904
        ),
    ),
}
"""By GPU: means of two frames, kernels started one by one."""

RECORDED: dict[str, dict[int, float]] = {"h100": {1: 0.777014, 64: 9.643233}}
"""By GPU and batch: seconds of the third frame of "xl", 64 x 100, backbone in bfloat16, in graphs recorded before."""
