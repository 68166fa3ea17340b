"""Diffusion of single tokens: the forward process, its losses, and the samplers that run it backwards.

Pure functions of tensors. This file knows noise schedules and update rules; it does not know the network (it is
handed a callable) and draws no random number (noise comes in). Two processes are offered:

- *diffusion*: DDPM with a cosine schedule, a predicted noise and a learned variance, as MAR trains its head
  (Nichol & Dhariwal, "Improved DDPM", 2021; Li et al., MAR, 2024);
- *flow*: a straight line from data (t = 0) to noise (t = 1) with a predicted velocity (Lipman et al., 2023).

Shapes: R rows (tokens), C channels of a token, S steps of a schedule.

Conventions of the samplers: ``denoise(i, x)`` evaluates the network at the i-th point of the sampler's time grid,
counted in the order of the calls, so i = 0 is pure noise. The state ``x`` is kept in float32 or wider whatever the
network computes in. Coefficients are computed in float64 on the host before the loop, so that a step is a handful of
element-wise operations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from typing import Literal, get_args

import torch
from torch import Tensor

DdpmLoop = Callable[..., Tensor]  # of the arguments of `ddpm_loop`
Denoise = Callable[[int, Tensor], Tensor]  # (grid point, state (R, C)) -> network output (R, 2C), or (R, C) for a flow
Spacing = Literal["full", "trimmed", "log-snr"]

LOG_2 = math.log(2.0)
HALF_PIXEL = 1.0 / 255.0  # half the width of a bin when [-1, 1] is cut into 256 values
LAMBDA_MIN = -5.1  # log(alpha / sigma) at which DPM-Solver starts on a cosine schedule (Lu et al., 2022)


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: a schedule is a constant
class DiffusionSchedule:
    """The tables of one discrete diffusion of S steps, float64 on the CPU. Index 0 is the least noisy step."""

    timesteps: Tensor  # (S,) int64, what the network is told at each step
    betas: Tensor  # (S,)
    alphas_cumprod: Tensor  # (S,) the share of the signal's variance that is left
    log_variance_max: Tensor  # (S,) log beta, the upper end of the learned range
    log_variance_min: Tensor  # (S,) log of the posterior variance, whose zero at index 0 is replaced by its neighbour
    eps_to_mean: Tensor  # (S,) beta / sqrt(alpha (1 - alphas_cumprod)): how an error in eps moves the posterior mean

    @property
    def num_steps(self) -> int:
        """Number of steps S."""
        return len(self.betas)


@functools.cache
def cosine_schedule(steps: int = 1000) -> DiffusionSchedule:
    """Return the cosine schedule of Improved DDPM (eq. 17), each beta at most 0.999.

    Args:
        steps: number of steps S the network is trained on.
    """
    signal = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    alphas = torch.tensor([max(later / earlier, 0.001) for earlier, later in pairwise(signal)], dtype=torch.float64)
    return _schedule(alphas, torch.cumprod(alphas, dim=0), torch.arange(steps))


@functools.cache
def respace(schedule: DiffusionSchedule, num_steps: int, spacing: Spacing = "full") -> DiffusionSchedule:
    """Keep ``num_steps`` of a schedule's timesteps, the least noisy included; a single step keeps the noisiest alone.

    - ``full``: evenly spaced over all of them (Improved DDPM, section 4). 100 of 1000 gives 0, 10, 20, ... 979, 989,
      999, the timesteps of MAR.
    - ``trimmed``: evenly spaced over those with lambda = log(alpha / sigma) >= -5.1, on the cosine schedule all but the
      last four. From t = 999 the first step multiplies the network's error by 1 / sqrt(alpha), about 300 for 100 steps,
      which only a long-trained network survives; from t = 995 by less than 4.
    - ``log-snr``: evenly spaced in lambda, the variable DPM-Solver integrates in, over the same range. Timesteps stay
      whole, as in training; where the even spacing would repeat one, its neighbours are taken.

    Raises:
        ValueError: if the spacing is unknown, or ``num_steps`` less than 1 or more than there are timesteps to keep.
    """
    if spacing not in get_args(Spacing):
        raise ValueError(f"spacing is {spacing!r}; expected one of {', '.join(get_args(Spacing))}")
    lambdas = torch.logit(schedule.alphas_cumprod) / 2  # (S,) decreasing
    available = schedule.num_steps if spacing == "full" else int((lambdas >= LAMBDA_MIN).sum())
    if not 1 <= num_steps <= available:
        raise ValueError(
            f"num_steps is {num_steps}; {spacing!r} spacing of {schedule.num_steps} allows 1 to {available}"
        )
    last = available - 1
    if num_steps == 1:
        return _keep(schedule, [last])
    if spacing == "log-snr":
        wanted = torch.linspace(float(lambdas[0]), float(lambdas[last]), num_steps, dtype=torch.float64)
        nearest = (lambdas[None, :] - wanted[:, None]).abs().argmin(dim=1)  # (num_steps,) never decreasing
        rank = torch.arange(num_steps)
        distinct = (nearest - rank).cummax(dim=0).values + rank  # pushed up until strictly increasing
        return _keep(schedule, torch.minimum(distinct, available - num_steps + rank).tolist())
    # A running sum, as in the reference code: i * stride falls on the other side of some halves.
    positions = accumulate(repeat(last / (num_steps - 1), num_steps - 1), initial=0.0)
    return _keep(schedule, [round(position) for position in positions])


def _keep(schedule: DiffusionSchedule, positions: list[int]) -> DiffusionSchedule:
    """Skip steps: the kept ones have the same alphas_cumprod, hence larger betas of their own."""
    alphas_cumprod = schedule.alphas_cumprod[positions]
    return _schedule(alphas_cumprod / _previous(alphas_cumprod), alphas_cumprod, schedule.timesteps[positions])


def _schedule(alphas: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> DiffusionSchedule:
    betas = 1.0 - alphas
    posterior_variance = betas * (1.0 - _previous(alphas_cumprod)) / (1.0 - alphas_cumprod)
    posterior_variance[0] = posterior_variance[1] if len(betas) > 1 else betas[0]  # it is 0, which has no logarithm
    return DiffusionSchedule(
        timesteps=timesteps,
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        log_variance_max=betas.log(),
        log_variance_min=posterior_variance.log(),
        eps_to_mean=betas / (alphas * (1.0 - alphas_cumprod)).sqrt(),
    )


def _previous(alphas_cumprod: Tensor) -> Tensor:
    """alphas_cumprod one step nearer to the data, where before the first step all is signal."""
    return torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])


@functools.cache
def _training_tables(schedule: DiffusionSchedule, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The five tables of the training loss as (5, S), copied to the device once instead of at every step."""
    tables = [
        schedule.alphas_cumprod.sqrt(),
        (1.0 - schedule.alphas_cumprod).sqrt(),
        schedule.log_variance_max,
        schedule.log_variance_min,
        schedule.eps_to_mean,
    ]
    return torch.stack(tables).to(device, dtype)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@functools.cache
def call_order(schedule: DiffusionSchedule, device: torch.device) -> Tensor:
    """The timesteps of a schedule in the order a sampler calls the network, (S,) int64, copied to the device once."""
    return schedule.timesteps.flip(0).to(device)


def diffuse(schedule: DiffusionSchedule, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Draw x_t given clean data: ``sqrt(abar_t) x + sqrt(1 - abar_t) noise``, in float32 or wider.

    Args:
        schedule: the training schedule.
        x: (..., C) clean tokens.
        t: (...) int64 in [0, S).
        noise: (..., C) standard normal.
    """
    signal, spread = _training_tables(schedule, t.device, _at_least_float32(x))[:2, t].unsqueeze(-1)
    return signal * x + spread * noise


def learned_range_loss(
    schedule: DiffusionSchedule, output: Tensor, *, x: Tensor, t: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``(mse, vb)``, the terms of Improved DDPM's hybrid loss as MAR uses them: it minimises their plain sum.

    ``mse`` is the error of the predicted noise. ``vb`` is the term of the variational bound at t, in bits, not scaled
    by the number of steps: KL(q(x_{t-1} | x_t, x) || p(x_{t-1} | x_t)) for t > 0, and for t = 0 the negative
    log-likelihood of x under a Gaussian cut into 256 bins on [-1, 1]. Those bins are meant for pixels and are kept
    for latents because MAR keeps them. The predicted noise is detached in ``vb``, which so trains the variance alone.

    Args:
        schedule: the training schedule.
        output: (..., 2C) predicted noise and variance value v, where v = -1 .. 1 spans the learned range.
        x: (..., C) clean tokens.
        t: (...) int64 in [0, S).
        noise: (..., C) the noise given to ``diffuse``.

    Returns:
        Two tensors (...), means over channels, in float32 or wider.
    """
    dtype = _at_least_float32(x)
    eps, v = output.to(dtype).chunk(2, dim=-1)
    log_max, log_min, eps_to_mean = _training_tables(schedule, t.device, dtype)[2:, t].unsqueeze(-1)
    mse = (eps - noise).square().mean(dim=-1)

    log_variance = log_min + (v + 1) / 2 * (log_max - log_min)
    # x_t is known on both sides, so the two posterior means differ by the error in eps alone; and at t = 0, where the
    # posterior mean is the prediction of x itself, the same product is x minus that prediction.
    gap = eps_to_mean * (eps.detach() - noise)  # (..., C)
    kl = 0.5 * (log_variance - log_min - 1 + (log_min - log_variance).exp() + gap.square() * (-log_variance).exp())
    nll = _discretised_gaussian_nll(x.to(dtype), gap=gap, log_variance=log_variance)
    vb = torch.where(t == 0, nll.mean(dim=-1), kl.mean(dim=-1)) / LOG_2
    return mse, vb


def _discretised_gaussian_nll(x: Tensor, *, gap: Tensor, log_variance: Tensor) -> Tensor:
    """-log p (nats) of the bin that holds x under a Gaussian of mean ``x - gap``; the outermost bins are open."""
    inverse_std = (-0.5 * log_variance).exp()
    below_upper = _approximate_normal_cdf(inverse_std * (gap + HALF_PIXEL))
    below_lower = _approximate_normal_cdf(inverse_std * (gap - HALF_PIXEL))
    inside = torch.where(x > 0.999, 1.0, below_upper) - torch.where(x < -0.999, 0.0, below_lower)
    return -inside.clamp(min=1e-12).log()


def _approximate_normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the reference code, kept so that losses agree with it."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def sample_ddpm(
    denoise: Denoise,
    noise: Tensor,
    *,
    schedule: DiffusionSchedule,
    temperature: float = 1.0,
    loop: DdpmLoop | None = None,
) -> Tensor:
    """Ancestral sampling with the learned variance: MAR's sampler.

    Args:
        denoise: network at grid point i, which is ``schedule.timesteps[S - 1 - i]``.
        noise: (S + 1, R, C). Row 0 is x_T, row i is added after the i-th call of the network; the last row is not used,
            since the last step adds none.
        schedule: a respaced schedule of S steps.
        temperature: factor on the added noise; x_T is left alone, as in MAR.
        loop: another way to compute `ddpm_loop`, which is the default.

    Returns:
        (R, C) tokens.
    """
    assert len(noise) == schedule.num_steps + 1, (noise.shape, schedule.num_steps)
    noise = noise.to(_at_least_float32(noise))
    factors, spread = _ddpm_factors(schedule, noise.shape[-1], noise.device, noise.dtype)
    added = noise[1:-1] * (spread * temperature)  # (S - 1, R, C)
    growth = (_previous(schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt().flip(0).tolist()
    return (loop or ddpm_loop)(denoise, noise[0], factors=factors, growth=growth, added=added)


def ddpm_loop(denoise: Denoise, x: Tensor, *, factors: Tensor, growth: list[float], added: Tensor) -> Tensor:
    """The steps of ancestral sampling.

    Args:
        denoise: network at grid points 0 .. S - 1.
        x: (R, C) x_T.
        factors: (S, 2C) of the network's outputs: eps becomes its share of the mean, v the exponent of the deviation.
        growth: S factors of the state.
        added: (S - 1, R, C) noise, to be multiplied by the deviation.
    """
    for i, factor in enumerate(growth):
        pull, log_ratio = (denoise(i, x) * factors[i]).chunk(2, dim=-1)
        x = torch.add(pull, x, alpha=factor)
        if i < len(added):
            x.addcmul_(log_ratio.exp_(), added[i])
    return x


@functools.cache
def _ddpm_factors(
    schedule: DiffusionSchedule, channels: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What ancestral sampling multiplies by, in the order of the calls, copied to the device once.

    The standard deviation exp(log_variance / 2) is exp((max + min) / 4) * exp(v (max - min) / 4). The first factor
    needs no network and goes into the noise of all steps at once.

    Returns:
        ``factors`` (S, 2C) for the network's output: eps becomes its share of the mean, v the exponent above; and
        ``spread`` (S - 1, 1, 1) for the noise.
    """
    log_max, log_min = schedule.log_variance_max.flip(0), schedule.log_variance_min.flip(0)
    factors = torch.stack([-schedule.eps_to_mean.flip(0), (log_max - log_min) / 4], dim=1)  # (S, 2)
    spread = ((log_max + log_min) / 4).exp()[:-1, None, None]
    return factors.repeat_interleave(channels, dim=1).to(device, dtype), spread.to(device, dtype)


def sample_ddim(denoise: Denoise, start: Tensor, *, schedule: DiffusionSchedule, temperature: float = 1.0) -> Tensor:
    """Deterministic DDIM (Song et al., 2021, eq. 12 with sigma = 0): first order, ignores the learned variance.

    Args:
        denoise: network at grid point i, which is ``schedule.timesteps[S - 1 - i]``.
        start: (R, C) x_T.
        schedule: a respaced schedule of S steps.
        temperature: factor on x_T, the only noise there is.

    Returns:
        (R, C) tokens.
    """
    abar = schedule.alphas_cumprod
    abar_next = _previous(abar)  # the sampler goes down, so its next is the schedule's previous
    growth = (abar_next / abar).sqrt()
    push = (1.0 - abar_next).sqrt() - growth * (1.0 - abar).sqrt()
    x = _scaled(start, temperature)
    for i, (a, b) in enumerate(zip(growth.flip(0).tolist(), push.flip(0).tolist(), strict=True)):
        eps = denoise(i, x).to(x.dtype).chunk(2, dim=-1)[0]
        x = torch.mul(x, a).add_(eps, alpha=b)
    return x


def sample_dpm_solver_pp(
    denoise: Denoise, start: Tensor, *, schedule: DiffusionSchedule, temperature: float = 1.0
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): second order, one call per step, ignores the learned variance.

    Each step integrates the prediction of the clean token, extrapolated in lambda = log(alpha / sigma) from the last
    two calls, so any spacing of timesteps will do; ``log-snr`` is made for it. The first step has no past and the last
    one ends at infinite lambda: both are of first order.

    Args:
        denoise: network at grid point i, which is ``schedule.timesteps[S - 1 - i]``.
        start: (R, C) x_T.
        schedule: a respaced schedule of S steps.
        temperature: factor on x_T, the only noise there is.

    Returns:
        (R, C) tokens.
    """
    abar = schedule.alphas_cumprod.flip(0)
    alpha, sigma = abar.sqrt().tolist(), (1.0 - abar).sqrt().tolist()
    lambdas = (torch.logit(abar) / 2).tolist()
    x = _scaled(start, temperature)
    clean = clean_before = x
    for i in range(schedule.num_steps):
        eps = denoise(i, x).to(x.dtype).chunk(2, dim=-1)[0]
        clean_before, clean = clean, torch.mul(x, 1.0 / alpha[i]).sub_(eps, alpha=sigma[i] / alpha[i])
        if i + 1 == schedule.num_steps:
            break
        h = lambdas[i + 1] - lambdas[i]
        weight = -alpha[i + 1] * math.expm1(-h)
        ahead = 0.5 * h / (lambdas[i] - lambdas[i - 1]) if i > 0 else 0.0  # share of the last change to extrapolate
        x = torch.mul(x, sigma[i + 1] / sigma[i]).add_(clean, alpha=weight * (1.0 + ahead))
        if i > 0:
            x.sub_(clean_before, alpha=weight * ahead)
    return clean


def flow_interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point at time t on the line from data (t = 0) to noise (t = 1), in float32 or wider.

    Args:
        x: (..., C) clean tokens.
        noise: (..., C) standard normal.
        t: (...) float in [0, 1].
    """
    dtype = _at_least_float32(x)
    share = t.to(dtype).unsqueeze(-1)  # (..., 1)
    return (1.0 - share) * x.to(dtype) + share * noise


def flow_velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The velocity dx_t/dt along that line, the same at every t: what the network learns. All are (..., C)."""
    return noise - x


@functools.cache
def flow_times(num_steps: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The grid of the flow samplers: (num_steps + 1,), from 1 (noise) down to 0 (data), copied to the device once."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a flow needs at least 1 step")
    return torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64).to(device, dtype)


def sample_flow_euler(denoise: Denoise, start: Tensor, *, num_steps: int, temperature: float = 1.0) -> Tensor:
    """Integrate the velocity from noise to data in uniform Euler steps: first order.

    Args:
        denoise: network at grid point i, which is ``flow_times(num_steps)[i]``, giving a velocity (R, C).
        start: (R, C) noise at t = 1.
        num_steps: number of steps, each one call.
        temperature: factor on ``start``.
    """
    x = _scaled(start, temperature)
    for i in range(num_steps):
        x = torch.sub(x, denoise(i, x).to(x.dtype), alpha=1.0 / num_steps)
    return x


def sample_flow_heun(denoise: Denoise, start: Tensor, *, num_steps: int, temperature: float = 1.0) -> Tensor:
    """Integrate the velocity by Heun's method: second order, two calls per step (at grid points i and i + 1).

    Arguments as for ``sample_flow_euler``; returns (R, C) tokens as it does.
    """
    x = _scaled(start, temperature)
    for i in range(num_steps):
        first = denoise(i, x).to(x.dtype)
        second = denoise(i + 1, torch.sub(x, first, alpha=1.0 / num_steps)).to(x.dtype)
        x = torch.sub(x, first + second, alpha=0.5 / num_steps)
    return x


def _scaled(start: Tensor, temperature: float) -> Tensor:
    return temperature * start.to(_at_least_float32(start))
