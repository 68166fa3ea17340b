"""How far the bits of a training can be relied upon, by name. Said when a run starts, and kept with its checkpoints.

D0 nothing; D1 the same command on the same machine, with as many threads; D2 also when it was stopped or killed and
resumed; D3 also on any number of loading workers and training processes; D4, of sampling, at any batch size
(`SampleConfig.deterministic`); D5 other hardware or other versions of torch, which nobody promises. docs/scaling.md
says which test shows which.
"""

from __future__ import annotations

import os
from typing import Literal

import torch

Level = Literal["D0", "D2", "D3"]

MEANING: dict[Level, str] = {
    "D0": "the bits of this training differ from run to run; --train.deterministic makes them the same",
    "D2": "the same command on as many threads gives the same bits, resumed or not; on more or fewer processes others",
    "D3": "the same bits, resumed or not, on any number of processes and workers that have as many threads each",
}


def level_of(device: torch.device, *, deterministic: bool, tree: bool) -> Level:
    """The level that a training has: on a CPU every kernel sums in one order, elsewhere only if it is asked to."""
    if device.type != "cpu" and not deterministic:
        return "D0"
    return "D3" if tree else "D2"


def make_deterministic() -> None:
    """Ask torch for kernels that sum in one order, and for an error where it has none. For the whole process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the library is first used
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
