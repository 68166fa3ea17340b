"""Features of single frames for FID: InceptionV3's 2,048 before the classes. A frame is a clip of one.

The user's file decides how: NVIDIA's TorchScript program, which resizes as TensorFlow 1 did, or pytorch-fid's state
dict in our own network. The two differ by a little, so their distances carry different names.

Shapes: B frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from magi.choices import check_choices
from magi.evaluation.detectors import files
from magi.evaluation.detectors.inception_network import FEATURES, SMALLEST, InceptionV3
from magi.evaluation.detectors.network import Filter, NetworkDetector, resize
from magi.tokenizers.published.trust import Trust

INPUT_SIZE = 299  # pixels
FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class InceptionChoices:
    """How frames come to the network; the TorchScript program does it itself, and takes none."""

    resize: Filter = "bilinear"
    """As in pytorch-fid; `tf1` as in the original FID."""
    size: int = INPUT_SIZE
    """Another than 299 is no published detector."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.size < SMALLEST:
            raise ValueError(f"InceptionV3 reads frames of size {SMALLEST} or more, got {self.size}")

    def __str__(self) -> str:
        return f"{self.resize} to {self.size}"


def load_inception(
    path: Path | None = None,
    *,
    choices: InceptionChoices | None = None,
    trust: Trust | None = None,
    device: str = "cpu",
    frames_at_once: int = FRAMES_AT_ONCE,
) -> NetworkDetector:
    """InceptionV3 for single frames.

    Args:
        path: the file, TorchScript or a state dict; None looks at MAGI_INCEPTION.
        choices: for a state dict only.
        trust: whether a file that is code may run; TorchScript must.
        device: where the network runs.
        frames_at_once: how many frames it is given at a time.

    Raises:
        Untrusted: the file is code, and nobody vouches for it.
        ValueError: there is no file, its tensors have other names or shapes, or choices were given to a program.
    """
    found, trust = files.find(files.INCEPTION, path), trust or Trust()
    if files.format_of(found.read_bytes()) == "torchscript":
        if choices is not None:
            raise ValueError(f"{found} is a program that resizes frames itself; {choices} would have no effect")
        return _from_program(found, trust=trust, device=device, frames_at_once=frames_at_once)
    choices = choices or InceptionChoices()
    file = files.read_state(found, trust=trust)
    with torch.device("meta"):
        network = InceptionV3()
    network.load_state_dict(files.fit(file, network.state_dict()), assign=True)
    network.eval().requires_grad_(False).to(device)

    def run(video: Tensor) -> Tensor:
        made: Tensor = network(resize(video, choices.size, choices.resize)[:, 0] / 127.5 - 1)
        return made

    return NetworkDetector(
        name=f"FID (pytorch-fid, {choices})",
        dim=FEATURES,
        fingerprint=files.fingerprint(file.sha256, {"detector": "inception", **asdict(choices)}),
        frames=1,
        description=f"InceptionV3, 2,048 features, {choices}, from {found.name}, sha256 {file.sha256}",
        run=run,
        device=device,
        clips_at_once=frames_at_once,
    )


def _from_program(path: Path, *, trust: Trust, device: str, frames_at_once: int) -> NetworkDetector:
    """NVIDIA's program: ``program(images, return_features=True)``, of uint8 images (B, 3, H, W) of any size."""
    program, digest = files.load_program(path, trust=trust)
    program = program.to(torch.device(device))

    def run(video: Tensor) -> Tensor:
        made: Tensor = program(video[:, 0], return_features=True)
        return made

    return NetworkDetector(
        name="FID (inception torchscript)",
        dim=FEATURES,
        fingerprint=files.fingerprint(digest, {"detector": "inception-torchscript"}),
        frames=1,
        description=f"InceptionV3 as TorchScript, 2,048 features, resizes itself, from {path.name}, sha256 {digest}",
        run=run,
        device=device,
        clips_at_once=frames_at_once,
    )
