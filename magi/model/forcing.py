"""Teacher forcing as a layout of frame streams (paper §3, Eq. 3-4, Fig. 3).

A paradigm is one function from clean tokens and random draws to `Streams`: which frames the transformer sees, at which
times, through which position table, and who may attend to whom in time. The transformer serves them all.

Shapes: B videos, M masked copies of each, T frames, S stream frames, N tokens per frame, C token channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange, repeat
from torch import Tensor

from magi.model.config import Forcing
from magi.model.draws import TrainingDraws

OBSERVATION, MASKED = 0, 1  # stream kinds: rows of the learned position table
CLEAN = 0  # noise-level id of frames without noise


@dataclass(frozen=True)
class Streams:
    """Frames as the transformer sees them in one training pass; the last ``predicted`` of the S are the ones to
    predict."""

    tokens: Tensor  # (B, S, N, C)
    masked: Tensor  # (B, S, N) bool
    kind: Tensor  # (S,) OBSERVATION or MASKED
    frame: Tensor  # (S,) int64 on the CPU, index into the clip: the time
    noise_level: Tensor  # (B, S) int64
    temporal_mask: Tensor  # (S, S) bool, true where row may attend to column
    predicted: int


@lru_cache(maxsize=64)
def ctf_layout(frames: int, copies: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kinds (S,) and temporal mask (S, S) of CTF, on the device: the same at every step, so copied there once."""
    kind = torch.tensor([OBSERVATION] * (frames - 1) + [MASKED] * (copies * frames), device=device)
    return kind, ctf_mask(frames, copies).to(device)


@lru_cache(maxsize=64)
def mtf_layout(frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kinds (S,) and temporal mask (S, S) of MTF, on the device."""
    return torch.full((frames,), MASKED, device=device), mtf_mask(frames).to(device)


def ctf_mask(frames: int, copies: int = 1) -> Tensor:
    """The temporal mask of Complete Teacher Forcing (Fig. 3), (S, S) with S = (T - 1) + M T.

    Observation frames attend to themselves and earlier observation frames; a masked frame to itself and to earlier
    observation frames. The last observation frame, which nobody may attend to, is left out.
    """
    observed = frames - 1
    causal = torch.ones(observed, observed, dtype=torch.bool).tril()  # (T-1, T-1)
    earlier = torch.ones(frames, observed, dtype=torch.bool).tril(-1)  # (T, T-1): frame t sees observations < t
    own = torch.eye(copies * frames, dtype=torch.bool)
    top = torch.cat([causal, torch.zeros(observed, copies * frames, dtype=torch.bool)], dim=1)
    bottom = torch.cat([earlier.repeat(copies, 1), own], dim=1)
    return torch.cat([top, bottom], dim=0)


def mtf_mask(frames: int) -> Tensor:
    """The temporal mask of Masked Teacher Forcing (Eq. 3), (T, T): masked frames attend to masked frames up to
    themselves."""
    return torch.ones(frames, frames, dtype=torch.bool).tril()


def with_noise(tokens: Tensor, draws: TrainingDraws) -> Tensor:
    """Clean tokens (B, T, N, C) with the drawn noise injected (paper §3, dynamic noise injection)."""
    signal, sigma = (scale.to(tokens.dtype)[..., None, None] for scale in (draws.signal, draws.sigma))
    return signal * tokens + sigma * draws.noise.to(tokens.dtype)


def hidden(draws: TrainingDraws, tokens: int) -> Tensor:
    """The drawn masks as (B, M, T, N) bool."""
    index, frames = draws.masked_tokens, draws.noise_level.shape[1]
    blank = torch.zeros(*index.shape[:-1], frames * tokens, dtype=torch.bool, device=index.device)
    return rearrange(blank.scatter(-1, index, True), "b m (t n) -> b m t n", t=frames)


def ctf_streams(tokens: Tensor, draws: TrainingDraws) -> Streams:
    """Complete Teacher Forcing of clean tokens (B, T, N, C): noisy but complete observations, then masked frames, at
    the same times."""
    frames, copies = tokens.shape[1], draws.masked_tokens.shape[1]
    masked = rearrange(hidden(draws, tokens.shape[2]), "b m t n -> b (m t) n")
    observed = with_noise(tokens, draws)[:, :-1]
    time = torch.arange(frames, device="cpu")
    kind, mask = ctf_layout(frames, copies, tokens.device)
    return Streams(
        tokens=torch.cat([observed, repeat(tokens, "b t n c -> b (m t) n c", m=copies)], dim=1),
        masked=torch.cat([torch.zeros_like(masked[:, : frames - 1]), masked], dim=1),
        kind=kind,
        frame=torch.cat([time[:-1], time.repeat(copies)]),
        noise_level=torch.cat(
            [draws.noise_level[:, :-1], torch.full_like(draws.noise_level, CLEAN).repeat(1, copies)], dim=1
        ),
        temporal_mask=mask,
        predicted=copies * frames,
    )


def mtf_streams(tokens: Tensor, draws: TrainingDraws) -> Streams:
    """Masked Teacher Forcing of clean tokens (B, T, N, C): masked frames alone; the noise falls on the tokens that stay
    visible."""
    frames = tokens.shape[1]
    kind, mask = mtf_layout(frames, tokens.device)
    return Streams(
        tokens=with_noise(tokens, draws),
        masked=hidden(draws, tokens.shape[2])[:, 0],
        kind=kind,
        frame=torch.arange(frames, device="cpu"),
        noise_level=draws.noise_level,
        temporal_mask=mask,
        predicted=frames,
    )


LAYOUTS: dict[Forcing, Callable[[Tensor, TrainingDraws], Streams]] = {"ctf": ctf_streams, "mtf": mtf_streams}

COMMITTED_KIND: dict[Forcing, int] = {"ctf": OBSERVATION, "mtf": MASKED}
"""The stream kind of finished frames at inference: in MTF the masked stream's table is the only one that was trained.
"""
