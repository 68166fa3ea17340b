"""What a training step takes on N GPUs: memory of each, arithmetic, and what they have to tell each other.

Arithmetic alone: the maker's data sheets for GPUs and links, a share of each that is reached, and rings. The same for
the three ways of keeping the weights (`magi.training.sharding`). Left out: latency and small messages, clipping, the
pauses of evaluations and saves; and all sending is taken to overlap where the backward pass is.

Symbols: P bytes of a gradient in float32, G GPUs in a machine, M machines.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from magi.experiments.planning import GPUS, Gpu
from magi.experiments.presets import PRESETS
from magi.model import plan
from magi.model.config import MagiConfig
from magi.report.console import table
from magi.training.sharding import Sharding

WAYS: tuple[Sharding, ...] = ("none", "full", "hybrid")
UPDATE_PASSES = (
    10  # over a copy of the weights: AdamW reads four and writes three, the average reads two and writes one
)
BACKWARD_SHARE = 2 / 3  # of a step's operations: while they run, gradients can be sent


@dataclass(frozen=True)
class Cluster:
    """Machines that are alike."""

    gpus: int = 8  # G
    inside: float = 450e9  # bytes/s that a GPU sends to others in its machine: NVLink of Hopper
    across: float = 50e9  # bytes/s that a GPU sends to other machines: a 400 Gb/s adapter each
    reached: float = 0.8  # share of these


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step on one of N GPUs."""

    clips: int  # of this GPU
    state_bytes: float  # weights, gradients, moments and average that it holds, and what it gathers
    activation_bytes: float
    compute_seconds: float
    inside_seconds: float
    across_seconds: float
    update_seconds: float  # of optimizer and average, which read and write what the GPU holds

    @property
    def total_bytes(self) -> float:
        """Memory."""
        return self.state_bytes + self.activation_bytes

    @property
    def communication_seconds(self) -> float:
        """Both links, one after the other."""
        return self.inside_seconds + self.across_seconds

    @property
    def exposed_seconds(self) -> float:
        """What does not fit beside the backward pass, at least."""
        return max(0.0, self.communication_seconds - BACKWARD_SHARE * self.compute_seconds)

    @property
    def efficiency(self) -> float:
        """Share of a step that is arithmetic, at best."""
        return self.compute_seconds / (self.compute_seconds + self.exposed_seconds + self.update_seconds)


def gathered_bytes(config: MagiConfig) -> float:
    """What a GPU that holds rows has whole at a time, in float32: everything outside the blocks with its gradient, the
    block that is computed with its gradient, and the weights of the next."""
    counts = plan.count_parameters(config)
    blocks = counts["spatial layers"] + counts["temporal layers"]
    outside = counts["embeddings"] + counts["diffusion head"]
    return 4 * (2 * outside + 3 * blocks / config.depth)


def shares(sharding: Sharding, gpus: int, cluster: Cluster) -> int:
    """Into how many pieces weights are cut."""
    return {"none": 1, "full": gpus, "hybrid": min(gpus, cluster.gpus)}[sharding]


def held_bytes(config: MagiConfig, sharding: Sharding, *, gpus: int, cluster: Cluster) -> float:
    """Weights, gradients, moments and average on one GPU, without what it gathers."""
    states = sum(plan.training_bytes(sum(plan.count_parameters(config).values())).values())
    return states / shares(sharding, gpus, cluster)


def plan_step(
    config: MagiConfig,
    sharding: Sharding,
    *,
    gpus: int,
    batch: int,
    gpu: Gpu,
    utilisation: float,
    cluster: Cluster | None = None,
    parts: int | None = None,
    checkpointed: bool = False,
) -> StepPlan:
    """Plan a step.

    Args:
        config: of the model.
        sharding: how weights are kept.
        gpus: how many, machines filled one after the other.
        batch: clips of all.
        gpu: the kind.
        utilisation: share of the peak that is reached where nothing is waited for.
        cluster: the links.
        parts: of a batch, as `train.parts`; by default one for each GPU. Activations are those of one part.
        checkpointed: whether blocks are computed again, a third more operations.

    Raises:
        ValueError: the batch cannot be shared.
    """
    cluster, parts = cluster or Cluster(), parts or gpus
    if batch % parts or parts % gpus:
        raise ValueError(f"a batch of {batch} clips in {parts} parts cannot be shared evenly by {gpus} GPUs")
    own_parts, machines = parts // gpus, -(-gpus // cluster.gpus)
    inside, gradient = min(gpus, cluster.gpus), 4.0 * sum(plan.count_parameters(config).values())
    flops = batch / gpus * plan.training_flops(config).total * (4 / 3 if checkpointed else 1)
    # A ring of n sends (n - 1) / n of the bytes once to gather or to scatter a sum, and twice to do both
    ring_in, ring_out = (inside - 1) / inside, (machines - 1) / machines
    rounds = 2 if sharding == "none" else 3 * own_parts  # gathered for both passes, and the sum scattered, every part
    sent_inside = rounds * ring_in * gradient
    # Across machines all adapters share the work. Whole sums, once a step; or, of rows over all GPUs, every round
    sent_across = ring_out * gradient / inside * (rounds if sharding == "full" else 2)
    return StepPlan(
        clips=batch // gpus,
        state_bytes=held_bytes(config, sharding, gpus=gpus, cluster=cluster)
        + (0 if sharding == "none" else gathered_bytes(config)),
        activation_bytes=batch / parts * plan.activation_bytes(config, checkpointed=checkpointed),
        compute_seconds=flops / (utilisation * gpu.flops),
        inside_seconds=sent_inside / (cluster.inside * cluster.reached),
        across_seconds=sent_across / (cluster.across * cluster.reached),
        update_seconds=UPDATE_PASSES * gradient / shares(sharding, gpus, cluster) / gpu.bandwidth,
    )


def scaling_table(config: MagiConfig, *, gpu: Gpu, utilisation: float, batch: int, counts: tuple[int, ...]) -> str:
    """One clip on each GPU or more, in every way of keeping the weights."""
    titles = (
        "GPUs",
        "batch",
        "weights",
        "GB on each",
        "compute",
        "inside",
        "across",
        "not hidden",
        "update",
        "efficiency",
    )
    lines: list[tuple[str, ...]] = [titles]
    for count in counts:
        for way in WAYS if count > 1 else WAYS[:1]:
            if way == "hybrid" and count <= Cluster().gpus:
                continue  # the same as full
            whole = max(batch, count)
            step = plan_step(config, way, gpus=count, batch=whole, gpu=gpu, utilisation=utilisation, parts=whole)
            times = (
                step.compute_seconds,
                step.inside_seconds,
                step.across_seconds,
                step.exposed_seconds,
                step.update_seconds,
            )
            told = (f"{1e3 * seconds:,.0f} ms" for seconds in times)
            lines.append(
                (f"{count:,}", f"{whole:,}", way, f"{step.total_bytes / 1e9:.1f}", *told, f"{step.efficiency:.0%}")
            )
    return table(lines, words=(2,))


def main() -> None:
    """Print the table of docs/scaling.md."""
    parser = argparse.ArgumentParser(prog="python -m magi.experiments.scaling", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="xl")
    parser.add_argument("--gpu", choices=GPUS, default="h200")
    parser.add_argument("--mfu", type=float, default=0.26)
    given = parser.parse_args()
    run = PRESETS[given.preset]
    counts = (1, 8, 16, 64, 128, 256, 1024)
    batch = run.train.batch_size
    print(scaling_table(run.model, gpu=GPUS[given.gpu], utilisation=given.mfu, batch=batch, counts=counts))


if __name__ == "__main__":
    main()
