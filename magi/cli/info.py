"""`magi info`: what a model costs, computed from its configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import tyro

from magi.checkpoint import read_config
from magi.cli.arguments import Common, CommonOptions, asks_for_help, parse, split_name
from magi.cli.models import describe, find_release, sample_settings
from magi.cli.show import quantity
from magi.experiments.presets import PRESETS
from magi.model import plan
from magi.model.config import MagiConfig
from magi.report.console import table
from magi.sampling.config import SampleConfig


@dataclass(frozen=True)
class InfoArguments:
    """Say what a preset or a trained model costs: parameters, FLOPs, cache, memory to train.

    $ magi info xl
    $ magi info xl --model.depth 24 --sample.mask-steps 16

    MODEL is tiny, small, base, large, xl, world64, or the folder of a run or of a release, and comes first. Flags
    change it, to plan another.
    """

    past: int | None = None
    """Frames before the generated one whose cost is told; a clip's length less one by default."""
    json: bool = False
    """Print the same as JSON."""
    model: Annotated[MagiConfig, tyro.conf.FlagConversionOff] = field(default_factory=MagiConfig)
    sample: Annotated[SampleConfig, tyro.conf.FlagConversionOff] = field(default_factory=SampleConfig)
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, words = split_name(words)
    default = InfoArguments() if name is None and asks_for_help(words) else InfoArguments(**find(name))
    arguments = parse(InfoArguments, words, usage="info MODEL", default=default)
    costs = compute(arguments)
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
    return table(rows)
