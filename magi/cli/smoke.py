"""`magi train EXPERIMENT --smoke`: an experiment of the paper from videos to videos, in miniature.

Prints the commands and runs them: those that a user with the real files types, and tiny sizes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from magi.cli import main as magi
from magi.cli.show import new_folder
from magi.experiments import smoke

SIZE, FRAMES = 32, 12  # pixels on a side; frames to make after 5
TINY_MODEL = "--model.latent-height 4 --model.latent-width 4 --model.depth 2 --model.width 32 --model.mlp-width 64"
TINY_MODEL += " --model.heads 2 --model.head.width 32 --model.head.depth 1 --model.head.time-dim 16"
TINY_TRAINING = "--train.total-samples 32 --train.batch-size 4 --train.optim.warmup-samples 8 --train.workers 0"
TINY_TRAINING += " --train.evaluate-every 32 --train.checkpoint-every 32 --train.log-every 8"
FEW_STEPS = "--sample.mask-steps 2 --sample.head-steps 4 --sample.spacing trimmed"


@dataclass(frozen=True)
class Walk:
    """What an experiment is walked with."""

    write_videos: Callable[[Path], None]
    videos: str  # what --data names, below the folder
    write_tokenizer: Callable[[Path], None]
    tokenizer: str  # before the folder
    index: str
    encode: str = ""


WALKS: dict[str, Walk] = {
    "ucf101-sd14": Walk(
        smoke.write_ucf101, "UCF-101", smoke.write_sd14, "sd14:", "--dataset ucf101 --split all --probe --workers 1"
    ),
    "ucf101-cosmos": Walk(
        smoke.write_ucf101, "UCF-101", smoke.write_cosmos, "cosmos-cv4x8x8:",
        "--dataset ucf101 --split all --probe --workers 1", "--clips-per-video 2",
    ),
    "k600-omni": Walk(
        smoke.write_kinetics600, "", smoke.write_omnitokenizer, "",
        "--dataset kinetics600 --split train --probe --workers 1", "--clips-per-video 2",
    ),
}  # fmt: skip


def walk(name: str | None, out: Path) -> int:
    """Make videos and a tokenizer in the formats of an experiment, then index, encode, train and sample.

    Raises:
        ValueError: no experiment has this name, or the folder is not empty.
    """
    if name not in WALKS:
        raise ValueError(f"--smoke walks an experiment of the paper ({', '.join(WALKS)}), not {name}")
    walk, out = WALKS[name], new_folder(out)
    videos, tokenizer, cache, run = out / "videos" / walk.videos, out / "tokenizer", out / "latents", out / "run"
    print(f"writing videos and an untrained tokenizer in the formats of {name}", flush=True)
    walk.write_videos(out / "videos")
    walk.write_tokenizer(tokenizer)
    data, size = shlex.quote(str(videos)), f"--data.folder.size {SIZE}"
    to_cache, to_run = shlex.quote(str(cache)), shlex.quote(str(run))
    commands = [
        f"data index {data} {walk.index}",
        f"encode {name} --data {data} --tokenizer {walk.tokenizer}{shlex.quote(str(tokenizer))} --out {to_cache} "
        f"{size} {walk.encode}",
        f"train {name} --data {to_cache} --out {to_run} --data.latents.size {SIZE} {TINY_MODEL} {TINY_TRAINING} "
        f"{FEW_STEPS}",
    ]
    for command in commands:
        if code := run_command(command):
            return code
    film = next(path for path in sorted(videos.rglob("*")) if path.suffix in (".avi", ".mp4"))
    context = f"--context {shlex.quote(str(film))} --context-frames 5 --frames {FRAMES}"
    return run_command(f"sample {to_run} {context} --out {shlex.quote(str(out / 'samples'))}")


def run_command(command: str, run: Callable[[Sequence[str]], int] = magi) -> int:
    """Show a command and run it; returns its exit code."""
    words = shlex.split(command)
    print(f"\n$ magi {shlex.join(words)}", flush=True)
    return run(words)
