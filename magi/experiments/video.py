"""Train a MAGI model on clips: `magi train`. The one place where data, tokenizer, model and loop meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from magi.data.clips import BEYOND, Clips
from magi.distributed import Distributed
from magi.experiments.data import DataConfig, stream
from magi.experiments.publish import publish
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, save_release
from magi.sampling.video import generate
from magi.tokenizers.protocol import Tokenizer, latent_frames, pixel_frames, to_pixels
from magi.tokenizers.store import fingerprint, load_tokenizer
from magi.training.loop import Evaluate, TrainConfig, train
from magi.video import Frames, tile, write_gif

OWN = "own"
"""A tokenizer that is trained on the run's own videos before the model is."""

Prepare = Callable[[Clips, int], tuple[Tensor, Tensor, TrainingDraws]]


@dataclass(frozen=True)
class VideoRun:
    """Everything that decides a model's training."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: str = "pixel:4"
    """``pixel:STRIDE``, the folder of a trained autoencoder, or ``own``: one is trained on the same videos first."""
    own_tokenizer_samples: int | None = None
    """Clips to train that one on, in place of its preset's number."""
    model: MagiConfig = field(default_factory=MagiConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    """How the released model samples unless told otherwise."""
    watch_clips: int = 4
    """Clips to continue and show at every evaluation; 0 shows none."""

    def __post_init__(self) -> None:
        if self.own_tokenizer_samples is not None and self.tokenizer != OWN:
            raise ValueError(
                f"own_tokenizer_samples {self.own_tokenizer_samples} has no effect with tokenizer {self.tokenizer!r}, "
                f"which is trained already; drop it, or give --tokenizer {OWN}"
            )


def check_fit(run: VideoRun, tokenizer: Tokenizer) -> None:
    """Refuse data, tokenizer and model that do not fit, before anything is built.

    Raises:
        ValueError: naming both sizes.
    """
    data, model = run.data.chosen, run.model
    frames, *latent = tokenizer.latent_shape(data.num_frames, data.size, data.size)
    expected = [model.latent_channels, model.latent_height, model.latent_width]
    if frames != model.num_frames:
        raise ValueError(
            f"clips of {data.num_frames} frames are {frames} latent frames; --model.num-frames is {model.num_frames}: "
            "make them equal"
        )
    if latent != expected:
        raise ValueError(
            f"tokenizer {run.tokenizer!r} gives latents (channels, height, width) {tuple(latent)}; the model takes "
            f"{tuple(expected)}: set --model.latent-channels, --model.latent-height and --model.latent-width"
        )
    if data.max_interval > model.max_interval:
        raise ValueError(
            f"data intervals reach {data.max_interval}; the model embeds 1..{model.max_interval}: "
            "raise --model.max-interval"
        )


def train_video(
    run: VideoRun, *, run_dir: Path, distributed: Distributed, evaluate: Callable[[Tokenizer], Evaluate] | None = None
) -> Path:
    """Train, then write the averaged model with its tokenizer to `run_dir/release`; returns that folder."""
    tokenizer = load_tokenizer(run.tokenizer)
    check_fit(run, tokenizer)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(distributed.device)
    torch.manual_seed(run.train.seed)
    model, source = Magi(run.model), run.data.source()
    state = train(
        model,
        stream(source, run.train, distributed),
        prepare=preparation(run.model, tokenizer, seed=run.train.seed, device=distributed.device),
        config=run.train,
        # what the tokenizer is, not where it lies: a run may move with its own, and must not go on with another
        resolved={**asdict(run), "tokenizer": fingerprint(tokenizer)},
        run_dir=run_dir,
        distributed=distributed,
        evaluate=evaluate(tokenizer) if evaluate is not None else None,
    )
    release = run_dir / "release"
    if distributed.is_first:
        averaged = state.ema.model
        assert isinstance(averaged, Magi)
        ready, text = Release(averaged, tokenizer, run.sample), card(run, state.samples)
        publish(release, lambda folder: save_release(folder, ready, card=text, run={"samples": state.samples}))
    return release


def preparation(config: MagiConfig, tokenizer: Tokenizer, *, seed: int, device: torch.device) -> Prepare:
    """From the clips of a step to what a model of `config` is trained on: latents, intervals, and all that is random.

    Args:
        config: of the model.
        tokenizer: makes the latents; it is on `device`.
        seed: of the masks and the noise.
        device: where the model is.
    """

    def prepare(clips: Clips, step: int) -> tuple[Tensor, Tensor, TrainingDraws]:
        latents = tokenizer.encode(to_pixels(clips.video.to(device)))
        draws = draw_training(config, seed, step=step, samples=clips.sample.tolist())
        return latents, clips.interval.to(device), draws.to(device)

    return prepare


def card(run: VideoRun, samples: int) -> str:
    """What a user must know about the model, from the run itself."""
    data = run.data.chosen
    return f"""# MAGI model

Forcing `{run.model.forcing}`, {run.model.depth} blocks of width {run.model.width}, {run.model.tokens} tokens per frame.
Trained on `{run.data.kind}` clips of {data.num_frames} frames at {data.size} pixels, intervals
{data.min_interval}..{data.max_interval}: {samples:,} clips, batch {run.train.batch_size}, seed {run.train.seed}.
The weights are the moving average.
"""


def watch(run: VideoRun, run_dir: Path, distributed: Distributed) -> Callable[[Tokenizer], Evaluate]:
    """What to look at while training: the loss on fixed clips; `run_dir/samples/*.gif`, truth beside continuation."""

    def evaluation(tokenizer: Tokenizer) -> Evaluate:
        clips = run.data.source().clips(range(BEYOND, BEYOND + 16))
        prepare = preparation(run.model, tokenizer, seed=run.train.seed, device=distributed.device)
        inputs = prepare(clips, 0)

        @torch.no_grad()
        def evaluate(samples_seen: int, model: nn.Module) -> Iterable[tuple[str, float]]:
            assert isinstance(model, Magi)
            for name, value in model(*inputs).items():
                yield f"fixed {name}", float(value)
            if distributed.is_first and run.watch_clips:
                release = Release(model, tokenizer, run.sample)
                first = Clips(*(part[: run.watch_clips] for part in (clips.video, clips.interval, clips.sample)))
                path = run_dir / "samples" / f"samples-{samples_seen:010d}.gif"
                path.parent.mkdir(exist_ok=True)
                write_gif(path, continuation_grid(release, first), fps=8, scale=2)

        return evaluate

    return evaluation


def continuation_grid(release: Release, clips: Clips) -> Frames:
    """Truth beside its continuation from the first third of the frames, a clip per row: (T, rows, columns, 3) uint8."""
    stride = release.tokenizer.temporal_stride
    context = pixel_frames(max(1, latent_frames(clips.video.shape[1], stride) // 3), stride)
    frames = generate(
        release,
        clips.video[:, :context],
        num_frames=clips.video.shape[1] - context,
        seeds=range(len(clips.video)),
        interval=clips.interval.tolist(),
    )
    continued = torch.cat([clips.video[:, :context], torch.stack(list(frames), dim=1).cpu()], dim=1)
    pairs = torch.stack([clips.video, continued], dim=1)  # (B, 2, T, 3, H, W)
    return tile(list(rearrange(pairs, "b pair t c h w -> (b pair) t h w c").numpy()), columns=2)
