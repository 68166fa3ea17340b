"""Train a MAGI model on clips: `magi train`. The one place where data, tokenizer, model and loop meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from magi.choices import check_choices
from magi.data.clips import BEYOND, Clips, LatentClips
from magi.data.latent_store import read_store
from magi.data.loader import Source
from magi.distributed import Distributed
from magi.experiments.data import DataConfig, identity, stream
from magi.experiments.publish import publish
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, save_release
from magi.sampling.video import generate
from magi.seeds import generator
from magi.tokenizers.precision import ComputedIn, posterior_in
from magi.tokenizers.protocol import Posterior, Tokenizer, latent_frames, pixel_frames, to_pixels, to_video
from magi.tokenizers.store import fingerprint, load_tokenizer
from magi.training.loop import Evaluate, TrainConfig, train
from magi.video import Frames, tile, write_gif

OWN = "own"
"""A tokenizer that is trained on the run's own videos before the model is."""

Prepare = Callable[[Clips | LatentClips, int], tuple[Tensor, Tensor, TrainingDraws]]


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
    sample_latents: bool = False
    """Draw the latents of a clip from the tokenizer's posterior, anew in every epoch, instead of taking its mean."""
    tokenizer_precision: ComputedIn = "fp32"
    """Of the tokenizer while training; bf16 autocast is several times faster on a GPU and rounds latents by about .5 %.
    Latents that were encoded before are as `magi encode --precision` made them."""
    checkpointed: bool = False
    """Keep a block's input alone for the backward pass and compute the rest again: less memory, a third more work."""
    watch_clips: int = 4
    """Clips to continue and show at every evaluation; 0 shows none."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.tokenizer_precision != "fp32" and self.data.kind == "latents":
            raise ValueError(
                f"tokenizer_precision {self.tokenizer_precision} has no effect on latents that were encoded before; "
                "it is magi encode's --precision"
            )
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
    if run.data.kind == "latents":
        check_cache(run.data.latents.path, run.tokenizer, tokenizer)


def check_cache(path: str, name: str, tokenizer: Tokenizer) -> None:
    """Refuse latents that another tokenizer made: the model would be released with one that cannot decode them.

    Raises:
        ValueError: naming both tokenizers.
    """
    store, own = read_store(path), fingerprint(tokenizer)
    if store.recipe.tokenizer != own:
        raise ValueError(
            f"the latents in {path} were made by tokenizer {store.tokenizer!r}, fingerprint "
            f"{store.recipe.tokenizer[:12]}; this is {name!r}, fingerprint {own[:12]}: give --tokenizer the one, or "
            "encode anew with the other"
        )


def train_video(
    run: VideoRun,
    *,
    run_dir: Path,
    distributed: Distributed,
    evaluate: Callable[[Tokenizer], Evaluate] | None = None,
    source: Source | None = None,
) -> Path:
    """Train, then write the averaged model with its tokenizer to `run_dir/release`; returns that folder.

    Args:
        run: the whole configuration.
        run_dir: where all of it goes.
        distributed: this process among the others.
        evaluate: what to look at while training.
        source: the clips of `run.data` where they are at hand in another form; by default they are opened here.
    """
    tokenizer = load_tokenizer(run.tokenizer)
    check_fit(run, tokenizer)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(distributed.device)
    torch.manual_seed(run.train.seed)
    model, source = Magi(run.model), source or run.data.training_source()
    model.transformer.checkpointed = run.checkpointed
    # what the tokenizer is, not where it lies: a run may move with its own, and must not go on with another
    resolved = {**asdict(run), "tokenizer": fingerprint(tokenizer), **identity(source)}
    state = train(
        model,
        stream(source, run.train, distributed),
        prepare=preparation_of(run, tokenizer, distributed.device),
        config=run.train,
        resolved=resolved,
        run_dir=run_dir,
        distributed=distributed,
        evaluate=evaluate(tokenizer) if evaluate is not None else None,
    )
    release, averaged = run_dir / "release", state.ema.whole()
    if distributed.is_first:
        assert isinstance(averaged, Magi)
        ready, text = Release(averaged, tokenizer, run.sample), card(run, state.samples)
        publish(release, lambda folder: save_release(folder, ready, card=text, run={"samples": state.samples}))
    return release


def preparation_of(run: VideoRun, tokenizer: Tokenizer, device: torch.device) -> Prepare:
    """The preparation that a run asks for."""
    return preparation(
        run.model,
        tokenizer,
        seed=run.train.seed,
        device=device,
        sample_latents=run.sample_latents,
        precision=run.tokenizer_precision,
    )


def preparation(
    config: MagiConfig,
    tokenizer: Tokenizer,
    *,
    seed: int,
    device: torch.device,
    sample_latents: bool = False,
    precision: ComputedIn = "fp32",
) -> Prepare:
    """From the clips of a step to what a model of `config` is trained on: latents, intervals, and all that is random.

    Args:
        config: of the model.
        tokenizer: makes the latents; it is on `device`.
        seed: of the masks, the noise and the latents that are sampled.
        device: where the model is.
        sample_latents: draw them from the posterior, by the position of their clip; or else take its mean.
        precision: of the tokenizer.
    """

    def prepare(clips: Clips | LatentClips, step: int) -> tuple[Tensor, Tensor, TrainingDraws]:
        posterior = posterior_of(clips, tokenizer, device, precision)
        latents = sampled(posterior, clips.sample.tolist(), seed=seed) if sample_latents else posterior.mean
        draws = draw_training(config, seed, step=step, samples=clips.sample.tolist())
        return latents, clips.interval.to(device), draws.to(device)

    return prepare


def posterior_of(
    clips: Clips | LatentClips, tokenizer: Tokenizer, device: torch.device, precision: ComputedIn = "fp32"
) -> Posterior:
    """What is known of the latents (B, t, C, h, w) of clips, encoded before or now."""
    if isinstance(clips, LatentClips):
        deviation = None if clips.deviation is None else clips.deviation.to(device)
        return Posterior(clips.mean.to(device), deviation)
    return posterior_in(precision, tokenizer, to_pixels(clips.video.to(device)))


def sampled(posterior: Posterior, samples: Sequence[int], *, seed: int) -> Tensor:
    """Latents (B, t, C, h, w) drawn from the posterior: a function of seed and position in the order.

    Raises:
        ValueError: there is nothing to draw.
    """
    if posterior.deviation is None:
        raise ValueError(
            "--sample-latents has no effect: these latents have no deviation, for the tokenizer has none or they were "
            "encoded with --deviation False"
        )
    shape = posterior.mean.shape[1:]
    noise = [generator(seed, "latents", sample).standard_normal(tuple(shape), dtype=np.float32) for sample in samples]
    return posterior.sample(torch.from_numpy(np.stack(noise)).to(posterior.mean))


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
        clips = run.data.training_source().clips(range(BEYOND, BEYOND + 16))
        inputs = preparation_of(run, tokenizer, distributed.device)(clips, 0)

        @torch.no_grad()
        def evaluate(samples_seen: int, model: nn.Module) -> Iterable[tuple[str, float]]:
            assert isinstance(model, Magi)
            for name, value in model(*inputs).items():
                yield f"fixed {name}", float(value)
            if distributed.is_first and run.watch_clips:
                release = Release(model, tokenizer, run.sample)
                first = pictures(clips, run.watch_clips, tokenizer, distributed.device)
                path = run_dir / "samples" / f"samples-{samples_seen:010d}.gif"
                path.parent.mkdir(exist_ok=True)
                write_gif(path, continuation_grid(release, first), fps=8, scale=2)

        return evaluate

    return evaluation


@torch.no_grad()
def pictures(clips: Clips | LatentClips, count: int, tokenizer: Tokenizer, device: torch.device) -> Clips:
    """The first clips as pixels (B, T, 3, H, W): of latents what the tokenizer makes of them, which is all there is."""
    interval, sample = clips.interval[:count], clips.sample[:count]
    if isinstance(clips, LatentClips):
        return Clips(to_video(tokenizer.decode(clips.mean[:count].to(device))).cpu(), interval, sample)
    return Clips(clips.video[:count], interval, sample)


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
