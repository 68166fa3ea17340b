"""How fast a model is on this machine: `magi bench MODEL`, or its sampling or its training alone.

Nothing here knows how to measure; it decides what is measured and how often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from magi.bench.attention import measure_two_parts
from magi.bench.compare import read_earlier
from magi.bench.measure import METHOD, machine
from magi.bench.model_rows import rows
from magi.bench.outcome import described, publish
from magi.bench.profile import write_profile
from magi.bench.roofline import Peaks, frame_possible, frame_shares, measure_peaks, training_shares
from magi.bench.sampling import (
    Rollout,
    count_frame_flops,
    count_head_operations,
    measure_cache,
    measure_determinism,
    measure_frames,
    measure_growth,
    race,
    step_settings,
)
from magi.bench.training import TrainingStep, count_training_flops, measure_training, time_training_parts
from magi.model import plan
from magi.model.config import PRESETS
from magi.model.magi import Magi
from magi.sampling.release import Release, load
from magi.sampling.rollout import generate
from magi.threads import configure_threads

Part = Literal["sampling", "training"]
PARTS: tuple[Part, ...] = ("sampling", "training")
SECTIONS: dict[Part, str] = {"sampling": "frame", "training": "training_flops"}  # of a report, which tell its parts


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    train_batch: int = 16
    train_steps: int = 7
    batches: tuple[int, ...] = (1, 8)
    frames: int = 6
    lengths: tuple[int, ...] = (8, 16, 32)
    growth_repeats: int = 3
    deterministic_batch: int = 4
    head_steps: int = 100
    """Steps of the calls whose operations are counted, and of the frame that is profiled."""


QUICK = Effort(
    train_batch=2,
    train_steps=2,
    batches=(1,),
    frames=2,
    lengths=(2, 4),
    growth_repeats=1,
    deterministic_batch=2,
    head_steps=20,
)


def run_bench(
    model: Magi | Release | str | Path,
    *,
    parts: Sequence[Part] = PARTS,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    quick: bool = False,
    json_path: Path | None = None,
    compare: Path | None = None,
    profile: Path | None = None,
) -> dict[str, Any]:
    """Measure a model, print a table of the results, and return all of them.

    Speed does not depend on what was learned, so an untrained preset will do.

    Args:
        model: a model, a release, the name of a preset, or the folder of a release. It is moved to the device and put
            into evaluation mode; its weights stay as they are.
        parts: what of it, training, sampling or both.
        device: where to measure.
        threads: CPU threads; None leaves them as they are.
        quick: measure so little that the numbers only prove that everything runs.
        json_path: where to save the results.
        compare: results of an earlier run, to set beside these.
        profile: where to write a text profile, of one part.

    Returns:
        ``machine`` (processor, versions, threads, date), ``method`` (in words), ``model`` (name, parameters,
        configuration), ``effort`` (how much was measured), and as the functions that measure them describe: of training
        ``training``, ``training_flops`` and ``attention_in_two_parts``, of sampling ``frame``, ``frame_flops``,
        ``growth`` (by batch size), ``operations``, ``cache`` and ``deterministic``; and ``roofline``: the machine's
        ``peaks`` and by part the shares of the possible that were reached. A measured quantity is a summary:
        ``median``, ``min``, ``max`` and the number of ``repeats``.

    Raises:
        ValueError: `compare` is no such file, or a profile of both parts is asked for.
    """
    if profile is not None and len(parts) != 1:
        raise ValueError("a profile is of one part, sampling or training")
    if threads is not None:
        configure_threads(threads)
    earlier = read_earlier(compare, section=SECTIONS[parts[0]], rows=rows)
    device = torch.device(device)
    name, model = _resolve(model)
    model = model.to(device).eval()
    effort = QUICK if quick else Effort()
    count = sum(parameter.numel() for parameter in model.parameters())
    report: dict[str, Any] = {
        "machine": machine(device),
        "method": METHOD,
        "model": {"name": name, "parameters": count, **asdict(model.config)},
        "effort": {"quick": quick, **asdict(effort)},
    }
    tokens = effort.train_batch * plan.stream_frames(model.config) * model.config.frame_tokens
    peaks = measure_peaks(model.config, rows=tokens, device=device, dtype=model.head_position.dtype)
    report["roofline"] = {"peaks": asdict(peaks)}
    if "sampling" in parts:
        report |= _sampling(model, effort)
        report["roofline"]["sampling"] = _sampling_shares(model, report["frame"], peaks, effort)
    if "training" in parts:
        report["training_flops"] = count_training_flops(model.config)
        report["training"] = measure_training(
            model, batch=effort.train_batch, repeats=effort.train_steps, device=device
        )
        report["roofline"]["training"] = training_shares(report["training"], peaks)
        if model.config.forcing == "ctf" and model.config.num_frames > 1:
            report["attention_in_two_parts"] = measure_two_parts(
                model.config, batch=effort.train_batch, repeats=effort.train_steps, device=device
            )
    if profile is not None:
        PROFILES[parts[0]](model, effort, profile, f"magi bench {parts[0]} {name} --profile FILE: ")
    publish(report, f"{_summary(report)}\n{described(report, list(rows(report)), earlier)}", json_path=json_path)
    return report


def _sampling(model: Magi, effort: Effort) -> dict[str, Any]:
    """All of sampling."""
    return {
        "operations": count_head_operations(model.head, steps=effort.head_steps, rows=1),
        "cache": measure_cache(model, batch=2, frames=max(effort.lengths)),
        "frame_flops": count_frame_flops(model),
        "frame": measure_frames(model, batches=effort.batches, frames=effort.frames),
        "deterministic": measure_determinism(model, batch=effort.deterministic_batch, frames=effort.frames),
        "growth": [
            measure_growth(model, batch=batch, lengths=effort.lengths, repeats=effort.growth_repeats)
            for batch in effort.batches
        ],
    }


def _sampling_shares(
    model: Magi, measured: Sequence[Mapping[str, Any]], peaks: Peaks, effort: Effort
) -> list[dict[str, Any]]:
    """The roofline of each row of frames, which see 1 to `effort.frames` frames."""
    weight = model.head_position
    precision = "bf16" if weight.dtype == torch.bfloat16 else "fp32"
    past, size = (1 + effort.frames) / 2, weight.element_size()
    return [
        frame_shares(
            row, frame_possible(model.config, peaks, past=past, row=row, precision=precision, bytes_per_value=size)
        )
        for row in measured
    ]


def _profile_sampling(model: Magi, effort: Effort, path: Path, title: str) -> None:
    """A frame at the paper's steps, of one video."""
    exact = step_settings(model.config.head.kind, model.config.tokens)[0]
    settings = replace(exact, head_steps=effort.head_steps)
    rollout = {"": Rollout(model, settings)}
    times = race(rollout, frames=effort.frames + 1)[""][1:]
    seconds = {part: [getattr(time, part) for time in times] for part in ("transformer", "head", "rest", "total")}
    video = generate(model, None, num_frames=2, seeds=[0], settings=settings)
    next(video)
    steps = f"{settings.mask_steps} x {settings.head_steps} {settings.solver}"
    told = f"{title}a frame of one video, {steps}"
    write_profile(path, title=told, seconds=seconds, run=lambda: next(video), device=model.head_position.device)


def _profile_training(model: Magi, effort: Effort, path: Path, title: str) -> None:
    """A step in float32."""
    device, batch = model.head_position.device, effort.train_batch
    step = TrainingStep(model, batch=batch, device=device)
    seconds = time_training_parts(step, "fp32", repeats=effort.train_steps)
    told = f"{title}a step of {batch} clips, fp32"
    write_profile(path, title=told, seconds=seconds, run=lambda: step("fp32"), device=device)


PROFILES: dict[Part, Callable[[Magi, Effort, Path, str], None]] = {
    "sampling": _profile_sampling,
    "training": _profile_training,
}


def _resolve(model: Magi | Release | str | Path) -> tuple[str, Magi]:
    """A name for the report and the model itself."""
    if isinstance(model, Magi):
        return "custom", model
    if isinstance(model, Release):
        return "release", model.model
    if isinstance(model, str) and model in PRESETS:
        torch.manual_seed(0)
        return model, Magi(PRESETS[model])
    return Path(model).name, load(model).model


def _summary(report: Mapping[str, Any]) -> str:
    """The model in a line."""
    model = report["model"]
    head = f"{model['head']['kind']} head {model['head']['depth']} x {model['head']['width']}"
    size = f"{model['parameters'] / 1e6:.2f} M parameters, {model['depth']} blocks of width {model['width']}, {head}"
    return f"{model['name']}: {size}"
