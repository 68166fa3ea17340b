"""Write what this version writes, for later ones to read: a training that was stopped, and a release.

    python -m tests.golden.make tests/golden/VERSION

Once for each format, never over what is there.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, save_release
from magi.sampling.rollout import generate
from magi.tokenizers.pixel import PixelTokenizer
from magi.training.loop import TrainConfig
from tests.toy_runs import RUN, Crash, crash, run

MODEL = MagiConfig(
    latent_channels=3, latent_height=4, latent_width=4, patch=2, num_frames=3, depth=1, width=8, mlp_width=8, heads=2,
    head=HeadConfig(width=8, depth=1, time_dim=8), head_repeats=1, noise_embedding="add",
)  # fmt: skip
TRAINING: TrainConfig = replace(RUN, total_samples=20, checkpoint_every=12, keep_checkpoints=1)
SAMPLING = SampleConfig(mask_steps=2, head_steps=4, solver="ddim", noise_source="cpu")


def sums(state: dict[str, torch.Tensor]) -> dict[str, float]:
    """A number for each tensor, in which every value has its own weight."""
    return {
        name: float((value.double().flatten() * torch.arange(1, value.numel() + 1)).sum() / value.numel())
        for name, value in state.items()
    }


def frames(release: Release) -> list[float]:
    """Numbers of a generated video."""
    video = list(generate(release.model, None, num_frames=2, seeds=[5], settings=release.sample))
    return torch.stack(video).flatten()[::7].tolist()


def main() -> None:
    """Write into the folder that is named."""
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(Path(folder), model=MODEL, config=TRAINING, at=12, event=crash)
        except Crash:
            shutil.copytree(Path(folder) / "step-00000003", out / "run" / "step-00000003")
            shutil.copyfile(Path(folder) / "metrics.jsonl", out / "run" / "metrics.jsonl")
        state = run(Path(folder), model=MODEL, config=TRAINING)
    release = Release(state.ema.model.eval(), PixelTokenizer(2), SAMPLING)  # type: ignore[arg-type]
    save_release(out / "release", release, card="A golden release.\n")
    told = {
        "weights": sums(state.model.state_dict()),
        "average": sums(state.ema.model.state_dict()),
        "frames": frames(release),
    }
    (out / "expected.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
