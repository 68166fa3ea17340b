"""The detectors that need no download: features of a small network that learned the physics of the procedural world.

It is trained on rendered worlds to say how many bodies there are, where, how fast, how hard they fall and when they
bounce (`magi.experiments.world_detector`), and ships with the package. A distance between its features is a world-FVD
(whole clips) or a world-FID (single frames): numbers of their own, comparable with no published one.

A clip is judged at 64 x 64 pixels. Convolutions look at each frame, others compare its features with those of the
frames before and after; a clip's features are the mean over places and frames, along axes in which their spread
over many worlds is more even. 16 frames are usual, any number from 4 is right; compare sets of one number only.

Shapes: B clips, T frames, D features, C channels, H x W pixels, h = w = 8 places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from magi import checkpoint
from magi.pretrained import SHELF

NAME = "world-detector"
WEIGHTS, AXES = "detector", "axes"  # files; none is called `model`: here is no model to sample from
SIZE = 64  # pixels on a side, and the side of the worlds that were learned
FEWEST_FRAMES = 4  # fewer show no motion that changes
SOFTENING = 0.1  # in units of the mean variance: see `principal_axes`
CLIPS_PER_CHUNK = 16
"""Clips computed at a time, to bound memory."""
PREPARATION = "area to 64 x 64, x / 127.5 - 1, mean over places and frames"
"""What happens before and after the network: a part of the fingerprint."""


@dataclass(frozen=True)
class WorldNetworkConfig:
    """Size of the network.

    Args:
        width: channels at 16 x 16 places.
        dim: D, channels at 8 x 8 places and so features of a clip or a frame.
        depth: blocks that compare frames, each with its two neighbours.
    """

    width: int = 32
    dim: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


class MotionBlock(nn.Module):
    """Compare each frame with the one before and the one after, then spread what was found: (B, T, C, h, w) to same.

    Beyond its ends a clip stands still. There is no normalisation, so no clip can see another.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.across_frames = nn.Conv3d(dim, dim, (3, 1, 1))
        self.across_places = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.cat([x[:, :1], x, x[:, -1:]], dim=1)
        seen = functional.gelu(self.across_frames(rearrange(padded, "b t c h w -> b c t h w")))
        spread = self.across_places(rearrange(seen, "b c t h w -> (b t) c h w"))
        return x + spread.unflatten(0, x.shape[:2])


class WorldNetwork(nn.Module):
    """Features of every place of every frame: first of the frame alone, then with its neighbours in time."""

    def __init__(self, config: WorldNetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, dim = config.width, config.dim
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 6, stride=4, padding=1), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, dim, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(dim, dim, 3, padding=1), nn.GELU(),
        )  # fmt: skip
        self.blocks = nn.ModuleList(MotionBlock(dim) for _ in range(config.depth))
        self.last = nn.Conv2d(dim, dim, 1)

    def still(self, pixels: Tensor) -> Tensor:
        """Features (B, T, D, h, w) of pixels (B, T, 3, 64, 64) in -1..1; a frame's depend on no other frame."""
        features: Tensor = self.trunk(pixels.flatten(0, 1))
        return features.unflatten(0, pixels.shape[:2])

    def moving(self, still: Tensor) -> Tensor:
        """Features (B, T, D, h, w) from those of single frames, same shape."""
        x = still
        for block in self.blocks:
            x = block(x)
        return functional.gelu(self.last(x.flatten(0, 1))).unflatten(0, x.shape[:2])

    def pooled_still(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of pixels (B, T, 3, 64, 64): the mean over places and frames of what each frame shows."""
        return self.still(pixels).mean((1, 3, 4))

    def pooled_moving(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of pixels (B, T, 3, 64, 64): the mean over places and frames of what moves."""
        return self.moving(self.still(pixels)).mean((1, 3, 4))


class WorldDetector:
    """Features of whole clips: what moves, how, and how often it bounces. A `Detector`."""

    name: str = "world-FVD"
    frames: int | None = None

    def __init__(self, network: WorldNetwork, axes: Tensor) -> None:
        """Make a detector of a network, which is put into evaluation mode; features are multiplied by `axes` (D, D)."""
        self.network, self.axes = network.eval(), axes
        self.dim = network.config.dim
        self.fingerprint = fingerprint(network, axes, self.name)

    def features(self, video: Tensor) -> Tensor:
        """Features (B, D) float32 of clips (B, T, 3, H, W) uint8.

        Raises:
            ValueError: not uint8, not three channels, or fewer than 4 frames.
        """
        _check(video, fewest=FEWEST_FRAMES)
        return _in_chunks(video, self._pooled, self.axes.device)

    def _pooled(self, pixels: Tensor) -> Tensor:
        return self.network.pooled_moving(pixels) @ self.axes


class WorldFrameDetector:
    """Features of single frames: which bodies are where, and nothing of motion. A `Detector`.

    A clip of T frames has the mean of its frames' features; hand over clips of one frame to compare frame by frame.
    """

    name: str = "world-FID"
    frames: int | None = None

    def __init__(self, network: WorldNetwork, axes: Tensor) -> None:
        """Make a detector of what a network sees in one frame; features are multiplied by `axes` (D, D)."""
        self.network, self.axes = network.eval(), axes
        self.dim = network.config.dim
        self.fingerprint = fingerprint(network, axes, self.name)

    def features(self, video: Tensor) -> Tensor:
        """Features (B, D) float32 of clips (B, T, 3, H, W) uint8, T = 1 for single frames.

        Raises:
            ValueError: not uint8, not three channels, or no frames.
        """
        _check(video, fewest=1)
        return _in_chunks(video, self._pooled, self.axes.device)

    def _pooled(self, pixels: Tensor) -> Tensor:
        return self.network.pooled_still(pixels) @ self.axes


def load(directory: str | Path = NAME, *, device: str = "cpu") -> WorldDetector:
    """The shipped detector of clips, or the one in a folder.

    Args:
        directory: the folder.
        device: where the network runs; features are on the CPU.

    Raises:
        CheckpointError: the folder is damaged or holds something else.
    """
    return WorldDetector(*_load(directory, WorldDetector.name, device=device))


def load_frames(directory: str | Path = NAME, *, device: str = "cpu") -> WorldFrameDetector:
    """The shipped detector of single frames, or the one in a folder.

    Args:
        directory: the folder.
        device: where the network runs; features are on the CPU.

    Raises:
        CheckpointError: the folder is damaged or holds something else.
    """
    return WorldFrameDetector(*_load(directory, WorldFrameDetector.name, device=device))


def save(
    directory: Path, network: WorldNetwork, *, clips: Tensor, card: str, recipe: Mapping[str, Any]
) -> tuple[WorldDetector, WorldFrameDetector]:
    """Write a network as a folder that `load` and `load_frames` read, and return the two detectors of it.

    Args:
        directory: must not exist yet.
        network: with the weights to keep.
        clips: (B, T, 3, H, W) uint8 of many worlds, whose spread decides the axes of the features (`principal_axes`);
            that of frames is read from the last frame of each.
        card: Markdown, in which ``{fingerprint}`` and ``{frame fingerprint}`` are filled in.
        recipe: how it was trained, as plain data; kept beside the configuration and not read.
    """
    network.eval()
    moving = WorldDetector(network, principal_axes(_in_chunks(clips, network.pooled_moving)))
    still = WorldFrameDetector(network, principal_axes(_in_chunks(clips[:, -1:], network.pooled_still)))
    for slot, detector in (("{fingerprint}", moving), ("{frame fingerprint}", still)):
        card = card.replace(slot, detector.fingerprint)
    axes = {moving.name: moving.axes, still.name: still.axes}
    config = {"detector": asdict(network.config), "recipe": dict(recipe)}
    tensors = {WEIGHTS: network.state_dict(), AXES: axes}
    checkpoint.save(directory, tensors, {"config.json": config, "README.md": card})
    return moving, still


def principal_axes(features: Tensor) -> Tensor:
    """The map (D, D) float32 that evens out the spread of features (B, D) in their principal directions.

    Nine tenths of the variance are the number of bodies, which would drown what else the network has learned. With
    variance v in units of the mean variance, a direction is divided by the fourth root of v + `SOFTENING`: its variance
    becomes about sqrt(v). To divide by the square root would make one body less a trifle beside a jump.
    """
    variance, directions = torch.linalg.eigh(torch.cov(features.double().T))
    mean = variance.mean()
    evened = (variance.clamp(min=0) / mean + SOFTENING) ** 0.25
    return (directions / (evened * mean.sqrt())).float().contiguous()


def _load(directory: str | Path, name: str, *, device: str) -> tuple[WorldNetwork, Tensor]:
    """The network in a folder, every byte of it verified, and the axes of one of its detectors."""
    folder = SHELF / NAME if str(directory) == NAME else Path(directory)
    checkpoint.verify(folder)
    described: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "detector" not in described:
        raise checkpoint.CheckpointError(
            f"{folder} holds no detector of the procedural world; its config.json describes {', '.join(described)}"
        )
    network = WorldNetwork(checkpoint.read_config(WorldNetworkConfig, described["detector"]))
    network.load_state_dict(checkpoint.load_tensors(folder, WEIGHTS, network.state_dict()))
    square = torch.empty(network.config.dim, network.config.dim)
    expected = {WorldDetector.name: square, WorldFrameDetector.name: square}
    return network.to(device), checkpoint.load_tensors(folder, AXES, expected)[name].to(device)


def fingerprint(network: WorldNetwork, axes: Tensor, name: str) -> str:
    """SHA-256 of the weights, of what is done before and after them, and of the distance they are for."""
    digest = hashlib.sha256(json.dumps([name, PREPARATION, asdict(network.config)]).encode())
    for key, tensor in sorted({**network.state_dict(), AXES: axes}.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def prepare(video: Tensor) -> Tensor:
    """Clips (B, T, 3, H, W) uint8 as pixels (B, T, 3, 64, 64) float32 in -1..1.

    Larger pictures are averaged over areas, which has no aliasing; smaller ones are repeated. The aspect is not kept.
    """
    pixels = video.float()
    if pixels.shape[-2:] != (SIZE, SIZE):
        resized = functional.interpolate(pixels.flatten(0, 1), (SIZE, SIZE), mode="area")
        pixels = resized.unflatten(0, video.shape[:2])
    return pixels / 127.5 - 1


def _check(video: Tensor, *, fewest: int) -> None:
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3:
        raise ValueError(f"clips are {video.dtype} {tuple(video.shape)}; expected uint8 (B, T, 3, H, W)")
    if video.shape[1] < fewest:
        raise ValueError(f"clips have {video.shape[1]} frames; this detector needs at least {fewest}")


@torch.no_grad()
def _in_chunks(video: Tensor, compute: Callable[[Tensor], Tensor], device: torch.device | None = None) -> Tensor:
    chunks = [compute(prepare(chunk.to(device))).float().cpu() for chunk in video.split(CLIPS_PER_CHUNK)]
    return torch.cat(chunks)
