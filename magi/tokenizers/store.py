"""Tokenizers by name or folder: the one place that lists them, describes them in a file, and loads them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from magi import checkpoint
from magi.pretrained import find
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.causal_autoencoder import CausalAutoencoder
from magi.tokenizers.kl import KlAutoencoder
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Tokenizer

STEM = "tokenizer"  # of the file that holds a tokenizer's weights, alone or beside a model's


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """Plain data from which `restore` builds the tokenizer again, its weights aside.

    Raises:
        ValueError: a tokenizer of a kind that cannot be released.
    """
    if isinstance(tokenizer, CausalAutoencoder):
        return {"causal_autoencoder": asdict(tokenizer.config)}
    if isinstance(tokenizer, Autoencoder):
        return {"autoencoder": asdict(tokenizer.config)}
    if isinstance(tokenizer, PixelTokenizer):
        return {"pixel": tokenizer.spatial_stride}
    raise ValueError(f"a {type(tokenizer).__name__} cannot be released; use an autoencoder or a pixel tokenizer")


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of what decides its latents: its description and weights. The same wherever its folder lies."""
    digest = hashlib.sha256(json.dumps(describe(tokenizer), sort_keys=True).encode())
    for tensors in weights(tokenizer).values():
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights(tokenizer: Tokenizer) -> dict[str, dict[str, Tensor]]:
    """The tensors to save with the description, by file stem."""
    return {STEM: tokenizer.state_dict()} if isinstance(tokenizer, nn.Module) else {}


def restore(directory: Path, description: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer a verified folder describes, ready to encode and decode.

    Raises:
        CheckpointError: its weights are missing or do not fit the description.
    """
    if "pixel" in description:
        return PixelTokenizer(description["pixel"])
    kind = "causal_autoencoder" if "causal_autoencoder" in description else "autoencoder"
    config = checkpoint.read_config(AutoencoderConfig, description[kind])
    model = CausalAutoencoder(config) if kind == "causal_autoencoder" else Autoencoder(config)
    model.load_state_dict(checkpoint.load_tensors(directory, STEM, model.state_dict()))
    return model.eval().requires_grad_(False)


def save_autoencoder(directory: Path, model: KlAutoencoder, card: str, *, run: Mapping[str, Any]) -> None:
    """Write a released autoencoder: weights with their latent statistics, configuration with facts about its training,
    and a card that says where it comes from."""
    described = {"tokenizer": describe(model), "run": dict(run)}
    checkpoint.save(directory, weights(model), {"config.json": described, "README.md": card})


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by name.

    Args:
        name: ``pixel:4`` cuts pixels into 4 x 4 squares; a folder written by `magi tokenizer train` or `magi train`
            gives the tokenizer in it; the name of a pretrained model gives that model's.

    Raises:
        ValueError: the name is none of these.
        CheckpointError: the folder is damaged.
    """
    kind, _, argument = name.partition(":")
    if kind == "pixel":
        if argument and not argument.isdigit():
            raise ValueError(f"tokenizer {name!r}: the stride after 'pixel:' must be a whole number, as in pixel:4")
        return PixelTokenizer(int(argument)) if argument else PixelTokenizer()
    directory = find(name)
    if not (directory / "config.json").is_file():
        raise ValueError(
            f"tokenizer {name!r} is neither pixel[:STRIDE], nor a pretrained model, nor a folder with config.json; "
            "train one with magi tokenizer train"
        )
    checkpoint.verify(directory)
    return restore(directory, json.loads((directory / "config.json").read_text())["tokenizer"])
