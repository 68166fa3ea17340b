"""`magi evaluate --protocol`: sets of clips compared as a published number was measured, stopped and resumed at will.

Knows words and files; what a protocol is and does is in `magi.evaluation`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from magi import __version__
from magi.checkpoint import write_whole
from magi.cli.models import check_interval, in_force, picture_size
from magi.cli.show import progress
from magi.data.datasets.listing import Listing
from magi.data.folder import FolderConfig, list_videos
from magi.distributed import Device, Distributed, session
from magi.evaluation.by_protocol import ProtocolRun, generate_clips, measure_clips, real_clips
from magi.evaluation.detectors.choosing import Chosen, choose
from magi.evaluation.distance import Measured
from magi.evaluation.protocols import DetectorName, Protocol, find_protocol
from magi.evaluation.uncertainty import over_seeds
from magi.sampling.config import SampleConfig
from magi.sampling.release import load


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    model: str
    directory: Path
    """Of the released model."""
    protocol: str
    data: str | None
    detector: DetectorName | None
    clips: int | None
    runs: int | None
    batch: int
    json: Path | None
    work: Path | None
    sample: SampleConfig
    device: Device

    def place(self) -> Path:
        """The folder that the work is kept in.

        Raises:
            ValueError: nothing says where.
        """
        if self.work is not None:
            return self.work
        if self.json is None:
            raise ValueError("with --protocol give --json FILE, beside which the work is kept, or --work FOLDER")
        return self.json.with_name(f"{self.json.stem}.work")


def evaluate_by_protocol(order: Order) -> int:
    """Generate what is missing, compare, print and write; the exit code."""
    protocol = find_protocol(order.protocol).changed(clips=order.clips, runs=order.runs, detector=order.detector)
    work = order.place()
    listing = _listing(protocol, order.data)
    start = time.perf_counter()
    with session(order.device) as group:
        chosen = choose(protocol.detector, device=detector_device(group.device)) if group.is_first else None
        release = load(order.directory, device=group.device)
        check_interval(release, protocol.interval_id)
        told = chosen.lines() if chosen is not None else []
        group.print_once("\n".join([*protocol.card(), *told, in_force(release, order.sample)]))
        measured: list[Measured] = []
        for turn in range(protocol.runs):
            run = ProtocolRun(release, protocol, work, picture_size(release), order.sample, order.batch, turn)
            found = _run(run, listing, group, chosen)
            measured += [] if found is None else [found]
        if chosen is None:
            return 0
        print(show(measured))
        if order.json is not None:
            seconds = time.perf_counter() - start
            record = record_of(order, group, protocol, chosen=chosen, measured=measured, seconds=seconds)
            write_whole(order.json, json.dumps(record, indent=1) + "\n")
    return 0


def record_of(
    order: Order,
    group: Distributed,
    protocol: Protocol,
    *,
    chosen: Chosen,
    measured: Sequence[Measured],
    seconds: float,
) -> dict[str, Any]:
    """What is kept of a measurement, which `magi report` reads."""
    return {
        "magi": __version__,
        "model": order.model,
        "device": str(group.device),
        "world_size": group.world_size,
        "protocol": protocol.record(),
        "sample": asdict(order.sample),
        "seconds": round(seconds, 2),
        "detectors": chosen.record(),
        "runs": [one.record() for one in measured],
    }


def detector_device(device: torch.device) -> str:
    """Where a detector runs beside a model: with it, save on Apple's GPU, where none of them has been tried."""
    return "cpu" if device.type == "mps" else str(device)


def _run(run: ProtocolRun, listing: Listing | None, group: Distributed, chosen: Chosen | None) -> Measured | None:
    """One of the protocol's runs; None where another process measures, which has the detectors."""
    totals = {"real": run.protocol.real_count, "generated": run.protocol.generated_count}

    def note(what: str, clips: int, done: str = "through the detector") -> None:
        if group.is_first:
            progress(clips, totals[what], f"{what} clips {done}")

    real = real_clips(run, listing, group)
    folder = generate_clips(run, real, group=group, note=lambda what, clips: note(what, clips, "made"))
    found = None
    if chosen is not None:
        found = measure_clips(run, real, folder, chosen.detector, frame_detector=chosen.frame_detector, note=note)
    group.barrier()
    return found


def _listing(protocol: Protocol, data: str | None) -> Listing | None:
    """The videos of a protocol; None in the world, which needs none.

    Raises:
        ValueError: no folder was given, or one where there is nothing to read; or it is not what the protocol is about.
    """
    if protocol.dataset == "world":
        if data not in (None, "world"):
            raise ValueError(f"protocol {protocol.name} makes its clips itself; leave out --data {data}")
        return None
    if data in (None, "world"):
        raise ValueError(f"protocol {protocol.name} needs --data, the folder of {protocol.dataset}")
    assert data is not None
    config = FolderConfig(
        path=data, dataset=protocol.dataset, split=protocol.split, num_frames=protocol.clip_frames,
    )  # fmt: skip
    return list_videos(config)


def show(measured: list[Measured]) -> str:
    """A line for each run, what the bias is of, and the mean over runs with its interval if there are several."""
    lines = []
    for turn, one in enumerate(measured):
        low, high = one.interval
        lines.append(
            f"run {turn}: {one.name} {one.distance:.3f} [{low:.3f}, {high:.3f}], of {one.real_count:,} real and "
            f"{one.generated_count:,} generated clips; bias {one.bias:.3f}; kernel distance {one.kernel:.4g}"
        )
        if one.by_frame:
            lines.append(f"  {one.by_frame_name} by frame: {' '.join(f'{value:.2f}' for value in one.by_frame)}")
    lines.append(measured[0].bias_is)
    values = [one.distance for one in measured]
    interval = over_seeds(values)
    if interval is not None:
        lines.append(
            f"{measured[0].name} {statistics.mean(values):.3f} [{interval.low:.3f}, {interval.high:.3f}] over runs, "
            f"Student's 95 %; {statistics.stdev(values):.3f} is their standard deviation"
        )
    return "\n".join(lines)
