"""From the names and arguments of a published OmniTokenizer file to ours, refusing what is not one.

Knows no file: reading one is reading a pickle, which is `trust.py`'s business.

Source: the published code (FoundationVision/OmniTokenizer, commit 701b619): omnitokenizer.py and its training scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from magi.checkpoint import CheckpointError
from magi.tokenizers.published.omnitokenizer import OmniTokenizer, OmniTokenizerConfig

# What training alone needs, by the beginning of its name in a published file.
TRAINING_ONLY = ("codebook.", "image_discriminator.", "video_discriminator.", "perceptual_model.")
STATISTICS = ("shift", "scale")  # ours: no published file has them
SHOWN = 8  # names of each kind in an error

# Published argument of each setting.
ARGUMENTS = {
    "latent_channels": "codebook_dim",
    "width": "embedding_dim",
    "heads": "heads",
    "head_width": "dim_head",
    "patch": "patch_size",
    "temporal_patch": "temporal_patch_size",
    "encoder_blocks": "enc_block",
    "decoder_blocks": "dec_block",
    "temporal_depth": "temporal_depth",
    "window": "twod_window_size",
    "multiplier": "ff_mult",
    "spatial_position": "spatial_pos",
    "causal_attention": "causal_in_temporal_transformer",
    "causal_position": "causal_in_peg",
}
# What the published code takes where a file is older than the argument.
ABSENT: dict[str, Any] = {"twod_window_size": 4, "spatial_pos": "rel"}
# Arguments that would change what is computed, at the one value that is computed here, also where they are absent.
FIXED: dict[str, Any] = {
    "image_channels": 3,
    "patch_embed": "linear",
    "defer_temporal_pool": False,
    "defer_spatial_pool": False,
    "gen_upscale": None,
    "use_external_codebook": False,
    "attn_dropout": 0.0,  # the fused attention of the published code drops out in evaluation too
}


def published_shapes(config: OmniTokenizerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a published file holds of this architecture, what only trains aside."""
    with torch.device("meta"):
        state = OmniTokenizer(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in STATISTICS}


def from_published(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> OmniTokenizer:
    """The tokenizer a published file holds, ready to encode and decode; its latents are not normalised yet.

    Whether a file is the VAE or the quantised tokenizer is told by its weights, not by the argument `use_vae`.

    Args:
        state: name to tensor, any shapes; what training alone needs (`TRAINING_ONLY`) is left out.
        arguments: those the published code was run with.

    Raises:
        ValueError: an argument is missing, or has a value that is not supported; with its name and value.
        CheckpointError: tensors are missing, unexpected, or of another shape than the arguments say; with their names.
    """
    config = published_config(arguments)
    expected = published_shapes(config)
    held = {name: tensor for name, tensor in state.items() if not name.startswith(TRAINING_ONLY)}
    _check_published(held, expected, config)
    tokenizer = OmniTokenizer(config)
    tokenizer.load_state_dict(held | {name: getattr(tokenizer, name) for name in STATISTICS})
    return tokenizer.eval().requires_grad_(False)


def published_config(arguments: Mapping[str, Any]) -> OmniTokenizerConfig:
    """The architecture that published arguments describe; 'casual' and 'causal' are the same word there.

    Raises:
        ValueError: an argument is missing, or has a value that is not supported; with its name and value.
    """
    for name, supported in FIXED.items():
        if arguments.get(name, supported) != supported:
            raise ValueError(f"OmniTokenizer with {name}={arguments[name]!r} is not supported, only {supported!r}")
    kinds = {name: type(value) for name, value in vars(OmniTokenizerConfig()).items()}
    values = {name: _argument(arguments, published, kinds[name]) for name, published in ARGUMENTS.items()}
    depth, blocks = _argument(arguments, "spatial_depth", int), values["encoder_blocks"]
    if depth != len(blocks):
        raise ValueError(f"OmniTokenizer with spatial_depth={depth} cannot have the {len(blocks)} layers {blocks!r}")
    strides = arguments.get("q_strides", "1")  # of an older version of the published code, a digit per layer
    if set(strides) != {"1"}:
        raise ValueError(f"OmniTokenizer with q_strides={strides!r} is not supported, only 1 everywhere")
    return OmniTokenizerConfig(**values)


def _argument(arguments: Mapping[str, Any], name: str, kind: type) -> Any:
    """The value of an argument under either spelling."""
    spellings = [name, name.replace("causal", "casual")] if name.startswith("causal") else [name]
    given = {spelling: arguments[spelling] for spelling in spellings if spelling in arguments}
    if not given and name in ABSENT:
        return ABSENT[name]
    if not given:
        raise ValueError(f"the OmniTokenizer arguments lack {' or '.join(spellings)}")
    value, *others = given.values()
    if any(other != value for other in others):
        raise ValueError(f"the OmniTokenizer arguments contradict each other: {given}")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(
            f"OmniTokenizer with {next(iter(given))}={value!r} is not supported, only type {kind.__name__}"
        )
    return value


def _check_published(
    held: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], config: OmniTokenizerConfig
) -> None:
    rows = held["pre_vq_conv.1.weight"].shape[:1] if "pre_vq_conv.1.weight" in held else None
    if rows == (config.latent_channels,):
        raise CheckpointError(
            f"pre_vq_conv.1.weight has {rows[0]} rows where a VAE has {2 * rows[0]}, mean and log variance: "
            "this OmniTokenizer quantises; take one of the files named _vae"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
    differences = {
        "missing": [name for name in expected if name not in shapes],
        "unexpected": [name for name in shapes if name not in expected],
        "of another shape": [
            f"{name} {shapes[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ],
    }
    if any(differences.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in differences.items() if names)
        raise CheckpointError(f"these weights are not the OmniTokenizer that their arguments describe: {listed}")


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
