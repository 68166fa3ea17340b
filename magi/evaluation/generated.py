"""Generated clips in a folder, shard by shard: a run that is stopped goes on, and clip i depends on its seed alone.

    WORK/identity/identity.json      what decides a clip: model, protocol, contexts, seed, sampling
    WORK/shard-00000/                clips 0 to 63, uint8, with size and SHA-256 (`magi.checkpoint`)

A shard is whole or not there, and none is ever changed. Under torchrun shard s is of rank s % world size; which clips
it holds, and in what batches they are made, does not depend on that, so any number of processes gives the same bits.
Another batch size gives the same bits with `SampleConfig.deterministic`, each clip being made alone; otherwise pixels
that agree but for rounding, a level or so, because libraries add in another order.

Shapes: B clips, T generated frames, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.evaluation.run import continuations
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.sampling.video import generate
from magi.tokenizers import store as tokenizers

FORMAT = 1
CLIPS_PER_SHARD = 64
IDENTITY = "identity"

Maker = Callable[[range], Tensor]
"""From the numbers of clips to the clips (B, T, 3, H, W) uint8."""


@dataclass(frozen=True)
class ClipFolder:
    """A folder of generated clips."""

    root: Path
    count: int
    clips_per_shard: int = CLIPS_PER_SHARD

    @property
    def shards(self) -> range:
        """Numbers of all shards, made or not."""
        return range(-(-self.count // self.clips_per_shard))

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.root / f"shard-{shard:05d}"

    def numbers(self, shard: int) -> range:
        """The clips that it holds."""
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, self.count))

    def missing(self, *, rank: int = 0, world_size: int = 1) -> list[int]:
        """Shards of this rank that are not there."""
        return [shard for shard in self.shards if shard % world_size == rank and not self.path(shard).is_dir()]

    def write(self, shard: int, clips: Tensor) -> None:
        """Put a shard (B, T, 3, H, W) uint8 into its place, whole.

        Raises:
            CheckpointError: it is there already, or the disk has no room.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or len(clips) != len(self.numbers(shard)):
            raise ValueError(
                f"shard {shard} is {clips.dtype} {tuple(clips.shape)}; expected uint8 ({len(self.numbers(shard))}, "
                "frames, 3, height, width)"
            )
        checkpoint.save(self.path(shard), {"clips": {"video": clips}}, {})

    def read(self, shard: int) -> Tensor:
        """The clips (B, T, 3, H, W) uint8 of a shard, every byte of it checked.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        checkpoint.verify(self.path(shard))
        video = checkpoint.load_tensors(self.path(shard), "clips", None)["video"]
        if video.dtype != torch.uint8 or len(video) != len(self.numbers(shard)):
            raise CheckpointError(f"{self.path(shard)} holds {video.dtype} {tuple(video.shape)}; delete it")
        return video


def begin(root: Path, identity: Mapping[str, Any], *, count: int, clips_per_shard: int = CLIPS_PER_SHARD) -> ClipFolder:
    """Open a folder of generated clips, made if there is none. Any number of processes may do this at once.

    Args:
        root: the folder.
        identity: plain data: all that decides a clip.
        count: clips in all.
        clips_per_shard: 64 by default.

    Raises:
        ValueError: the folder holds clips of another identity, with every difference, or something else.
        CheckpointError: the identity is damaged.
    """
    wanted = {"format": FORMAT, "count": count, "clips_per_shard": clips_per_shard, **identity}
    wanted = json.loads(json.dumps(wanted))
    place = root / IDENTITY
    if root.exists() and not place.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise ValueError(f"{root} is neither empty nor a folder of generated clips; give another --work")
    if not place.is_dir():
        try:
            checkpoint.save(place, {}, {"identity.json": wanted})
        except (CheckpointError, OSError):
            if not place.is_dir():  # else another process was first
                raise
    checkpoint.verify(place)
    saved = json.loads((place / "identity.json").read_text(encoding="utf-8"))
    differences = checkpoint.compare_configs(saved, wanted)
    if differences:
        raise ValueError(
            f"{root} holds clips that were generated otherwise: {'; '.join(differences)}. Give what was saved, or "
            "another --work"
        )
    return ClipFolder(root, count, clips_per_shard)


def complete(
    folder: ClipFolder,
    make: Maker,
    *,
    batch_size: int = 8,
    rank: int = 0,
    world_size: int = 1,
    note: Callable[[int], None] = lambda clips: None,
) -> list[int]:
    """Make what is missing of this rank's shards; returns which were made.

    Batches begin anew with each shard, so that how they fall does not depend on the number of processes, nor on where
    an earlier run was stopped.

    Args:
        folder: from `begin`.
        make: makes clips by number.
        batch_size: clips at a time.
        rank, world_size: of this process.
        note: is told how many clips have been made.
    """
    made, todo = 0, folder.missing(rank=rank, world_size=world_size)
    for shard in todo:
        for left in folder.root.glob(f"{checkpoint.TEMPORARY}{folder.path(shard).name}-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed; nobody else writes this shard
        numbers, parts = folder.numbers(shard), []
        for first in range(numbers.start, numbers.stop, batch_size):
            some = range(first, min(first + batch_size, numbers.stop))
            parts.append(make(some))
            made += len(some)
            note(made)
        folder.write(shard, torch.cat(parts))
    return todo


def maker(
    release: Release,
    *,
    seed: int,
    frames: int,
    interval: int,
    settings: SampleConfig,
    contexts: Callable[[range], Tensor] | None = None,
) -> Maker:
    """How a model makes clips by number: clip i with seed + i, continuing context i if there are contexts.

    Args:
        release: the model.
        seed: of clip 0.
        frames: to generate.
        interval: that the model is asked for.
        settings: how to sample.
        contexts: from numbers to the given frames (B, k, 3, H, W) uint8; nothing that comes after is handed over.
    """

    def make(numbers: range) -> Tensor:
        seeds = [seed + number for number in numbers]
        if contexts is None:
            drawn = generate(release, num_frames=frames, seeds=seeds, interval=interval, settings=settings)
            return torch.stack([frame.cpu() for frame in drawn], dim=1)
        given = contexts(numbers)
        blank = given.new_zeros(len(given), frames, *given.shape[2:])
        whole = torch.cat([given, blank], dim=1)
        return continuations(
            release, whole, context=given.shape[1], interval=interval, seeds=seeds, settings=settings,
            batch_size=len(numbers),
        )  # fmt: skip

    return make


def release_fingerprint(release: Release) -> str:
    """SHA-256 of a model: its configuration and weights, and what decides its tokenizer's latents."""
    digest = hashlib.sha256(json.dumps(asdict(release.model.config), sort_keys=True).encode())
    digest.update(tokenizers.fingerprint(release.tokenizer).encode())
    for name, tensor in sorted(release.model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity(
    release: Release, *, protocol: str, contexts: str, seed: int, size: int, settings: SampleConfig
) -> dict[str, Any]:
    """All that decides a generated clip.

    Args:
        release: the model.
        protocol: fingerprint.
        contexts: fingerprint of what is continued; empty if nothing is.
        seed: of clip 0.
        size: px, side of a clip.
        settings: how to sample.
    """
    return {
        "model": release_fingerprint(release),
        "protocol": protocol,
        "contexts": contexts,
        "seed": seed,
        "size": size,
        "sample": asdict(settings),
        "device": release.model.head_position.device.type,  # devices round otherwise, and a sampler amplifies it
    }
