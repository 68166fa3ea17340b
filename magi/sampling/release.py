"""A released model: a folder with the weights, the tokenizer they were trained with, and how to sample from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from magi import checkpoint
from magi.model.config import MagiConfig
from magi.model.magi import Magi
from magi.pretrained import find
from magi.sampling.config import SampleConfig
from magi.tokenizers import store
from magi.tokenizers.protocol import Tokenizer


@dataclass(frozen=True)
class Release:
    """A model that is ready to be used."""

    model: Magi
    tokenizer: Tokenizer
    sample: SampleConfig

    def to(self, device: torch.device | str) -> Release:
        """The same release on another device."""
        self.model.to(device)
        if isinstance(self.tokenizer, nn.Module):
            self.tokenizer.to(device)
        return self


def save_release(directory: Path, release: Release, *, card: str, run: Mapping[str, Any] | None = None) -> None:
    """Write a folder that `load` reads; never over an existing one.

    Args:
        directory: the folder.
        release: what to write.
        card: the README.
        run: facts about the training, for the reader of config.json; `load` does not look at them.
    """
    described: dict[str, Any] = {
        "model": asdict(release.model.config),
        "tokenizer": store.describe(release.tokenizer),
        "sample": asdict(release.sample),
    }
    if run is not None:
        described["run"] = dict(run)
    tensors = {"model": release.model.state_dict(), **store.weights(release.tokenizer)}
    checkpoint.save(directory, tensors, {"config.json": described, "README.md": card})


def load(directory: str | Path, *, device: torch.device | str = "cpu", backbone: torch.dtype | None = None) -> Release:
    """Load a released model with its tokenizer, in evaluation mode.

    Args:
        directory: a folder written by a training run, or the name of a pretrained model.
        device: where to put it.
        backbone: another type than the weights' own for all but the head (`Magi.backbone_to`).

    Raises:
        CheckpointError: the folder is not a release, or is damaged; nothing is half loaded.
    """
    directory = find(directory)
    if not (directory / "config.json").is_file():
        raise checkpoint.CheckpointError(
            f"{directory} holds no released model (no config.json); a run writes one to RUN/release"
        )
    checkpoint.verify(directory)
    described = store.read_description(directory)
    if "model" not in described:
        raise checkpoint.CheckpointError(
            f"{directory} holds a tokenizer but no model; give it to magi train with --tokenizer"
        )
    with store.as_described(directory), store.no_more_than(directory, "model"):
        model = Magi.blank(checkpoint.read_config(MagiConfig, described["model"]))
    model.fill(checkpoint.load_tensors(directory, "model", model.state_dict()))
    if backbone is not None:
        model.backbone_to(backbone)
    tokenizer = store.restore(directory, described.get("tokenizer"))
    with store.as_described(directory):
        sample = checkpoint.read_config(SampleConfig, described["sample"])
    release = Release(model.eval().requires_grad_(False), tokenizer, sample)
    return release.to(device)
