"""Claims about schedules, losses and samplers: against closed forms, the papers' formulas, and an independent library.

The closed forms rest on Gaussian data x ~ N(MEAN, STD^2), for which the best prediction of the noise, the exact reverse
transitions and the solution of the probability-flow ODE are all known.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from magi.model import diffusion
from magi.model.diffusion import Denoise, DiffusionSchedule, Spacing

MEAN, STD = 0.7, 0.5


def gaussian_denoiser(schedule: DiffusionSchedule) -> Denoise:
    """The best network for data N(MEAN, STD^2): the expected noise, and the v of the true variance of x_{t-1} given
    x_t."""
    abar = schedule.alphas_cumprod.flip(0)
    before = torch.cat([abar[1:], abar.new_ones(1)])
    # x_{t-1} given x_t for jointly Gaussian variables: conditional variance from the two marginals and their covariance
    var_t, var_before = abar * STD**2 + 1 - abar, before * STD**2 + 1 - before
    covariance = (abar / before).sqrt() * var_before
    log_variance = (var_before - covariance**2 / var_t).log()
    log_max, log_min = schedule.log_variance_max.flip(0), schedule.log_variance_min.flip(0)
    v = 2 * (log_variance - log_min) / (log_max - log_min) - 1
    v[-1] = 0.0  # not used: the last step adds no noise

    def denoise(i: int, x: Tensor) -> Tensor:
        eps = (1 - abar[i]).sqrt() / var_t[i] * (x - abar[i].sqrt() * MEAN)
        return torch.cat([eps, v[i].expand_as(x)], dim=-1)

    return denoise


def wavy_denoiser(schedule: DiffusionSchedule) -> Denoise:
    """A network that is neither linear nor good, but predicts x itself where all is noise, so no solver blows up."""
    times, shares = schedule.timesteps.flip(0).tolist(), (1 - schedule.alphas_cumprod).flip(0).tolist()

    def denoise(i: int, x: Tensor) -> Tensor:
        eps = shares[i] * x + (1 - shares[i]) * torch.sin(3 * x + times[i])
        return torch.cat([eps, torch.cos(2 * x - times[i])], dim=-1)

    return denoise


# ---------------------------------------------------------------- schedules


def test_tables_follow_the_papers_formulas() -> None:
    """Every table equals its definition in DDPM and Improved DDPM, written here as a loop over Python floats."""
    schedule = diffusion.cosine_schedule(1000)
    signal = 1.0
    for t in range(1000):
        f_now, f_next = (math.cos(((i / 1000) + 0.008) / 1.008 * math.pi / 2) ** 2 for i in (t, t + 1))
        beta = min(1 - f_next / f_now, 0.999)
        before, signal = signal, signal * (1 - beta)
        assert float(schedule.betas[t]) == pytest.approx(beta, rel=1e-12)
        assert float(schedule.alphas_cumprod[t]) == pytest.approx(signal, rel=1e-12)
        assert float(schedule.log_variance_max[t]) == pytest.approx(math.log(beta), rel=1e-12)
        if t > 0:
            posterior = (1 - before) / (1 - signal) * beta
            assert float(schedule.log_variance_min[t]) == pytest.approx(math.log(posterior), rel=1e-12)
    assert schedule.log_variance_min[0] == schedule.log_variance_min[1]
    assert schedule.timesteps.tolist() == list(range(1000))


def test_betas_equal_diffusers() -> None:
    """diffusers builds the same cosine schedule, in float32."""
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(diffusion.cosine_schedule(1000).betas.float(), scheduler.betas, rtol=1e-6, atol=0)


def test_hundred_steps_are_mars() -> None:
    """MAR samples at 0, 10, 20, ... with one step of 9 where the rounded multiples of 999 / 99 fall behind."""
    kept = diffusion.respace(diffusion.cosine_schedule(1000), 100).timesteps.tolist()
    assert kept[:3] == [0, 10, 20]
    assert kept[-3:] == [979, 989, 999]
    assert kept == [math.floor(i * 999 / 99 + 0.5) for i in range(100)]


@settings(max_examples=60, deadline=None)
@given(num_steps=st.integers(1, 996), spacing=st.sampled_from(["full", "trimmed", "log-snr"]))
def test_respacing_keeps_the_marginals(num_steps: int, spacing: Spacing) -> None:
    """Skipping steps does not change how noisy a kept timestep is: alphas_cumprod at it is the trained one. Timesteps
    are distinct and increasing, and begin at the least noisy one (a single step has no room for it)."""
    trained = diffusion.cosine_schedule(1000)
    schedule = diffusion.respace(trained, num_steps, spacing)
    assert schedule.num_steps == num_steps
    assert (schedule.timesteps.diff() > 0).all()
    assert num_steps == 1 or schedule.timesteps[0] == 0
    assert int(schedule.timesteps[-1]) == (999 if spacing == "full" else 995)
    torch.testing.assert_close(schedule.alphas_cumprod, trained.alphas_cumprod[schedule.timesteps], rtol=1e-11, atol=0)


def test_trimming_bounds_what_an_error_of_the_network_grows_to() -> None:
    """One sampling step multiplies an error in eps by eps_to_mean. Over all timesteps the first of 100 steps does so
    by more than 300; without the last four timesteps no step reaches 4."""
    trained = diffusion.cosine_schedule(1000)
    assert diffusion.respace(trained, 100, "full").eps_to_mean.max() > 300
    assert diffusion.respace(trained, 100, "trimmed").eps_to_mean.max() < 4
    assert diffusion.respace(trained, 100, "log-snr").eps_to_mean.max() < 4


def test_log_snr_spacing_is_even() -> None:
    """While steps are wide against the grid of whole timesteps, neighbours are equally far apart in lambda."""
    schedule = diffusion.respace(diffusion.cosine_schedule(100_000), 20, "log-snr")
    gaps = (torch.logit(schedule.alphas_cumprod) / 2).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(19), rtol=0.1, atol=0)


@pytest.mark.parametrize(("num_steps", "spacing"), [(0, "full"), (1001, "full"), (997, "trimmed"), (997, "log-snr")])
def test_impossible_respacings_are_refused(num_steps: int, spacing: Spacing) -> None:
    """There are 1000 timesteps, 996 of them with lambda >= -5.1; the message names the request."""
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}"):
        diffusion.respace(diffusion.cosine_schedule(1000), num_steps, spacing)
    with pytest.raises(ValueError, match="spacing is 'even'; expected one of full, trimmed, log-snr"):
        diffusion.respace(diffusion.cosine_schedule(1000), 10, "even")  # type: ignore[arg-type]


def test_tables_first_used_in_inference_mode_can_be_trained_with() -> None:
    """Tables are kept between calls; were they inference tensors, a training step after an evaluation would fail."""
    schedule = diffusion.cosine_schedule(37)  # a length no other test uses
    x, noise, t = torch.randn(5, 2), torch.randn(5, 2), torch.arange(5)
    with torch.inference_mode():
        diffusion.learned_range_loss(schedule, torch.randn(5, 4), x=x, t=t, noise=noise)
    output = torch.randn(5, 4, requires_grad=True)
    mse, vb = diffusion.learned_range_loss(schedule, output, x=x, t=t, noise=noise)
    (mse + vb).sum().backward()
    assert output.grad is not None and output.grad.isfinite().all()


# ---------------------------------------------------------------- forward process and losses


def test_diffusing_is_many_small_steps_at_once() -> None:
    """Repeating x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) n multiplies the factors on x and adds up the variances."""
    schedule = diffusion.cosine_schedule(1000)
    factor, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist()[:600]):
        factor, variance = factor * math.sqrt(1 - beta), variance * (1 - beta) + beta
        if t % 100 == 99:
            x, noise, at = torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([t, t])
            expected = torch.tensor([[2 * factor], [3 * math.sqrt(variance)]])
            torch.testing.assert_close(diffusion.diffuse(schedule, x, at, noise), expected)


def independent_losses(output: Tensor, x: Tensor, t: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The hybrid loss step by step as the papers state it: predict x, form both posteriors, compare them."""
    tables = diffusion.cosine_schedule(1000)
    abar, beta = tables.alphas_cumprod[t], tables.betas[t]
    before = tables.alphas_cumprod[t - 1] if t > 0 else torch.tensor(1.0, dtype=torch.float64)
    eps, v = output.chunk(2, dim=-1)
    x_t = abar.sqrt() * x + (1 - abar).sqrt() * noise
    predicted_x = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()  # DDPM eq. 15
    from_x, from_x_t = before.sqrt() * beta / (1 - abar), (1 - beta).sqrt() * (1 - before) / (1 - abar)  # DDPM eq. 7
    posterior_variance = (1 - before) / (1 - abar) * beta if t > 0 else tables.log_variance_min[0].exp()
    share = (v + 1) / 2
    model_std = torch.exp(share * beta.log() + (1 - share) * posterior_variance.log()).sqrt()  # Improved DDPM eq. 15
    model = Normal(from_x * predicted_x + from_x_t * x_t, model_std)
    if t > 0:
        vb = kl_divergence(Normal(from_x * x + from_x_t * x_t, posterior_variance.sqrt()), model)
    else:  # DDPM eq. 13
        above = torch.where(x > 0.999, 1.0, model.cdf(x + 1 / 255))
        below = torch.where(x < -0.999, 0.0, model.cdf(x - 1 / 255))
        vb = -(above - below).log()
    return (noise - eps).square().mean(-1), vb.mean(-1) / math.log(2)


@pytest.mark.parametrize("t", [1, 2, 57, 500, 998, 999])
def test_loss_is_the_papers(t: int) -> None:
    """For t > 0 the terms equal an independent implementation that predicts x and compares two Gaussians.

    Its detour over x costs digits at the noisy end, where 1 / sqrt(abar) is 2e4, hence the tolerance."""
    torch.manual_seed(t)
    x, noise, output = (torch.randn(64, c, dtype=torch.float64) for c in (6, 6, 12))
    mse, vb = diffusion.learned_range_loss(
        diffusion.cosine_schedule(1000), output, x=x, t=torch.full((64,), t), noise=noise
    )
    expected_mse, expected_vb = independent_losses(output, x, t, noise)
    torch.testing.assert_close(mse, expected_mse)
    torch.testing.assert_close(vb, expected_vb, rtol=1e-8, atol=1e-12)


def test_first_step_is_a_discretised_likelihood() -> None:
    """At t = 0 vb is minus the log-probability of a bin of width 2/255, the outermost ones open. The reference code,
    and ours, replace the normal distribution function by a tanh, which is less than a thousandth of a bit away
    here."""
    torch.manual_seed(0)
    x = torch.tensor([[-1.0, -0.5, 0.0, 0.3, 0.9985, 1.0]], dtype=torch.float64).repeat(50, 1)
    noise = torch.randn_like(x)
    output = torch.cat([noise + 0.3 * torch.randn_like(x), torch.rand_like(x)], dim=-1)
    _, vb = diffusion.learned_range_loss(
        diffusion.cosine_schedule(1000), output, x=x, t=torch.zeros(50, dtype=torch.int64), noise=noise
    )
    torch.testing.assert_close(vb, independent_losses(output, x, 0, noise)[1], rtol=0, atol=1e-3)


def test_perfect_prediction_costs_nothing() -> None:
    """With the true noise and v = -1, the lower end of the range, the model's posterior is the true one: KL = 0."""
    noise, t = torch.randn(999, 3), torch.arange(1, 1000)
    output = torch.cat([noise, -torch.ones(999, 3)], dim=-1)
    mse, vb = diffusion.learned_range_loss(
        diffusion.cosine_schedule(1000), output, x=torch.randn(999, 3), t=t, noise=noise
    )
    assert mse.abs().max() == 0
    torch.testing.assert_close(vb, torch.zeros(999))


def test_best_variance_explains_the_error() -> None:
    """KL(N(m, a) || N(m + d, b)) is least at b = a + d^2: there alone the gradient of vb with respect to v is 0."""
    schedule, t = diffusion.cosine_schedule(1000), torch.full((3,), 2)  # early, where the range is wide
    log_max, log_min = schedule.log_variance_max[2], schedule.log_variance_min[2]
    best = torch.tensor(0.2, dtype=torch.float64)
    gap = ((log_min + (best + 1) / 2 * (log_max - log_min)).exp() - log_min.exp()).sqrt()
    v = (best + torch.tensor([[-0.1], [0.0], [0.1]], dtype=torch.float64)).requires_grad_()
    noise = torch.zeros(3, 1, dtype=torch.float64)
    output = torch.cat([noise + gap / schedule.eps_to_mean[2], v], dim=-1)
    _, vb = diffusion.learned_range_loss(schedule, output, x=noise, t=t, noise=noise)
    (gradient,) = torch.autograd.grad(vb.sum(), v)
    assert gradient[0] < -1e-3 and gradient[2] > 1e-3
    assert gradient[1].abs() < 1e-12


def test_each_term_trains_its_own_half() -> None:
    """vb sees a detached eps and mse never sees v, so neither has a gradient in the other's half of the output."""
    output = torch.randn(100, 6, requires_grad=True)
    mse, vb = diffusion.learned_range_loss(
        diffusion.cosine_schedule(1000), output, x=torch.randn(100, 3), t=torch.arange(100), noise=torch.randn(100, 3)
    )
    (by_mse,) = torch.autograd.grad(mse.sum(), output, retain_graph=True)
    (by_vb,) = torch.autograd.grad(vb.sum(), output)
    assert (by_vb[:, :3] == 0).all() and (by_mse[:, 3:] == 0).all()
    assert (by_vb[:, 3:] != 0).any(dim=1).all() and (by_mse[:, :3] != 0).all()


def test_losses_are_float32_whatever_the_network_returns() -> None:
    """bfloat16 outputs are widened before anything is subtracted, so the loss is that of the widened output."""
    schedule, x, noise, t = diffusion.cosine_schedule(1000), torch.randn(8, 3), torch.randn(8, 3), torch.arange(8)
    output = torch.randn(8, 6).bfloat16()
    for narrow, wide in zip(
        diffusion.learned_range_loss(schedule, output, x=x, t=t, noise=noise),
        diffusion.learned_range_loss(schedule, output.float(), x=x, t=t, noise=noise),
        strict=True,
    ):
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow, wide)


# ---------------------------------------------------------------- samplers of the diffusion


def test_ddpm_equals_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' ancestral sampler with a learned range, given MAR's 100 timesteps and our noise, ends at the same
    tokens up to its float32 tables."""
    schedule = diffusion.respace(diffusion.cosine_schedule(1000), 100)
    denoise = wavy_denoiser(schedule)
    torch.manual_seed(0)
    noise = torch.randn(101, 32, 4)
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(timesteps=schedule.timesteps.flip(0).tolist())
    theirs, rows = noise[0], iter(noise[1:])
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: next(rows))
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(denoise(i, theirs), t, theirs).prev_sample
    ours = diffusion.sample_ddpm(denoise, noise, schedule=schedule)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4 * float(theirs.abs().max()))


def test_ddim_equals_diffusers() -> None:
    """Over all 100 steps of a schedule diffusers' DDIM visits the same timesteps, so it gives the same tokens."""
    schedule = diffusion.cosine_schedule(100)
    denoise = wavy_denoiser(schedule)
    scheduler = DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(100)
    assert scheduler.timesteps.tolist() == schedule.timesteps.flip(0).tolist()
    start = torch.linspace(-2, 2, 40).reshape(10, 4)
    theirs = start
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(denoise(i, theirs).chunk(2, dim=-1)[0], t, theirs).prev_sample
    ours = diffusion.sample_ddim(denoise, start, schedule=schedule)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("num_steps", "spacing"), [(5, "log-snr"), (20, "log-snr"), (20, "trimmed")])
def test_dpm_solver_equals_diffusers(num_steps: int, spacing: Spacing) -> None:
    """diffusers' DPM-Solver++(2M, midpoint), which ends at sigma = 0, visits the same timesteps when told them."""
    schedule = diffusion.respace(diffusion.cosine_schedule(1000), num_steps, spacing)
    denoise = wavy_denoiser(schedule)
    scheduler = DPMSolverMultistepScheduler(1000, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(timesteps=schedule.timesteps.flip(0).tolist())
    start = torch.linspace(-2, 2, 40).reshape(10, 4)
    theirs = start
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(denoise(i, theirs).chunk(2, dim=-1)[0], t, theirs).prev_sample
    ours = diffusion.sample_dpm_solver_pp(denoise, start, schedule=schedule)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("num_steps", [10, 100, 1000])
def test_ddpm_samples_gaussian_data_exactly(num_steps: int) -> None:
    """With the best eps and the true conditional variance every reverse transition is exact, however wide the step,
    so the tokens have the data's mean and variance. Samples are then affine in the noise: feeding unit vectors reads
    off the factor of every noise, and the sum of their squares is the variance, without any sampling error.

    The last step adds no noise, which costs the variance of x given x_0, at most 1 - abar_0 = 4e-5."""
    schedule = diffusion.respace(diffusion.cosine_schedule(1000), num_steps)
    unit = torch.zeros(num_steps + 1, num_steps + 2, dtype=torch.float64)
    unit[:, :-1] = torch.eye(num_steps + 1)  # row r sees a 1 in noise r alone, the last row sees none
    out = diffusion.sample_ddpm(gaussian_denoiser(schedule), unit.unsqueeze(-1), schedule=schedule)[:, 0]
    mean, factors = out[-1], out[:-1] - out[-1]
    assert float(mean) == pytest.approx(MEAN, abs=1e-4)
    assert float(factors.square().sum()) == pytest.approx(STD**2, abs=1e-4)
    assert factors[-1] == 0  # the last row of noise is not used


def test_temperature_scales_the_added_noise_alone() -> None:
    """MAR's temperature: the same as scaling every row of noise but x_T. At 0 the later rows have no effect."""
    schedule = diffusion.respace(diffusion.cosine_schedule(1000), 12)
    denoise = wavy_denoiser(schedule)
    torch.manual_seed(0)
    noise = torch.randn(13, 5, 4, dtype=torch.float64)
    scaled = torch.cat([noise[:1], 0.8 * noise[1:]])
    cooled = diffusion.sample_ddpm(denoise, noise, schedule=schedule, temperature=0.8)
    torch.testing.assert_close(cooled, diffusion.sample_ddpm(denoise, scaled, schedule=schedule))
    other = torch.cat([noise[:1], torch.randn_like(noise[1:])])
    frozen = [diffusion.sample_ddpm(denoise, rows, schedule=schedule, temperature=0.0) for rows in (noise, other)]
    assert torch.equal(*frozen)


def slope(errors: list[float]) -> float:
    """How many times an error halves when the number of steps doubles, fitted over successive doublings."""
    return -float(np.polyfit(np.arange(len(errors)), np.log2(errors), deg=1)[0])


@pytest.mark.parametrize(("solver", "order"), [(diffusion.sample_ddim, 1), (diffusion.sample_dpm_solver_pp, 2)])
def test_diffusion_solvers_have_their_order(solver: Callable[..., Tensor], order: int) -> None:
    """The probability-flow ODE carries Gaussian data's quantiles, so its solution is x = MEAN + STD (x_T - its mean)
    / its std. The distance to it falls as num_steps ** -order."""
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    errors = []
    for num_steps in (20, 40, 80, 160):
        schedule = diffusion.respace(diffusion.cosine_schedule(20_000), num_steps, "log-snr")
        abar = schedule.alphas_cumprod[-1]
        exact = MEAN + STD * (start - abar.sqrt() * MEAN) / (abar * STD**2 + 1 - abar).sqrt()
        out = solver(gaussian_denoiser(schedule), start, schedule=schedule)
        errors.append(float((out - exact).abs().max()))
    assert slope(errors) == pytest.approx(order, abs=0.15)


# ---------------------------------------------------------------- flow


def flow_denoiser(num_steps: int) -> Denoise:
    """The exact velocity for data N(MEAN, STD^2): E[noise - x | x_t] of jointly Gaussian variables."""
    times = diffusion.flow_times(num_steps, torch.device("cpu"), torch.float64).tolist()

    def denoise(i: int, x: Tensor) -> Tensor:
        t = times[i]
        gain = (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2)
        return -MEAN + gain * (x - (1 - t) * MEAN)

    return denoise


def test_flow_is_a_straight_line_with_that_velocity() -> None:
    """t = 0 is data, t = 1 is noise, and the derivative with respect to t in between is the velocity."""
    x, noise = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    assert torch.equal(diffusion.flow_interpolate(x, noise, torch.zeros(6)), x)
    assert torch.equal(diffusion.flow_interpolate(x, noise, torch.ones(6)), noise)
    t = torch.rand(6, dtype=torch.float64)
    difference = diffusion.flow_interpolate(x, noise, t + 1e-3) - diffusion.flow_interpolate(x, noise, t)
    torch.testing.assert_close(difference / 1e-3, diffusion.flow_velocity(x, noise), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solver", "order"), [(diffusion.sample_flow_euler, 1), (diffusion.sample_flow_heun, 2)])
def test_flow_solvers_have_their_order(solver: Callable[..., Tensor], order: int) -> None:
    """The flow carries quantiles of noise to quantiles of data, x = MEAN + STD * noise; errors fall as num_steps **
    -order."""
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    errors = []
    for num_steps in (20, 40, 80, 160):
        out = solver(flow_denoiser(num_steps), start, num_steps=num_steps)
        errors.append(float((out - (MEAN + STD * start)).abs().max()))
    assert slope(errors) == pytest.approx(order, abs=0.15)


def test_deterministic_solvers_scale_their_start() -> None:
    """Where no noise is added, temperature can only act on the initial noise, and does."""
    schedule = diffusion.respace(diffusion.cosine_schedule(1000), 6, "trimmed")
    denoise, start = wavy_denoiser(schedule), torch.randn(5, 4)
    for solver in (diffusion.sample_ddim, diffusion.sample_dpm_solver_pp):
        cooled = solver(denoise, start, schedule=schedule, temperature=0.7)
        assert torch.equal(cooled, solver(denoise, 0.7 * start, schedule=schedule))
    flow = flow_denoiser(6)
    for integrate in (diffusion.sample_flow_euler, diffusion.sample_flow_heun):
        cooled = integrate(flow, start, num_steps=6, temperature=0.7)
        assert torch.equal(cooled, integrate(flow, 0.7 * start, num_steps=6))


def test_samplers_leave_their_noise_alone() -> None:
    """They work in place on their own tensors only, so the same noise may be used again and gives the same tokens."""
    schedule = diffusion.respace(diffusion.cosine_schedule(1000), 6)
    denoise, noise = wavy_denoiser(schedule), torch.randn(7, 5, 4)
    kept = noise.clone()
    runs: list[Callable[[], Tensor]] = [
        lambda: diffusion.sample_ddpm(denoise, noise, schedule=schedule),
        lambda: diffusion.sample_ddim(denoise, noise[0], schedule=schedule),
        lambda: diffusion.sample_dpm_solver_pp(denoise, noise[0], schedule=schedule),
        lambda: diffusion.sample_flow_euler(flow_denoiser(6), noise[0], num_steps=6),
        lambda: diffusion.sample_flow_heun(flow_denoiser(6), noise[0], num_steps=6),
    ]
    for run in runs:
        assert torch.equal(run(), run())
        assert torch.equal(noise, kept)
