"""Does it hold beyond the length it was trained on? (Fig. 6)"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from magi import checkpoint
from magi.evaluation.detectors.world import load as load_detector
from magi.evaluation.dynamics import count_correct
from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.tracking import track
from magi.evaluation.world import WorldTest, world_test
from magi.report.studies import Curves, Series, Study, Table, Verdict
from magi.reproduce.answers import film
from magi.reproduce.models import sampling
from magi.reproduce.plan import EVALUATION_SEED
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIVE, FRAMES, SHOWN, make, test_clips
from magi.reproduce.workshop import Workshop
from magi.sampling.config import SampleConfig

WAYS = ("interpolated", "extrapolated", "window")
TRUTH = "real clips"
WORSE = 1.25
"""By how much the last window may be worse than the first for the claim to have held."""


def study(workshop: Workshop) -> Study:
    """Continue 5 frames far past the trained length in three ways, and look at windows of 16 frames."""
    scale = workshop.scale
    test = long_clips(workshop)
    videos = {way: continued(workshop, way, test) for way in WAYS}
    distances = {name: by_window(workshop, video) for name, video in {TRUTH: test.video, **videos}.items()}
    right = {name: right_by_window(video, test) for name, video in {TRUTH: test.video, **videos}.items()}
    middles = [FRAMES * (window + 0.5) for window in range(len(distances[TRUTH]))]
    rows = [
        [name, f"{distances[name][0]:.1f}", f"{distances[name][-1]:.1f}", f"{right[name][0]:.2f}",
         f"{right[name][-1]:.2f}"]
        for name in (*WAYS, TRUTH)
    ]  # fmt: skip
    best = min(WAYS, key=lambda way: distances[way][-1])
    columns = ("positions", "world-FVD, frames 1 to 16", "last 16", "right bodies, frames 1 to 16", "last 16")
    return Study(
        name="length",
        title="Past the training length",
        question=f"Trained on {FRAMES} frames, does generation hold for {scale.long_frames}?",
        claim="Coherent videos of more than 100 frames after training on 16, temporal positions interpolated (Fig. 6, "
        "A.4).",
        verdict=_verdict(distances[best], right[best]),
        answer=f"After {scale.long_frames} frames the {best} positions are nearest to real clips: world-FVD "
        f"{distances[best][-1]:.1f} in the last {FRAMES} frames against {distances[best][0]:.1f} in the first and "
        f"{distances[TRUTH][-1]:.1f} of real clips; right bodies in {right[best][-1]:.0%} of the last frames against "
        f"{right[best][0]:.0%} of the first.",
        protocol={
            "model": f"CTF, seed {scale.seeds[0]}",
            "clips": f"{scale.long_clips}, 5 frames given; real ones are as many of other scenes",
            "window": f"{FRAMES} frames",
        },
        tables=[Table("The first and the last window", columns, rows)],
        curves=[
            Curves("world-FVD in windows of 16 frames", "frame", "world-FVD",
                   [Series(name, middles, values) for name, values in distances.items()]),
            Curves("Frames with all bodies and no others", "frame", "share",
                   [Series(name, middles, values) for name, values in right.items()]),
        ],
        films=[film(workshop, "length", {"truth": test.video[:SHOWN], **{w: v[:SHOWN] for w, v in videos.items()}},
                    given=FIVE.context, caption=f"{scale.long_frames} frames from 5")],
    )  # fmt: skip


def _verdict(distances: list[float], right: list[float]) -> Verdict:
    """It held if the last window is hardly worse than the first, by both measures."""
    return "held" if distances[-1] <= WORSE * distances[0] and right[-1] >= right[0] / WORSE else "did not hold"


def settings_of(workshop: Workshop, way: str) -> SampleConfig:
    """How a model goes on past the trained length."""
    settings = sampling(workshop, "ctf")
    if way == "window":
        return replace(settings, window=FRAMES)
    return replace(settings, time_mode="interpolate" if way == "interpolated" else "extrapolate")


def long_clips(workshop: Workshop, *, first: int = 0) -> WorldTest:
    """Real clips of the long length."""
    scale = workshop.scale
    world = replace(scale.world, num_frames=scale.long_frames, seed=EVALUATION_SEED)
    return world_test(1, clips=scale.long_clips, config=world, first=first)


def continued(workshop: Workshop, way: str, test: WorldTest) -> Tensor:
    """Long videos (N, T, 3, H, W) uint8, made once and kept."""
    folder = workshop.folder / "long" / way
    if not folder.is_dir():
        print(f"{workshop.scale.long_frames} frames, {way}", flush=True)
        release = workshop.trained(Recipe("ctf", seed=workshop.scale.seeds[0]))
        count = workshop.scale.long_frames - FIVE.context
        video = make(workshop, release, FIVE, settings=settings_of(workshop, way), given=test.video, count=count)
        checkpoint.save(folder, {"long": {"video": video}}, {})
    return checkpoint.load_tensors(folder, "long", None)["video"]


def by_window(workshop: Workshop, video: Tensor) -> list[float]:
    """world-FVD of each window of a video to real clips of other scenes."""
    features = load_detector().features
    others = Moments.of(features(test_clips(workshop, FIVE, first=workshop.scale.clips).video[: len(video)]))
    windows = video[:, : video.shape[1] // FRAMES * FRAMES].split(FRAMES, dim=1)
    return [frechet_distance(Moments.of(features(window)), others, divisor="N") for window in windows]


def right_by_window(video: Tensor, test: WorldTest) -> list[float]:
    """Share of the frames of each window that show every body once and nothing else."""
    states = test.states
    right = count_correct(track(video, states.color, present=states.present, radius=states.radius)).double()
    return [float(window.mean()) for window in torch.split(right, FRAMES, dim=1) if window.shape[1] == FRAMES]
