"""Signs of damage in a packet that FFmpeg passes over, or tells only its log. Knows bytes; decodes nothing."""

from __future__ import annotations

import zlib
from typing import Any

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class DamageDetector:
    """Looks at the packets of one stream, in order."""

    def __init__(self, stream: Any) -> None:
        self._codec = stream.codec.canonical_name
        self._file_bytes = stream.container.size
        # Version 3 has a global header. It may be written without checksums, but no common program does so by default.
        self._has_checksums = self._codec == "ffv1" and bool(stream.codec_context.extradata)

    def sees_damage(self, packet: Any) -> bool:
        """Whether this packet is damaged, as far as can be told without decoding it."""
        if packet.is_corrupt:
            return True
        if self._codec == "gif":
            return self._ends_a_torn_gif(packet)
        if self._has_checksums and packet.size:
            return not is_whole(bytes(packet))
        return False

    def _ends_a_torn_gif(self, packet: Any) -> bool:
        """Whether this is a half drawn picture at the end of a file: unlike in other formats, nobody marks it."""
        return (
            packet.pos is not None
            and packet.pos + packet.size >= self._file_bytes
            and bytes(packet)[-1:] != b";"
        )  # fmt: skip


def is_whole(content: bytes) -> bool:
    """Whether a packet of FFV1 is made of slices that each end in the right checksum (RFC 9043, 4.9).

    Where it is wrong, FFmpeg shows something else in place of the slice and says nothing.
    """
    end = len(content)
    while end > 8:
        start = end - 8 - int.from_bytes(content[end - 8 : end - 5], "big")
        # The remainder of a slice with its checksum is 0. zlib counts the bits of a byte from the other side.
        if start < 0 or zlib.crc32(content[start:end].translate(REVERSED), 0xFFFFFFFF) != 0xFFFFFFFF:
            return False
        end = start
    return end == 0
