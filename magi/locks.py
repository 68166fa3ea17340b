"""One writer at a time: a folder that a process grows is closed to a second one.

Knows folders and processes; the kernel lets go of a lock when its process ends, however it ends. Children do not hold
what their parent holds: workers that outlive a killed run for a moment keep nobody out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".writer"
_held: dict[tuple[int, Path], int] = {}  # processes and their folders, and how often they hold them


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, for the length of a `with` block. Where there are no such locks nothing is held.

    Raises:
        ValueError: another process holds it, which is named; or nothing can be written there.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    place = os.getpid(), folder.resolve()
    if place in _held:  # a process may hold a folder again, for a step of what it holds it for
        _held[place] += 1
        try:
            yield
        finally:
            _held[place] -= 1
        return
    with writable(folder):
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise ValueError(
                f"{folder} is being written by {owner}; wait for it or stop it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        _held[place] = 1
        yield
    finally:
        _held.pop(place, None)
        os.close(descriptor)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Tell in a line what keeps a folder from being written, where it is first tried.

    Raises:
        ValueError: a file has its name, it is read-only, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written: {error.strerror} ({error.filename}); put that right, or give another folder"
        ) from error
