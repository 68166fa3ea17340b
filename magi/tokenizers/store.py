"""Tokenizers by name or folder: one place that lists them, loads them and saves the trained one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from magi import checkpoint
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Tokenizer


def autoencoder_config(fields: dict[str, Any]) -> AutoencoderConfig:
    """The config of an autoencoder from plain JSON data, in which tuples have become lists.

    Raises:
        ValueError: a field is unknown.
    """
    unknown = fields.keys() - asdict(AutoencoderConfig()).keys()
    if unknown:
        raise ValueError(f"unknown autoencoder settings {', '.join(sorted(unknown))}; was this made by a newer version?")
    return AutoencoderConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def load_autoencoder(directory: Path) -> Autoencoder:
    """Load a released autoencoder, ready to encode and decode.

    Raises:
        CheckpointError: files are missing, damaged, or do not fit each other.
    """
    checkpoint.verify(directory)
    model = Autoencoder(autoencoder_config(json.loads((directory / "config.json").read_text())))
    model.load_state_dict(checkpoint.load_tensors(directory, "model", model.state_dict()))
    return model.eval().requires_grad_(False)


def save_autoencoder(directory: Path, model: Autoencoder, card: str) -> None:
    """Write a released autoencoder: weights with their latent statistics, configuration, and a card that says where it comes from."""
    checkpoint.save(directory, {"model": model.state_dict()}, {"config.json": asdict(model.config), "README.md": card})


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by name: ``pixel:4`` cuts pixels into 4 x 4 squares; anything else is the folder of a released autoencoder.

    Raises:
        ValueError: the name is neither.
    """
    kind, _, argument = name.partition(":")
    if kind == "pixel":
        if argument and not argument.isdigit():
            raise ValueError(f"tokenizer {name!r}: the stride after 'pixel:' must be a whole number, as in pixel:4")
        return PixelTokenizer(int(argument)) if argument else PixelTokenizer()
    directory = Path(name)
    if not (directory / "config.json").is_file():
        raise ValueError(f"tokenizer {name!r} is neither pixel[:STRIDE] nor a folder with config.json; train one: magi tokenizer train")
    return load_autoencoder(directory)
