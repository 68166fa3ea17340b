"""The gradient of a batch from those of its parts, on one process or many.

A batch is cut into equal parts; each process has as many, and computes one at a time, so memory is that of a part. How
the parts are summed is a choice. *Fast* adds them up as they come and lets the processes average what they have: the
same to rounding. *Tree* sums neighbours, then neighbouring pairs, and so on: the same bits on any number of processes
(a power of two that divides the parts), so that a run may go on with more or fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from magi.distributed import Distributed
from magi.graphs import Inputs

Losses = dict[str, Tensor]  # scalars, "loss" among them


class TreeSum:
    """Sums lists of tensors in the order of a binary tree, holding no more than its open branches."""

    def __init__(self) -> None:
        self.branches: list[tuple[int, list[Tensor]]] = []  # terms summed, and their sum; fewer and fewer of them

    def add(self, values: Sequence[Tensor]) -> None:
        """Add the next term."""
        terms, total = 1, list(values)
        while self.branches and self.branches[-1][0] == terms:
            terms, total = 2 * terms, list(torch._foreach_add(self.branches.pop()[1], total))
        self.branches.append((terms, total))

    @property
    def total(self) -> list[Tensor]:
        """The sum of a power of two of terms."""
        ((_, total),) = self.branches
        return total


def fast_gradient(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Inputs], Losses],
    distributed: Distributed,
    *,
    own_parts: int,
    sharded: bool = False,
) -> Callable[[Iterable[Inputs]], Losses]:
    """From this process's parts to their mean losses; the mean gradient over all processes is at the parameters.

    A sharded model sums rows after every part, so that no process ever has a whole gradient.
    """
    wrapped = DistributedDataParallel(model) if distributed.world_size > 1 and not sharded else model

    def compute(parts: Iterable[Inputs]) -> Losses:
        means: Losses = {}
        for number, inputs in enumerate(parts, start=1):
            if number == 1:
                model.zero_grad(set_to_none=True)
            if isinstance(wrapped, FSDPModule):  # rows inside a machine after every part, machines once
                wrapped.set_requires_all_reduce(number == own_parts)
            with _alone(wrapped) if number < own_parts else nullcontext():
                losses = loss_of(wrapped, inputs)
                (losses["loss"] / own_parts if own_parts > 1 else losses["loss"]).backward()
            for name, value in losses.items():
                value = value.detach() / own_parts if own_parts > 1 else value.detach()
                means[name] = means[name] + value if name in means else value
        return means

    return compute


def tree_gradient(
    model: nn.Module, loss_of: Callable[[nn.Module, Inputs], Losses], distributed: Distributed, *, parts: int
) -> Callable[[Iterable[Inputs]], Losses]:
    """From this process's parts to the mean losses of all parts of all processes; the mean gradient of all is at the
    parameters. Both are the same bits in every process, and on any number of them."""
    parameters = list(model.parameters())

    def compute(own: Iterable[Inputs]) -> Losses:
        tree, names = TreeSum(), list[str]()
        for inputs in own:
            model.zero_grad(set_to_none=True)
            losses = loss_of(model, inputs)
            losses["loss"].backward()
            names = list(losses)
            values = [value.detach() for value in losses.values()]
            tree.add([*values, *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)])
        total = list(tree.total)
        if distributed.world_size > 1:  # in one message
            flat = distributed.tree_sum(torch.cat([value.flatten().to(parameters[0]) for value in total]))
            sizes = [value.numel() for value in total]
            total = [part.view_as(like) for part, like in zip(flat.split(sizes), total, strict=True)]
        means = [value / parts for value in total]
        for parameter, gradient in zip(parameters, means[len(names) :], strict=True):
            parameter.grad = gradient
        return dict(zip(names, means, strict=False))

    return compute


def check_parts(parts: int, *, batch_size: int, world_size: int, tree: bool) -> None:
    """Refuse parts that the processes cannot share.

    Raises:
        ValueError: with the numbers, and what would do.
    """
    if parts % world_size or batch_size % parts:
        raise ValueError(
            f"a batch of {batch_size} in {parts} parts cannot be shared by {world_size} processes; --train.parts must "
            "be a multiple of the processes and divide --train.batch-size"
        )
    if tree and (parts & (parts - 1) or world_size & (world_size - 1)):
        raise ValueError(
            f"reduction tree sums pairs: parts and processes must be powers of two, got {parts} and {world_size}"
        )


def _alone(wrapped: nn.Module) -> AbstractContextManager[None]:
    """Gradients stay in this process."""
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()
