"""One frame: reveal its tokens in random order, a few per step, each drawn from the diffusion head (MAR's sampler).

Shapes: B videos, N tokens per frame, n of them revealed in a step, C token channels, D width, S head steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from magi.model.magi import Magi
from magi.model.masking import unmasking_counts
from magi.sampling.config import SampleConfig


def sample_frame(
    model: Magi,
    predict: Callable[..., Tensor],
    *,
    order: Tensor,
    noise: Callable[..., Tensor],
    settings: SampleConfig,
) -> Tensor:
    """Generate a frame.

    The last block and the head run only on the tokens revealed in a step: the others keep no value, so the result is
    the same.

    Args:
        model: in evaluation mode.
        predict: from tokens (B, N, C), which of them are masked (B, N), and which are `chosen` (B, n), to the head's
            conditions for these (B, n, D), given the frames before (`Past.predict`).
        order: (B, N) the order in which tokens are revealed.
        noise: from a mask step, `head_steps` S after which noise is added, and the `chosen` tokens (B, n) to the head's
            noise (S + 1, B, n, C).
        settings: steps, solver, temperature.

    Returns:
        (B, N, C) tokens.
    """
    solver = settings.solver_for(model.config.head)
    tokens, masked = _hidden(model, order)
    revealed = 0
    with torch.inference_mode():  # without autograd's bookkeeping of views: at batch 1 a tenth faster, the same bits
        sizes = unmasking_counts(order.shape[1], settings.mask_steps)
        for step, size in enumerate(sizes):
            head_steps = settings.head_steps_at(step, mask_steps=len(sizes))
            chosen = order[:, revealed : revealed + size]  # (B, n)
            rows = head_steps if solver == "ddpm" else 0  # the others read the start alone
            drawn = noise(step, head_steps=rows, chosen=chosen)  # (S + 1, B, n, C)
            z = predict(tokens, masked, chosen=chosen)  # (B, n, D)
            values = model.head.sample(
                rearrange(z, "b n d -> (b n) d"),
                rearrange(drawn, "s b n c -> s (b n) c"),
                num_steps=head_steps,
                solver=solver,
                spacing=settings.spacing,
                temperature=settings.temperature,
                compiled=settings.compiled_head,
            )
            values = rearrange(values, "(b n) c -> b n c", b=len(order))
            tokens = tokens.scatter(1, chosen[..., None].expand_as(values), values.to(tokens.dtype))
            masked = masked.scatter(1, chosen, False)
            revealed += size
    return tokens.clone()  # an ordinary tensor; one of inference mode could be neither changed nor trained with


def pass_over(model: Magi, predict: Callable[..., Tensor], *, order: Tensor, settings: SampleConfig) -> None:
    """What generating a frame does to the past, without the frame: the first pass, in which the frames before are read.
    A pass of any other shape would read them with other rounding.

    Args:
        model, predict, order, settings: as of `sample_frame`.
    """
    with torch.inference_mode():
        size, *_ = unmasking_counts(order.shape[1], settings.mask_steps)
        predict(*_hidden(model, order), chosen=order[:, :size])


def _hidden(model: Magi, order: Tensor) -> tuple[Tensor, Tensor]:
    """A frame before its first token: values (B, N, C) and that all are masked (B, N)."""
    tokens = torch.zeros(*order.shape, model.config.token_channels, dtype=model.token_dtype, device=order.device)
    return tokens, torch.ones(order.shape, dtype=torch.bool, device=order.device)
