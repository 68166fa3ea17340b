"""The demo: a model continues video files and is graded, goes on for 100 frames, another learns; one page shows it all.

The recipe is `run_demo`. Nothing in it is special: each step is a function that a user can call.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from magi import __version__
from magi.data.world_files import write_world
from magi.distributed import Device, pick_device
from magi.evaluation.by_clip import right_bodies, score_clips
from magi.evaluation.run import through_tokenizer
from magi.evaluation.tracking import track
from magi.evaluation.world import CONTEXT, EVALUATION_WORLD, world_test
from magi.experiments.toy import train_toy
from magi.report.console import Progress, Steps
from magi.report.demo_page import demo_page, summary
from magi.report.films import write_film
from magi.report.panels import continued, happened, side_by_side, three_panels
from magi.report.records import Demo, InForce, Long
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load
from magi.sampling.video import generate
from magi.threads import configure_threads
from magi.video import read_video


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    videos: int
    frames: int  # predicted of each
    long_videos: int
    long_frames: int
    toy_seconds: float
    toy_clips: int  # at most


FULL = Size(videos=12, frames=16, long_videos=2, long_frames=100, toy_seconds=50, toy_clips=4000)
QUICK = Size(videos=2, frames=3, long_videos=1, long_frames=12, toy_seconds=2, toy_clips=32)

INTERVAL = 1
FPS, LONG_FPS = 6, 12  # of the films: slow enough to compare, fast enough to watch for 100 frames
MARKER = ".magi-demo"
PRODUCTS = ("contexts", "videos", "toy", "results.json", "index.html", MARKER)


def run_demo(
    out: Path,
    *,
    model: str | Path = "world64",
    device: Device = "auto",
    threads: int | None = None,
    quick: bool = False,
) -> Path:
    """Run the whole demo; returns the page to open.

    Args:
        out: a folder that is new, empty, or the product of an earlier demo, which is replaced.
        model: a pretrained model, or the folder of a released one, of the procedural world at 64 pixels.
        device: where to compute.
        threads: on the CPU.
        quick: a few seconds of everything, to see that it runs rather than what it shows.

    Raises:
        ValueError: `out` holds something else, or there is no such model or device.
    """
    if threads is not None:
        configure_threads(threads)
    size, steps = (QUICK if quick else FULL), Steps()
    release = load(model, device=pick_device(device))
    on = release.model.head_position.device
    claim(out)
    world = replace(EVALUATION_WORLD, num_frames=CONTEXT + size.frames)
    print(f"magi {__version__}, model {model}, {on}, threads: {torch.get_num_threads()}\n")

    with steps.step(f"write {size.videos} videos of the procedural world"):
        files = write_world(out / "contexts", world, samples=range(size.videos), interval=INTERVAL)
        test = world_test(INTERVAL, clips=size.videos, config=world)
    with steps.step(f"read {CONTEXT} frames of each, predict {size.frames}") as progress:
        context = torch.stack([read_context(file) for file in files])
        made = predict(release, context, frames=size.frames, settings=release.sample, progress=progress)
    with steps.step("compare with what happened"):
        reconstructed = through_tokenizer(release, test.video)
        scores = score_clips(made, test, reconstructed=reconstructed, context=CONTEXT)
        films = [
            write_film(out / "videos" / file.stem, three_panels(given, truth=truth, made=mine), fps=FPS)
            for file, given, truth, mine in zip(files, context, test.video, made, strict=True)
        ]
    with steps.step(f"predict {size.long_frames} frames, in two ways") as progress:
        long = go_on(release, context[: size.long_videos], size=size, folder=out / "videos", progress=progress)
    with steps.step("train a toy model from nothing", talks=True):
        toy = train_toy(release.tokenizer, out / "toy", seconds=size.toy_seconds, most=size.toy_clips, device=on)
    with steps.step("draw the page"):
        commands = next_commands(out, model)
        demo = Demo(in_force(str(model), release), files, films, scores, long, toy, commands, dict(steps.seconds))
        (out / "results.json").write_text(json.dumps(results(demo), indent=1) + "\n", encoding="utf-8")
        page = out / "index.html"
        page.write_text(demo_page(demo), encoding="utf-8")
    tell(demo, page)
    return page


def claim(out: Path) -> None:
    """Make `out` ours: create it, or clear away what an earlier demo left there.

    Raises:
        ValueError: it holds something that no demo wrote.
    """
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if (out.exists() and not out.is_dir()) or (found and MARKER not in found):
        raise ValueError(f"{out} exists and holds no earlier demo; give another --out, or delete it")
    if foreign := sorted(found - set(PRODUCTS)):
        raise ValueError(f"{out} also holds {foreign[0]!r}, which no demo wrote; move it away, or give another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("Made by magi demo, which replaces what is here when it runs again.\n", encoding="utf-8")
    for name in found - {MARKER}:
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()


def read_context(file: Path) -> Tensor:
    """The first frames of a video file, (CONTEXT, 3, S, S) uint8."""
    frames = read_video(file, max_frames=CONTEXT, size=EVALUATION_WORLD.size).frames
    return rearrange(torch.from_numpy(frames), "t h w c -> t c h w")


def predict(release: Release, context: Tensor, *, frames: int, settings: SampleConfig, progress: Progress) -> Tensor:
    """Continue videos (B, k, 3, S, S) by so many frames, (B, F, 3, S, S) uint8 on the CPU, video b with seed b."""
    seeds, finished = range(len(context)), []
    for frame in generate(release, context, num_frames=frames, seeds=seeds, interval=INTERVAL, settings=settings):
        finished.append(frame.cpu())
        progress(len(finished), frames)
    return torch.stack(finished, dim=1)


def go_on(release: Release, context: Tensor, *, size: Size, folder: Path, progress: Progress) -> Long:
    """Continue far beyond the trained length, with interpolated positions (the paper) and with a sliding window."""
    window, frames = release.model.config.num_frames, size.long_frames
    ways = {
        "positions interpolated": replace(release.sample, time_mode="interpolate", window=None),
        f"window of {window} frames": replace(release.sample, window=window),
    }
    test = world_test(INTERVAL, clips=len(context), config=replace(EVALUATION_WORLD, num_frames=CONTEXT + frames))
    made: dict[str, Tensor] = {}
    for way, settings in ways.items():

        def note(done: int, total: int, before: int = len(made) * frames) -> None:
            progress(before + done, len(ways) * total)

        made[way] = predict(release, context, frames=frames, settings=settings, progress=note)
    films = []
    for clip, given in enumerate(context):
        panels = [happened(test.video[clip], given=CONTEXT)]
        panels += [continued(way, given, videos[clip]) for way, videos in made.items()]
        films.append(write_film(folder / f"long-{clip:06d}", side_by_side(panels), fps=LONG_FPS))
    bodies = {"present": test.states.present, "radius": test.states.radius}
    right = {way: right_bodies(track(videos, test.states.color, **bodies)) for way, videos in made.items()}
    return Long(films, right)


def in_force(name: str, release: Release) -> InForce:
    """What is used, by the name that the user gave."""
    model, tokenizer = release.model, release.tokenizer
    return InForce(
        name=name,
        parameters=sum(weight.numel() for weight in model.parameters()),
        config=model.config,
        sample=release.sample,
        stride=tokenizer.spatial_stride,
        device=str(model.head_position.device),
        threads=torch.get_num_threads(),
    )


def next_commands(out: Path, model: str | Path) -> list[tuple[str, str]]:
    """What to type after the demo, and why."""
    installed = shutil.which("magi") is not None
    started = sys.argv[0] if Path(sys.argv[0]).name == "magi" else "python -m magi"  # as in .venv/bin/magi
    magi, name = "magi" if installed else started, shlex.quote(str(model))
    video = shlex.quote(os.path.relpath(out / "contexts" / "world-000000.mp4"))
    return [
        (f"{magi} sample {name} --context {video} --count 4 --out samples", "Four futures of one video:"),
        (f"{magi} evaluate {name} --data world --clips 256", "The same scores from 256 videos instead of a handful:"),
        (f"{magi} train tiny --data path/to/videos --out runs/mine", "A model of your own videos:"),
    ]


def results(demo: Demo) -> dict[str, object]:
    """The numbers behind the page, by predicted frame where they are lists."""

    def means(values: Mapping[Any, Tensor]) -> dict[str, list[float]]:
        return {name: [round(value, 4) for value in clips.mean(0).tolist()] for name, clips in values.items()}

    return {
        "magi": __version__,
        "model": demo.model.name,
        "sample": asdict(demo.model.sample),
        "videos": [file.name for file in demo.files],
        "position error, px": means(demo.scores.error),
        "PSNR, dB": means(demo.scores.psnr),
        "right bodies, share": means(demo.scores.right),
        "right bodies on a long run, share": means(demo.long.right),
        "toy losses by clips seen": demo.toy.losses,
        "seconds": {name: round(seconds, 2) for name, seconds in demo.seconds.items()},
    }


def tell(demo: Demo, page: Path) -> None:
    """Print the numbers that matter, where the page is, and what to do next."""
    print(f"\n{indent(summary(demo.scores), '  ')}\n")
    print(f"  open  {page}   ({page.stat().st_size / 1e6:.1f} MB in one file)\n\n  then")
    for line, purpose in demo.commands:
        print(f"    {purpose}\n      {line}")
