"""Decode in a process of its own, so that a file that crashes, hangs or bloats the decoder is only a bad video.

FFmpeg is much C and reads the files of strangers: the lists and limits of `magi.video.untrusted` make accidents rare,
and only another process makes them harmless. It costs what its answers take through a pipe. It is a fence against
accidents, no prison: it runs with the rights of its parent.

Knows how to start, ask and end that process; what it does is in `magi.video.child`. Linux and macOS.

``T`` frames, ``H`` x ``W`` pixels, ``S`` side of a square.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from magi.video.child import receive, send, serve
from magi.video.frames import Frames
from magi.video.libraries import pyav
from magi.video.reading import chosen
from magi.video.untrusted import BadVideo

STARTING = 120.0  # seconds that a process may take to start
Start = Literal["fork", "spawn"]


@dataclass(frozen=True)
class IsolatedVideo:
    """A ``ReadableVideo`` that lives in the process of its reader; made by ``IsolatedReader.open``."""

    path: Path
    times: NDArray[np.float64]  # (T,) seconds, increasing, from 0
    problem: str | None  # why the rest of a damaged or huge file is missing
    num_bytes: int  # that it takes here
    reader: IsolatedReader
    max_frames: int | None

    def rgb(
        self,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        size: int | None = None,
        top: float = 0.5,
        left: float = 0.5,
    ) -> Frames:
        """Return these frames (default: all) as (T, H, W, 3), or fitted to (T, S, S, 3) with S = `size` (see `fit`).

        Raises:
            BadVideo: as ``SoughtVideo.rgb``; or the decoder crashed, or took too long.
            ValueError: no such frame, or more than `MAX_RGB_BYTES` of them.
        """
        places = chosen(indices, len(self.times))
        request = {"indices": places, "num_frames": len(self.times), "size": size, "top": top, "left": left}
        header, body = self.reader.ask(self.path, self.max_frames, request)
        shape = header.get("shape")
        if not isinstance(shape, list) or len(shape) != 4 or not all(isinstance(side, int) for side in shape):
            raise self.reader.nonsense(self.path)
        if shape[::3] != [len(places), 3] or math.prod(shape) != len(body) or size not in (None, *shape[1:3]):
            raise self.reader.nonsense(self.path)
        return np.frombuffer(body, dtype=np.uint8).reshape(shape)


class IsolatedReader:
    """Opens videos as `open_video` does, but in another process, which is started with the first one and used for all.

    Each process that reads has its own: a reader that was inherited by a fork or sent to another process starts anew.
    A video at which it crashes twice, or hangs, is bad, and the next one has a new process. That also ends when this
    process does, however that comes. Not for several threads at once.
    """

    def __init__(
        self,
        *,
        seconds: float = 30.0,
        memory_bytes: int = 2**32,
        cache_bytes: int = 2**28,
        start: Start | None = None,
    ) -> None:
        """Say what one request may take; nothing is started yet.

        Args:
            seconds: of wall-clock time, for `open` and for `rgb` each.
            memory_bytes: of address space beyond what a new process has. Only Linux enforces it.
            cache_bytes: for videos that the process keeps open, beside the latest.
            start: "fork" takes milliseconds, but only on Linux do all libraries survive it; "spawn" takes seconds. The
                default is what suits the system.

        Raises:
            ValueError: a limit that is not positive, or a system without what is needed.
        """
        pyav()  # whether it is there is better known now, and it need not be imported by every new process
        if seconds <= 0 or memory_bytes <= 0 or cache_bytes < 0:
            raise ValueError(f"limits must be positive, got {seconds} s, {memory_bytes} and {cache_bytes} bytes")
        if start not in (None, "fork", "spawn"):
            raise ValueError(f"start must be fork or spawn, got {start!r}")
        if not hasattr(os, "fork"):
            raise ValueError("reading in a process of its own needs Linux or macOS; use open_video")
        self._seconds, self._memory_bytes, self._cache_bytes = seconds, memory_bytes, cache_bytes
        self._start: Start = start or ("fork" if sys.platform == "linux" else "spawn")
        self._child: _Child | None = None

    def open(self, path: str | Path, *, max_frames: int | None = None) -> IsolatedVideo:
        """Open a video file or a folder of numbered images, up to `max_frames` frames of it.

        Raises:
            BadVideo: as `open_video`; or the decoder crashed, or took too long.
        """
        path = Path(path)
        header, body = self.ask(path, max_frames, {})
        if not body or len(body) % 8:
            raise self.nonsense(path)
        times = np.frombuffer(body, dtype=np.float64)
        if times[0] != 0 or not (np.diff(times) > 0).all() or not np.isfinite(times[-1]):
            raise self.nonsense(path)
        problem = None if header.get("problem") is None else str(header["problem"])
        return IsolatedVideo(path, times, problem, times.nbytes, self, max_frames)

    def ask(self, path: Path, max_frames: int | None, request: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        """Have a request about a video answered; see `magi.video.child`."""
        absolute = os.path.abspath(path)
        message = {"path": absolute, "max_frames": max_frames, **request}
        crashed = ""
        for _ in range(2):  # a process may just have died of something else: what happens again is the video's doing
            child = self._living()
            try:
                send(child.requests, message)
                header, body = receive(child.replies, deadline=time.monotonic() + self._seconds)
                break
            except TimeoutError:
                self.close()
                raise BadVideo(path, f"takes longer than {self._seconds:g} s to decode") from None
            except (EOFError, BrokenPipeError):
                self._child = None
                crashed = child.end(gently=True)
            except ValueError:
                raise self.nonsense(path) from None
        else:
            raise BadVideo(path, f"crashed the decoder ({crashed})")
        if "bad" in header:
            place, reason = str(header.get("place", "")), str(header["bad"])
            raise BadVideo(str(path) + place.removeprefix(absolute), reason)  # it may name an image in a folder
        if "wrong" in header:
            raise ValueError(str(header["wrong"]))
        return header, body

    def nonsense(self, path: Path) -> BadVideo:
        """End a process that can no longer be believed, and return the error to raise."""
        self.close()
        return BadVideo(path, "crashed the decoder (its answer makes no sense)")

    def close(self) -> None:
        """End the process, if there is one. The next video starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    @property
    def process(self) -> int | None:
        """The number of the process, if there is one."""
        return None if self._child is None else self._child.process

    def _living(self) -> _Child:
        """The process of this one, started if there is none or if it ended while it had nothing to do."""
        if self._child is not None and not self._child.lives():
            self.close()
        if self._child is None:
            limits = {"memory_bytes": self._memory_bytes, "cache_bytes": self._cache_bytes}
            self._child = _Child(self._start, {"parent": os.getpid(), "seconds": self._seconds, **limits})
            weakref.finalize(self, self._child.end)
            receive(self._child.replies, deadline=time.monotonic() + STARTING)
        return self._child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the process behind: it belongs to this one."""
        return self.__dict__ | {"_child": None}


class _Child:
    """A process, the pipes to it, and how it is ended."""

    def __init__(self, start: Start, limits: dict[str, Any]) -> None:
        to_read, self.requests = os.pipe()
        self.replies, to_write = os.pipe()
        self.owner = os.getpid()
        begin = _fork if start == "fork" else _spawn
        self.process, self._wait = begin({"requests": to_read, "replies": to_write, **limits})
        self._code: int | None = None
        self._open = True
        os.close(to_read)
        os.close(to_write)

    def lives(self) -> bool:
        """Whether it belongs to this process and has not ended."""
        if self.owner != os.getpid():
            return False
        if self._code is None:
            self._code = self._wait(os.WNOHANG)
        return self._code is None

    def end(self, *, gently: bool = False) -> str:
        """Kill it, or wait for it if it is dying, and return how it ended. A copy of its owner only forgets it."""
        if self._open:
            os.close(self.requests)
            os.close(self.replies)
            self._open = False
        if self.owner != os.getpid():
            return "not its own"
        if self._code is None:
            patience = time.monotonic() + (1 if gently else 0)
            while self._code is None and time.monotonic() < patience:
                self._code = self._wait(os.WNOHANG)
                time.sleep(0.001)
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            self._code = self._wait(0)
        return f"signal {-self._code}" if self._code is not None and self._code < 0 else f"exit code {self._code}"


Wait = Callable[[int], int | None]


def _fork(arguments: dict[str, Any]) -> tuple[int, Wait]:
    """Start the process as a copy of this one; return its number and how to ask for its exit code."""
    with warnings.catch_warnings():  # Python 3.12 warns of threads; the copy uses none of what they may have locked
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        _run(arguments)

    def wait(options: int) -> int | None:
        try:
            ended, status = os.waitpid(process, options)
        except ChildProcessError:  # somebody else asked first
            return 0
        return os.waitstatus_to_exitcode(status) if ended else None

    return process, wait


def _run(arguments: dict[str, Any]) -> NoReturn:
    try:
        serve(**arguments)
    except BaseException:  # nothing may return into what the parent was doing
        os.write(2, traceback.format_exc().encode())  # sys.stderr may stand for a file that is closed here
    finally:
        os._exit(70)


def _spawn(arguments: dict[str, Any]) -> tuple[int, Wait]:
    """Start the process as a new interpreter."""
    pipes = (arguments["requests"], arguments["replies"])
    command = [sys.executable, "-c", "from magi.video.child import main; main()", json.dumps(arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, pass_fds=pipes, stdin=subprocess.DEVNULL, env=environment)  # noqa: S603, our own

    def wait(options: int) -> int | None:
        return process.poll() if options else process.wait()

    return process.pid, wait
