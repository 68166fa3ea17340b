"""Does a training step take the memory that the planner says? Counted by CUDA's allocator."""

from __future__ import annotations

from typing import Any

import torch

from magi.bench.training import TrainingStep
from magi.model import plan
from magi.model.config import MagiConfig
from magi.model.magi import Magi


def measure_memory(config: MagiConfig, *, batch: int, checkpointed: bool, device: torch.device) -> dict[str, Any]:
    """Peak bytes of whole steps under bf16 autocast, beside what is planned for one process of many.

    Args:
        config: of the model, which is made on the device.
        batch: clips.
        checkpointed: whether blocks are computed again in the backward pass.
        device: CUDA; nothing else of this process may be on it.
    """
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with device:
        model = Magi(config)
    model.transformer.checkpointed = checkpointed
    step = TrainingStep(model, batch=batch, device=device, copied=False)
    states = torch.cuda.memory_allocated(device) - before
    for _ in range(2):
        step("bf16")
    torch.cuda.synchronize(device)
    parameters = sum(plan.count_parameters(config).values())
    fixed = sum(bytes for name, bytes in plan.training_bytes(parameters).items() if name != "EMA")
    kept = batch * plan.activation_bytes(config, checkpointed=checkpointed)
    measured = torch.cuda.max_memory_allocated(device) - before
    return {
        "planned": fixed + kept, "measured": measured, "ratio": measured / (fixed + kept), "planned for clips": kept,
        "weights": states, "reserved": torch.cuda.max_memory_reserved(device),
    }  # fmt: skip
