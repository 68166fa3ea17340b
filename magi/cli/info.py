"""`magi info`: what a model costs, computed from its configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from magi.checkpoint import read_config
from magi.cli.arguments import Common, CommonOptions, asks_for_help, check_counts, parse, split_name
from magi.cli.info_latency import sampling_on, show_sampling
from magi.cli.models import describe, find_release, sample_settings
from magi.cli.show import quantity
from magi.experiments.encode import DRAWN
from magi.experiments.planning import GPUS, plan_cache, plan_training
from magi.experiments.presets import FOOTAGE, PRESETS
from magi.experiments.scaling import WAYS, plan_step
from magi.model import plan
from magi.model.config import MagiConfig
from magi.report.console import table
from magi.sampling.config import SampleConfig


@dataclass(frozen=True)
class InfoArguments:
    """Say what a preset or a trained model costs: parameters, FLOPs, cache, memory to train.

    $ magi info xl
    $ magi info xl --model.depth 24 --sample.mask-steps 16
    $ magi info ucf101-sd14 --gpu h200 --count 8

    MODEL is a preset (tiny, small, base, large, xl, world64), an experiment of the paper (ucf101-sd14, ucf101-cosmos,
    k600-omni), or the folder of a run or of a release, and comes first. Flags change it, to plan another. --gpu plans
    the whole training of a preset or an experiment; of an experiment the disk that its latents take is told too.
    """

    gpu: Literal["a100", "h100", "h200", "b200"] | None = None
    """Plan the training on such GPUs: steps, days, memory per GPU with and without activation checkpointing; and on
    h200 how fast frames could be sampled, beside what was measured."""
    count: int | None = None
    """GPUs that share a batch; 8 with --gpu."""
    mfu: float | None = None
    """The share of the GPU's peak operations that the training reaches; .4 with --gpu."""
    clips_per_video: int | None = None
    """Of an experiment whose latent frames stand for several frames: clips that magi encode draws of each video; 16."""
    past: int | None = None
    """Frames before the generated one whose cost is told; a clip's length less one by default."""
    json: bool = False
    """Print the same as JSON."""
    model: Annotated[MagiConfig, tyro.conf.FlagConversionOff] = field(default_factory=MagiConfig)
    sample: Annotated[SampleConfig, tyro.conf.FlagConversionOff] = field(default_factory=SampleConfig)
    common: CommonOptions = field(default_factory=Common)

    def __post_init__(self) -> None:
        for option in ("count", "mfu"):
            if getattr(self, option) is not None and self.gpu is None:
                raise ValueError(f"--{option} has no effect without --gpu")
        check_counts(self, "count", "clips_per_video")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, words = split_name(words)
    default = InfoArguments() if name is None and asks_for_help(words) else InfoArguments(**find(name))
    arguments = parse(InfoArguments, words, usage="info MODEL", default=default)
    costs = compute(arguments) | latents_on_disk(name, arguments)
    if arguments.gpu is not None:
        costs |= training(name, arguments)
        costs |= sampling_on(arguments.gpu, arguments.model, arguments.sample, past=costs["frames before"])
    print(json.dumps(costs, indent=1) if arguments.json else f"{name}: {summary(arguments.model)}\n\n{show(costs)}")
    return 0


def find(name: str | None) -> dict[str, Any]:
    """The configurations of a preset or of a released model."""
    if name in PRESETS:
        return {"model": PRESETS[name].model, "sample": PRESETS[name].sample}
    try:
        directory = find_release(name)
    except ValueError as error:
        raise ValueError(f"{error}; presets are {', '.join(PRESETS)}") from None
    return {"model": read_config(MagiConfig, describe(directory)["model"]), "sample": sample_settings(directory)}


def training(name: str | None, arguments: InfoArguments) -> dict[str, Any]:
    """The whole training of a preset or an experiment, as plain numbers.

    Raises:
        ValueError: it is neither, so that nothing says how long it is trained.
    """
    if name not in PRESETS:
        raise ValueError(f"--gpu plans the training of a preset or an experiment ({', '.join(PRESETS)}), not of {name}")
    assert arguments.gpu is not None
    run, count = replace(PRESETS[name], model=arguments.model), arguments.count or 8
    utilisation = 0.4 if arguments.mfu is None else arguments.mfu
    planned = plan_training(run, FOOTAGE.get(name), gpu=GPUS[arguments.gpu], count=count, utilisation=utilisation)
    ways = {
        way: plan_step(
            run.model, way, gpus=count, batch=run.train.batch_size, gpu=GPUS[arguments.gpu], utilisation=utilisation,
            parts=run.train.parts, checkpointed=run.checkpointed,
        )
        for way in (WAYS if count > 1 else WAYS[:1])
    }  # fmt: skip
    return {
        "a step": {way: {**asdict(step), "bytes": step.total_bytes} for way, step in ways.items()},
        "GPUs": {"kind": arguments.gpu, "count": count, "share of peak": utilisation},
        "training": {**asdict(planned), "fits": planned.fits, "clips": run.train.total_samples},
    }


def latents_on_disk(name: str | None, arguments: InfoArguments) -> dict[str, Any]:
    """What magi encode would write for an experiment, whose videos are known; nothing for anything else.

    Raises:
        ValueError: --clips-per-video where no clips are drawn beforehand.
    """
    clips, run = arguments.clips_per_video, PRESETS[name] if name in FOOTAGE else None
    if clips is not None and (run is None or run.model.num_frames == run.data.folder.num_frames):
        raise ValueError(f"--clips-per-video has no effect on {name}: only several frames encoded at once are drawn")
    if run is None or name is None:
        return {}
    changed = replace(run, model=arguments.model)
    return {"latents on disk": asdict(plan_cache(changed, FOOTAGE[name], clips_per_video=clips or DRAWN))}


def compute(arguments: InfoArguments) -> dict[str, Any]:
    """All costs as plain numbers: parameters, FLOPs, bytes."""
    config, sample = arguments.model, arguments.sample
    past = config.num_frames - 1 if arguments.past is None else arguments.past
    parameters = plan.count_parameters(config)
    frame = plan.frame_flops(
        config, past=past, mask_steps=sample.mask_steps, head_steps=sample.head_steps, solver=sample.solver
    )
    return {
        "parameters": parameters,
        "tokens per frame": config.tokens,
        "frames the transformer sees per clip": plan.stream_frames(config),
        "FLOPs per training clip": asdict(plan.training_flops(config)),
        "mask steps per frame": min(sample.mask_steps, config.tokens),
        "head steps per token": sample.head_steps,
        "frames before": past,
        "FLOPs per generated frame": asdict(frame),
        "cache bytes per frame": {"float32": plan.cache_bytes(config), "bfloat16": plan.cache_bytes(config) // 2},
        "bytes to train": plan.training_bytes(sum(parameters.values())),
        "bytes per clip in training": plan.activation_bytes(config),
    }


def summary(config: MagiConfig) -> str:
    """The model in a line."""
    rows, columns = config.grid
    layers = f"{config.depth} blocks of width {config.width}, head {config.head.depth} x {config.head.width}"
    tokens = f"{config.num_frames} frames of {rows} x {columns} tokens of {config.token_channels} numbers"
    return f"{layers}, {config.forcing.upper()}, {tokens}"


def show(costs: dict[str, Any]) -> str:
    """The costs as a table: each in all, then by part."""
    frame = f"generated frame after {costs['frames before']}"
    rows: list[tuple[str, str, str]] = []
    for title, parts, unit in (
        ("parameters", costs["parameters"], ""),
        ("training clip, forward and backward", costs["FLOPs per training clip"], "FLOP"),
        (f"{frame}, {costs['mask steps per frame']} mask steps", costs["FLOPs per generated frame"], "FLOP"),
        ("memory to train", costs["bytes to train"], "B"),
    ):
        rows.append((title, quantity(sum(parts.values()), unit), ""))
        rows += [(f"  {name}", "", quantity(value, unit)) for name, value in parts.items()]
    rows.append(("  and for each clip at once, bf16", quantity(costs["bytes per clip in training"], "B"), ""))
    for dtype, size in costs["cache bytes per frame"].items():
        rows.append((f"cache per frame and video, {dtype}", quantity(size, "B"), ""))
    if disk := costs.get("latents on disk"):
        rows += [
            ("latents on disk, magi encode", quantity(disk["total_bytes"], "B"), ""),
            ("  of a video of mean length", "", quantity(disk["bytes_per_video"], "B")),
            ("  different clips in it", "", f"{disk['distinct']:,.0f} of {disk['possible']:,}"),
        ]
    text = table(rows + show_training(costs) if "training" in costs else rows)
    return f"{text}\n\n{show_sampling(costs['GPUs']['kind'], costs['sampling'])}" if "sampling" in costs else text


def show_training(costs: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The rows of a whole training."""
    gpus, training = costs["GPUs"], costs["training"]
    epochs = "" if training["epochs"] is None else f"{training['epochs']:,.0f} epochs"
    memory = f"of {quantity(training['gpu_bytes'], 'B')}: {training['fits']}"
    return [
        (f"training on {gpus['count']} x {gpus['kind']}", f"{training['steps']:,} steps", epochs),
        (
            f"  at {gpus['share of peak']:.0%} of their peak",
            quantity(training["flops"], "FLOP"),
            f"{training['days']:.1f} days",
        ),
        ("  memory per GPU, bf16", quantity(training["bytes_per_gpu"], "B"), memory),
        (
            "  … each block checkpointed",
            quantity(training["bytes_per_gpu_checkpointed"], "B"),
            "a third more operations",
        ),
        *(
            (
                f"  a step, --train.sharding {way}",
                quantity(step["bytes"], "B"),
                f"{1e3 * step['compute_seconds']:,.0f} ms, {1e3 * step['inside_seconds']:,.0f} ms of sending inside a "
                f"machine, {1e3 * step['across_seconds']:,.0f} ms across",
            )
            for way, step in costs["a step"].items()
        ),
    ]
