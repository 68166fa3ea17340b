"""What is kept of clips once they are made and read: features, what became of the bodies, a few pictures.

A grade is named for all that it depends on, so that another detector, model or temperature makes another one.

Shapes: N clips, T frames, F = T - context generated ones, D features, K bodies, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi import checkpoint
from magi.evaluation import dynamics
from magi.evaluation.bounces import BounceScores, score_bounces
from magi.evaluation.detectors.world import load as load_detector
from magi.evaluation.detectors.world import load_frames
from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.tracking import Tracks, join, track
from magi.evaluation.uncertainty import Bootstrap, Interval, bootstrap_frechet
from magi.evaluation.world import WorldTest
from magi.reproduce.plan import EVALUATION_SEED
from magi.reproduce.tasks import Task, test_clips
from magi.reproduce.workshop import Workshop

SHOWN = 8  # clips kept as pictures


@dataclass(frozen=True)
class Grade:
    """What is kept of N clips. Where nothing was given no scene is known, and bodies are compared with nothing: NaN."""

    features: Tensor  # (N, D) of whole clips, given frames included
    frame_features: Tensor  # (N, T, D') of single frames
    error: Tensor  # (N, F) float64, px, position error; a body that is not found is as far off as it can be
    found_error: Tensor  # (N, F) float64, px, of the bodies that were found; NaN where none was
    found: Tensor  # (N, F) float64, share of the scene's bodies that were found
    right: Tensor  # (N, F) float64, 1 where every body is there once and nothing else
    bounces: Tensor  # (5, T) float64, the counts of `BounceScores` in their order
    shown: Tensor  # (SHOWN, T, 3, H, W) uint8

    @property
    def moments(self) -> Moments:
        """Of the features of whole clips."""
        return Moments.of(self.features)

    @property
    def bounce_f1(self) -> float:
        """Whether bodies bounced when they should, over all frames; NaN where no scene is known."""
        return float(BounceScores(*self.bounces.unbind(0)).total().f1)


def grade(video: Tensor, test: WorldTest, *, context: int) -> Grade:
    """Read clips (N, T, 3, H, W) uint8 whose first `context` frames were given from the scenes of `test`."""
    bodies = _bodies(video, test, context) if context else _unknown(len(video), video.shape[1])
    clips, frames = load_detector(), load_frames()
    by_frame = [frames.features(frame[:, None]) for frame in video.unbind(1)]
    return Grade(
        features=clips.features(video), frame_features=torch.stack(by_frame, dim=1), shown=video[:SHOWN], **bodies
    )


def held_still(test: WorldTest, *, context: int) -> Tensor:
    """Position error (N, F) px of the baseline that nothing moves."""
    truth = test.states.position[:, context:]
    return dynamics.position_error(dynamics.copy_last(_seen(test.video[:, :context], test), truth.shape[1]), truth)


def _seen(video: Tensor, test: WorldTest) -> Tracks:
    states = test.states
    return track(video, states.color, present=states.present, radius=states.radius)


def _bodies(video: Tensor, test: WorldTest, context: int) -> dict[str, Tensor]:
    states, end = test.states, video.shape[1]
    given, made = _seen(video[:, :context], test), _seen(video[:, context:], test)
    truth = states.position[:, context:end]
    scores = score_bounces(
        join(given, made), states.position[:, :end], states.velocity[:, :end], bounces=states.bounces[:, :end]
    )
    return {
        "error": dynamics.position_error(made, truth),
        "found_error": dynamics.found_error(made, truth),
        "found": dynamics.share_found(made),
        "right": dynamics.count_correct(made).double(),
        "bounces": torch.stack([getattr(scores, field.name) for field in fields(BounceScores)]).double(),
    }


def _unknown(clips: int, frames: int) -> dict[str, Tensor]:
    nothing = {name: torch.full((clips, frames), torch.nan, dtype=torch.float64) for name in ("error", "found_error")}
    nothing |= {name: torch.full((clips, frames), torch.nan, dtype=torch.float64) for name in ("found", "right")}
    return nothing | {"bounces": torch.zeros(len(fields(BounceScores)), frames, dtype=torch.float64)}


def graded(workshop: Workshop, name: str, depends: Mapping[str, Any], compute: Callable[[], Grade]) -> Grade:
    """What `compute` gives, from the folder if it has been computed before.

    Args:
        workshop: says where.
        name: for people.
        depends: all that the grade depends on beside the detectors, as plain data.
        compute: makes it.
    """
    whole = {**depends, "detectors": [load_detector().fingerprint, load_frames().fingerprint]}

    def tensors() -> dict[str, Tensor]:
        found = compute()
        return {field.name: getattr(found, field.name).clone() for field in fields(Grade)}

    return Grade(**once(workshop.folder / "grades", name, whole, tensors))


def once(
    folder: Path, name: str, depends: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Tensors that are computed once for all that they depend on, in FOLDER/NAME-KEY."""
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
    place = folder / f"{name}-{key}"
    if not place.is_dir():
        found = compute()
        try:
            checkpoint.save(place, {"tensors": found}, {"depends.json": depends})
        except (checkpoint.CheckpointError, OSError):
            if not place.is_dir():  # or another step needed it too, and was faster
                raise
    return checkpoint.load_tensors(place, "tensors", None)


def real(workshop: Workshop, task: Task, *, part: int = 1, seed: int = EVALUATION_SEED) -> Grade:
    """Real clips: part 0 are the scenes that models continue, 1 and on are others."""
    depends = {"real": part, "seed": seed, **about(workshop, task)}

    def compute() -> Grade:
        test = test_clips(workshop, task, seed=seed, part=part)
        return grade(test.video, test, context=0)

    return graded(workshop, f"real-{part}", depends, compute)


def about(workshop: Workshop, task: Task) -> dict[str, Any]:
    """The clips that a grade is about, as plain data; what they are called does not count."""
    numbers = {name: value for name, value in asdict(task).items() if name != "name"}
    return {"task": numbers, "clips": workshop.scale.clips, "world": asdict(workshop.scale.world)}


def distance(one: Grade, other: Grade) -> float:
    """world-FVD."""
    return frechet_distance(one.moments, other.moments, divisor="N")


def resampled_distance(grade: Grade, others: Grade, *, resamples: int) -> Bootstrap:
    """world-FVD over resamples of the clips, the real ones as they are; of two models it resamples alike."""
    return bootstrap_frechet(others.features, grade.features, divisor="N", pairing="fixed", resamples=resamples)


def distance_ratio(one: Grade, other: Grade, others: Grade, *, resamples: int) -> tuple[float, Interval]:
    """world-FVD of `one` over that of `other`, with its 95 % interval over clips, which are resampled alike for both.

    A resample is farther from the real clips than the clips are; in the ratio of two models that are resampled alike
    most of this cancels, and what is left draws it towards 1.
    """
    numerator, denominator = (resampled_distance(each, others, resamples=resamples) for each in (one, other))
    ratio = numerator.over(denominator)
    return ratio.point, ratio.interval()


def frame_distances(one: Grade, other: Grade) -> Tensor:
    """world-FID of each frame of `one`, (T,), to the frames of `other` at the same place."""
    pairs = zip(one.frame_features.unbind(1), other.frame_features.unbind(1), strict=True)
    return torch.tensor([frechet_distance(Moments.of(a), Moments.of(b), divisor="N") for a, b in pairs])


def mean_frame_distance(one: Grade, other: Grade, *, context: int) -> float:
    """world-FID averaged over the generated frames."""
    return float(frame_distances(one, other)[context:].mean())


def mean_of(grades: Sequence[Grade], what: str) -> Tensor:
    """A measure (N, F) averaged over clips that have it and over grades: (F,)."""
    return torch.stack([getattr(one, what).nanmean(0) for one in grades]).mean(0)
