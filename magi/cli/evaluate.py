"""`magi evaluate`: how good a model's continuations are, beside baselines and the tokenizer's ceiling."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from magi import __version__
from magi.checkpoint import write_whole
from magi.cli.arguments import TokenizerOptions, WithTokenizer, asks_for_help, check_counts, parse, split_name
from magi.cli.evaluate_protocol import Order, detector_device, evaluate_by_protocol
from magi.cli.models import check_interval, find_release, in_force, picture_size, sample_settings
from magi.cli.show import progress
from magi.data.folder import FolderConfig, FolderSource
from magi.distributed import Device, pick_device
from magi.evaluation.detectors import files
from magi.evaluation.lpips import load_lpips
from magi.evaluation.protocols import DetectorName, ProtocolName
from magi.evaluation.run import PIXELS, Evaluation, Scores, evaluate
from magi.evaluation.world import CLIPS as WORLD_CLIPS
from magi.evaluation.world import FROZEN, HORIZONS, WorldTest, at_size, describe, is_frozen, world_test
from magi.report.console import table
from magi.sampling.config import SampleConfig
from magi.sampling.release import load

FOLDER_CLIPS = 64


@dataclass(frozen=True)
class EvaluateArguments:
    """Continue clips and compare them with what really came, frame by frame.

    $ magi evaluate runs/mine --data path/to/other/videos --json scores.json
    $ magi evaluate world64 --data world --json scores.json
    $ magi evaluate world64 --protocol world --json distance.json

    MODEL is the folder of a run or of a release, or world64, and comes first. Beside the model stand its baseline, the
    last given frame held still, and its ceiling, the true frames through the tokenizer. In the world the discs are
    found again in the pictures, and how far they are off is told in pixels. Contexts are encoded alone.

    With a protocol sets of clips are compared instead, as a published number was measured; its card is printed and
    kept. The same command goes on where one was stopped, and under torchrun many processes share the work.
    """

    data: str | None = None
    """A folder of videos that were not trained on, or world."""
    protocol: ProtocolName | None = None
    """Which fixes frames, intervals, clips and seeds."""
    work: Path | None = None
    """With a protocol: where clips, features and the list of real clips are kept; beside the JSON by default."""
    runs: int | None = None
    """With a protocol: repetitions with other seeds. Another number than the protocol's renames it."""
    detector: DetectorName | None = None
    """With a protocol: another detector than its own, which renames it. The environment names files of weights."""
    clips: int | None = None
    """Clips to continue: the first of the world's test (all 256), or spread over the videos of the folder (64). Another
    number than the protocol's renames it."""
    context_frames: int = 5
    """Frames that are given."""
    frames: int = 16
    """Frames to make and to compare."""
    interval: int = 1
    """Frames of the video, or steps of the world, from one frame to the next."""
    seed: int = 0
    """Clip i is continued with seed + i; of a folder it also decides which clips."""
    samples: int = 1
    """Continuations of each clip. Of several, one try and the best of all are told under names of their own."""
    lpips: Path | None = None
    """Measure LPIPS too, with torchvision's AlexNet from this file, or from the one that MAGI_LPIPS names."""
    windows: int | None = None
    """In the world: grade the bodies in windows of so many generated frames too, for videos that are long."""
    batch: int = 8
    """Clips at a time; a matter of memory."""
    json: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """Write every score of every frame to this file."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)

    def __post_init__(self) -> None:
        check_counts(self, "clips", "context_frames", "frames", "batch", "runs", "samples", "windows")
        if self.protocol is None:
            for name in ("work", "runs", "detector"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} has no effect without --protocol")
            if self.windows is not None and self.data not in (None, "world"):
                raise ValueError(f"--windows {self.windows} grades the world's bodies; give --data world, or leave it")
            return
        for one in fields(self):
            if one.name in ("samples", "lpips", "windows") and getattr(self, one.name) != one.default:
                raise ValueError(f"--{one.name} {getattr(self, one.name)} has no effect with --protocol; leave it out")
            if one.name in ("context_frames", "frames", "interval", "seed") and getattr(self, one.name) != one.default:
                raise ValueError(
                    f"--{one.name.replace('_', '-')} {getattr(self, one.name)} is fixed by --protocol {self.protocol}"
                )

    @property
    def clip_count(self) -> int:
        """How many clips to continue, where nothing was said too."""
        return self.clips or (WORLD_CLIPS if self.data == "world" else FOLDER_CLIPS)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, words = split_name(words)
    directory = None if name is None and asks_for_help(words) else find_release(name)
    default = EvaluateArguments(sample=sample_settings(directory))
    arguments = parse(EvaluateArguments, words, usage="evaluate MODEL", default=default)
    assert directory is not None and name is not None, "the help has been printed"
    if arguments.protocol is not None:
        return evaluate_by_protocol(_order(arguments, name, directory))
    if arguments.data is None:
        raise ValueError("give --data, a folder of videos that were not trained on, or world; --help explains")
    device = pick_device(arguments.device)
    wanted = arguments.lpips or os.environ.get(files.LPIPS.variable)
    lpips = load_lpips(arguments.lpips, device=detector_device(device)) if wanted else None
    release = load(directory, device=device)
    check_interval(release, arguments.interval)
    clips = read_clips(arguments, size=picture_size(release))
    test = {**describe(clips), "frozen": is_frozen(clips)} if isinstance(clips, WorldTest) else None
    print(in_force(release, arguments.sample))
    if test is not None:
        print(identify(test))
    if lpips is not None:
        print(lpips.description)

    start = time.perf_counter()
    total, what = arguments.clip_count * arguments.samples, "clips" if arguments.samples == 1 else "continuations"
    found = evaluate(
        release, clips, context=arguments.context_frames, interval=arguments.interval, seed=arguments.seed,
        samples=arguments.samples, window=arguments.windows,
        measures=PIXELS if lpips is None else {**PIXELS, "LPIPS": lpips}, settings=arguments.sample,
        batch_size=arguments.batch, note=lambda done: progress(done, total, what),
    )  # fmt: skip
    print(show(found.by_frame))
    if arguments.windows is not None:
        print(show_windows(found.by_window, arguments.windows))
    if arguments.json is not None:
        about = {"model": name, "device": str(device), **({} if test is None else {"test": test})}
        about |= {} if lpips is None else {"lpips": lpips.description}
        record = record_of(arguments, found, about, seconds=time.perf_counter() - start)
        write_whole(arguments.json, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return 0


def record_of(
    arguments: EvaluateArguments, found: Evaluation, about: Mapping[str, Any], *, seconds: float
) -> dict[str, Any]:
    """What is kept of scores, which `magi report` reads; `about` tells of the model and of what was measured with."""
    asked = ("context_frames", "frames", "interval", "seed", "samples")
    record = {
        "magi": __version__,
        **about,
        "data": arguments.data,
        "clips": arguments.clip_count,
        **{name: getattr(arguments, name) for name in asked},
        "sample": asdict(arguments.sample),
        "seconds": round(seconds, 2),
        "scores": _plain(found.by_frame),
    }
    if found.by_window:
        record["windows"] = {"frames": arguments.windows, "scores": _plain(found.by_window)}
    return record


def _plain(scores: Scores) -> dict[str, list[float | None]]:
    """For JSON, which has no NaN: null where there was nothing to measure, as where no body was found."""
    return {
        name: [None if math.isnan(value) else value for value in values.tolist()] for name, values in scores.items()
    }


def _order(arguments: EvaluateArguments, name: str, directory: Path) -> Order:
    assert arguments.protocol is not None
    return Order(
        name, directory, arguments.protocol, arguments.data, arguments.detector, arguments.clips, arguments.runs,
        arguments.batch, arguments.json, arguments.work, arguments.sample, arguments.device,
    )  # fmt: skip


def read_clips(arguments: EvaluateArguments, *, size: int) -> Tensor | WorldTest:
    """The clips to continue, (B, T, 3, S, S) uint8 with T = context + frames, or the world's with their truth."""
    length = arguments.context_frames + arguments.frames
    if arguments.data == "world":
        world = replace(at_size(size), num_frames=length)
        return world_test(arguments.interval, clips=arguments.clip_count, config=world)
    assert arguments.data is not None, "asked for before"
    folder = FolderConfig(
        path=arguments.data, num_frames=length, size=size, flip=False, seed=arguments.seed,
        min_interval=arguments.interval, max_interval=arguments.interval, interval_rule="fixed",
    )  # fmt: skip
    return FolderSource(folder).clips(range(arguments.clip_count)).video


def identify(test: Mapping[str, Any]) -> str:
    """Which clips of the world a result is measured on, in one line."""
    intervals = " or ".join(map(str, FROZEN))
    other = f"not the frozen test, which is {WORLD_CLIPS} clips of 64 pixels, 5 + 16 frames, at interval {intervals}"
    which = "the frozen test" if test["frozen"] else other
    return f"{test['clips']} clips of {test['frames']} frames, interval {test['interval']}, {test['sha256']}: {which}"


def show(scores: Scores) -> str:
    """A table of the scores at a few frames, and their mean over all that have one; a dash where there is none."""
    frames = len(next(iter(scores.values())))
    shown = [frame for frame in HORIZONS if frame <= frames]
    rows: list[list[Any]] = [["frame", *map(str, shown), "mean"]]
    for name, values in scores.items():
        told = [float(values[frame - 1]) for frame in shown] + [float(values.nanmean())]
        rows.append([name, *("-" if math.isnan(value) else f"{value:.3f}" for value in told)])
    return table(rows)


def show_windows(scores: Scores, size: int) -> str:
    """A table of the scores of windows of `size` frames; a dash where nothing flies freely."""
    count = len(next(iter(scores.values())))
    rows: list[list[Any]] = [["frames", *(f"{size * i + 1}-{size * (i + 1)}" for i in range(count))]]
    for name, values in scores.items():
        rows.append([name, *("-" if math.isnan(value) else f"{value:.3f}" for value in values.tolist())])
    return table(rows)
