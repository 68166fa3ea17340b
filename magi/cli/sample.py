"""`magi sample`: videos from a trained model, written frame by frame as they are made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from magi import __version__
from magi.checkpoint import MANIFEST, write_whole
from magi.cli.arguments import TokenizerOptions, WithTokenizer, asks_for_help, check_counts, parse, split_name
from magi.cli.clips import Given, read_given, videos_at
from magi.cli.models import check_interval, find_release, in_force, picture_size, sample_settings
from magi.cli.show import new_folder, progress
from magi.distributed import Device, pick_device
from magi.locks import only_writer
from magi.report.films import GrowingFilm, files_of
from magi.sampling.config import SampleConfig
from magi.sampling.journal import Journal, check_same
from magi.sampling.presets import Preset, with_preset
from magi.sampling.release import Release, load
from magi.sampling.video import generate

RECORD = "sample.json"  # written when all is finished
UNFINISHED = "unfinished"  # the folder of what is needed until then: the journal, drafts, the lock


@dataclass(frozen=True)
class SampleArguments:
    """Continue videos with a trained model, or make videos from nothing.

    $ magi sample runs/mine --context path/to/a/video.mp4 --out samples
    $ magi sample world64 --count 4 --frames 16 --out samples
    $ magi sample world64 --count 4 --frames 16 --out samples --resume

    MODEL is the folder of a run or of a release, or world64, and comes first. Each video becomes an mp4, which can be
    watched while it grows, and a gif: grey around frames that were given, orange around those that were made, the true
    video to the left if it goes on for long enough. sample.json says how they were made. Whatever ends it, frames that
    were finished can be watched; the same command with --resume goes on, to the same files byte for byte on the same
    machine. Unless told otherwise a model samples as it was released: magi sample MODEL --help shows its settings.
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
    resume: bool = False
    """Complete what this command began in --out before it was interrupted; begin if it had not yet."""
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
    settings = described(arguments, release, name=name, directory=directory, given=given)
    if arguments.resume and is_finished(arguments.out, settings):
        print(f"{arguments.out} is finished: there is nothing to resume")
        return 0
    with unfinished(arguments.out, resume=arguments.resume) as path:
        journal = Journal(path, settings)
        print(in_force(release, arguments.sample))
        if arguments.resume:
            print(f"resuming after {journal.done} videos, and {len(journal.frames)} latent frames of the next")
        start, made = time.perf_counter(), 0
        for first in range(journal.done, len(given), arguments.batch):
            made += write(arguments, release, journal, given=given, first=first)
        pace = (time.perf_counter() - start) / made if made else None
        print(f"{made} frames{f' at {pace:.3g} s each' if pace else ''}, in {arguments.out}")
        record = settings | {
            "mask_steps_made": min(arguments.sample.mask_steps, release.model.config.tokens),
            "seconds_per_frame": pace,
            "files": [file.name for index, video in enumerate(given) for file in files_for(arguments, index, video)],
        }
        draft = path.with_name(RECORD)
        write_whole(draft, json.dumps(record, indent=1) + "\n")
        os.replace(draft, arguments.out / RECORD)
        journal.remove()
    return 0


def described(
    arguments: SampleArguments,
    release: Release,
    *,
    name: str | None,
    directory: Path,
    given: Sequence[Given | None],
) -> dict[str, Any]:
    """Everything that decides a bit of what is written, and what a reader may want to know of it."""
    manifest = (directory / MANIFEST).read_bytes()  # the hash of every file of the model
    pictures = hashlib.sha256()
    for video in given:
        for part in (video.context, video.truth) if video else ():
            pictures.update(b"none" if part is None else part.numpy().tobytes())
    return {
        "magi": __version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "model": name,
        "model_sha256": hashlib.sha256(manifest).hexdigest(),
        "device": str(release.model.head_position.device),
        "backbone": arguments.backbone,
        "context": [str(video.path) if video else None for video in given],
        "context_sha256": pictures.hexdigest() if arguments.context else None,
        "context_frames": arguments.context_frames if arguments.context else 0,
        "frames": arguments.frames,
        "interval": arguments.interval,
        "seeds": [arguments.seed + index for index in range(len(given))],
        "batch": arguments.batch,
        "fps": arguments.fps,
        "plain": arguments.plain,
        "sample": asdict(arguments.sample),
    }


def is_finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether all that was asked for is there; what only an unfinished one needs goes, if a kill left it.

    Raises:
        ValueError: it is, made with other settings.
    """
    path = out / RECORD
    if not path.is_file():
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    check_same(path, {key: record[key] for key in settings if key in record}, settings)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return True


@contextmanager
def unfinished(out: Path, *, resume: bool) -> Iterator[Path]:
    """Make the folder of results, and in it one of what is needed until they are finished, where nobody else may write;
    yields where the journal is or is to be, without which the inner folder goes.

    Raises:
        ValueError: there is something in `out` that may not be written over, or another process writes there.
    """
    folder = out / UNFINISHED
    if not folder.is_dir():
        new_folder(out)
    elif not resume:
        raise ValueError(f"{out} holds videos that were interrupted; --resume completes them, or give another --out")
    with only_writer(folder):
        journal = folder / "journal"
        try:
            yield journal
        except KeyboardInterrupt:
            if journal.exists():
                print(f"\nwhat is finished can be watched in {out}; the same command with --resume goes on")
            raise
        finally:
            if not journal.exists():
                shutil.rmtree(folder)


def read_all(arguments: SampleArguments, *, size: int) -> list[Given] | list[None]:
    """What each video begins with."""
    if arguments.context is None:
        return [None] * (arguments.count or 1)
    alone = not arguments.context.is_dir()
    paths = videos_at(arguments.context, count=None if alone else arguments.count)
    shape = {"context": arguments.context_frames, "frames": arguments.frames, "interval": arguments.interval}
    given = [read_given(path, size=size, **shape) for path in paths]
    return given * (arguments.count or 1) if alone else given


def files_for(arguments: SampleArguments, index: int, video: Given | None) -> list[Path]:
    """The files of one video."""
    return files_of(stem_of(arguments, index, video), plain=arguments.plain)


def stem_of(arguments: SampleArguments, index: int, video: Given | None) -> Path:
    """What the files of one video are called, but for their endings."""
    return arguments.out / (f"{index:03d}-{video.path.stem}" if video else f"{index:03d}")


def write(
    arguments: SampleArguments, release: Release, journal: Journal, *, given: Sequence[Given | None], first: int
) -> int:
    """Make one batch of videos, from number `first` on, or what the journal lacks of it; returns how many frames were
    made."""
    chunk = list(enumerate(given))[first : first + arguments.batch]
    contexts = [video.context for _, video in chunk if video is not None]
    frames = generate(
        release,
        torch.stack(contexts) if contexts else None,
        num_frames=arguments.frames,
        seeds=[arguments.seed + index for index, _ in chunk],
        interval=arguments.interval,
        settings=arguments.sample,
        journal=journal,
    )
    new = 0
    with ExitStack() as stack:
        films = []
        for index, video in chunk:
            stem = stem_of(arguments, index, video)
            film = GrowingFilm(
                stem, draft=journal.path.with_name(stem.name), context=video.context if video else None,
                truth=video.truth if video else None, size=picture_size(release), fps=arguments.fps,
                plain=arguments.plain,
            )  # fmt: skip
            films.append(stack.enter_context(film))
        for shown, batch in enumerate(frames, start=1):
            for film, frame in zip(films, batch.cpu(), strict=True):
                film.append(frame)
                if journal.added:  # it shows all that an interrupted one did, and more
                    film.reveal()
            new += len(chunk) if journal.added else 0
            progress(first * arguments.frames + shown * len(chunk), len(given) * arguments.frames, "frames")
    done = first + len(chunk)
    journal.turn(done, files=[file for index, video in chunk for file in files_for(arguments, index, video)])
    return new
