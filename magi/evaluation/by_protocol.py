"""A model under a named protocol, whole: real clips chosen and kept, clips generated or found again, then compared.

    WORK/real.jsonl              the manifest of real clips
    WORK/generated-SEED/         the generated clips, shard by shard
    WORK/features-real-HASH/     features of the real clips, the same in all runs
    WORK/features-SEED-HASH/     features of the generated clips

Every part is kept, so that a run that is stopped goes on, and one that is done is compared again without a look at a
clip. Under torchrun all processes generate, each its shards, and the first one measures.

Shapes: B clips, T frames, S side in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi.data.datasets.listing import Listing
from magi.distributed import Distributed
from magi.evaluation import generated
from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.distance import Measured, check_frames, compare
from magi.evaluation.features import features_of, read_or_take
from magi.evaluation.protocols import Protocol
from magi.evaluation.real import RealClips, batches, resized, video_clips, world_clips
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release

Note = Callable[[str, int], None]
"""Is told what is being done and how many clips are through."""


@dataclass(frozen=True)
class ProtocolRun:
    """A model, a protocol and where the work is kept."""

    release: Release
    protocol: Protocol
    work: Path
    size: int
    """S, side of the model's pictures, px."""
    settings: SampleConfig
    batch_size: int = 8
    turn: int = 0
    """Which of the protocol's runs, from 0."""

    @property
    def first_seed(self) -> int:
        """Of generated clip 0; no two clips of all runs share a seed."""
        return self.protocol.seed + self.turn * self.protocol.generated_count

    @property
    def shown_size(self) -> int:
        """Side of the clips that the detector sees, px."""
        return self.protocol.pre_resize or self.size


def real_clips(run: ProtocolRun, listing: Listing | None, group: Distributed) -> RealClips:
    """The real clips, drawn by the first process if they have not been; `listing` is None in the world.

    Raises:
        ValueError: the protocol is of another kind of data, or see `reuse_or_draw`.
    """
    protocol, file = run.protocol, run.work / "real.jsonl"
    if (protocol.dataset == "world") != (listing is None):
        given = "no listing of videos" if listing is None else f"the videos of {listing.root}"
        wanted = "none, for it makes its clips itself" if protocol.dataset == "world" else "a listing of its videos"
        raise ValueError(f"protocol {protocol.name} is of {protocol.dataset}, got {given}; give {wanted}")
    for turn in range(2):  # the first process draws, the others read
        if turn == (not group.is_first):
            found = world_clips(protocol, file) if listing is None else video_clips(protocol, listing, file)
        group.barrier()
    return found


def generate_clips(
    run: ProtocolRun, real: RealClips, *, group: Distributed, note: Note = lambda what, clips: None
) -> generated.ClipFolder:
    """Make what is missing of the generated clips, and wait until every process has.

    Raises:
        ValueError: the folder holds clips that were generated otherwise.
    """
    protocol = run.protocol
    protocol_context = protocol.context
    identity = generated.identity(
        run.release, protocol=protocol.fingerprint, contexts=real.manifest.fingerprint if protocol_context else "",
        seed=run.first_seed, size=run.size, settings=run.settings,
    )  # fmt: skip
    folder = generated.begin(run.work / f"generated-{run.first_seed}", identity, count=protocol.generated_count)

    def contexts(numbers: range) -> Tensor:
        return real.clips(numbers, size=run.size)[:, :protocol_context]

    make = generated.maker(
        run.release, seed=run.first_seed, frames=protocol.made_frames, interval=protocol.interval_id,
        settings=run.settings, contexts=contexts if protocol_context else None,
    )  # fmt: skip
    generated.complete(
        folder, make, batch_size=run.batch_size, rank=group.rank, world_size=group.world_size,
        note=lambda clips: note("generated", clips),
    )  # fmt: skip
    group.barrier()
    return folder


def shown_real(run: ProtocolRun, real: RealClips) -> Iterator[Tensor]:
    """The real clips as the detector sees them, (B, T, 3, S, S) uint8."""
    hidden = 0 if run.protocol.context_counts else run.protocol.context
    for numbers in batches(range(run.protocol.real_count), run.batch_size):
        yield real.clips(numbers, size=run.shown_size)[:, hidden:]


def shown_generated(run: ProtocolRun, real: RealClips, folder: generated.ClipFolder) -> Iterator[Tensor]:
    """The generated clips as the detector sees them, (B, T, 3, S, S) uint8, behind their context if that counts."""
    protocol = run.protocol
    for shard in folder.shards:
        clips = folder.read(shard)
        numbers = folder.numbers(shard)
        for some in batches(numbers, run.batch_size):
            made = resized(
                clips[some.start - numbers.start : some.stop - numbers.start], run.shown_size, protocol.resize
            )
            if protocol.context_counts:
                given = real.clips(some, size=run.shown_size)[:, : protocol.context]
                made = torch.cat([given, made], dim=1)
            yield made


def measure_clips(
    run: ProtocolRun,
    real: RealClips,
    folder: generated.ClipFolder,
    detector: Detector,
    *,
    frame_detector: Detector | None = None,
    note: Note = lambda what, clips: None,
) -> Measured:
    """Compare, with features that an earlier run kept where they are of the same clips and detectors.

    Raises:
        ValueError: a detector for clips of another length.
        CheckpointError: clips or features that were kept are damaged.
    """
    protocol = run.protocol
    check_frames(protocol, detector)
    common = {
        "protocol": protocol.record(),
        "detector": detector.name,
        "detector_fingerprint": detector.fingerprint,
        "frame_detector_fingerprint": "" if frame_detector is None else frame_detector.fingerprint,
        "device": run.release.model.head_position.device.type,  # devices round otherwise
        "size": run.shown_size,
        "contexts": real.manifest.fingerprint,
    }
    identity: dict[str, Any] = json.loads((folder.root / generated.IDENTITY / "identity.json").read_text("utf-8"))
    ones = read_or_take(run.work, "real", {"side": "real", **common}, lambda: features_of(
        shown_real(run, real), "real", protocol=protocol, detector=detector, frame_detector=frame_detector, note=note,
    ))  # fmt: skip
    told = {"side": "generated", **common, "generated": identity}
    others = read_or_take(run.work, str(run.first_seed), told, lambda: features_of(
        shown_generated(run, real, folder), "generated", protocol=protocol, detector=detector,
        frame_detector=frame_detector, note=note,
    ))  # fmt: skip
    return compare(protocol, ones, others, detector=detector, frame_detector=frame_detector)
