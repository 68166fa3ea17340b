"""Damaged video files by the thousand, format by format: `python -m tests.fuzz_videos --count 10000`.

Small clips of many formats are damaged by keyed randomness and read in a process of their own, as `magi selftest` does.
Each file may give frames or be a ``BadVideo``, and nothing else; and no frame that comes without a word may differ from
what decoding from the start delivers for the same moment. `--json FILE` keeps the counts, the slowest file and the peak
of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import torch

from magi.bench.measure import machine
from magi.selftest.clips import CLIPS, make_clips
from magi.selftest.reading import FAILURES, OUTCOMES
from magi.selftest.videos import Readers, damaged_reads
from magi.threads import configure_threads


def main() -> int:
    """Damage, read, count; 1 if anything but frames and ``BadVideo`` came."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_videos", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5, help="that a file may take")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    described = machine(torch.device("cpu")) | {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[dict[str, Any]] = []
    slowest, start = (0.0, "", 0), time.monotonic()
    peaks: Counter[int | None] = Counter()
    with (
        tempfile.TemporaryDirectory() as name,
        Readers(seconds=arguments.seconds, memory_bytes=2**32) as readers,
    ):
        folder = Path(name)
        reads = damaged_reads(folder, make_clips(folder), readers, trials=arguments.count, seed=arguments.seed)
        for trial, read in enumerate(reads):
            verdict = read.verdict.partition(":")[0]
            slowest = max(slowest, (read.seconds, read.name, trial))
            counts[read.name, verdict] += 1
            peaks[read.process] = max(peaks[read.process], read.bytes_held)
            if verdict in FAILURES:
                failures.append({"clip": read.name, "trial": trial, "outcome": verdict})
                print(f"{read.name} {trial}: {read.verdict}", file=sys.stderr)
    report = {
        "command": f"python -m tests.fuzz_videos --count {arguments.count} --seed {arguments.seed}",
        "machine": described,
        "count": arguments.count,
        "outcomes": {
            word: sum(n for (_, verdict), n in counts.items() if verdict == word) for word in OUTCOMES + FAILURES
        },
        "by_clip": {
            form: {verdict: n for (clip, verdict), n in sorted(counts.items()) if clip == form} for form in CLIPS
        },
        "failures": failures,
        "seconds": round(time.monotonic() - start, 1),
        "slowest": {"seconds": round(slowest[0], 3), "clip": slowest[1], "trial": slowest[2]},
        "peak_resident_megabytes": round(max(peaks.values()) / 2**20),
        "processes": len(peaks),
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    configure_threads(1)
    sys.exit(main())
