"""How fast a latent frame could be sampled on a device: floors and estimates, from a configuration and the device's
ceilings.

Pure arithmetic; nothing is measured here. A floor is the time below which exact sampling cannot go, whatever the code:
the least work at the full rate. An estimate adds what kernels cost that are started one after the other. All times are
seconds for one frame of each of a batch of B videos.

Symbols, as in `plan`: N tokens per frame, L tokens the transformer sees of it, D width, F MLP width, W head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from magi.model import plan
from magi.model.config import MagiConfig
from magi.model.head import Solver

KERNELS_PER_LAYER = 12  # operations of attention and MLP, as a pass issues them on average
SOLVER_KERNELS: dict[Solver, int] = {"ddpm": 4, "ddim": 2, "dpm++": 5, "euler": 1, "heun": 3}  # of a solver's update


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at best."""

    flops: float  # per second, of large matrix products in bfloat16
    bytes_per_second: float  # of large copies, read and written
    stage_seconds: float  # of a product that needs the result of the one before it, however small
    gap_seconds: float  # from a kernel to the next in a recorded graph
    launch_seconds: float  # to start a kernel from the host


CEILINGS: dict[str, Ceilings] = {
    "h200": Ceilings(790e12, 4.3e12, 1e-6, 1.5e-6, 5.5e-6),
    "h100": Ceilings(798e12, 3.0e12, 1e-6, 1.5e-6, 5.5e-6),
}
"""The first two were measured, on plain products and copies; the others are assumed."""


@dataclass(frozen=True)
class Work:
    """What is to be sampled."""

    past: int  # frames in the cache
    mask_steps: int  # as asked for; no more than one per token are made
    head_steps: int
    solver: Solver
    batch: int = 1  # B


@dataclass(frozen=True)
class Latency:
    """Seconds for a frame of each of `batch` videos."""

    batch: int
    transformer_compute: float
    """Its operations at the full rate: no last block for tokens that are not predicted yet."""
    weight_read: float
    """Its weights from memory once per pass: they do not fit into the caches."""
    cache_read: float
    """Keys and values of the past once per pass."""
    head_stages: float
    """Products of the head that wait for each other."""
    head_compute: float
    """Its operations at the full rate."""
    recorded: float
    """Estimate: all kernels in recorded graphs, a gap between any two, and the operations at the full rate."""
    launched: float
    """Estimate: kernels started from the host, one after the other, or the floor's work where that takes longer."""

    @property
    def transformer_floor(self) -> float:
        """Computing and reading may overlap."""
        return max(self.transformer_compute, self.weight_read + self.cache_read)

    @property
    def head_floor(self) -> float:
        """The head's weights stay on the chip, so it is bound by its operations or by their order."""
        return max(self.head_compute, self.head_stages)

    @property
    def floor(self) -> float:
        """Transformer and head take turns: each needs what the other made."""
        return self.transformer_floor + self.head_floor

    @property
    def frames_per_second(self) -> float:
        """Latent frames of all videos, at the floor."""
        return self.batch / self.floor


def head_loop_weights(config: MagiConfig) -> int:
    """Weights that a denoising step multiplies by: per block 2 W^2, and the maps of a token in and out.

    The modulations, which do not depend on the token's state, are computed before the loop.
    """
    width, channels = config.head.width, config.token_channels
    outputs = channels * (2 if config.head.kind == "diffusion" else 1)
    return config.head.depth * 2 * width**2 + (channels + outputs) * width


def transformer_weights(config: MagiConfig) -> int:
    """Weights that each pass multiplies by."""
    counts = plan.count_parameters(config)
    return counts["spatial layers"] + counts["temporal layers"]


def denoising_calls(config: MagiConfig, work: Work) -> int:
    """Evaluations of the head one after the other: mask steps x denoising steps x calls of the solver."""
    return min(work.mask_steps, config.tokens) * work.head_steps * plan.CALLS_PER_STEP[work.solver]


def sampling_latency(config: MagiConfig, work: Work, ceilings: Ceilings, *, bytes_per_value: int = 2) -> Latency:
    """Floors and estimates of one frame.

    Args:
        config: of the model.
        work: what is sampled.
        ceilings: of the device.
        bytes_per_value: of weights and cache; 2 in bfloat16.
    """
    steps, calls, batch = min(work.mask_steps, config.tokens), denoising_calls(config, work), work.batch
    passes = steps  # a finished frame is committed in the first pass over the next one
    stages = 2 * config.head.depth + 2  # two products a block, one before and one after
    flops = plan.frame_flops(
        config, past=work.past, mask_steps=work.mask_steps, head_steps=work.head_steps, solver=work.solver
    )
    compute = batch * flops.transformer / ceilings.flops
    head_compute = batch * flops.head / ceilings.flops
    weights = passes * transformer_weights(config) * bytes_per_value
    cached = batch * passes * work.past * plan.cache_bytes(config, bytes_per_value=bytes_per_value)
    transformer_kernels = passes * 2 * config.depth * KERNELS_PER_LAYER
    head_kernels = calls * head_kernels_per_call(config, work.solver)
    memory = (weights + cached) / ceilings.bytes_per_second
    return Latency(
        batch=batch,
        transformer_compute=compute,
        weight_read=weights / ceilings.bytes_per_second,
        cache_read=cached / ceilings.bytes_per_second,
        head_stages=calls * stages * ceilings.stage_seconds,
        head_compute=head_compute,
        recorded=ceilings.gap_seconds * (transformer_kernels + head_kernels) + max(compute, memory) + head_compute,
        launched=max(ceilings.launch_seconds * transformer_kernels, compute, memory)
        + max(ceilings.launch_seconds * head_kernels, head_compute),
    )


def head_kernels_per_call(config: MagiConfig, solver: Solver) -> float:
    """Kernels of one evaluation of the head and its share of the solver's update: 6 a block, 4 around them."""
    return 4 + 6 * config.head.depth + SOLVER_KERNELS[solver] / plan.CALLS_PER_STEP[solver]
