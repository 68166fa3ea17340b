"""Where a run's result is put: `RUN/release` is always that of the newest end of the run. Knows no model."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from magi import checkpoint


def publish(release: Path, write: Callable[[Path], None]) -> None:
    """Put what `write` writes at `release`.

    A release of an earlier end of the run is replaced, an identical one left alone. One that was changed by hand is
    kept, as `release-changed-*`.

    Args:
        release: the folder.
        write: writes a whole checkpoint into a folder that does not exist yet.
    """
    if not release.exists():
        write(release)
        return
    fresh = release.with_name(f"{checkpoint.TEMPORARY}{release.name}-{uuid.uuid4().hex[:12]}")
    write(fresh)
    try:
        checkpoint.verify(release)
    except checkpoint.CheckpointError:
        release.rename(release.with_name(f"{release.name}-changed-{uuid.uuid4().hex[:8]}"))
        fresh.rename(release)
        return
    if (release / checkpoint.MANIFEST).read_bytes() == (fresh / checkpoint.MANIFEST).read_bytes():
        shutil.rmtree(fresh)
        return
    # a crash between the renames costs nothing: the same command sweeps both folders and comes here again
    trash = release.with_name(f"{checkpoint.TRASH}{release.name}-{uuid.uuid4().hex[:12]}")
    release.rename(trash)
    fresh.rename(release)
    shutil.rmtree(trash)
