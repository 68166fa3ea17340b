"""Video after frame: generate, commit, yield, repeat (paper §5.5, A.4).

`generate` checks what it is given and returns a generator, so a file writer, a metric and a live stream consume it
alike. Latents in, latents out; pixels are the tokenizer's business.

Shapes: B videos, T frames, N tokens per frame, C token channels, C' latent channels, h x w latent size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import index

import numpy as np
import torch
from torch import Tensor

from magi.graphs import check_device
from magi.model.diffusion import cosine_schedule, respace
from magi.model.draws import noise_bucket
from magi.model.embeddings import patchify, unpatchify
from magi.model.head import SPACINGS
from magi.model.head_kernel import compiled
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.frame import pass_over, sample_frame
from magi.sampling.graphs import graphed
from magi.sampling.noise import SampleNoise
from magi.sampling.past import Past


def generate(
    model: Magi,
    context: Tensor | None,
    *,
    num_frames: int,
    seeds: Sequence[int],
    interval: int | Sequence[int] = 1,
    settings: SampleConfig | None = None,
    made: Sequence[Tensor] = (),
) -> Iterator[Tensor]:
    """Continue videos, or begin them. Mistakes are found at once; frames are made as they are asked for.

    Args:
        model: in evaluation mode.
        context: (B, k, C', h, w) normalised latents of the frames that are given; None generates from nothing.
        num_frames: frames to generate.
        seeds: one per video; a video depends on its own seed alone.
        interval: frame interval to generate at, 1-based, for all videos or one each.
        settings: steps and memory; the paper's by default.
        made: the first latent frames (B, C', h, w) of an interrupted call with all these arguments. They are read as
            they were then, not made again, and those that follow are the same bits as without the interruption.

    Returns:
        An iterator over `num_frames` latent frames (B, C', h, w), each there as soon as it is finished.

    Raises:
        ValueError: seeds, intervals, settings, context or frames that do not fit the model or each other; a model in
            training mode; graphs where there are none.
    """
    settings = settings or SampleConfig()
    intervals = _check(model, context, num_frames, seeds, interval)
    _check_made(model, made, num_frames=num_frames, videos=len(seeds))
    _check_settings(model, settings)
    network = graphed(model) if in_graphs(model, settings) else model
    each = [slice(b, b + 1) for b in range(len(seeds))] if settings.deterministic else [slice(None)]
    parts = [
        _frames(
            network, None if context is None else context[part],
            num_frames=num_frames, seeds=seeds[part], intervals=intervals[part], settings=settings,
            made=[frame[part] for frame in made],
        )
        for part in each
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else (torch.cat(frames) for frames in zip(*parts, strict=True))


def in_graphs(model: Magi, settings: SampleConfig) -> bool:
    """Whether what is launched is recorded."""
    on_cuda = model.head_position.device.type == "cuda"
    return on_cuda if settings.cuda_graphs is None else settings.cuda_graphs


@torch.no_grad()
def _frames(
    model: Magi,
    context: Tensor | None,
    *,
    num_frames: int,
    seeds: Sequence[int],
    intervals: Sequence[int],
    settings: SampleConfig,
    made: Sequence[Tensor],
) -> Iterator[Tensor]:
    """The frames of `generate`, for arguments that fit."""
    config, device = model.config, model.head_position.device
    given = 0 if context is None else context.shape[1]
    noise = SampleNoise(
        seeds,
        tokens=config.tokens,
        channels=config.token_channels,
        dtype=model.token_dtype,
        device=device,
        source=settings.noise_source,
    )
    pace = torch.tensor(intervals, device=device)
    past = Past(model, noise, total=given + num_frames, interval=pace, settings=settings)
    if context is not None and given:
        past.commit(patchify(context.to(device, model.token_dtype), config.patch))
    for frame in range(given, given + num_frames):
        order = noise.order(frame)
        if frame < given + len(made):
            pass_over(model, past.predict, order=order, settings=settings)
            tokens = patchify(made[frame - given][:, None].to(device, model.token_dtype), config.patch)[:, 0]
        else:
            tokens = sample_frame(
                model, past.predict, order=order, noise=partial(noise.head, frame), settings=settings
            )  # (B, N, C)
        past.commit(tokens[:, None])
        yield unpatchify(tokens[:, None], config.patch, config.latent_height)[:, 0]


def _check(
    model: Magi, context: Tensor | None, num_frames: int, seeds: Sequence[int], interval: int | Sequence[int]
) -> list[int]:
    """The interval of each video, after everything a caller can get wrong."""
    config = model.config
    if model.training:
        raise ValueError("the model is in training mode, where dropout would spoil its videos; call model.eval() first")
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if len(seeds) == 0:  # NumPy's arrays have no truth of their own
        raise ValueError("no seeds; give one per video to generate")
    if config.mtf_first_frame_clean and (context is None or context.shape[1] == 0):
        raise ValueError("the model never learned to make a first frame (mtf_first_frame_clean); give a context")
    if context is not None:
        size = (config.latent_channels, config.latent_height, config.latent_width)
        if context.ndim != 5 or tuple(context.shape[2:]) != size:
            expected = ", ".join(map(str, ("videos", "frames", *size)))
            raise ValueError(f"context latents are {tuple(context.shape)}; expected ({expected})")
        if context.shape[0] != len(seeds):
            raise ValueError(f"{context.shape[0]} contexts but {len(seeds)} seeds; give one seed per video")
    each = [interval] * len(seeds) if isinstance(interval, int | np.integer) else interval
    intervals = [index(i) for i in each]
    if len(intervals) != len(seeds):
        raise ValueError(f"{len(intervals)} intervals but {len(seeds)} seeds; give one interval, or one per video")
    wrong = [i for i in intervals if not 1 <= i <= config.max_interval]
    if wrong:
        raise ValueError(f"interval {wrong[0]} is outside the trained vocabulary 1..{config.max_interval}")
    return intervals


def _check_made(model: Magi, made: Sequence[Tensor], *, num_frames: int, videos: int) -> None:
    """Are these frames that could have been made?"""
    config = model.config
    size = (videos, config.latent_channels, config.latent_height, config.latent_width)
    if len(made) > num_frames:
        raise ValueError(f"{len(made)} frames are made already, but num_frames is {num_frames}")
    for frame in made:
        if tuple(frame.shape) != size:
            raise ValueError(f"a frame that is made already is {tuple(frame.shape)}; expected {size}")


def _check_settings(model: Magi, settings: SampleConfig) -> None:
    """What only the model can tell of the settings: does the head have this solver, spacing and number of steps, and
    was it trained with this much noise?"""
    config, head = model.config, model.config.head
    solver = settings.solver_for(head)
    if head.kind == "diffusion":
        for steps in {settings.head_steps, settings.head_steps_last or settings.head_steps}:
            respace(cosine_schedule(head.train_steps), steps, settings.spacing or SPACINGS[solver])
    elif settings.spacing is not None:
        raise ValueError(f"spacing is {settings.spacing!r}; a flow head takes uniform steps, leave it None")
    noise_bucket(config, settings.observation_noise)
    if settings.cuda_graphs:
        check_device(model.head_position.device)
    if settings.compiled_head:
        weight = model.head.output.linear.weight
        compiled(weight.dtype, weight.device)
