"""MAGI: masked autoregressive video generation with Complete Teacher Forcing.

import magi

model = magi.load("world64")  # or the folder of a run of yours
for frame in magi.generate(model, context, num_frames=16):  # uint8 (B, 3, H, W), as soon as it is finished
    ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SampleConfig", "__version__", "generate", "load"]

if TYPE_CHECKING:
    from magi.sampling.config import SampleConfig
    from magi.sampling.release import load
    from magi.sampling.video import generate

HOMES = {
    "SampleConfig": "magi.sampling.config",
    "generate": "magi.sampling.video",
    "load": "magi.sampling.release",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something is used: `magi --version` should not wait for it."""
    if name not in HOMES:
        raise AttributeError(f"module 'magi' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(HOMES[name]), name)
