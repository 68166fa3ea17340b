"""`magi evaluate --protocol`: sets of clips compared as a published number was measured, stopped and resumed at will.

Knows words and files; what a protocol is and does is in `magi.evaluation`.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magi import __version__
from magi.cli.models import check_interval, in_force, picture_size
from magi.cli.show import progress
from magi.data.datasets.listing import Listing
from magi.data.folder import FolderConfig, list_videos
from magi.distributed import Device, Distributed, session
from magi.evaluation.by_protocol import ProtocolRun, generate_clips, measure_clips, real_clips
from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.distance import Measured, load_detector, load_frame_detector
from magi.evaluation.protocols import Protocol, find_protocol
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
    protocol = find_protocol(order.protocol).changed(clips=order.clips, runs=order.runs)
    work = order.place()
    listing = _listing(protocol, order.data)
    detector, frame_detector = load_detector(protocol.detector), load_frame_detector(protocol.detector)
    start = time.perf_counter()
    with session(order.device) as group:
        release = load(order.directory, device=group.device)
        check_interval(release, protocol.interval_id)
        group.print_once("\n".join([*protocol.card(), in_force(release, order.sample)]))
        measured: list[Measured] = []
        for turn in range(protocol.runs):
            run = ProtocolRun(release, protocol, work, picture_size(release), order.sample, order.batch, turn)
            found = _run(run, listing, group, detector=detector, frame_detector=frame_detector)
            measured += [] if found is None else [found]
        if not group.is_first:
            return 0
        print(show(measured))
        if order.json is not None:
            record = {
                "magi": __version__,
                "model": order.model,
                "device": str(group.device),
                "world_size": group.world_size,
                "protocol": protocol.record(),
                "sample": asdict(order.sample),
                "seconds": round(time.perf_counter() - start, 2),
                "runs": [one.record() for one in measured],
            }
            order.json.parent.mkdir(parents=True, exist_ok=True)
            order.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _run(
    run: ProtocolRun,
    listing: Listing | None,
    group: Distributed,
    *,
    detector: Detector,
    frame_detector: Detector | None,
) -> Measured | None:
    """One of the protocol's runs; None where another process measures."""
    totals = {"real": run.protocol.real_count, "generated": run.protocol.generated_count}

    def note(what: str, clips: int) -> None:
        if group.is_first:
            progress(clips, totals[what], f"{what} clips")

    real = real_clips(run, listing, group)
    folder = generate_clips(run, real, group=group, note=note)
    found = None
    if group.is_first:
        found = measure_clips(run, real, folder, detector, frame_detector=frame_detector)
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
    config = FolderConfig(path=data, dataset=protocol.dataset, split=_split(protocol), num_frames=protocol.clip_frames)
    return list_videos(config)


def _split(protocol: Protocol) -> Any:
    return protocol.split  # of the names that the data set has, as tests show of each


def show(measured: list[Measured]) -> str:
    """A line for each run, and their mean and spread if there are several."""
    lines = []
    for turn, one in enumerate(measured):
        low, high = one.interval
        lines.append(
            f"run {turn}: {one.name} {one.distance:.3f} [{low:.3f}, {high:.3f}], of {one.real_count:,} real and "
            f"{one.generated_count:,} generated clips; such sets of one distribution have {one.bias:.3f} between them; "
            f"kernel distance {one.kernel:.4g}"
        )
        if one.by_frame:
            lines.append(f"  {one.by_frame_name} by frame: {' '.join(f'{value:.2f}' for value in one.by_frame)}")
    if len(measured) > 1:
        values = [one.distance for one in measured]
        lines.append(f"{measured[0].name} {statistics.mean(values):.3f} +- {statistics.stdev(values):.3f} over runs")
    return "\n".join(lines)
