"""Normal numbers that are functions of where they stand, computed where they are needed.

A word of 64 bits is a hash of a key and a count (twice the finaliser of SplitMix64; Steele, Lea & Flood, "Fast
Splittable Pseudorandom Number Generators", 2014), and makes two normal numbers (Box & Muller, 1958). So any part of a
large array of noise is drawn without the rest, in a few operations for all videos at once, and to rounding the same on
every device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable

import torch
from torch import Tensor


def hashed(key: Hashable) -> int:
    """64 bits, as a signed number, that belong to a key of plain numbers and words."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little", signed=True)


def normal(keys: Tensor, counts: Tensor) -> Tensor:
    """Two standard normal numbers for each pair of a key and a count.

    Args:
        keys: (...) int64, any.
        counts: (...) int64 from 0 on; broadcast against the keys.

    Returns:
        (..., 2) float32.
    """
    word = _mixed(_mixed((counts + 1) * _signed(0x9E3779B97F4A7C15)) + keys)
    high, low = _shifted(word, 32), word & 0xFFFFFFFF  # 0 to 2^32 - 1
    radius = ((high.float() + 0.5) * 2.0**-32).log().mul(-2).sqrt()  # the half keeps the logarithm finite
    angle = low.float() * (2 * math.pi * 2.0**-32)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _mixed(word: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64 bits, each of which depends on all."""
    word = (word ^ _shifted(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _shifted(word, 27)) * _signed(0x94D049BB133111EB)
    return word ^ _shifted(word, 31)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Shifted to the right as an unsigned number; torch's own shift repeats the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word
