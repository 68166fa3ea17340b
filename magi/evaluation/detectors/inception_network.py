"""InceptionV3 as FID uses it: TensorFlow's network of 2015-12-05, in the names of pytorch-fid's state dict.

Written from the paper (Szegedy et al., 2015, arXiv:1512.00567) and the names of the tensors, which are torchvision's.
What differs from torchvision's network: average pools leave the padding out of the count, the last block's pool takes
the maximum, and there are 1,008 classes.

Shapes: B frames, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 2048
CLASSES = 1008
EPSILON = 1e-3  # of the batch-norm, as in TensorFlow
SMALLEST = 75  # pixels: with fewer, nothing is left before the last block

Pool = Literal["average", "maximum", "halving"]
"""3 x 3: of stride 1 with a convolution after it, or the maximum at stride 2, which is a tower itself."""


@dataclass(frozen=True)
class Layer:
    """A convolution with batch-norm and ReLU."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    """Of stride 1 it keeps the size; of stride 2 it has no padding."""


Tower = tuple[Layer | tuple[Layer, Layer], ...]
"""Layers one after another; of a pair, both read the same, and their channels are put side by side."""


@dataclass(frozen=True)
class Block:
    """Towers side by side, the pool the last of them."""

    towers: tuple[Tower, ...]
    pool: Pool
    pooled: int = 0
    """Channels of the convolution after the pool."""


def _double(*channels: int, halving: bool = False) -> Tower:
    first, second, third = channels
    return (
        Layer("branch3x3dbl_1", first),
        Layer("branch3x3dbl_2", second, (3, 3)),
        Layer("branch3x3dbl_3", third, (3, 3), stride=2 if halving else 1),
    )


def _block_a(pooled: int) -> Block:
    five = (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5)))
    return Block(((Layer("branch1x1", 64),), five, _double(64, 96, 96)), "average", pooled)


def _block_c(inner: int) -> Block:
    seven = (
        Layer("branch7x7_1", inner),
        Layer("branch7x7_2", inner, (1, 7)),
        Layer("branch7x7_3", 192, (7, 1)),
    )
    double = (
        Layer("branch7x7dbl_1", inner),
        Layer("branch7x7dbl_2", inner, (7, 1)),
        Layer("branch7x7dbl_3", inner, (1, 7)),
        Layer("branch7x7dbl_4", inner, (7, 1)),
        Layer("branch7x7dbl_5", 192, (1, 7)),
    )
    return Block(((Layer("branch1x1", 192),), seven, double), "average", 192)


def _block_e(pool: Pool) -> Block:
    three = (
        Layer("branch3x3_1", 384),
        (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
    )
    double = (
        Layer("branch3x3dbl_1", 448),
        Layer("branch3x3dbl_2", 384, (3, 3)),
        (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
    )
    return Block(((Layer("branch1x1", 320),), three, double), pool, 192)


_THREE_D: Tower = (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), stride=2))
_SEVEN_D: Tower = (
    Layer("branch7x7x3_1", 192),
    Layer("branch7x7x3_2", 192, (1, 7)),
    Layer("branch7x7x3_3", 192, (7, 1)),
    Layer("branch7x7x3_4", 192, (3, 3), stride=2),
)
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": Block(((Layer("branch3x3", 384, (3, 3), stride=2),), _double(64, 96, 96, halving=True)), "halving"),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": Block((_THREE_D, _SEVEN_D), "halving"),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}
STEM: tuple[tuple[str, int, int, int, int], ...] = (  # name, channels, kernel, stride, padding
    ("Conv2d_1a_3x3", 32, 3, 2, 0),
    ("Conv2d_2a_3x3", 32, 3, 1, 0),
    ("Conv2d_2b_3x3", 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 80, 1, 1, 0),
    ("Conv2d_4a_3x3", 192, 3, 1, 0),
)
POOLED_STEM = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")  # after these, the maximum of 3 x 3 at stride 2


class Convolution(nn.Module):
    """Convolution, batch-norm and ReLU; (B, C, H, W) to (B, C', H', W')."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], *, stride: int, padding: tuple[int, int]):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.ModuleDict):
    """A block; (B, C, H, W) to (B, C', H', W')."""

    def __init__(self, inputs: int, block: Block):
        super().__init__()
        self.block, self.outputs = block, 0
        for tower in block.towers:
            channels = inputs
            for step in tower:
                layers = step if isinstance(step, tuple) else (step,)
                for layer in layers:
                    self[layer.name] = _convolution(channels, layer)
                channels = sum(layer.channels for layer in layers)
            self.outputs += channels
        if block.pooled:
            self["branch_pool"] = _convolution(inputs, Layer("branch_pool", block.pooled))
        self.outputs += block.pooled or inputs

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for tower in self.block.towers:
            y = x
            for step in tower:
                layers = step if isinstance(step, tuple) else (step,)
                y = torch.cat([self[layer.name](y) for layer in layers], dim=1)
            made.append(y)
        if self.block.pool == "halving":
            return torch.cat([*made, F.max_pool2d(x, 3, stride=2)], dim=1)
        if self.block.pool == "maximum":
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([*made, self["branch_pool"](pooled)], dim=1)


def _convolution(inputs: int, layer: Layer) -> Convolution:
    height, width = layer.kernel
    padding = (height // 2, width // 2) if layer.stride == 1 else (0, 0)
    return Convolution(inputs, layer.channels, layer.kernel, stride=layer.stride, padding=padding)


class InceptionV3(nn.Module):
    """(B, 3, H, W) in [-1, 1], 299 pixels on a side as published, to the features (B, 2048) before the classes."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for name, outputs, kernel, stride, padding in STEM:
            layer = Convolution(channels, outputs, (kernel, kernel), stride=stride, padding=(padding, padding))
            self.add_module(name, layer)
            channels = outputs
        for name, block in BLOCKS.items():
            mixed = Mixed(channels, block)
            self.add_module(name, mixed)
            channels = mixed.outputs
        assert channels == FEATURES
        self.fc = nn.Linear(FEATURES, CLASSES)  # of no use here, but in the file

    def forward(self, x: Tensor) -> Tensor:
        for name in (*(layer[0] for layer in STEM), *BLOCKS):
            x = self.get_submodule(name)(x)
            if name in POOLED_STEM:
                x = F.max_pool2d(x, 3, stride=2)
        return x.mean((-2, -1))
