"""The headline again on pictures nobody drew: recorded gameplay.

Nothing is known of what is in these pictures, so they are compared as pictures: nearness to what happened, and whether
they move as much.

Shapes: N clips of E levels, T frames, F generated ones, H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from magi.data.doom.engine import DoomConfig
from magi.data.doom.files import RecordConfig, open_folder, takes
from magi.data.doom.maps import Split
from magi.data.doom.workers import record
from magi.data.folder import FolderConfig, FolderSource, list_videos
from magi.data.latents import LatentConfig
from magi.data.order import candidates
from magi.evaluation.pixel import psnr
from magi.evaluation.run import through_tokenizer
from magi.experiments.autoencoder import train_autoencoder
from magi.experiments.data import DataConfig
from magi.experiments.encode import EncodeRun, encode
from magi.experiments.presets import own_tokenizer
from magi.experiments.video import OWN, VideoRun
from magi.model.config import Forcing
from magi.report.studies import Curves, Series, Study, Table
from magi.reproduce.answers import by_frame, film
from magi.reproduce.grades import SHOWN, once
from magi.reproduce.models import sampling
from magi.reproduce.runs import Recipe, training
from magi.reproduce.tasks import FIVE, FRAMES, make
from magi.reproduce.workshop import FORCINGS, Workshop
from magi.tokenizers.store import fingerprint, load_tokenizer


@dataclass(frozen=True)
class Footage:
    """How much is recorded and learned from."""

    train_episodes: int = 114  # two on each level of the training set
    test_episodes: int = 22
    frames: int = 200
    tokenizer_clips: int = 16_000
    train_clips: int = 8_000  # of each paradigm: few, for a CPU can afford them at every scale
    batch: int = 8
    clips: int = 64  # N


FULL = Footage()
SHORT = Footage(
    train_episodes=2, test_episodes=2, frames=40, tokenizer_clips=16, train_clips=8, batch=4, clips=4
)  # fmt: skip
"""Of the smoke scale: to see that it runs."""


def study(workshop: Workshop) -> Study:
    """Record, train a tokenizer and both paradigms on it, continue clips of levels that were never seen."""
    footage = SHORT if workshop.scale.train_clips < 1_000 else FULL
    folder = workshop.folder / "footage"
    recorded(folder, "train", footage.train_episodes, footage)
    recorded(folder, "test", footage.test_episodes, footage)
    runs = {forcing: configured(workshop, folder, footage, forcing) for forcing in FORCINGS}
    truth, level = test_clips(folder / "test", footage)
    made = {forcing.upper(): continued(workshop, forcing, runs[forcing], truth) for forcing in FORCINGS}
    release = workshop.train("footage-ctf", runs["ctf"])
    seen = through_tokenizer(release, truth)
    still = seen[:, FIVE.context - 1 : FIVE.context].expand_as(seen[:, FIVE.context :])
    shown = {**made, "last frame held still": still, "autoencoder": seen[:, FIVE.context :]}
    nearness = {name: psnr(video, truth[:, FIVE.context :]).double() for name, video in shown.items()}  # (N, F)
    moving = {name: motion(video) / motion(truth[:, FIVE.context :]) for name, video in shown.items()}
    gain = by_level((nearness["CTF"] - nearness["MTF"]).mean(1), level)  # (E,)
    error = float(gain.std() / len(gain) ** 0.5)
    rows = [
        [
            name,
            f"{float(by_level(values[:, 0], level).mean()):.2f}",
            f"{float(by_level(values.mean(1), level).mean()):.2f}",
            f"{moving[name]:.2f}",
        ]
        for name, values in nearness.items()
    ]
    return Study(
        name="footage",
        title="On pictures nobody drew",
        question="Does the difference show on recorded gameplay too?",
        claim="CTF is better than MTF (§5.2; on UCF-101).",
        verdict="measured",
        answer=f"Over {FRAMES - FIVE.context} frames after 5 given, CTF is {float(gain.mean()):+.2f} dB of PSNR from "
        f"MTF (standard error over {len(gain)} levels {error:.2f}). It moves {moving['CTF']:.2f} times as much as "
        f"the truth, MTF {moving['MTF']:.2f} times. One seed.",
        protocol={
            "footage": f"ViZDoom, {footage.train_episodes} episodes of {footage.frames} frames on the training levels; "
            f"{footage.test_episodes} on others",
            "clips": f"{footage.clips}, 64 pixels, 5 frames given, {FRAMES - FIVE.context} made, interval 1",
            "training": f"{runs['ctf'].train.total_samples:,} clips each, batch {footage.batch}; rates and "
            "temperatures of the headline",
        },
        tables=[Table("Nearness to what happened, and motion", ("", "PSNR, dB, frame 1", "mean", "motion"), rows)],
        curves=[Curves("PSNR by generated frame", "generated frame", "dB",
                       [Series(name, *by_frame(values.mean(0))) for name, values in nearness.items()])],
        films=[film(workshop, "footage",
                    {"truth": truth[:SHOWN],
                     **{name: torch.cat([truth[:SHOWN, : FIVE.context], video[:SHOWN]], 1)
                        for name, video in made.items()}},
                    given=FIVE.context, caption="Levels that were never seen; 5 frames given")],
        notes=["Motion is the mean absolute difference of consecutive frames, of that of the truth."],
    )  # fmt: skip


def missing() -> str:
    """The libraries that recording and reading need and that are not installed; empty if all are."""
    return " and ".join(name for name in ("vizdoom", "av") if find_spec(name) is None)


def recorded(folder: Path, split: Split, episodes: int, footage: Footage) -> None:
    """Record the episodes that are missing."""
    config = RecordConfig(DoomConfig(width=64, height=64, num_frames=footage.frames))
    open_folder(folder, config)
    missing = [take for take in takes(split, episodes, seed=0) if not take.is_recorded(folder)]
    if missing:
        print(f"recording {len(missing)} episodes", flush=True)
    for _ in record(folder, config, missing):
        pass


def configured(workshop: Workshop, folder: Path, footage: Footage, forcing: Forcing) -> VideoRun:
    """The headline's run on latents of the footage; makes the tokenizer and the latents if they are not there."""
    clips = FolderConfig(path=str(folder / "train"), max_interval=workshop.scale.world.max_interval)
    run = training(
        replace(workshop.scale, train_clips=footage.train_clips, batch=footage.batch),
        Recipe(forcing, seed=workshop.scale.seeds[0]),
        learning_rate=workshop.tuned(forcing)["learning_rate"],
    )
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "release").exists():
        own = replace(run, data=DataConfig("folder", folder=clips), tokenizer=OWN,
                      own_tokenizer_samples=footage.tokenizer_clips)  # fmt: skip
        train_autoencoder(own_tokenizer(own), run_dir=tokenizer, distributed=workshop.distributed)
    name = str(tokenizer / "release")
    loaded = load_tokenizer(name)
    encode(EncodeRun(DataConfig("folder", folder=clips), name), list_videos(clips), loaded,
           fingerprint=fingerprint(loaded), out=folder / "cache")  # fmt: skip
    latents = LatentConfig(path=str(folder / "cache"), max_interval=clips.max_interval)
    return replace(run, data=DataConfig("latents", latents=latents), tokenizer=name)


def test_clips(folder: Path, footage: Footage) -> tuple[Tensor, list[str]]:
    """Clips (N, T, 3, H, W) uint8 of levels that no training saw, and the level of each.

    Raises:
        ValueError: a video cannot be read, so that a clip would be another video's than the one whose turn it is.
    """
    config = FolderConfig(path=str(folder), num_frames=FRAMES, flip=False, min_interval=1, max_interval=1)
    source = FolderSource(replace(config, interval_rule="fixed"))
    video, count = source.clips(range(footage.clips)).video, len(source.listing.entries)
    if source.bad:
        raise ValueError(f"{len(source.bad)} videos in {folder} cannot be used, {next(iter(source.bad))} the first")
    numbers = [next(candidates(source.config.seed, clip, count)) for clip in range(footage.clips)]
    return video, [source.listing.path(number).parent.name for number in numbers]


def by_level(values: Tensor, level: Sequence[str]) -> Tensor:
    """Means (E,) over the clips of each level: clips that share walls and textures are not independent."""
    return torch.stack([values[[one == name for one in level]].mean() for name in sorted(set(level))])


def continued(workshop: Workshop, forcing: Forcing, run: VideoRun, truth: Tensor) -> Tensor:
    """What a paradigm's model makes of 5 frames, (N, F, 3, H, W) uint8; made once and kept."""
    name, settings = f"footage-{forcing}", sampling(workshop, forcing)
    release = workshop.train(name, run)
    content = hashlib.sha256(truth.numpy().tobytes()).hexdigest()
    depends = {"model": workshop.fingerprint(name), "sample": asdict(settings), "truth": content}

    def compute() -> dict[str, Tensor]:
        video = make(workshop, release, FIVE, settings=settings, given=truth)
        return {"video": video[:, FIVE.context :].contiguous()}

    return once(workshop.folder / "footage" / "made", forcing, depends, compute)["video"]


def motion(video: Tensor) -> float:
    """Mean absolute difference of consecutive frames (N, F, 3, H, W) uint8, in 0..255."""
    differences: Sequence[Tensor] = [
        (after.int() - before.int()).abs().double().mean()
        for before, after in zip(video.unbind(1)[:-1], video.unbind(1)[1:], strict=True)
    ]
    return float(torch.stack(list(differences)).mean())
