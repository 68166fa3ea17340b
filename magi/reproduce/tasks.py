"""What models are asked to do, on which clips, and what is measured of the clips they make.

A model's clips are made and read once and kept as features, tracks and a few pictures; every study draws from these.

Shapes: N clips, T frames, F = T - context generated ones, D features, K bodies, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from magi import checkpoint
from magi.evaluation import dynamics
from magi.evaluation.detectors.world import load as load_detector
from magi.evaluation.detectors.world import load_frames
from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.tracking import track
from magi.evaluation.uncertainty import Bootstrap, Interval, bootstrap_frechet
from magi.evaluation.world import WorldTest, world_test
from magi.reproduce.plan import EVALUATION_SEED
from magi.reproduce.workshop import Workshop
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.sampling.video import generate

SHOWN = 8  # clips kept as pictures
FRAMES = 16  # of every clip that is compared


@dataclass(frozen=True)
class Task:
    """What is given and how long the clip is."""

    name: str
    context: int
    frames: int = FRAMES
    """T, the given ones included."""
    interval: int = 1


NOTHING = Task("nothing given", 0)
FIRST = Task("first frame given", 1)
FIVE = Task("5 frames given", 5)


@dataclass(frozen=True)
class Grade:
    """What is kept of N clips."""

    features: Tensor  # (N, D) of whole clips, given frames included
    frame_features: Tensor  # (N, T, D') of single frames
    error: Tensor  # (N, F) float64, px, position error by generated frame; against the truth of the same scene
    right: Tensor  # (N, F) float64, 1 where every body is there once and nothing else
    shown: Tensor  # (SHOWN, T, 3, H, W) uint8

    @property
    def moments(self) -> Moments:
        """Of the features of whole clips."""
        return Moments.of(self.features)


def test_clips(workshop: Workshop, task: Task, *, seed: int = EVALUATION_SEED, first: int = 0) -> WorldTest:
    """N clips of the evaluation's scenes, T frames."""
    world = replace(workshop.scale.world, num_frames=task.frames, seed=seed)
    return world_test(task.interval, clips=workshop.scale.clips, config=world, first=first)


def grade(video: Tensor, test: WorldTest, *, context: int) -> Grade:
    """Read clips (N, T, 3, H, W) uint8 whose first `context` frames were given from the scenes of `test`.

    Clips made from nothing show no scene that is known: their positions are compared with nothing.
    """
    states, made = test.states, video[:, context:]
    if context:
        tracks = track(made, states.color, present=states.present, radius=states.radius)
        truth = states.position[:, context : context + made.shape[1]]
        error, right = dynamics.position_error(tracks, truth), dynamics.count_correct(tracks).double()
    else:
        error, right = torch.full((2, *made.shape[:2]), torch.nan, dtype=torch.float64)
    clips, frames = load_detector(), load_frames()
    by_frame = [frames.features(frame[:, None]) for frame in video.unbind(1)]
    return Grade(clips.features(video), torch.stack(by_frame, dim=1), error, right, video[:SHOWN].clone())


def held_still(test: WorldTest, *, context: int) -> Tensor:
    """Position error (N, F) px of the baseline that nothing moves."""
    states = test.states
    seen = track(test.video[:, :context], states.color, present=states.present, radius=states.radius)
    truth = states.position[:, context:]
    return dynamics.position_error(dynamics.copy_last(seen, truth.shape[1]), truth)


def make(
    workshop: Workshop, release: Release, task: Task, *, settings: SampleConfig, given: Tensor, count: int | None = None
) -> Tensor:
    """Let a model continue, or begin, clips: clip i with seed i.

    Args:
        workshop: says how many at a time.
        release: the model.
        task: how many frames are given and made.
        settings: of sampling.
        given: (N, >= context, 3, H, W) uint8; of a task that gives nothing only the number N counts.
        count: frames to make, if not what the task asks for.

    Returns:
        (N, context + F, 3, H, W) uint8, the given frames first.
    """
    parts = []
    for clips in torch.arange(len(given)).split(workshop.scale.generate_batch):
        context = given[clips, : task.context] if task.context else None
        frames = generate(
            release, context, num_frames=count or task.frames - task.context, seeds=clips.tolist(),
            interval=task.interval, settings=settings,
        )  # fmt: skip
        made = torch.stack([frame.cpu() for frame in frames], dim=1)
        parts.append(made if context is None else torch.cat([context, made], dim=1))
    return torch.cat(parts)


def graded(workshop: Workshop, name: str, compute: Callable[[], Grade]) -> Grade:
    """What `compute` gives, from the folder if it has been computed before."""
    folder = workshop.folder / "grades" / name
    if not folder.is_dir():
        found = compute()
        tensors = {field.name: getattr(found, field.name).clone() for field in fields(Grade)}
        checkpoint.save(folder, {"grade": tensors}, {})
    return Grade(**checkpoint.load_tensors(folder, "grade", None))


def real(workshop: Workshop, task: Task, *, part: int = 1, seed: int = EVALUATION_SEED) -> Grade:
    """Real clips of other scenes: part 0 are the scenes that models continue, 1 and on are others."""
    name = f"real-{part}-{seed}-interval{task.interval}-{task.frames}"

    def compute() -> Grade:
        test = test_clips(workshop, task, seed=seed, first=part * workshop.scale.clips)
        return grade(test.video, test, context=0)

    return graded(workshop, name, compute)


def distance(one: Grade, other: Grade) -> float:
    """world-FVD."""
    return frechet_distance(one.moments, other.moments, divisor="N")


def distance_ratio(one: Grade, other: Grade, others: Grade, *, resamples: int) -> tuple[float, Interval]:
    """world-FVD of `one` over that of `other`, with its 95 % interval over clips, which are resampled alike for both.

    A resample is farther from the real clips than the clips are; in the ratio of two models that are resampled alike
    most of this cancels, and what is left draws it towards 1.
    """

    def of(grade: Grade) -> Bootstrap:
        return bootstrap_frechet(others.features, grade.features, divisor="N", pairing="fixed", resamples=resamples)

    ratio = of(one).over(of(other))
    return ratio.point, ratio.interval()


def frame_distances(one: Grade, other: Grade) -> list[float]:
    """world-FID of each frame of `one`, (T,), to all frames of `other` at the same place."""
    pairs: Iterator[tuple[Tensor, Tensor]] = zip(
        one.frame_features.unbind(1), other.frame_features.unbind(1), strict=True
    )
    return [frechet_distance(Moments.of(a), Moments.of(b), divisor="N") for a, b in pairs]


def slug(task: Task) -> str:
    """A task's name as part of a file's."""
    return task.name.replace(" ", "-") + (f"-interval{task.interval}" if task.interval != 1 else "")
