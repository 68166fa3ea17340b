"""The process that decodes for another one: it answers requests until its parent is gone. Knows pipes and its limits.

A message is two lengths, a header in JSON and a body of plain bytes. What decodes files of strangers may be under their
control, so nothing it says is unpickled or believed further than its shape (`magi.video.isolated`).

``T`` frames, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from magi.video.reading import MAX_RGB_BYTES, ReadableVideo
from magi.video.seeking import open_video
from magi.video.untrusted import BadVideo

LENGTHS = struct.Struct("<QQ")  # of header and body
MAX_HEADER_BYTES = 2**22  # room for the indices of 2**16 frames
GRACE = 5.0  # seconds after its time by which a process that nobody has stopped ends by itself
PAGE = mmap.PAGESIZE
LOOK_UP = 1.0  # seconds between two looks whether the parent still lives

Header = Mapping[str, Any]


def send(pipe: int, header: Header, body: bytes | memoryview = b"") -> None:
    """Write a message."""
    head = json.dumps(header).encode()
    for part in (LENGTHS.pack(len(head), len(body)), head, body):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe, rest) :]


def receive(pipe: int, *, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """Read a message.

    Raises:
        TimeoutError: it is not there by the `deadline`, a ``time.monotonic``.
        EOFError: there is none, or only a part of one.
        ValueError: its lengths or its header make no sense.
    """
    head_bytes, body_bytes = LENGTHS.unpack(_exactly(pipe, LENGTHS.size, deadline))
    if head_bytes > MAX_HEADER_BYTES or body_bytes > MAX_RGB_BYTES:
        raise ValueError(f"a message of {head_bytes} and {body_bytes} bytes")
    header = json.loads(_exactly(pipe, head_bytes, deadline))
    if not isinstance(header, dict):
        raise ValueError(f"a header that is a {type(header).__name__}")
    return header, _exactly(pipe, body_bytes, deadline)


def _exactly(pipe: int, count: int, deadline: float | None) -> bytearray:
    content = bytearray(count)
    rest = memoryview(content)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while rest:
        if not poll.poll(None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))):
            raise TimeoutError
        taken = os.readv(pipe, [rest])
        if not taken:
            raise EOFError
        rest = rest[taken:]
    return content


def serve(requests: int, replies: int, *, parent: int, seconds: float, memory_bytes: int, cache_bytes: int) -> NoReturn:
    """Answer the requests of the process `parent` until it closes the pipe or is gone.

    Args:
        requests, replies: the ends of two pipes; every other file that was inherited is closed.
        seconds: for one request, after which, and a little grace, the process is ended by the kernel.
        memory_bytes: of address space, beyond what the process has now.
        cache_bytes: for the videos that are kept open.
    """
    _settle(keep={requests, replies}, memory_bytes=memory_bytes)
    roomy = address_space() + memory_bytes // 2
    videos: OrderedDict[tuple[str, int | None], ReadableVideo] = OrderedDict()
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    try:
        send(replies, {"ready": True})
        while True:
            while not poll.poll(1000 * LOOK_UP):
                if os.getppid() != parent:
                    os._exit(0)
            request, _ = receive(requests)
            # The kernel's alarm also ends a decoder that hangs after the parent was killed and can stop it no more.
            signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
            send(replies, *_answer(request, videos, memory_bytes))
            # Decoders and libraries take more for an open video than what is counted: without the second bound a
            # process that has read thousands of small ones would find no room for the next.
            while len(videos) > 1 and (
                sum(video.num_bytes for video in videos.values()) > cache_bytes or address_space() > roomy
            ):
                videos.popitem(last=False)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _answer(
    request: Header, videos: OrderedDict[tuple[str, int | None], ReadableVideo], memory_bytes: int
) -> tuple[Header, bytes | memoryview]:
    path, max_frames = str(request["path"]), request["max_frames"]
    try:
        video = videos.pop((path, max_frames), None) or open_video(path, max_frames=max_frames)
        videos[path, max_frames] = video  # the latest is the last
        if "size" not in request:
            return {"problem": video.problem}, video.times.tobytes()
        if len(video.times) != request["num_frames"]:
            raise BadVideo(path, "has changed since it was opened")
        crop = {name: request[name] for name in ("size", "top", "left")}
        frames = np.ascontiguousarray(video.rgb(request["indices"], **crop))
        return {"shape": frames.shape}, frames.data.cast("B")
    except BadVideo as error:
        return {"bad": error.reason, "place": error.path}, b""
    except MemoryError:
        return {"bad": f"needs more than {memory_bytes / 2**30:.2g} GiB to decode", "place": path}, b""
    except ValueError as error:
        return {"wrong": str(error)}, b""


def _settle(keep: set[int], memory_bytes: int) -> None:
    """Let go of what was inherited, and take on the limits."""
    import resource  # not on Windows

    faulthandler.disable()  # the parent tells in one line what happened
    for number in (signal.SIGALRM, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGILL):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which may want to finish what it does
        signal.signal(number, signal.SIG_IGN)
    # An end of a pipe that is held open here would hide from others that the parent died. Asking which files are open
    # beats closing all that could be, which may be a billion.
    for file in map(int, os.listdir("/dev/fd")):
        if file > 2 and file not in keep:
            with suppress(OSError):  # the listing itself
                os.close(file)
    torch.set_num_threads(1)  # the threads of the parent are not here
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if used := address_space():  # elsewhere the kernel does not hold processes to this limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = used + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def address_space() -> int:
    """Bytes of address space that this process has; 0 where Linux does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * PAGE if statm.is_file() else 0


def main() -> NoReturn:
    """The process that was not forked but started: its arguments are those of `serve`, as JSON."""
    serve(**json.loads(sys.argv[1]))
