"""`magi sample`: videos from a trained model, written frame by frame as they are made."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from magi import __version__
from magi.cli.arguments import TokenizerOptions, WithTokenizer, asks_for_help, check_counts, parse, split_name
from magi.cli.clips import Given, read_given, videos_at
from magi.cli.models import check_interval, find_release, in_force, picture_size, sample_settings
from magi.cli.show import new_folder, progress
from magi.distributed import Device, pick_device
from magi.report.films import GrowingFilm
from magi.sampling.config import SampleConfig
from magi.sampling.presets import Preset, with_preset
from magi.sampling.release import Release, load
from magi.sampling.video import generate


@dataclass(frozen=True)
class SampleArguments:
    """Continue videos with a trained model, or make videos from nothing.

    $ magi sample runs/mine --context path/to/a/video.mp4 --out samples
    $ magi sample world64 --count 4 --frames 16 --out samples

    MODEL is the folder of a run or of a release, or world64, and comes first. Each video becomes an mp4, which can be
    watched while it grows, and a gif: grey around frames that were given, orange around those that were made, the true
    video to the left if it goes on for long enough. sample.json says how they were made. Unless told otherwise a model
    samples as it was released: magi sample MODEL --help shows its settings.
    """

    out: Path
    """A folder that is new or empty."""
    context: Path | None = None
    """A video, or a folder of videos, to continue; without it, videos are made from nothing."""
    context_frames: int = 5
    """Frames that are given, from the start of the video."""
    frames: int = 16
    """Frames to make."""
    interval: int = 1
    """Frames of the video from one frame to the next, which the model is told."""
    count: int | None = None
    """Videos to make: so many futures of one video, or the first so many videos of a folder (all of them)."""
    seed: int = 0
    """Video i is a function of seed + i."""
    batch: int = 8
    """Videos at a time; a matter of memory."""
    fps: float = 8.0
    """How fast the files play."""
    plain: bool = False
    """The bare pictures, near-lossless and in their own size, without frames, truth or gif."""
    preset: Preset | None = None
    """Steps by name: exact is the paper's 64 x 100, annealed, fast and fastest are quicker and not exact (magi bench
    presets MODEL says at what cost). What --sample says overrules it."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    backbone: Literal["float32", "bfloat16"] = "float32"
    """What all but the head is computed in. bfloat16 is quicker where the processor has it, not exact, and leaves the
    denoising, where errors add up, in float32."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)

    def __post_init__(self) -> None:
        check_counts(self, "context_frames", "frames", "batch", "count")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, words = split_name(words)
    directory = None if name is None and asks_for_help(words) else find_release(name)
    default = SampleArguments(out=tyro.MISSING, sample=sample_settings(directory))
    arguments = parse(SampleArguments, words, usage="sample MODEL", default=default)
    assert directory is not None, "the help has been printed"
    release = load(directory, device=pick_device(arguments.device), backbone=getattr(torch, arguments.backbone))
    if arguments.preset is not None:
        sample = with_preset(default.sample, arguments.preset, release.model.config.head)
        arguments = parse(SampleArguments, words, usage="sample MODEL", default=replace(default, sample=sample))
    check_interval(release, arguments.interval)
    given = read_all(arguments, size=picture_size(release))
    folder = new_folder(arguments.out)
    print(in_force(release, arguments.sample))

    start = time.perf_counter()
    files: list[str] = []
    for first in range(0, len(given), arguments.batch):
        files += write(arguments, release, given=given, first=first)
    made = len(given) * arguments.frames
    pace = (time.perf_counter() - start) / made
    print(f"{made} frames at {pace:.3g} s each, in {folder}")
    record = {
        "magi": __version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "model": name,
        "device": str(release.model.head_position.device),
        "backbone": arguments.backbone,
        "context": [str(video.path) if video else None for video in given],
        "context_frames": arguments.context_frames if arguments.context else 0,
        "frames": arguments.frames,
        "interval": arguments.interval,
        "seeds": [arguments.seed + index for index in range(len(given))],
        "sample": asdict(arguments.sample),
        "mask_steps_made": min(arguments.sample.mask_steps, release.model.config.tokens),
        "seconds_per_frame": pace,
        "files": files,
    }
    (folder / "sample.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def read_all(arguments: SampleArguments, *, size: int) -> list[Given] | list[None]:
    """What each video begins with."""
    if arguments.context is None:
        return [None] * (arguments.count or 1)
    alone = not arguments.context.is_dir()
    paths = videos_at(arguments.context, count=None if alone else arguments.count)
    shape = {"context": arguments.context_frames, "frames": arguments.frames, "interval": arguments.interval}
    given = [read_given(path, size=size, **shape) for path in paths]
    return given * (arguments.count or 1) if alone else given


def write(arguments: SampleArguments, release: Release, *, given: Sequence[Given | None], first: int) -> list[str]:
    """Make one batch of videos, from number `first` on; returns the names of its files."""
    chunk = list(enumerate(given))[first : first + arguments.batch]
    contexts = [video.context for _, video in chunk if video is not None]
    frames = generate(
        release,
        torch.stack(contexts) if contexts else None,
        num_frames=arguments.frames,
        seeds=[arguments.seed + index for index, _ in chunk],
        interval=arguments.interval,
        settings=arguments.sample,
    )
    with ExitStack() as stack:
        films = []
        for index, video in chunk:
            stem = arguments.out / (f"{index:03d}-{video.path.stem}" if video else f"{index:03d}")
            film = GrowingFilm(
                stem, context=video.context if video else None, truth=video.truth if video else None,
                size=picture_size(release), fps=arguments.fps, plain=arguments.plain,
            )  # fmt: skip
            films.append(stack.enter_context(film))
        for made, batch in enumerate(frames, start=1):
            for film, frame in zip(films, batch.cpu(), strict=True):
                film.append(frame)
            progress(first * arguments.frames + made * len(chunk), len(given) * arguments.frames, "frames")
    return [name for film in films for name in film.files]
