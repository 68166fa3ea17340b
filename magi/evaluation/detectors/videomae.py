"""Features of a VideoMAE, which look at motion where I3D looks at pictures (Ge et al., 2024, arXiv:2404.12391).

The network is that of the transformers library, an optional one; the weights are a local folder's safetensors. Features
are the mean of all tokens after the last block, through the norm that the classes read if the file has one.

Shapes: B clips, T frames, H x W pixels, D features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi.evaluation.detectors import files
from magi.evaluation.detectors.network import Filter, NetworkDetector, resize
from magi.tokenizers.published.trust import sha256_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG, WEIGHTS, PREPROCESSING = "config.json", "model.safetensors", "preprocessor_config.json"


def load_videomae(
    path: Path | None = None, *, filter: Filter = "bilinear", device: str = "cpu", clips_at_once: int = 4
) -> NetworkDetector:
    """A VideoMAE as detector.

    Args:
        path: a transformers folder; None looks at MAGI_VIDEOMAE.
        filter: how frames are resized to the network's size, without keeping the aspect.
        device: where the network runs.
        clips_at_once: how many clips it is given at a time.

    Raises:
        ImportError: transformers is not installed.
        ValueError: there is no folder, or it holds another model, no safetensors, or not all of the weights.
    """
    folder = files.find(files.VIDEOMAE, path, folder=True)
    config = _config(folder)
    network, has_norm = _network(folder, config)
    network.eval().requires_grad_(False).to(device)
    size, mean, std = int(network.config.image_size), *_normalisation(folder)
    frames, dim = int(network.config.num_frames), int(network.config.hidden_size)
    shift, scale = (torch.tensor(values, device=device).reshape(3, 1, 1) for values in (mean, std))

    def run(video: Tensor) -> Tensor:
        pixels = (resize(video, size, filter) / 255 - shift) / scale
        body = network.videomae if has_norm else network
        features: Tensor = body(pixel_values=pixels).last_hidden_state.mean(1)
        return network.fc_norm(features) if has_norm else features

    digest = sha256_of(folder / WEIGHTS)
    choices = {"detector": "videomae", "config": config, "mean": mean, "std": std, "resize": filter, "norm": has_norm}
    pooling = "mean of tokens, normed" if has_norm else "mean of tokens"
    return NetworkDetector(
        name=f"VideoMAE-FVD ({folder.name}, {pooling}, {filter} to {size})",
        dim=dim,
        fingerprint=files.fingerprint(digest, choices),
        frames=frames,
        description=(
            f"VideoMAE, {dim} features, {pooling}, {filter} to {size}, mean {mean}, std {std}, from {folder.name}, "
            f"sha256 {digest}"
        ),
        run=run,
        device=device,
        clips_at_once=clips_at_once,
    )


def _config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``, if the folder is one that can be read without running what is in it."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = ", only a pickle, which is not read: save it as safetensors" if _has_pickle(folder) else ""
            raise ValueError(
                f"{folder} has no {name}{pickled if name == WEIGHTS else ''}; expected {CONFIG}, {WEIGHTS}"
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is no JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "videomae":
        raise ValueError(f"{folder} is a {kind!r} model, expected 'videomae'; code that comes with a model is not run")
    assert isinstance(config, dict)
    return config


def _has_pickle(folder: Path) -> bool:
    return (folder / "pytorch_model.bin").is_file()


def _network(folder: Path, config: dict[str, Any]) -> tuple[Any, bool]:
    """The network, and whether its features pass the norm before the classes."""
    try:
        from transformers import VideoMAEForVideoClassification, VideoMAEModel
    except ImportError as error:
        raise ImportError("VideoMAE needs transformers: pip install transformers") from error
    has_norm = "VideoMAEForVideoClassification" in config.get("architectures", ()) and config.get(
        "use_mean_pooling", True
    )
    kind = VideoMAEForVideoClassification if has_norm else VideoMAEModel
    network, told = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
    )
    missing = sorted(told["missing_keys"])
    if missing or told["mismatched_keys"]:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit its config: missing {', '.join(missing[:4]) or 'nothing'}, "
            f"{len(told['mismatched_keys'])} of another shape"
        )
    return network, bool(has_norm)


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels: those that came with the model, or ImageNet's."""
    path = folder / PREPROCESSING
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return tuple(told.get("image_mean", IMAGENET_MEAN)), tuple(told.get("image_std", IMAGENET_STD))
