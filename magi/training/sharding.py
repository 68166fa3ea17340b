"""A model that no process holds whole: every parameter is cut into rows, of which each process keeps its own (FSDP2).

In *full* sharding all processes share one copy; in *hybrid* those of a machine do, and machines have copies, so that
parameters are gathered over the fast links inside one. Gradients are averaged in float32 and end up cut alike, as are
the optimizer's moments and the moving average. What is saved is whole tensors, so a checkpoint does not depend on how
many processes wrote it.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from magi.distributed import Distributed
from magi.model.transformer import Block

Sharding = Literal["none", "full", "hybrid"]
Module = TypeVar("Module", bound=nn.Module)


def mesh_of(sharding: Sharding, distributed: Distributed) -> DeviceMesh:
    """The processes among which parameters are cut: all in a row, or (machines, processes of a machine).

    Raises:
        ValueError: one process has nobody to share with; machines have different numbers of processes.
    """
    world, local = distributed.world_size, distributed.local_world_size
    if world == 1:
        raise ValueError(f"sharding {sharding} is for several processes; start them with torchrun, or leave it none")
    if sharding == "full":
        return init_device_mesh(distributed.device.type, (world,))
    if world % local:
        raise ValueError(f"sharding hybrid needs as many processes on every machine; {world} are not {local} on each")
    if distributed.any(distributed.from_first(local) != local):
        raise ValueError(f"sharding hybrid needs as many processes on every machine; this one has {local}, others not")
    return init_device_mesh(distributed.device.type, (world // local, local), mesh_dim_names=("machines", "inside"))


def shard(model: Module, mesh: DeviceMesh) -> Module:
    """Cut the parameters of a model, each block of a transformer by itself, so that one at a time is whole."""
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def blank_copy(model: Module) -> Module:
    """A copy whose parameters have shapes and types and no memory; buffers are copied."""
    parameters: dict[int, object] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, parameters)


def whole(tensor: Tensor) -> Tensor:
    """The tensor that a process may hold rows of; every process that has some must ask at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process has, all of them if it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of(tensor: Tensor) -> slice:
    """Which rows of a whole tensor this process holds."""
    if not isinstance(tensor, DTensor):
        return slice(None)
    (dimension,) = [number for number, placed in enumerate(tensor.placements) if isinstance(placed, Shard)]
    size, rank = tensor.device_mesh.size(dimension), tensor.device_mesh.get_local_rank(dimension)
    length = -(-tensor.shape[0] // size)  # as torch.chunk cuts
    return slice(min(rank * length, tensor.shape[0]), min((rank + 1) * length, tensor.shape[0]))


def like(rows: Tensor, tensor: Tensor) -> Tensor:
    """This process's rows as part of a tensor that is cut as another is; whole tensors stay what they are."""
    if not isinstance(tensor, DTensor):
        return rows.to(tensor.device)
    return DTensor.from_local(
        rows.to(tensor.device), tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape,
        stride=tensor.stride(),
    )  # fmt: skip


@torch.no_grad()
def shard_alike(blank: Module, model: nn.Module, mesh: DeviceMesh, device: torch.device) -> Module:
    """A blank copy made into a copy of a model that is cut already, without ever being whole."""
    shard(blank, mesh).to_empty(device=device)
    tensors = chain(blank.parameters(), blank.buffers()), chain(model.parameters(), model.buffers())
    for own, given in zip(*tensors, strict=True):
        own.copy_(given)
    return blank


def unsharded(model: nn.Module, blank: Module) -> Module:
    """A whole copy, in every process, of a model that is cut, made of a blank copy from before. Every process must ask
    at the same time."""
    result = copy.deepcopy(blank)
    result.load_state_dict({name: whole(tensor).detach() for name, tensor in model.state_dict().items()}, assign=True)
    return result.requires_grad_(False).to(next(result.parameters()).device).eval()
