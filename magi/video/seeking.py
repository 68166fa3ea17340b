"""Read some frames of a video and decode little more than these. Knows packets and key frames.

A file is scanned once: its packets are kept as they are, compressed, with their time stamps, and nothing is decoded. A
frame is decoded from the nearest key frame before it, from which the decoder starts afresh.

This must never give another picture than decoding from the first frame on would. So it is done only where the packets
prove which frame is which: a codec that makes one frame of each packet, stamps that are whole, unique and in order, key
frames to which nothing before them matters. Every frame that comes out must bear the stamp expected next. Whatever
fails a test, a file with any sign of damage among others, is decoded from the start by `decode_video`, whose word is
final.

``T`` frames, ``H`` x ``W`` pixels, ``S`` side of a square.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magi.video.damage import DamageDetector
from magi.video.frames import Frames
from magi.video.libraries import pyav
from magi.video.reading import ReadableVideo, chosen, collect, cut_off, decode_video, early_end, upright
from magi.video.timing import believable, believable_times
from magi.video.untrusted import MAX_BYTES, MAX_FRAMES, BadVideo, decoding_errors, frame_rate, open_stream

# One packet is one frame, and a key frame resets the decoder. Not so vp8 (hidden frames) and gif (half drawn ones).
SEEKABLE = frozenset(
    {"av1", "ffv1", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "png", "prores", "rawvideo", "vp9"}
)
GUESSED_IN_AVI = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})  # AVI stores no stamps for reordered frames
TELLING = ("new_extradata", "palette", "param_change")  # what a packet tells the decoder for all that follow
SKIPPED_FRAME = 19  # bytes that an mpeg4 packet may have and yet hold no frame, as FFmpeg has it
REORDERED = 64  # packets by which a frame may precede its place at the very most; H.264 and HEVC allow 16
BRIDGE = 4  # packets it is cheaper to decode on than to start again behind them
PACKET_OVERHEAD = 512  # bytes of memory that a packet takes beside its content


class _Doubt(ValueError):
    """The packets did not tell the truth, or the decoder met damage."""


@dataclass(frozen=True)
class Packets:
    """The packets of a video in the order of decoding, and the place of each frame in the order of showing."""

    packets: Sequence[Any]
    stamps: Sequence[int]  # (T,) by place, increasing
    packet_of: NDArray[np.int64]  # (T,) by place: the number of its packet
    place_of: NDArray[np.int64]  # (T,) by number of the packet: the place of its frame
    keys: NDArray[np.int64]  # numbers of the packets to start from, from 0; their places increase too

    def before(self, place: int) -> int:
        """The last packet to start from such that the frame at this place comes out whole."""
        return int(self.keys[np.searchsorted(self.place_of[self.keys], place, side="right") - 1])

    def runs(self, places: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Where to start decoding, and which of these places, which increase, to take from there."""
        runs: list[tuple[int, list[int]]] = []
        for place in places:
            start = self.before(place)
            if runs and start - self.packet_of[runs[-1][1][-1]] <= BRIDGE:
                runs[-1][1].append(place)
            else:
                runs.append((start, [place]))
        return runs


@dataclass(frozen=True)
class SoughtVideo:
    """A ``ReadableVideo`` whose frames are decoded when they are asked for; made by `open_video`."""

    path: Path
    times: NDArray[np.float64]  # (T,) seconds, increasing, from 0
    problem: str | None  # why the rest of a huge file is missing
    num_bytes: int  # that the packets take in memory
    packets: Packets
    max_frames: int | None
    decoders: list[Any]  # an unused one, until it is used

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
            BadVideo: decoding met damage, and these frames are not all before it; or they are of several sizes.
            ValueError: no such frame, or more than `MAX_RGB_BYTES` of them.
        """
        places = chosen(indices, len(self.times))
        try:
            return collect(self.path, self._frames(sorted(set(places))), places, size=size, top=top, left=left)
        except (_Doubt, BadVideo):
            pass
        whole = decode_video(self.path, max_frames=self.max_frames)
        count = len(whole.times)
        if max(places) < count <= len(self.times) and np.allclose(whole.times, self.times[:count], rtol=0, atol=1e-6):
            return whole.rgb(places, size=size, top=top, left=left)
        raise BadVideo(self.path, whole.problem or "is not made of the frames that its packets promise")

    def _frames(self, places: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """Yield the frames at these places, which increase, each (H, W, 3)."""
        decoder = self.decoders.pop() if self.decoders else _decoder(self.path)
        try:
            first = None
            for start, wanted in self.packets.runs(places):
                if first is None and start:  # its size and its headers hold for all
                    first = next(_pictures(decoder, self.packets.packets[:1]), None)
                    if first is None or first.is_corrupt:
                        raise _Doubt
                    decoder.flush_buffers()
                asked = set(wanted)
                for place, picture in _run(decoder, self.packets, start, wanted[-1]):
                    first = first or picture
                    if (picture.width, picture.height) != (first.width, first.height):
                        raise _Doubt
                    if place in asked:
                        yield place, upright(self.path, picture)
                decoder.flush_buffers()
        except decoding_errors() as error:
            raise _Doubt from error


def open_video(path: str | Path, *, max_frames: int | None = None) -> ReadableVideo:
    """Open a video file or a folder of numbered images, up to `max_frames` frames, and decode as little as possible.

    The times are those that `decode_video` finds, and the frames equal its frames to the bit. Of a sound file up to
    `MAX_FRAMES` frames can be reached instead of `MAX_BYTES` of decoded ones. A damaged file shows it here, in
    `problem`, if its packets do, and else when the damage is decoded; then `rgb` raises ``BadVideo``, unless all frames
    asked for come before the damage. What it answers depends on the frames asked for, not on what was asked before.

    Raises:
        BadVideo: not a single frame can be read; with the reason.
    """
    path = Path(path)
    if not os.path.isdir(path):
        with open_stream(path) as stream:
            video = _scan(path, stream, max_frames)
        if video is not None:
            return video
    return decode_video(path, max_frames=max_frames)


def _scan(path: Path, stream: Any, max_frames: int | None) -> SoughtVideo | None:
    """Return the video if its packets can be trusted to say which frame is where."""
    codec = stream.codec.canonical_name
    if codec not in SEEKABLE or (codec in GUESSED_IN_AVI and stream.container.format.name == "avi"):
        return None
    limit = min(MAX_FRAMES, max_frames or MAX_FRAMES)
    try:
        packets = _trusted_packets(stream, codec, limit)
    except decoding_errors():
        return None
    if packets is None:
        return None
    packet_of = np.argsort([packet.pts for packet in packets])
    place_of = np.argsort(packet_of)
    is_idr = _idr_test(stream.codec_context.extradata) if codec == "h264" else lambda packet: True
    keys = np.array([0] + [i for i, packet in enumerate(packets) if i and packet.is_keyframe and is_idr(packet)])
    ordered = [packets[i] for i in packet_of[:limit]]
    stamps = [float(packet.pts * packet.time_base) for packet in ordered]
    if place_of[0] or not packets[0].is_keyframe or (np.diff(place_of[keys]) <= 0).any() or not believable(stamps):
        return None
    times = believable_times(stamps, frame_rate(stream))
    held = sum(packet.size for packet in packets) + PACKET_OVERHEAD * len(packets)
    problem = None
    if len(times) == MAX_FRAMES and len(times) != max_frames:
        problem = cut_off(len(times), held)
    elif len(times) != max_frames and early_end(stream, times, (ordered[-1].duration or 0) * float(stream.time_base)):
        return None
    order = Packets(packets, [packets[i].pts for i in packet_of], packet_of, place_of, keys)
    return SoughtVideo(path, times, problem, held, order, max_frames, [stream.codec_context])


def _trusted_packets(stream: Any, codec: str, limit: int) -> list[Any] | None:
    """Return the packets of all frames, or those that hold the first `limit`; None if anything about them is odd."""
    packets: list[Any] = []
    held, newest = 0, None
    detector = DamageDetector(stream)
    for packet in stream.container.demux(stream):
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            break  # the end
        held += packet.size
        if (
            (detector.sees_damage(packet) or packet.is_discard or packet.pts is None or held > MAX_BYTES)
            or packet.size <= (SKIPPED_FRAME if codec == "mpeg4" else 0)
            or any(packet.has_sidedata(kind) for kind in TELLING)
            or (packet.dts is None and newest is not None)
            or (packet.dts is not None and (packet.pts < packet.dts or (newest is not None and packet.dts <= newest)))
        ):
            return None
        newest = packet.dts
        packets.append(packet)
        if len(packets) >= limit and newest is not None:  # later packets have later stamps than this
            if sum(packet.pts <= newest for packet in packets) >= limit:
                break
            if len(packets) > limit + REORDERED:
                return None
    if len({packet.pts for packet in packets}) != len(packets):
        return None
    return packets or None


def _run(decoder: Any, packets: Packets, start: int, last: int) -> Iterator[tuple[int, Any]]:
    """Decode from the packet `start` up to the place `last`; yield every place and its ``av.VideoFrame``."""
    key = place = int(packets.place_of[start])
    for picture in _pictures(decoder, packets.packets[start:]):
        if place == len(packets.stamps) or picture.is_corrupt or picture.pts != packets.stamps[place]:
            raise _Doubt
        kind = picture.pict_type
        if start and place == key and not (picture.key_frame and kind == pyav().video.frame.PictureType.I):
            raise _Doubt
        if place <= last:
            yield place, picture
        # What a B-frame is predicted from comes after it. If that is damaged, so is the B-frame.
        if place >= last and kind != pyav().video.frame.PictureType.B:
            return
        place += 1
    if place <= last:
        raise _Doubt


def _pictures(decoder: Any, packets: Sequence[Any]) -> Iterator[Any]:
    for packet in packets:
        yield from decoder.decode(packet)
    yield from decoder.decode(None)


def _decoder(path: Path) -> Any:
    """Return an unused ``av.VideoCodecContext`` for a file."""
    with open_stream(path) as stream:
        return stream.codec_context


def _idr_test(extradata: bytes | None) -> Callable[[Any], bool]:
    """Return whether an H.264 packet resets the decoder. Other key frames may be followed by frames that look behind
    them (H.264, 7.4.1.2.4: type 5 is a slice of an IDR picture)."""
    if extradata and extradata[0] == 1 and len(extradata) > 4:
        return lambda packet: 5 in _types_by_length(bytes(packet), (extradata[4] & 3) + 1)
    return lambda packet: bool(re.search(rb"\x00\x00\x01[\x05\x25\x45\x65]", bytes(packet)))


def _types_by_length(content: bytes, width: int) -> set[int]:
    """The types of the units of a packet, each preceded by its length in `width` bytes (ISO/IEC 14496-15)."""
    types, place = set(), 0
    while place + width < len(content):
        types.add(content[place + width] & 31)
        place += width + int.from_bytes(content[place : place + width], "big")
    return types
