"""A real training that takes a second: `magi train` with a tiny model, two workers and all the machinery.

It runs in a forked child, so that importing costs once, and is killed, stopped or left alone from outside.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from magi import checkpoint, cli

STEPS, BATCH = 40, 4
SETTINGS = [
    "--data", "world", "--data.world.size", "32", "--data.world.num-frames", "3", "--tokenizer", "pixel:8",
    "--model.latent-channels", "192", "--model.latent-height", "4", "--model.latent-width", "4",
    "--model.num-frames", "3", "--model.depth", "1", "--model.width", "32", "--model.mlp-width", "64",
    "--model.heads", "2", "--model.dropout", "0.1", "--model.head.depth", "1", "--model.head.width", "16",
    "--train.total-samples", str(STEPS * BATCH), "--train.batch-size", str(BATCH), "--train.precision", "fp32",
    "--train.parts", "4", "--train.reduction", "tree", "--train.optim.lr", "1e-2", "--train.optim.warmup-samples", "16",
    "--train.optim.decay", "none", "--train.optim.decay-samples", "0", "--train.ema-half-life", "40",
    "--train.checkpoint-every", "24", "--train.log-every", "8", "--train.evaluate-every", "1000000",
    "--train.workers", "2", "--watch-clips", "0", "--device", "cpu", "--threads", "1",
]  # fmt: skip
"""Checkpoints of every sixth step and the last."""


def command(out: Path, *more: str) -> list[str]:
    """The words of the training into a folder."""
    return ["train", "tiny", *SETTINGS, "--out", str(out), *more]


def prepare() -> None:
    """Import in this process what a training needs, so that a child starts at once."""
    importlib.import_module("magi.cli.train")
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


def fork(run: Callable[[], int]) -> int:
    """Start a child, silent and in a session of its own, that exits with what `run` returns; its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = run()
    finally:
        os._exit(code)  # nothing of the parent's is flushed or cleaned up twice


def train(out: Path, *more: str) -> int:
    """Run the training in this process."""
    return cli.main(command(out, *more))


def ended(child: int) -> int:
    """Wait for a child; its exit code, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state_of(directory: Path) -> str:
    """SHA-256 of all numbers in a checkpoint: weights, their average, the optimizer's moments, the position."""
    digest = hashlib.sha256()
    for stem in ("model", "ema", "optimizer"):
        for name, tensor in sorted(checkpoint.load_tensors(directory, stem, None).items()):
            digest.update(f"{stem}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    position = json.loads((directory / "state.json").read_text())
    digest.update(repr((position["samples"], position["step"])).encode())
    return digest.hexdigest()


def steps_of(out: Path) -> list[Path]:
    """The checkpoints that can be seen in a run's folder, oldest first."""
    return sorted(path for path in out.glob("step-*") if checkpoint.STEP_NAME.fullmatch(path.name))


def final_state(out: Path) -> str:
    """The numbers that a finished run ended with."""
    last = steps_of(out)[-1]
    checkpoint.verify(last)
    return state_of(last)


def uninterrupted(out: Path, *more: str) -> str:
    """Train to the end in a child; the numbers it ended with.

    Raises:
        RuntimeError: the training does not even work when nothing disturbs it.
    """
    code = ended(fork(lambda: train(out, *more)))
    if code:
        raise RuntimeError(f"an undisturbed training ended with code {code}: magi {' '.join(command(out))}")
    return final_state(out)
