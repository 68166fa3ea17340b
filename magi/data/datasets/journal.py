"""What a long work has finished, in a file, so that a killed one goes on. Knows lines of JSON, not what they mean."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Records that survive the death of the process: after `add` returns, only the machine's own death loses one.

    A line that was being written is dropped, and all of it if it was kept for another work.
    """

    def __init__(self, path: Path, work: Mapping[str, Any]) -> None:
        """Open or create the file at `path`; `work` says what the records belong to, as plain data."""
        self.path = path
        self.records: list[Any] = []
        kept = self._read(json.loads(json.dumps(work)))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(kept)
        self._file.seek(0, os.SEEK_END)
        if not kept:
            self._write(work)

    def _read(self, work: Mapping[str, Any]) -> int:
        """Read what is good of the file and return its length in bytes."""
        if not self.path.is_file():
            return 0
        kept = 0
        with self.path.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    record = None
                if record is None or (kept == 0 and record != work):
                    break
                if kept:
                    self.records.append(record)
                kept += len(line)
        return kept

    def add(self, record: Any) -> None:
        """Keep a finished piece of work, as plain data other than null."""
        self.records.append(record)
        self._write(record)

    def _write(self, record: Any) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
