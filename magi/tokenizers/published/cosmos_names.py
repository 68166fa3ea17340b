"""From the weights of NVIDIA's own Cosmos network to those of diffusers: names, and the architecture they tell.

The names are those of the published TorchScript files; source: the networks of NVIDIA's Cosmos-Tokenizer repository,
module ``layers3d``. Knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from magi.tokenizers.published.cosmos import CosmosConfig

CONSTANTS = ("wavelets", "_arange", "patch_size_buffer")  # of the Haar transform: not weights
# In this order: the convolutions of attention layers, then pairs of a spatial and a temporal one, then all others.
RENAMED = (
    (r"\.down\.(\d+)\.", r".down_blocks.\1."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attn\.(\d+)\.0\.", r".attentions.\1."),
    (r"\.attn\.(\d+)\.1\.", r".temp_attentions.\1."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.0\.", ".mid_block.attentions.0."),
    (r"\.mid\.attn_1\.1\.", ".mid_block.temp_attentions.0."),
    (r"\.([qkv])\.conv3d\.", r".to_\1."),
    (r"\.proj_out\.conv3d\.", ".to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.0\.conv3d\.", ".conv_s."),
    (r"\.1\.conv3d\.", ".conv_t."),
    (r"\.conv3d\.", "."),
)
UNUSED = re.compile(r"(down|up)samplers\.0\.conv[123]\.")  # present at levels that do not stride, and never applied


def architecture(state: Mapping[str, Tensor], temporal_stride: int) -> CosmosConfig:
    """Read widths and depths off the shapes of published weights.

    Args:
        state: encoder and decoder together, by their published names.
        temporal_stride: 4 or 8, which not every release's weights tell.

    Raises:
        ValueError: the weights are not of such a network.
    """
    try:
        encoder, decoder = _levels(state, "encoder.down"), _levels(state, "decoder.up")
        return CosmosConfig(
            temporal_compression_ratio=temporal_stride,
            latent_channels=len(state["quant_conv.conv3d.weight"]),
            encoder_block_out_channels=(len(state["encoder.conv_in.0.conv3d.weight"]), *encoder),
            decode_block_out_channels=(*decoder, len(state["decoder.conv_in.0.conv3d.weight"])),
            num_layers=sum(re.fullmatch(r"encoder\.down\.0\.block\.\d+\.norm1\.norm\.weight", name) is not None
                           for name in state),
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"these are not the weights of a Cosmos tokenizer: {error.args[0]} is missing") from None


def _levels(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    """The channels of each level, from fine to coarse."""
    found = {int(match[1]) for name in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
    return [len(state[f"{prefix}.{level}.block.0.conv1.0.conv3d.weight"]) for level in sorted(found)]


def diffusers_names(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: CosmosConfig
) -> dict[str, Tensor]:
    """The weights by diffusers' names, without what is never applied; anything else unknown is kept, to be refused.

    Args:
        state: by their published names.
        expected: a state dict of diffusers' network, for its names.
        config: of that network.
    """
    coarsest = len(config.decode_block_out_channels) - 2
    renamed = {}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in CONSTANTS:
            continue
        new = re.sub(r"\.up\.(\d+)\.", lambda match: f".up_blocks.{coarsest - int(match[1])}.", name)  # coarse to fine
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new)
        if new in expected or not UNUSED.search(new):
            renamed[new] = tensor
    return renamed
