"""This process among the others of a run. Knows torchrun's environment and collectives; not what is being computed.

A single process gets the same interface without a process group, so that no caller has to tell the two apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as group
from torch import Tensor

Device = Literal["auto", "cpu", "cuda", "mps"]

# Longer than any evaluation or checkpoint of one process that the others wait for.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Distributed:
    """This process and its collectives; every process of the run has to call a collective for any of them to return."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    """Processes on this machine."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a device is a value

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things, a multiple of the processes, are this process's."""
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean of `value` over all processes: a new tensor, of the same shape."""
        return self._reduce(value, group.ReduceOp.SUM) / self.world_size

    def all_reduce_max(self, value: Tensor) -> Tensor:
        """Return the elementwise maximum of `value` over all processes: a new tensor, of the same shape."""
        return self._reduce(value, group.ReduceOp.MAX)

    def tree_sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over all processes, a power of two of them: a new tensor, of the same shape.

        Neighbours are summed first, then neighbouring pairs, and so on: the bits do not depend on how many processes
        hold how many terms, if each has summed its own in the same order.
        """
        result = value.detach().clone()
        distance = 1
        while distance < self.world_size:
            theirs, partner = torch.empty_like(result), self.rank ^ distance
            messages = [group.P2POp(group.isend, result, partner), group.P2POp(group.irecv, theirs, partner)]
            for message in group.batch_isend_irecv(messages):
                message.wait()
            result = result + theirs
            distance *= 2
        return result

    def any(self, condition: bool) -> bool:
        """Return whether `condition` holds in at least one process."""
        return self.each_any(condition)[0]

    def each_any(self, *conditions: bool) -> tuple[bool, ...]:
        """Return of each condition whether it holds in at least one process, with one message for all."""
        if self.world_size == 1:
            return conditions
        found = self.all_reduce_max(torch.tensor([int(condition) for condition in conditions], device=self.device))
        return tuple(bool(value) for value in found.tolist())

    def from_first(self, number: int) -> int:
        """Return the number that the first process has."""
        if self.world_size == 1:
            return number
        told = torch.tensor(number, device=self.device)
        group.broadcast(told, 0)
        return int(told)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            group.barrier()

    def print_once(self, message: str) -> None:
        """Print in the first process only."""
        if self.is_first:
            print(message, flush=True)

    def _reduce(self, value: Tensor, operation: group.ReduceOp.RedOpType) -> Tensor:
        result = value.detach().clone()
        if self.world_size > 1:
            group.all_reduce(result, operation)
        return result


def pick_device(name: Device) -> torch.device:
    """Return the device that a user asked for by name; "auto" is the best one present.

    Raises:
        ValueError: this machine, or this build of torch, has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_present in present.items() if is_present))
    if name not in present:
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {name!r}")
    if not present[name]:
        found = ", ".join(kind for kind, is_present in present.items() if is_present)
        raise ValueError(f"device {name} was asked for, but torch {torch.__version__} finds only {found} here")
    return torch.device(name)


def initialise(device: Device = "auto") -> Distributed:
    """Join the run that torchrun's environment describes, or return a single process when there is none.

    Raises:
        ValueError: the device is absent, or cannot be shared between processes.
    """
    chosen = pick_device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Distributed(device=chosen)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    if chosen.type == "mps":
        raise ValueError(
            f"device mps serves one process, but WORLD_SIZE is {world_size}; use --device cpu or one process"
        )
    if chosen.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK is {local_rank}, but this machine has {torch.cuda.device_count()} CUDA devices"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
        group.init_process_group("nccl", timeout=TIMEOUT, device_id=chosen)
    else:
        group.init_process_group("gloo", timeout=TIMEOUT)
    return Distributed(rank, world_size, local_rank, local_world_size, chosen)


@contextmanager
def session(device: Device = "auto") -> Iterator[Distributed]:
    """Join the run for the length of a `with` block, and leave it cleanly even after an error."""
    try:
        yield initialise(device)
    finally:
        shutdown()


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if group.is_initialized():
        group.destroy_process_group()
