"""Claims about masks and draws: MAR's ratios and schedule, and that a draw is a function of its keys alone."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_counts, draw_training
from magi.model.masking import mask_ratio, masked_count, random_orders, unmasking_counts
from magi.seeds import generator
from tests.toys import FLOW, by_frame, tiny

# How many tokens MAR's sampler reveals in each of 64 steps of 256 tokens (mar.py, its formula evaluated).
MAR_256_64 = [1] * 13 + [
    2, 3, 2, 2, 3, 3, 3, 3, 3, 3, 4, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 4, 5, 5, 5, 5,
    5, 6, 5, 5, 6, 5, 6, 6, 6, 5, 6, 6, 6, 6, 6, 6, 7, 6, 6, 6, 6, 7, 6, 6, 6,
]  # fmt: skip


def mar_counts(tokens: int, steps: int) -> list[int]:
    """MAR's sampling loop with the model left out: floor of the cosine, clamped to [1, masked - 1], all at the last."""
    masked, counts = tokens, []
    for step in range(steps):
        if step == steps - 1:
            left = 0
        else:
            left = max(1, min(masked - 1, math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))))
        counts.append(masked - left)
        masked = left
    return counts


def test_schedule_is_mars() -> None:
    """The counts of MAR's own loop, for the paper's 64 steps, a square case and a short one."""
    assert unmasking_counts(256, 64) == MAR_256_64
    assert unmasking_counts(64, 64) == [1] * 64
    assert unmasking_counts(256, 8) == [5, 15, 24, 31, 39, 45, 48, 49]
    assert sum(MAR_256_64) == 256 and len(MAR_256_64) == 64


@given(st.integers(1, 300), st.integers(1, 300))
def test_schedule_reveals_every_token_once(tokens: int, steps: int) -> None:
    """Every step reveals something, all steps together everything; more steps than tokens would be empty and are not
    made. Where MAR's loop has no empty step, the counts are its own: our extra clamp never binds there."""
    counts = unmasking_counts(tokens, steps)
    assert len(counts) == min(steps, tokens)
    assert sum(counts) == tokens and min(counts) >= 1
    mars = mar_counts(tokens, min(steps, tokens))
    assert counts == mars or min(mars) < 1


def test_schedule_speeds_up() -> None:
    """The cosine is concave, so counts grow but for rounding by one or two: few tokens while little is known."""
    for tokens, steps in ((256, 64), (256, 8), (1024, 32), (64, 16), (16, 8)):
        counts = np.array(unmasking_counts(tokens, steps))
        assert (counts >= np.maximum.accumulate(counts) - 1).all()
        assert counts[: steps // 4].sum() < counts[-(steps // 4) :].sum()


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps: int) -> None:
    """Nothing could be revealed."""
    with pytest.raises(ValueError, match=f"at least 1, got {steps}"):
        unmasking_counts(16, steps)


def test_mask_ratio_is_mars_truncated_normal() -> None:
    """The map from uniform numbers is the inverse distribution function, so its values at an even grid give the
    moments, and its inverse gives the probabilities: mean .867, deviation .084, median .874, P(> .9) = .40, P(>= .99)
    = .04."""
    ratios = np.array([mask_ratio(u, minimum=0.7) for u in (np.arange(20_000) + 0.5) / 20_000])
    assert (np.diff(ratios) > 0).all() and ratios.min() >= 0.7 and ratios.max() <= 1.0
    assert abs(ratios.mean() - 0.867) < 0.0005 and abs(ratios.std() - 0.084) < 0.0005
    assert abs(mask_ratio(0.5, minimum=0.7) - 0.874) < 0.0005
    assert abs((ratios > 0.9).mean() - 0.40) < 0.005 and abs((ratios >= 0.99).mean() - 0.04) < 0.002

    normal = NormalDist(1.0, 0.25)  # the mean in closed form, from the density at the two ends
    z = normal.cdf(1.0) - normal.cdf(0.7)
    mean = 1.0 + 0.25**2 * (normal.pdf(0.7) - normal.pdf(1.0)) / z
    assert abs(ratios.mean() - mean) < 1e-6
    assert (mask_ratio(0.0, minimum=0.7), mask_ratio(1.0, minimum=0.7)) == pytest.approx((0.7, 1.0))
    assert mask_ratio(0.3, minimum=1.0) == 1.0


def test_masked_count_rounds_up() -> None:
    """MAR's ceil(L r): never nothing, never more than all."""
    assert [masked_count(256, r) for r in (0.7, 0.71, 1.0)] == [180, 182, 256]
    assert masked_count(16, 1e-9) == 1


def test_orders_are_permutations_and_independent() -> None:
    """Every order of three tokens is as likely in each of two frames, and knowing one frame's tells nothing of the
    other's: the 36 pairs are equally frequent. A row does not depend on how many are drawn after it."""
    pairs = np.zeros((27, 27))
    trials = 7200
    for i in range(trials):
        first, second = random_orders(generator(0, "test", i), 2, 3)
        assert sorted(first) == sorted(second) == [0, 1, 2]
        pairs[first @ [9, 3, 1], second @ [9, 3, 1]] += 1
    seen = pairs[pairs > 0]
    assert len(seen) == 36
    chi_square = ((seen - trials / 36) ** 2 / (trials / 36)).sum()
    assert chi_square < 66.6, "36 - 1 degrees of freedom exceed this once in a thousand"
    long, short = random_orders(generator(1, "test"), 9, 16), random_orders(generator(1, "test"), 4, 16)
    assert np.array_equal(long[:4], short)


BATCH_AXIS = {
    "masked_tokens": 0, "noise_level": 0, "signal": 0, "sigma": 0, "noise": 0, "head_time": 1, "head_noise": 1
}  # fmt: skip


def one(draws: TrainingDraws, index: int) -> dict[str, torch.Tensor]:
    """One sample's part of a batch of draws."""
    return {f.name: getattr(draws, f.name).select(BATCH_AXIS[f.name], index) for f in fields(draws)}


@pytest.mark.parametrize("config", [tiny(masks_per_clip=2), tiny(forcing="mtf", head=FLOW)], ids=["ctf", "mtf-flow"])
def test_draws_are_a_function_of_seed_step_and_sample(config: MagiConfig) -> None:
    """A sample's draws come from keys of its own, so they are the same whatever shares its batch, and the slices of two
    processes are the batch of one. Another sample, step or seed gives others."""
    batch = draw_training(config, 7, step=3, samples=[5, 2, 9, 11])
    for index, sample in enumerate([5, 2, 9, 11]):
        alone = one(draw_training(config, 7, step=3, samples=[sample]), 0)
        assert all(torch.equal(one(batch, index)[name], value) for name, value in alone.items())
    halves = [draw_training(config, 7, step=3, samples=half) for half in ([5, 2], [9, 11])]
    for name, axis in BATCH_AXIS.items():
        assert torch.equal(torch.cat([getattr(half, name) for half in halves], dim=axis), getattr(batch, name))

    again = draw_training(config, 7, step=3, samples=[5, 2, 9, 11])
    other = draw_training(config, 8, step=3, samples=[5, 2, 9, 11])
    for name in ("masked_tokens", "noise", "head_noise"):
        assert torch.equal(getattr(again, name), getattr(batch, name))
        if getattr(other, name).shape == getattr(batch, name).shape:
            assert not torch.equal(getattr(other, name), getattr(batch, name))
        first, second = one(batch, 0)[name], one(batch, 1)[name]
        assert not torch.equal(first, second)


def test_the_step_sets_how_many_tokens_are_hidden() -> None:
    """One ratio per optimizer step and seed, the same for every sample, so each counts the same number of tokens; over
    many steps it follows MAR's distribution. Which tokens are hidden is the sample's own order, cut to that many."""
    config = tiny(latent_height=16, latent_width=16)  # 64 tokens
    counts = {}
    for step in range(400):
        draws = draw_training(replace(config, num_frames=1, head_repeats=1), 0, step=step, samples=[1])
        counts[step] = draws.masked_tokens.shape[-1]
    expected = [masked_count(64, mask_ratio(generator(0, "mask ratio", s).random(), minimum=0.7)) for s in range(400)]
    assert list(counts.values()) == expected
    four_sigma = 4 * 0.084 / 20
    assert abs(np.mean(list(counts.values())) / 64 - (0.867 + 0.5 / 64)) < four_sigma, "ceil adds half a token"
    assert min(counts.values()) >= math.ceil(0.7 * 64) and max(counts.values()) <= 64

    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    short, long = (by_frame(draw_training(config, 0, step=step, samples=[4]).masked_tokens, 4) for step in (few, many))
    assert torch.equal(long[..., : short.shape[-1]], short) and long.shape[-1] > short.shape[-1]


def test_masks_differ_between_copies_and_frames() -> None:
    """Copies are there to show different masks, and each frame has its own order: all of them differ, none repeats a
    token."""
    config = tiny(latent_height=8, latent_width=8, masks_per_clip=3)  # 16 tokens
    index = by_frame(
        draw_training(config, 0, step=0, samples=range(4)).masked_tokens, config.num_frames
    )  # (B, M, T, K)
    assert torch.equal(index // 16, torch.arange(config.num_frames)[:, None].expand_as(index)), "frame by frame"
    rows = [tuple(row) for row in (index % 16).flatten(0, 2).tolist()]
    assert len(set(rows)) == len(rows) == 4 * 3 * config.num_frames
    assert all(len(set(row)) == len(row) for row in rows)


def test_each_frame_may_have_its_own_ratio() -> None:
    """Frame by frame, all drawn from MAR's distribution and independent; every sample of the step has the same counts,
    so each still counts as many tokens as any other. The hidden tokens are those of one ratio, more or fewer."""
    config = tiny(latent_height=16, latent_width=16, mask_ratio_granularity="frame")  # 64 tokens
    counts = np.array([draw_counts(config, 0, step=step) for step in range(400)])  # (steps, T)
    assert counts.min() >= math.ceil(0.7 * 64) and counts.max() <= 64
    four_sigma = 4 * 0.084 / 20
    assert (abs(counts.mean(axis=0) / 64 - (0.867 + 0.5 / 64)) < four_sigma).all()
    correlation = np.corrcoef(counts.T) - np.eye(config.num_frames)
    assert abs(correlation).max() < 4 / 20, "a correlation of 400 independent pairs has deviation 1/20"
    draws, batch = (
        draw_training(c, 0, step=5, samples=[1, 2]) for c in (config, tiny(latent_height=16, latent_width=16))
    )
    frame, place = draws.masked_tokens // 64, draws.masked_tokens % 64
    whole = by_frame(batch.masked_tokens, 4) % 64
    for b, t in itertools.product(range(2), range(4)):
        own = place[b, 0][frame[b, 0] == t].tolist()
        assert len(own) == counts[5, t] == draw_counts(config, 0, step=5)[t]
        common = min(len(own), whole.shape[-1])
        assert own[:common] == whole[b, 0, t, :common].tolist()
    assert draws.head_time.shape == (2, 2, 1, counts[5].sum()) == draws.head_noise.shape[:-1]


def test_mtf_may_show_a_complete_beginning() -> None:
    """As 1X's Genie: the first frame always complete, and in a share of the steps a prefix of every length from 1 to
    T - 1 alike; what follows is masked as ever. The whole global batch has the same beginning, and the paper's MTF has
    none."""
    config = tiny(forcing="mtf", mtf_clean_prefix_probability=0.5)
    counts = np.array([draw_counts(config, 0, step=step) for step in range(1200)])  # (steps, 4)
    plain = np.array([draw_counts(tiny(forcing="mtf"), 0, step=step) for step in range(1200)])
    assert plain.min() > 0 and np.array_equal(np.where(counts > 0, plain, 0), counts)
    lengths = (counts == 0).sum(axis=1)
    assert ((counts == 0) == (np.arange(4) < lengths[:, None])).all(), "it is a beginning"
    share = np.bincount(lengths, minlength=4) / 1200
    assert abs(share - [0.5, 1 / 6, 1 / 6, 1 / 6]).max() < 4 * (0.25 / 1200) ** 0.5

    first = draw_training(replace(config, mtf_first_frame_clean=True), 0, step=0, samples=[0, 1])
    assert first.masked_tokens.min() >= config.tokens and (first.masked_tokens // config.tokens).unique().tolist() in (
        [1, 2, 3], [2, 3], [3]
    )  # fmt: skip
    for wrong in ({"mtf_first_frame_clean": True}, {"mtf_clean_prefix_probability": 0.5}):
        with pytest.raises(ValueError, match="needs forcing mtf"):
            tiny(**wrong)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_head_times_are_uniform(kind: str) -> None:
    """MAR trains every step of the schedule alike, 0..S-1 whole; the flow draws from the unit interval. Each masked
    token and repeat has a time of its own."""
    config = tiny(head=FLOW) if kind == "flow" else tiny()
    time = draw_training(config, 0, step=0, samples=range(200)).head_time
    if kind == "diffusion":
        assert time.dtype == torch.int64
        share = torch.bincount(time.flatten(), minlength=10) / time.numel()
        assert len(share) == 10 and (share - 0.1).abs().max() < 4 * (0.09 / time.numel()) ** 0.5
    else:
        assert time.is_floating_point() and time.min() >= 0 and time.max() < 1
        assert abs(float(time.mean()) - 0.5) < 4 / (12 * time.numel()) ** 0.5
    equal = (time[0] == time[1]).double().mean()  # of the two repeats of each token
    assert abs(equal - (0.1 if kind == "diffusion" else 0.0)) < 4 * (0.09 / time[0].numel()) ** 0.5


def test_draws_do_not_touch_or_read_global_state() -> None:
    """All numbers come from keyed generators made on the spot: a user's own seeding changes nothing and is not
    changed."""
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = draw_training(tiny(), 0, step=0, samples=[0])
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    np.random.seed(2)
    second = draw_training(tiny(), 0, step=0, samples=[0])
    assert all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))


def test_keys_do_not_collide() -> None:
    """Streams of other seeds, purposes or positions differ, also where a plain joining of the numbers would agree."""
    keys = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", 1, 2),
        (0, "a", 12),
        (0, "a1"),
        (10, "a"),
        (0, "a", 0, 1),
    ]
    firsts = {generator(seed, purpose, *position).random() for seed, purpose, *position in keys}
    assert len(firsts) == len(keys)
    assert generator(3, "x", 1).random(4).tolist() == generator(np.int64(3), "x", np.int64(1)).random(4).tolist()
