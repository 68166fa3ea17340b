"""A model that learns before the reader's eyes: a minute of the real training loop, and its samples along the way.

Knows one toy setting. What trains models in earnest is `magi.experiments.video`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from magi.data.clips import BEYOND
from magi.data.world import World, WorldConfig
from magi.distributed import Distributed
from magi.evaluation.run import continuations
from magi.experiments.data import stream
from magi.experiments.video import preparation
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.report.records import Toy
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, save_release
from magi.tokenizers.protocol import Tokenizer
from magi.training.loop import TrainConfig, train
from magi.training.optim import OptimConfig

WORLD = WorldConfig(num_frames=8, min_bodies=1, max_bodies=2, max_interval=1)
"""An easier world than the large model's: one or two bodies, one interval."""
CONTEXT = 3  # frames given before each look
BATCH = 8
TIMED_STEPS = 4
POINTS = 24  # of the loss curve, evenly spaced if there are steps enough
LOOKS = 3  # at samples during training, the last one at the end; and one before it begins


def toy_model(tokenizer: Tokenizer) -> MagiConfig:
    """Two blocks of width 64 and the flow head, which learns more in a minute than the diffusion head."""
    _, channels, height, width = tokenizer.latent_shape(WORLD.num_frames, WORLD.size, WORLD.size)
    return MagiConfig(
        latent_channels=channels, latent_height=height, latent_width=width, num_frames=WORLD.num_frames,
        depth=2, width=64, mlp_width=256, heads=4, dropout=0.0, max_interval=1, mask_ratio_min=0.4, noise_max=0.4,
        head=HeadConfig(kind="flow", width=64), head_repeats=2,
    )  # fmt: skip


def train_toy(
    tokenizer: Tokenizer, run_dir: Path, *, seconds: float, most: int, device: torch.device, seed: int = 0
) -> Toy:
    """Train a toy model from nothing in the latents of a tokenizer, and write it to `run_dir/release`.

    Args:
        tokenizer: of 64 pixels; not trained.
        run_dir: new; gets checkpoints and `metrics.jsonl` like any run.
        seconds: about how long it may take; a slower machine trains on fewer clips.
        most: clips to train on at most; so many on any machine that has the time, with the same result.
        device: where the tokenizer is.
        seed: of weights, data, masks and noise.
    """
    config, source = toy_model(tokenizer), World(WORLD)
    settings = SampleConfig(mask_steps=8, head_steps=20)
    torch.manual_seed(seed)
    model = Magi(config).to(device)
    shown = source.clips([BEYOND])

    prepare = preparation(config, tokenizer, seed=seed, device=device)

    def look(at: Magi) -> Tensor:
        made = continuations(Release(at, tokenizer, settings), shown.video, context=CONTEXT, interval=1, seeds=[seed])
        return torch.cat([shown.video[:, :CONTEXT], made], dim=1)[0]

    def evaluate(samples: int, averaged: nn.Module) -> Iterable[tuple[str, float]]:
        assert isinstance(averaged, Magi)
        looks.append((samples, look(averaged)))
        with torch.no_grad():
            yield "loss on a clip never trained on", float(averaged(*prepare(shown, 0))["loss"])

    looks = [(0, look(model.eval()))]
    step_seconds = time_step(lambda: model(*prepare(source.clips(range(BEYOND, BEYOND + BATCH)), 0))["loss"].backward())
    steps = max(1, min(most // BATCH, int(seconds / step_seconds)))
    clips = BATCH * (steps - steps % POINTS if steps > POINTS else steps)
    training, distributed = lesson(clips, seed), Distributed(device=device)
    start = time.perf_counter()
    state = train(
        model,
        stream(source, training, distributed),
        prepare=prepare,
        config=training,
        resolved={"world": asdict(WORLD), "model": asdict(config), "train": asdict(training)},
        run_dir=run_dir,
        distributed=distributed,
        evaluate=evaluate,
    )
    spent, averaged = time.perf_counter() - start, state.ema.whole()
    assert isinstance(averaged, Magi)
    save_release(
        run_dir / "release", Release(averaged, tokenizer, settings), card=f"# A toy, trained on {clips:,} clips\n"
    )
    return Toy(
        clips=clips,
        seconds=spent,
        parameters=sum(p.numel() for p in model.parameters()),
        losses=read_losses(run_dir),
        truth=shown.video[0],
        given=CONTEXT,
        looks=looks,
    )


def lesson(clips: int, seed: int) -> TrainConfig:
    """How to train on so few clips: fast, with a third of them to settle."""
    return TrainConfig(
        total_samples=clips,
        batch_size=BATCH,
        seed=seed,
        precision="fp32",  # not every CPU has bf16
        optim=OptimConfig(
            lr=3e-3, warmup_samples=max(1, clips // 10), decay="tail", decay_samples=max(1, clips // 3), clip=1.0
        ),
        ema_half_life=clips / 8,
        ema_ramp=0.05,
        checkpoint_every=clips,
        log_every=max(BATCH, clips // POINTS),
        evaluate_every=-(-clips // LOOKS),
    )


def time_step(step: Callable[[], None]) -> float:
    """Seconds that a training step takes; the first, which also warms up, does not count. Leaves gradients behind."""
    step()
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
    return (time.perf_counter() - start) / TIMED_STEPS


def read_losses(run_dir: Path) -> list[tuple[int, float]]:
    """The training losses that a run wrote down, (clips seen, loss)."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [(record["samples"], record["loss"]) for record in records if "loss" in record]
