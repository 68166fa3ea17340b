"""Settings and weights of others in a network of ours: what differs is listed, and nothing is half loaded.

Knows names and shapes, and the statistics file that may lie beside published weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from magi import checkpoint

SHOWN = 8  # differences named in an error: a wrong file has hundreds
STATISTICS = "statistics"  # stem of the file


def network_settings(
    described: Mapping[str, Any], class_name: str, *, of_no_effect: Collection[str], source: str
) -> dict[str, Any]:
    """What diffusers' config.json says of the architecture of a network.

    Args:
        described: its content.
        class_name: what the network must be.
        of_no_effect: settings that are left out, since they are not of the architecture.
        source: what the error calls it.

    Raises:
        ValueError: it is of another network, or of pictures that are not RGB.
    """
    named = described.get("_class_name", class_name)
    if named != class_name:
        raise ValueError(f"{source} is of a {named}, expected an {class_name}")
    settings = {key: value for key, value in described.items() if not key.startswith("_") and key not in of_no_effect}
    for name in ("in_channels", "out_channels"):
        if settings.pop(name, 3) != 3:
            raise ValueError(f"{source}: {name} is {described[name]}, expected the 3 of RGB")
    return settings


def fit(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``network``, whose own floating type is kept.

    Args:
        network: what the weights are for.
        state: a state dict with its very names and shapes.
        source: what the error calls them.

    Raises:
        ValueError: names or shapes differ; the first of them and how many there are.
    """
    expected = network.state_dict()
    differences = [f"{name} is missing" for name in expected if name not in state]
    differences += [f"{name} is unexpected" for name in state if name not in expected]
    differences += [
        f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise ValueError(
            f"{source} is not what it is taken for, {len(differences)} differences: "
            f"{'; '.join(differences[:SHOWN])}{more}"
        )
    network.load_state_dict(dict(state))


def read_statistics(folder: Path, channels: int) -> tuple[Tensor, Tensor] | None:
    """Return ``shift`` and ``scale``, each (C,) float32, of the latents: None where no file says them.

    Args:
        folder: where ``statistics.json``, an object with the lists ``shift`` and ``scale``, or
            ``statistics.safetensors``, with tensors of these names, may lie.
        channels: C.

    Raises:
        ValueError: the file says something else.
    """
    document, tensors = folder / f"{STATISTICS}.json", folder / f"{STATISTICS}.safetensors"
    if document.is_file():
        try:
            found = json.loads(document.read_text(encoding="utf-8"))
            pair = tuple(torch.tensor(found[name], dtype=torch.float32) for name in ("shift", "scale"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{document} does not hold the lists shift and scale: {error!r}") from error
        source = document
    elif tensors.is_file():
        state = checkpoint.load_tensors(folder, STATISTICS, None)
        if not {"shift", "scale"} <= state.keys():
            raise ValueError(f"{tensors} does not hold the tensors shift and scale, but {', '.join(state)}")
        pair, source = (state["shift"].float(), state["scale"].float()), tensors
    else:
        return None
    shift, scale = pair
    check_statistics(shift, scale, channels, str(source))
    return shift, scale


def check_statistics(shift: Tensor, scale: Tensor, channels: int, source: str) -> None:
    """Refuse statistics, (C,) each, that are not one finite mean and one positive deviation a channel.

    Raises:
        ValueError: naming ``source``.
    """
    for name, values in (("shift", shift), ("scale", scale)):
        if values.shape != (channels,):
            raise ValueError(f"{source}: {name} has shape {tuple(values.shape)}, but there are {channels} channels")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{source}: {name} is not finite: {values.tolist()}")
    if not bool((scale > 0).all()):
        raise ValueError(f"{source}: scale must be positive, got {scale.tolist()}")
