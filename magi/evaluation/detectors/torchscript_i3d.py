"""The I3D that StyleGAN-V published as a TorchScript program, which most published FVDs were measured with.

Rescaling and resizing are inside the program, and are asked for; the call is that of StyleGAN-V's and Latte's
frechet_video_distance.py. It is a program: it is loaded only if it is trusted.

Shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from magi.evaluation.detectors import files
from magi.evaluation.detectors.i3d import CLASSES, FEWEST_FRAMES
from magi.evaluation.detectors.network import NetworkDetector
from magi.tokenizers.published.trust import Trust


def load_torchscript_i3d(
    path: Path | None = None, *, trust: Trust | None = None, device: str = "cpu", clips_at_once: int = 8
) -> NetworkDetector:
    """The I3D as the program that others measured with: 400 logits.

    Args:
        path: the file; None looks at MAGI_I3D_TORCHSCRIPT.
        trust: whether the program may run.
        device: where it runs.
        clips_at_once: how many clips it is given at a time.

    Raises:
        Untrusted: nobody vouches for the file.
        ValueError: there is no file, or it is no TorchScript.
    """
    found = files.find(files.I3D_TORCHSCRIPT, path)
    program, digest = files.load_program(found, trust=trust or Trust())
    program = program.to(torch.device(device))

    def run(video: Tensor) -> Tensor:
        clips = rearrange(video, "b t c h w -> b c t h w").float()  # 0 to 255
        logits: Tensor = program(clips, rescale=True, resize=True, return_features=True)
        return logits

    return NetworkDetector(
        name="FVD (i3d_torchscript)",
        dim=CLASSES,
        fingerprint=files.fingerprint(digest, {"detector": "i3d-torchscript", "rescale": True, "resize": True}),
        frames=None,
        description=f"I3D as TorchScript, 400 logits, rescales and resizes itself, from {found.name}, sha256 {digest}",
        run=run,
        fewest_frames=FEWEST_FRAMES,
        device=device,
        clips_at_once=clips_at_once,
    )
