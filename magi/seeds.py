"""Keyed randomness: every random number a user can see is a function of a seed and a position.

A generator is made anew wherever it is needed, from a key such as ``(seed, "mask order", sample)``; no generator is
ever kept, stored or shared. So a result does not depend on batch size, process count or what was drawn before it, and
resuming a run needs no generator state. (Dropout alone is seeded by step and process: its masks are as large as the
batch.) This file knows keys, not what is drawn from them.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Return the NumPy generator that belongs to ``(seed, purpose, position)``.

    Philox is counter based, so every key opens an independent stream, and the first n numbers of a stream are the same
    however many are drawn after them: a draw of shape ``(T, N)`` gives row t the same values for every T.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for; two purposes never share a stream.
        position: indices (sample, frame, step ...) that tell draws of one purpose apart.
    """
    key = repr((int(seed), purpose, *map(int, position))).encode()
    digest = hashlib.blake2b(key, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
