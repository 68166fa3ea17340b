"""A released model: a folder with the weights, the tokenizer they were trained with, and how to sample from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from magi import checkpoint
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.tokenizers.autoencoder import Autoencoder
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.store import autoencoder_config

Config = TypeVar("Config", MagiConfig, HeadConfig, SampleConfig)


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


def read_config(kind: type[Config], data: Mapping[str, Any]) -> Config:
    """A frozen config from plain JSON data; a name it does not know is an error, so nothing is silently dropped.

    Raises:
        CheckpointError: an unknown field, or a value the config refuses.
    """
    unknown = set(data) - {f.name for f in fields(kind)}
    if unknown:
        raise checkpoint.CheckpointError(f"unknown {kind.__name__} fields {sorted(unknown)}: made by a newer version of magi?")
    nested = {name: read_config(HeadConfig, value) if name == "head" else value for name, value in data.items()}
    return kind(**nested)


def save_release(directory: Path, release: Release, *, card: str) -> None:
    """Write a folder that `load` reads; never over an existing one."""
    tensors, documents = {"model": release.model.state_dict()}, {"README.md": card}
    described: dict[str, Any] = {"model": asdict(release.model.config), "sample": asdict(release.sample)}
    if isinstance(release.tokenizer, Autoencoder):
        tensors["tokenizer"] = release.tokenizer.state_dict()
        described["tokenizer"] = {"autoencoder": asdict(release.tokenizer.config)}
    elif isinstance(release.tokenizer, PixelTokenizer):
        described["tokenizer"] = {"pixel": release.tokenizer.spatial_stride}
    else:
        raise ValueError(f"a {type(release.tokenizer).__name__} cannot be released; use an autoencoder or pixel tokenizer")
    checkpoint.save(directory, tensors, {"config.json": described, **documents})


def load(directory: str | Path, *, device: torch.device | str = "cpu") -> Release:
    """Load a released model with its tokenizer, in evaluation mode.

    Raises:
        CheckpointError: the folder is not a release, or is damaged; nothing is half loaded.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise checkpoint.CheckpointError(f"{directory} holds no released model (no config.json); a run writes one to RUN/release")
    checkpoint.verify(directory)
    described = json.loads((directory / "config.json").read_text())
    model = Magi(read_config(MagiConfig, described["model"]))
    model.load_state_dict(checkpoint.load_tensors(directory, "model", model.state_dict()))
    tokenizer: Tokenizer
    if "autoencoder" in described["tokenizer"]:
        autoencoder = Autoencoder(autoencoder_config(described["tokenizer"]["autoencoder"]))
        autoencoder.load_state_dict(checkpoint.load_tensors(directory, "tokenizer", autoencoder.state_dict()))
        tokenizer = autoencoder.eval().requires_grad_(False)
    else:
        tokenizer = PixelTokenizer(described["tokenizer"]["pixel"])
    release = Release(model.eval().requires_grad_(False), tokenizer, read_config(SampleConfig, described["sample"]))
    return release.to(device)


def pretrained(name: str = "world64") -> Path:
    """The folder of a model that ships with the package.

    Raises:
        ValueError: there is none of that name.
    """
    shelf = Path(__file__).parent.parent / "pretrained"
    if not (shelf / name / "config.json").is_file():
        known = sorted(path.parent.name for path in shelf.glob("*/config.json"))
        raise ValueError(f"no pretrained model {name!r}; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}")
    return shelf / name
