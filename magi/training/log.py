"""The run's record: `metrics.jsonl` is the truth, the console and TensorBoard are views of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends one JSON object per line, flushed, so that a kill loses nothing that was written."""

    def __init__(self, run_dir: Path, keep_bytes: int = 0, *, tensorboard: bool = False) -> None:
        """Open `run_dir/metrics.jsonl` and cut it to `keep_bytes`: lines after the checkpoint will be written again."""
        self.path = run_dir / "metrics.jsonl"
        self.path.touch()
        self._file = self.path.open("r+b")
        self._file.truncate(min(keep_bytes, self.path.stat().st_size))
        self._file.seek(0, 2)
        self._board: SummaryWriter | None = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "TensorBoard is not installed: pip install 'magi-video[train]', or leave --train.tensorboard off"
                ) from error
            self._board = SummaryWriter(str(run_dir / "tensorboard"))

    @property
    def nbytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def sync(self) -> int:
        """Wait until all that was written is on the disk; how many bytes these are."""
        os.fsync(self._file.fileno())
        return self.nbytes

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Append one record; numbers also go to TensorBoard against samples seen."""
        self._file.write(json.dumps(dict(record)).encode() + b"\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "samples":
                    self._board.add_scalar(name, value, int(record["samples"]))

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class Rate:
    """Samples per second over a sliding stretch of training, and the time left at that rate."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def update(self, samples: int) -> None:
        """Note the position now."""
        self._marks = [*self._marks[-20:], (time.perf_counter(), samples)]

    @property
    def per_second(self) -> float:
        """Samples per second, 0 until two positions are known."""
        if len(self._marks) < 2:
            return 0.0
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / max(end - start, 1e-9)

    def eta(self, remaining: int) -> float:
        """Seconds left for `remaining` samples; infinite until the rate is known."""
        return remaining / self.per_second if self.per_second else float("inf")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    if seconds == float("inf"):
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def announce(message: str | None) -> None:
    """Print a line that stays, over the progress bar if there is one."""
    if message is None:
        return
    print(f"\x1b[K{message}" if sys.stdout.isatty() else message, flush=True)


def show_progress(samples: int, total: int, losses: Mapping[str, float], rate: Rate) -> None:
    """Show where a run is, on a line that the next one replaces if anybody watches."""
    share = samples / total
    bar = "█" * int(20 * share) + "·" * (20 - int(20 * share))
    told = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
    left = clock(rate.eta(total - samples))
    line = f"{bar} {100 * share:5.1f}%  {samples:,}  {told}  {rate.per_second:.1f} clips/s  left {left}"
    print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)
