"""What a preset of sampling gains and what it costs: seconds of a frame beside quality in the procedural world.

Shapes: N clips, F frames made, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from magi.bench.measure import METHOD, Spread, machine
from magi.bench.outcome import described, publish
from magi.bench.rows import Row
from magi.bench.sampling import Rollout, race
from magi.evaluation.detectors.world import load as load_detector
from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.uncertainty import bootstrap_frechet
from magi.evaluation.world import CONTEXT, at_size, score_positions, world_test
from magi.sampling.config import SampleConfig
from magi.sampling.presets import Preset, with_preset
from magi.sampling.release import Release
from magi.sampling.video import generate
from magi.tokenizers.protocol import Tokenizer

RELEASED = "as released"
HEADER = ("steps", "times faster", "ms per frame", "world-FVD", "95 %", "px off, last frame")


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    clips: int = 128
    batch: int = 32
    frames: int = 8
    """Frames made of each clip, after five that are given."""
    timed_frames: int = 12
    resamples: int = 200


QUICK = Effort(clips=4, batch=4, frames=4, timed_frames=3, resamples=10)


def run_presets_bench(
    release: Release, *, name: str, quick: bool = False, json_path: Path | None = None
) -> dict[str, Any]:
    """Measure every preset, print a table, and return all results.

    The quality is that of clips of the procedural world which the release was not trained on: world-FVD is the Fréchet
    distance in the features of the world's own detector between clips that were continued and other real ones, and no
    FVD. A release that was trained on something else gets a number that says nothing.

    Args:
        release: what samples.
        name: for the table.
        quick: measure so little that the numbers only prove that everything runs.
        json_path: where to save the results.

    Returns:
        ``machine``, ``model``, ``effort`` and ``presets``: by name the ``settings``, ``seconds`` of a frame of one
        video and ``faster`` than exact (summaries), ``distance`` with its ``interval``, and ``position_error`` by
        frame, px.
    """
    effort, device = QUICK if quick else Effort(), release.model.head_position.device
    head = release.model.config.head
    settings = {name: with_preset(release.sample, name, head) for name in get_args(Preset)}
    settings = {**settings, RELEASED: release.sample}
    seconds = time_frames(release, settings, frames=effort.timed_frames)
    exact = seconds["exact"]
    world = replace(at_size(picture_side(release)), num_frames=CONTEXT + effort.frames)
    test, others = (world_test(1, clips=effort.clips, config=world, first=part * effort.clips) for part in (0, 1))
    detector = load_detector(device=str(device))
    real = detector.features(others.video)
    presets = {}
    for each, chosen in settings.items():
        made = continued(release, test.video[:, :CONTEXT], settings=chosen, effort=effort)
        found = detector.features(torch.cat([test.video[:, :CONTEXT], made], dim=1))
        interval = bootstrap_frechet(real, found, divisor="N", pairing="fixed", resamples=effort.resamples).interval()
        ratios = [a / b for a, b in zip(exact.values, seconds[each].values, strict=True)]
        presets[each] = {
            "settings": asdict(chosen),
            "seconds": seconds[each].summary(),
            "faster": Spread(tuple(ratios)).summary(),
            "distance": frechet_distance(Moments.of(found), Moments.of(real), divisor="N"),
            "interval": [interval.low, interval.high],
            "position_error": score_positions(made, test)["position error"].tolist(),
        }
    report = {
        "machine": machine(device), "method": METHOD, "model": {"name": name},
        "effort": {"quick": quick, **asdict(effort)}, "presets": presets,
    }  # fmt: skip
    title = f"{name}: {effort.clips} clips of the world continued for {effort.frames} frames; world-FVD is no FVD"
    rows = [_row(each, row) for each, row in presets.items()]
    publish(report, f"{title}\n{described(report, rows, None, header=HEADER, words=(0,))}", json_path=json_path)
    return report


def picture_side(release: Release) -> int:
    """Height of the pictures that a release makes, pixels."""
    tokenizer: Tokenizer = release.tokenizer
    return release.model.config.latent_height * tokenizer.spatial_stride


def time_frames(release: Release, settings: Mapping[str, SampleConfig], *, frames: int) -> dict[str, Spread]:
    """Seconds of each frame but the first of one video, latents only, all settings in turn."""
    rollouts = {name: Rollout(release.model, chosen) for name, chosen in settings.items()}
    race(rollouts, frames=1)
    times = race(rollouts, frames=frames)
    return {name: Spread(tuple(frame.total for frame in each[1:])) for name, each in times.items()}


def continued(release: Release, context: Tensor, *, settings: SampleConfig, effort: Effort) -> Tensor:
    """The frames (N, F, 3, H, W) uint8 made after context (N, k, 3, H, W), clip i with seed i."""
    parts = []
    for start in range(0, len(context), effort.batch):
        given = context[start : start + effort.batch]
        seeds = range(start, start + len(given))
        made = generate(release, given, num_frames=effort.frames, seeds=seeds, settings=settings)
        parts.append(torch.stack([frame.cpu() for frame in made], dim=1))
    return torch.cat(parts)


def _row(name: str, measured: Mapping[str, Any]) -> Row:
    settings, low_high = measured["settings"], measured["interval"]
    last = "" if settings["head_steps_last"] is None else f" to {settings['head_steps_last']}"
    steps = f"{name}: {settings['mask_steps']} x {settings['head_steps']}{last} {settings['solver'] or ''}".rstrip()
    cells = (
        steps, f"{measured['faster']['median']:.1f}", f"{1e3 * measured['seconds']['median']:.1f}",
        f"{measured['distance']:.3f}", " - ".join(f"{value:.3f}" for value in low_high),
        f"{measured['position_error'][-1]:.2f}",
    )  # fmt: skip
    return Row(cells, name, (measured["seconds"]["median"], measured["distance"]))
