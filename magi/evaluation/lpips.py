"""LPIPS: how far two frames are apart in the layers of an ImageNet network (Zhang et al., 2018, arXiv:1801.03924).

Two files make it. The network under it is torchvision's AlexNet or VGG16, by path: MAGI downloads nothing. The weights
of its layers, a few kilobytes, are the LPIPS package's version 0.1; torchmetrics carries a copy, which is used unless
another is named. The networks are written here, because torchvision is not needed for anything else.

Shapes: ... any leading dimensions, B frames, C channels, H x W pixels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from magi.evaluation.detectors import files
from magi.tokenizers.published.trust import Trust

Trunk = Literal["alex", "vgg"]

SMALLEST = 32  # pixels on a side: with fewer, nothing is left in the last layer
FRAMES_PER_CHUNK = 64
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's channels in [-1, 1], as LPIPS has them
EPSILON = 1e-10  # added to a pixel's length before it is divided by it

# What torchvision's `features` are, in order: (channels, kernel, stride, padding) of a convolution, with a ReLU after
# it, or (kernel, stride) of a maximum. "tap" follows the layers that are compared.
Step = tuple[int, int, int, int] | tuple[int, int] | Literal["tap"]
STEPS: dict[Trunk, tuple[Step, ...]] = {
    "alex": (
        *((64, 11, 4, 2), "tap", (3, 2), (192, 5, 1, 2), "tap", (3, 2)),
        *((384, 3, 1, 1), "tap", (256, 3, 1, 1), "tap", (256, 3, 1, 1), "tap"),
    ),
    "vgg": (
        *((64, 3, 1, 1), (64, 3, 1, 1), "tap", (2, 2)),
        *((128, 3, 1, 1), (128, 3, 1, 1), "tap", (2, 2)),
        *((256, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), "tap", (2, 2)),
        *((512, 3, 1, 1), (512, 3, 1, 1), (512, 3, 1, 1), "tap", (2, 2)),
        *((512, 3, 1, 1), (512, 3, 1, 1), (512, 3, 1, 1), "tap"),
    ),
}


class Features(nn.Module):
    """(B, 3, H, W) to the five layers that are compared, each (B, C, H', W')."""

    def __init__(self, trunk: Trunk):
        super().__init__()
        layers: list[nn.Module] = []
        taps: list[int] = []
        channels = 3
        for step in STEPS[trunk]:
            if step == "tap":
                taps.append(len(layers) - 1)
            elif len(step) == 4:
                outputs, kernel, stride, padding = step
                layers += [nn.Conv2d(channels, outputs, kernel, stride, padding), nn.ReLU()]
                channels = outputs
            else:
                layers.append(nn.MaxPool2d(*step))
        self.features, self.taps = nn.Sequential(*layers), tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        made = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                made.append(x)
        return made


@dataclass(frozen=True)
class Lpips:
    """LPIPS with its weights."""

    name: str
    fingerprint: str
    """SHA-256 of both files' hashes and the trunk's name."""
    description: str
    network: Features
    weights: tuple[Tensor, ...]
    """One per layer: (C,)."""
    device: str = "cpu"

    def __call__(self, video: Tensor, truth: Tensor) -> Tensor:
        """LPIPS of each frame, 0 for equal ones.

        Args:
            video, truth: (..., 3, H, W) uint8, at least `SMALLEST` pixels on a side.

        Returns:
            (...) float64 on the CPU.

        Raises:
            ValueError: other types or shapes.
        """
        for tensor in (video, truth):
            if tensor.dtype != torch.uint8 or tensor.ndim < 3 or tensor.shape[-3] != 3:
                raise ValueError(
                    f"frames are {tensor.dtype} {tuple(tensor.shape)}; expected uint8 (..., 3, height, width)"
                )
        if video.shape != truth.shape:
            raise ValueError(f"video is {tuple(video.shape)}, its truth {tuple(truth.shape)}; expected one shape")
        if min(video.shape[-2:]) < SMALLEST:
            raise ValueError(f"LPIPS reads frames of {SMALLEST} pixels or more, got {tuple(video.shape[-2:])}")
        values = [torch.empty(0, dtype=torch.float64)]
        flat, flat_truth = (rearrange(x, "... c h w -> (...) c h w") for x in (video, truth))
        with torch.inference_mode():
            for one, two in zip(flat.split(FRAMES_PER_CHUNK), flat_truth.split(FRAMES_PER_CHUNK), strict=True):
                values.append(self._of_frames(one.to(self.device), two.to(self.device)).double().cpu())
        return torch.cat(values).reshape(video.shape[:-3]).clone()

    def _of_frames(self, one: Tensor, two: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 each to (B,)."""
        layers = zip(self.network(_scaled(one)), self.network(_scaled(two)), self.weights, strict=True)
        return torch.stack(
            [torch.einsum("bchw,c->bhw", (_unit(x) - _unit(y)).square(), w).mean((-2, -1)) for x, y, w in layers]
        ).sum(0)


def _scaled(frames: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to what the trunk was trained on."""
    shift, scale = (frames.new_tensor(x, dtype=torch.float32).reshape(3, 1, 1) for x in (SHIFT, SCALE))
    return (frames.float() / 127.5 - 1 - shift) / scale


def _unit(x: Tensor) -> Tensor:
    """(B, C, H, W) with the channels of each pixel at length one."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON)


def load_lpips(
    path: Path | None = None,
    *,
    trunk: Trunk = "alex",
    layers: Path | None = None,
    trust: Trust | None = None,
    device: str = "cpu",
) -> Lpips:
    """LPIPS from local files.

    Args:
        path: torchvision's AlexNet or VGG16; None looks at MAGI_LPIPS.
        trunk: which of the two; `alex` is what most papers report.
        layers: the weights of the layers, ``lin0.model.1.weight`` and so on; None takes torchmetrics' copy.
        trust: whether a pickle that is more than tensors may run.
        device: where it runs.

    Raises:
        ImportError: `layers` is None, and torchmetrics is not installed.
        ValueError: there is no file, or its tensors have other names or shapes.
    """
    if trunk not in STEPS:
        raise ValueError(f"trunk must be one of {', '.join(map(repr, STEPS))}; got {trunk!r}")
    trust = trust or Trust()
    base = files.read_state(files.find(files.LPIPS, path), trust=trust)
    with torch.device("meta"):
        network = Features(trunk)
    network.load_state_dict(files.fit(base, network.state_dict(), ignored=("classifier.",)), assign=True)
    network.eval().requires_grad_(False).to(device)
    linear = files.read_state(layers or _carried(trunk), trust=trust)
    convolutions = [network.features[tap - 1] for tap in network.taps]
    channels = [layer.out_channels for layer in convolutions if isinstance(layer, nn.Conv2d)]
    names = [f"lin{number}.model.1.weight" for number in range(len(channels))]
    wanted: Mapping[str, Tensor] = {
        name: torch.empty(1, count, 1, 1, device="meta") for name, count in zip(names, channels, strict=True)
    }
    fitted = files.fit(linear, wanted)
    return Lpips(
        name=f"LPIPS ({trunk})",
        fingerprint=files.fingerprint(base.sha256, {"detector": "lpips", "trunk": trunk, "layers": linear.sha256}),
        description=(
            f"LPIPS 0.1, {trunk}, from {base.path.name}, sha256 {base.sha256}, and {linear.path.name}, sha256 "
            f"{linear.sha256}"
        ),
        network=network,
        weights=tuple(fitted[name].flatten().to(device) for name in names),
        device=device,
    )


def _carried(trunk: Trunk) -> Path:
    """torchmetrics' copy of the weights of the layers."""
    found = importlib.util.find_spec("torchmetrics")
    if found is None or found.origin is None:
        raise ImportError(
            "the weights of LPIPS' layers come with torchmetrics: pip install 'torchmetrics>=1.6,<2', or name a file"
        )
    path = Path(found.origin).parent / "functional" / "image" / "lpips_models" / f"{trunk}.pth"
    if not path.is_file():
        raise ValueError(f"torchmetrics has no {path}; name the file of the weights of LPIPS' layers")
    return path
