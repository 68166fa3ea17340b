"""Claims about what users are told: one line with what, where, both values, and what to do."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from magi import checkpoint
from magi.cli.runs import no_room
from magi.data.datasets.listing import Entry, Listing
from magi.data.folder import FolderConfig, FolderSource
from magi.data.loader import batches
from magi.evaluation.manifest import Manifest, RealClip
from magi.evaluation.real import VideoClips
from magi.locks import only_writer
from magi.training.loop import NonFiniteError
from magi.video import read_video, write_video
from tests.test_loader import Stuck
from tests.toy_runs import RUN, run

Provoke = Callable[[Path], str]


def trained(folder: Path) -> Path:
    """A run that has ended, with checkpoints of the steps 9 and 10."""
    run(folder / "run")
    return folder / "run"


def cut(path: Path) -> None:
    """Lose the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def damaged(folder: Path) -> str:
    out = trained(folder)
    cut(out / "step-00000010" / "ema.safetensors")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert checkpoint.newest_valid(out) == out / "step-00000009"
    (warning,) = heard
    return str(warning.message)


def nothing_intact(folder: Path) -> str:
    out = trained(folder)
    for step in checkpoint.steps(out):
        cut(step / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return error_of(lambda: run(out), checkpoint.CheckpointError)


def another_config(folder: Path) -> str:
    out = trained(folder)
    other = replace(RUN, seed=3, optim=replace(RUN.optim, lr=0.5))
    return error_of(lambda: run(out, config=other), checkpoint.CheckpointError)


def no_room_for_a_checkpoint(folder: Path) -> str:
    usage = namedtuple("usage", "total used free")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage(10**6, 999_000, 1_000))
        return error_of(lambda: run(folder / "run"), checkpoint.CheckpointError)


def no_room_in_the_middle(folder: Path) -> str:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        return error_of(lambda: run(folder / "run"), checkpoint.CheckpointError)


def a_later_format(folder: Path) -> str:
    checkpoint.save(folder / "run", {}, {})
    manifest = folder / "run" / checkpoint.MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    return error_of(lambda: checkpoint.verify(folder / "run"), checkpoint.CheckpointError)


def overwritten(folder: Path) -> str:
    (folder / "there").mkdir()
    return error_of(lambda: checkpoint.save(folder / "there", {}, {}), checkpoint.CheckpointError)


def not_finite(folder: Path) -> str:
    return error_of(lambda: run(folder / "run", at=22, poison=math.inf), NonFiniteError)


def two_writers(folder: Path) -> str:
    child = os.fork()
    if not child:
        with only_writer(folder / "run"):
            (folder / "locked").touch()
            while not (folder / "done").exists():
                pass
        os._exit(0)
    while not (folder / "locked").exists():
        pass
    try:
        return error_of(lambda: run(folder / "run"), ValueError).replace(str(child), "PID")
    finally:
        (folder / "done").touch()
        os.waitpid(child, 0)


def bad_video(folder: Path) -> str:
    (folder / "run").write_bytes(b"no video")
    return error_of(lambda: read_video(folder / "run"), ValueError)


def unfit_tensors(folder: Path) -> str:
    checkpoint.save(folder / "run", {"model": {"weight": torch.ones(2, 3)}}, {})
    expected = {"weight": torch.ones(3, 2), "bias": torch.ones(2)}
    return error_of(lambda: checkpoint.load_tensors(folder / "run", "model", expected), checkpoint.CheckpointError)


def worker_that_hangs(folder: Path) -> str:
    stream = batches(Stuck(), batch_size=2, start=4, workers=1, timeout=0.3)
    return error_of(lambda: next(stream), ChildProcessError)


def line_that_does_not_fit(folder: Path) -> str:
    (folder / "run").mkdir()
    return str(no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder / "run"))


def no_folder(folder: Path) -> str:
    (folder / "run").write_text("")
    return error_of(lambda: run(folder / "run"), ValueError)


def videos(folder: Path, *, bad: int) -> FolderConfig:
    """Four videos, and some that are none."""
    for number in range(4):
        write_video(folder / "run" / f"{number}.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=25)
    for number in range(bad):
        (folder / "run" / f"bad{number}.mp4").write_bytes(b"no video")
    return FolderConfig(path=str(folder / "run"), num_frames=2, size=16, max_interval=1, isolate=False)


def skipped_video(folder: Path) -> str:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        FolderSource(videos(folder, bad=1)).clips(range(5))
    (warning,) = heard
    return str(warning.message)


def too_many_bad(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return error_of(lambda: FolderSource(videos(folder, bad=3)).clips(range(7)), ValueError)


def a_climbing_index(folder: Path) -> str:
    return error_of(lambda: Listing(folder / "run", (Entry("../x.mp4"),)).path(0), ValueError)


def a_climbing_manifest(folder: Path) -> str:
    manifest = Manifest("", "", "", (RealClip("../x.mp4", 0, 1),))
    clips = VideoClips(manifest, folder / "run", 1, "centre", "bilinear", lambda path: pytest.fail(f"opened {path}"))
    return error_of(lambda: clips.clips(range(1), size=16), ValueError)


def error_of(action: Callable[[], object], kind: type[Exception]) -> str:
    """What the error says."""
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


CASES: list[tuple[Provoke, tuple[str, ...]]] = [
    (
        damaged,
        (r"run/step-00000010: ema.safetensors has [\d,]+ bytes instead of [\d,]+", "magi checkpoint verify .*/run"),
    ),
    (
        nothing_intact,
        (r"/run: none of its checkpoints is intact", "model.safetensors has", "restore one or use another"),
    ),
    (
        another_config,
        (
            r"/run/step-00000010",
            r"seed: saved 0, now 3",
            r"lr: saved 0\.01, now 0\.5",
            "Nothing was loaded",
            "Resume with",
        ),
    ),
    (
        no_room_for_a_checkpoint,
        (
            r"/run/step-00000003 could not",
            r"needs [\d,]+ bytes and the disk has 1,000 free",
            "before it is none",
            "run",
        ),
    ),
    (
        no_room_in_the_middle,
        (
            r"/run/step-00000003 could not be written: model.safetensors could not be written: No space left",
            r"it needs [\d,]{5,} bytes and the disk has [\d,]+ free",
            "The checkpoint before it is none, untouched; put that right and run the same command again",
        ),
    ),
    (a_later_format, (r"/run/MANIFEST.json has format 9; this version reads format 1: take the magi that wrote it",)),
    (overwritten, (r"/there already exists and is never overwritten", "delete it or save elsewhere")),
    (not_finite, (r"/run: loss nan, gradient norm nan", "at step 5", "weights were", "--train.optim.lr")),
    (two_writers, (r"/run", "PID", "stop|wait|another folder|other folder")),
    (bad_video, (r"/run", "is not a readable mp4, mov, avi")),
    (
        skipped_video,
        (r"not used: .*/run/bad0\.mp4: is not a readable", r"so far 1 of 5 videos; a share of 0\.01 may be"),
    ),
    (
        too_many_bad,
        (r"/run: 3 of the \d videos", r"exclude them or raise max_bad_fraction \(now 0\.01\)", r"bad\d\.mp4"),
    ),
    (worker_that_hangs, ("no clips came for 0.3 s", "samples 4 to 5", "same command again, with --train.workers 0")),
    (line_that_does_not_fit, ("/run: No space left on device, [\\d,]+ bytes are free", "make room and run the same")),
    (no_folder, (r"/run cannot be written: File exists \(.*/run\)", "put that right, or give another folder")),
    (a_climbing_index, (r"'\.\./x\.mp4' is no place below .*/run", "delete it")),
    (a_climbing_manifest, (r"'\.\./x\.mp4' is no place below .*/run", "delete it")),
    (
        unfit_tensors,
        (
            r"/run/model.safetensors does not fit, 2 differences",
            r"shape \(2, 3\), expected \(3, 2\)",
            "bias is missing",
            "Nothing was loaded: it is of another model, or of other settings than its config.json says",
        ),
    ),
]


@pytest.mark.parametrize(("provoke", "parts"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_errors_say_what_where_how_much_and_what_to_do(
    provoke: Provoke, parts: tuple[str, ...], tmp_path: Path
) -> None:
    """In one line, with the path, the values that differ, and the next step."""
    told = provoke(tmp_path)
    assert "\n" not in told.strip()
    for part in parts:
        assert re.search(part, told), f"{part!r} is not in {told!r}"
