"""Train an autoencoder of this package on clips: `magi tokenizer train`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from magi.choices import check_choices
from magi.data.clips import BEYOND, Clips
from magi.distributed import Distributed
from magi.evaluation.pixel import psnr, ssim
from magi.experiments.data import DataConfig, identity, stream
from magi.experiments.publish import publish
from magi.report.tokenizer_page import Reconstructions, tokenizer_page
from magi.seeds import generator
from magi.tokenizers.autoencoder import Autoencoder
from magi.tokenizers.causal_autoencoder import CausalAutoencoder
from magi.tokenizers.kl import AutoencoderConfig, KlAutoencoder
from magi.tokenizers.protocol import to_pixels, to_video
from magi.tokenizers.store import save_autoencoder
from magi.training.loop import TrainConfig, train

WATCHED, MEASURED, GRADED = 16, 256, 64  # held clips: at each evaluation, for the statistics, at the end
AT_ONCE = 16  # clips
PAGE = "reconstruction.html"
PICTURES = 4  # clips on the page


@dataclass(frozen=True)
class AutoencoderRun:
    """Everything that decides an autoencoder's training."""

    kind: Literal["frames", "causal"] = "frames"
    """Each frame alone; or four frames to a latent frame and the first alone, looking back but never ahead."""
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_choices(self)

    def build(self) -> KlAutoencoder:
        """The autoencoder before its training."""
        return CausalAutoencoder(self.autoencoder) if self.kind == "causal" else Autoencoder(self.autoencoder)


def check_clips(run: AutoencoderRun) -> None:
    """Refuse clips of which the autoencoder makes no whole latents, before anything is written.

    Raises:
        ValueError: naming the sizes that do not fit.
    """
    latent_shape(run, run.build())


def train_autoencoder(run: AutoencoderRun, *, run_dir: Path, distributed: Distributed) -> Path:
    """Train, measure the latent statistics, write `run_dir/release` and a page about it; returns the release."""
    check_clips(run)
    torch.manual_seed(run.train.seed)
    model, source = run.build(), run.data.source()

    def prepare(clips: Clips, step: int) -> tuple[Tensor, Tensor]:
        pixels = to_pixels(clips.video.to(distributed.device))
        shape = model.latent_shape(*pixels.shape[1:2], *pixels.shape[-2:])
        noise = [
            generator(run.train.seed, "posterior", int(i)).standard_normal(shape, dtype=np.float32)
            for i in clips.sample
        ]
        return pixels, torch.from_numpy(np.stack(noise)).to(distributed.device)

    def held(first: int, count: int) -> Iterable[Tensor]:
        """Clips that are not trained on, (B, T, 3, H, W) uint8."""
        for start in range(first, first + count, AT_ONCE):
            yield source.clips(range(BEYOND + start, BEYOND + min(start + AT_ONCE, first + count))).video

    def evaluate(samples: int, averaged: nn.Module) -> Iterable[tuple[str, float]]:
        assert isinstance(averaged, KlAutoencoder)
        (clips,) = held(0, WATCHED)
        shown = reconstruct(averaged, clips.to(distributed.device))
        yield "fixed psnr", float(psnr(shown, clips).mean())
        yield "fixed ssim", float(ssim(shown, clips).mean())

    state = train(
        model,
        stream(source, run.train, distributed),
        prepare=prepare,
        config=run.train,
        resolved={**asdict(run), **identity(source)},
        run_dir=run_dir,
        distributed=distributed,
        evaluate=evaluate,
    )
    averaged = state.ema.whole()
    assert isinstance(averaged, KlAutoencoder)
    averaged.measure_statistics(to_pixels(clips.to(distributed.device)) for clips in held(WATCHED, MEASURED))
    if distributed.is_first:
        truth = torch.cat(list(held(0, GRADED)))
        shown = torch.cat([reconstruct(averaged, clips.to(distributed.device)) for clips in truth.split(AT_ONCE)])
        conclude(run, averaged, truth=truth, shown=shown, samples=state.samples, run_dir=run_dir)
    return run_dir / "release"


def conclude(
    run: AutoencoderRun, model: KlAutoencoder, *, truth: Tensor, shown: Tensor, samples: int, run_dir: Path
) -> None:
    """Release the autoencoder, and tell how well it shows clips (N, T, 3, H, W) uint8: card, page, a line."""
    quality = Quality(psnr(shown, truth), ssim(shown, truth))
    text = card(run, model, quality)
    publish(run_dir / "release", lambda folder: save_autoencoder(folder, model, text, run={"samples": samples}))
    pictures = truth[:PICTURES], shown[:PICTURES]
    record = reconstructions(run, model, quality, log=run_dir / "metrics.jsonl", pictures=pictures)
    (run_dir / PAGE).write_text(tokenizer_page(record), encoding="utf-8")
    print(f"reconstruction of {quality}; look at {run_dir / PAGE}")


def reconstruct(model: KlAutoencoder, video: Tensor) -> Tensor:
    """Encode and decode clips (B, T, 3, H, W) uint8; the same shape, on the CPU."""
    return to_video(model.decode(model.encode(to_pixels(video)))).cpu()


@dataclass(frozen=True)
class Quality:
    """How well held clips were reconstructed, by clip and frame."""

    psnr: Tensor  # (N, T), dB
    ssim: Tensor  # (N, T)

    def __str__(self) -> str:
        clips = len(self.psnr)
        return f"{clips} held clips: {self.psnr.mean():.2f} dB PSNR, {self.ssim.mean():.4f} SSIM"


def about(run: AutoencoderRun, model: KlAutoencoder) -> str:
    """What it is and what it was trained on."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    how = "per-frame" if run.kind == "frames" else "causal video"
    times = f" and {model.temporal_stride}x in time, the first frame alone" if model.temporal_stride > 1 else ""
    data = run.data.chosen
    size = f"{model.spatial_stride}x smaller in space{times}, {model.latent_channels} channels"
    clips = f"`{run.data.kind}` clips, {run.train.total_samples:,} of {data.num_frames} frames at {data.size} pixels"
    trained = f"Trained on {clips}, batch {run.train.batch_size}, seed {run.train.seed}."
    return f"A {how} convolutional KL autoencoder of MAGI, {millions:.2f} M parameters: {size}. {trained}"


def card(run: AutoencoderRun, model: KlAutoencoder, quality: Quality) -> str:
    """What a user must know about the autoencoder, from the run itself."""
    return f"# Autoencoder\n\n{fill(f'{about(run, model)} Reconstruction of {quality}.', width=120)}\n"


def reconstructions(
    run: AutoencoderRun, model: KlAutoencoder, quality: Quality, *, log: Path, pictures: tuple[Tensor, Tensor]
) -> Reconstructions:
    """What the page tells: the run's log as curves, the quality at the end, clips (N, T, 3, H, W) and what is left."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    named = {
        f"PSNR of {WATCHED} held clips, dB": "fixed psnr",
        f"SSIM of {WATCHED} held clips": "fixed ssim",
        "training loss": "loss",
    }
    curves = {title: [(line["samples"], line[key]) for line in lines if key in line] for title, key in named.items()}
    numbers_in, numbers_out = (int(np.prod(x)) for x in (pictures[0].shape[1:], latent_shape(run, model)))
    facts = [
        (f"{quality.psnr.mean():.2f} dB", f"PSNR, {len(quality.psnr)} held clips"),
        (f"{quality.ssim.mean():.4f}", "SSIM"),
        (f"{numbers_in / numbers_out:.0f}x", "fewer numbers than pixels have"),
    ]
    lead = about(run, model)
    return Reconstructions("What is left of a video", lead, facts, curves, quality.psnr.mean(0), *pictures)


def latent_shape(run: AutoencoderRun, model: KlAutoencoder) -> tuple[int, int, int, int]:
    """(t, C, h, w) of the run's clips."""
    data = run.data.chosen
    return model.latent_shape(data.num_frames, data.size, data.size)
