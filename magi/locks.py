"""One writer at a time: a folder that a process grows is closed to a second one.

Knows folders and processes; the kernel lets go of a lock when its process ends, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".writer"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, for the length of a `with` block. Where there are no such locks nothing is held.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is being written by another process; wait for it or stop it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
