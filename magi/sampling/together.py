"""Parts of a batch that are generated side by side, and come out as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def joined(parts: Sequence[Iterator[Tensor]]) -> Iterator[Tensor]:
    """Frames (B, ...) of all parts, from those of each, one part after the other."""
    return (torch.cat(frames) for frames in zip(*parts, strict=True))


def overlapping(parts: Sequence[Iterator[Tensor]], device: torch.device) -> Iterator[Tensor]:
    """The same, with every part in a CUDA stream of its own.

    The denoising loop of a part is many small kernels, each of which waits for the one before it and leaves most of the
    device idle; the transformer's pass of another part has room beside it. Nothing orders the streams but that a frame
    waits for all parts of it: the processor runs ahead of the device and keeps both supplied.
    """
    streams = [torch.cuda.Stream(device) for _ in parts]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(device))  # for what the parts are given
    return joined([_on(stream, part) for stream, part in zip(streams, parts, strict=True)])


def _on(stream: torch.cuda.Stream, frames: Iterator[Tensor]) -> Iterator[Tensor]:
    """Frames made on a stream, for the current one."""
    while True:
        with torch.cuda.stream(stream):
            frame = next(frames, None)
        if frame is None:
            return
        current = torch.cuda.current_stream(frame.device)
        current.wait_stream(stream)
        frame.record_stream(current)  # its memory is not taken again before the current stream has read it
        yield frame
