"""Does it hold beyond the length it was trained on? (Fig. 6)"""

from __future__ import annotations

from dataclasses import asdict, replace

from torch import Tensor

from magi.evaluation.detectors.world import load as load_detector
from magi.evaluation.dynamics import count_correct
from magi.evaluation.tracking import track
from magi.evaluation.uncertainty import Bootstrap, Interval, bootstrap_frechet
from magi.evaluation.world import WorldTest, world_test
from magi.report.studies import Curves, Series, Study, Table, Verdict
from magi.reproduce.answers import film
from magi.reproduce.grades import SHOWN, once
from magi.reproduce.models import sampling
from magi.reproduce.plan import EVALUATION_SEED, WORSE
from magi.reproduce.runs import Recipe
from magi.reproduce.tasks import FIVE, FRAMES, make
from magi.reproduce.workshop import Workshop
from magi.sampling.config import SampleConfig

INTERPOLATED = "interpolated"
WAYS = (INTERPOLATED, "extrapolated", "window")
TRUTH = "real clips"


def study(workshop: Workshop) -> Study:
    """Continue 5 frames far past the trained length in three ways, and look at windows of 16 generated frames."""
    scale = workshop.scale
    test = long_clips(workshop)
    videos = {TRUTH: test.video, **{way: continued(workshop, way, test) for way in WAYS}}
    others = load_detector().features(long_clips(workshop, first=scale.long_clips, frames=FRAMES).video)
    windows = {name: by_window(video, others, resamples=scale.resamples) for name, video in videos.items()}
    right = {name: right_by_window(video, test) for name, video in videos.items()}
    middles = [FIVE.context + FRAMES * (window + 0.5) for window in range(len(windows[TRUTH]))]
    growth = {name: found[-1].over(found[0]) for name, found in windows.items()}
    rows = [
        [name, f"{windows[name][0].point:.2f}", f"{windows[name][-1].point:.2f}", told(growth[name]),
         f"{right[name][0]:.2f}", f"{right[name][-1]:.2f}"]
        for name in videos
    ]  # fmt: skip
    paper, kept = growth[INTERPOLATED], right[INTERPOLATED][-1] / max(right[INTERPOLATED][0], 1e-9)
    columns = ("positions", "world-FVD, first 16 made", "last 16", "last / first (95 % over clips)",
               "right bodies, first 16 made", "last 16")  # fmt: skip
    return Study(
        name="length",
        title="Past the training length",
        question=f"Trained on {FRAMES} frames, does generation hold for {scale.long_frames}?",
        claim="Coherent videos of more than 100 frames after training on 16, temporal positions interpolated (Fig. 6, "
        "A.4).",
        verdict=judge(paper.interval(), kept),
        answer=f"With interpolated positions world-FVD is {told(paper)} times as large in the last {FRAMES} of "
        f"{scale.long_frames} frames as in the first {FRAMES} made, and {kept:.2f} times as many frames show all "
        f"bodies and no others; with positions counted on {told(growth['extrapolated'])} times, with a window "
        f"{told(growth['window'])} times. One model.",
        protocol={
            "model": f"CTF, seed {scale.seeds[0]}",
            "clips": f"{scale.long_clips}, 5 frames given; real ones are as many of other scenes",
            "window": f"{FRAMES} generated frames",
        },
        tables=[Table("The first and the last window", columns, rows)],
        curves=[
            Curves("world-FVD in windows of 16 frames; bands are 95 % over clips", "frame", "world-FVD",
                   [Series(name, middles, [w.point for w in found], [w.recentred().low for w in found],
                           [w.recentred().high for w in found]) for name, found in windows.items()]),
            Curves("Frames with all bodies and no others", "frame", "share",
                   [Series(name, middles, values) for name, values in right.items()]),
        ],
        films=[film(workshop, "length", {"truth": test.video[:SHOWN],
                                         **{way: videos[way][:SHOWN] for way in WAYS}},
                    given=FIVE.context, caption=f"{scale.long_frames} frames from 5")],
        notes=[
            f"{scale.long_clips} clips are farther from real ones than many clips would be, in every window alike, "
            "which draws the ratio of two windows towards 1; the row of real clips tells what is left of zero.",
        ],
    )  # fmt: skip


def told(ratio: Bootstrap) -> str:
    """A ratio with its interval."""
    interval = ratio.interval()
    return f"{ratio.point:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def judge(growth: Interval, kept: float) -> Verdict:
    """By the rule of the plan, of how much farther the last window is and of how many right frames are kept."""
    if growth.low > WORSE or kept < 1 / WORSE:
        return "did not hold"
    return "held" if growth.high <= WORSE else "undecided"


def settings_of(workshop: Workshop, way: str) -> SampleConfig:
    """How a model goes on past the trained length."""
    settings = sampling(workshop, "ctf")
    if way == "window":
        return replace(settings, window=FRAMES)
    return replace(settings, time_mode="interpolate" if way == "interpolated" else "extrapolate")


def long_clips(workshop: Workshop, *, first: int = 0, frames: int | None = None) -> WorldTest:
    """Real clips of the long length, or the first frames of others."""
    scale = workshop.scale
    world = replace(scale.world, num_frames=frames or scale.long_frames, seed=EVALUATION_SEED)
    return world_test(1, clips=scale.long_clips, config=world, first=first)


def continued(workshop: Workshop, way: str, test: WorldTest) -> Tensor:
    """Long videos (N, T, 3, H, W) uint8, made once and kept."""
    recipe, settings = Recipe("ctf", seed=workshop.scale.seeds[0]), settings_of(workshop, way)
    release = workshop.trained(recipe)
    depends = {
        "model": workshop.fingerprint(recipe.name), "sample": asdict(settings),
        "world": asdict(workshop.scale.world), "world seed": EVALUATION_SEED, "given": FIVE.context,
        "frames": workshop.scale.long_frames, "clips": workshop.scale.long_clips,
    }  # fmt: skip

    def compute() -> dict[str, Tensor]:
        print(f"{workshop.scale.long_frames} frames, {way}", flush=True)
        count = workshop.scale.long_frames - FIVE.context
        return {"video": make(workshop, release, FIVE, settings=settings, given=test.video, count=count)}

    return once(workshop.folder / "long", way, depends, compute)["video"]


def windows_of(video: Tensor) -> tuple[Tensor, ...]:
    """Whole windows of generated frames, the given ones left out."""
    made = video[:, FIVE.context :]
    return made[:, : made.shape[1] // FRAMES * FRAMES].split(FRAMES, dim=1)


def by_window(video: Tensor, others: Tensor, *, resamples: int) -> list[Bootstrap]:
    """world-FVD of each window of a video to the features (N, D) of real clips of other scenes, all resampled alike."""
    features = load_detector().features
    return [
        bootstrap_frechet(others, features(window), divisor="N", pairing="fixed", resamples=resamples)
        for window in windows_of(video)
    ]


def right_by_window(video: Tensor, test: WorldTest) -> list[float]:
    """Share of the frames of each window that show every body once and nothing else."""
    states = test.states
    right = count_correct(track(video, states.color, present=states.present, radius=states.radius)).double()
    return [float(window.mean()) for window in windows_of(right)]
