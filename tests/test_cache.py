"""Claims about the cache: it holds what training computed, costs what was announced, and forgets what a window
forgets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from magi.model import forcing
from magi.model.config import MagiConfig
from magi.model.embeddings import temporal_positions
from magi.model.forcing import CLEAN
from magi.model.magi import Finished, Magi
from magi.sampling import reference
from magi.sampling.config import SampleConfig
from magi.sampling.noise import SampleNoise
from magi.sampling.past import Past, window_start
from tests.toys import error, intervals, noisy_draws, random_tokens, tiny, trained_looking

MODES = ("token", "channel", "add")

# --- the cache computes what training computed ---


@pytest.mark.parametrize("mode", MODES)
def test_cached_conditions_are_those_of_training(mode: Any) -> None:
    """CTF makes no difference between training and inference (A.4): one pass over the doubled sequence, and committing
    the noisy observations frame by frame and predicting each masked frame after them, are the same function."""
    config = tiny(noise_embedding=mode)
    model, draws, tokens, pace = trained_looking(config), noisy_draws(config), random_tokens(config), intervals(config)
    draws = replace(draws, noise_level=draws.noise_level[:1].expand(2, -1), sigma=draws.sigma[:1].expand(2, -1))
    together = model.conditions(tokens, pace, draws)[:, 0]  # (B, T, N, D)
    observed, hidden = forcing.with_noise(tokens, draws), forcing.hidden(draws, config.tokens)[:, 0]
    cache = model.new_cache(2, config.num_frames)
    for t in range(config.num_frames):
        z = model.predict(cache, tokens[:, t], hidden[:, t], time=float(t), interval=pace)
        assert error(z, together[:, t]) < 1e-10
        level = int(draws.noise_level[0, t])
        model.commit(cache, Finished(observed[:, t : t + 1], torch.tensor([float(t)]), level), interval=pace)


@pytest.mark.parametrize("mode", MODES)
def test_cached_conditions_of_mtf_use_its_own_table(mode: Any) -> None:
    """MTF has only ever learned the masked frames' position table, so finished frames are committed with it: the cached
    conditions equal its training layout with the earlier frames fully visible."""
    config = tiny(forcing="mtf", noise_embedding=mode)
    model, draws, tokens, pace = trained_looking(config), noisy_draws(config), random_tokens(config), intervals(config)
    draws = replace(draws, noise_level=torch.zeros_like(draws.noise_level), sigma=torch.zeros_like(draws.sigma))
    layout, cache = forcing.mtf_streams(tokens, draws), model.new_cache(2, config.num_frames)
    for t in range(config.num_frames):
        masked = layout.masked & (layout.frame == t)[None, :, None]
        x = model.embedding(layout.tokens, masked, layout.kind, layout.frame, layout.noise_level, pace)
        x = model.transformer(x, temporal_mask=layout.temporal_mask)
        z = model.predict(cache, tokens[:, t], masked[:, t], time=float(t), interval=pace)
        assert error(z, x[:, t, : config.tokens] + model.head_position) < 1e-10
        model.commit(cache, Finished(tokens[:, t : t + 1], torch.tensor([float(t)])), interval=pace)


@pytest.mark.parametrize("forcing", ["ctf", "mtf"])
def test_prediction_after_a_commit_needs_no_cache(forcing: Any) -> None:
    """Committing three frames at once, one by one, in the pass that predicts, or not at all but reading them anew gives
    one condition. What is left in the cache is the same too: the frames that were committed in the pass that predicted
    the next one know nothing of it."""
    config = tiny(forcing=forcing)
    model, tokens, pace, time = trained_looking(config), random_tokens(config, 1), torch.tensor([2]), torch.arange(4.0)
    masked = torch.tensor([[True, False, True, True, False, True]])
    expected = reference.conditions(
        model, list(tokens[0, :3]), tokens[0, 3], masked[0], time.double(), 2, SampleConfig()
    )
    at_once, one_by_one = model.new_cache(1, 4), model.new_cache(1, 4)
    model.commit(at_once, Finished(tokens[:, :3], time[:3]), interval=pace)
    for t in range(3):
        model.commit(one_by_one, Finished(tokens[:, t : t + 1], time[t : t + 1]), interval=pace)
    for cache in (at_once, one_by_one):
        assert error(model.predict(cache, tokens[:, 3], masked, time=3.0, interval=pace)[0], expected) < 1e-10
    for alone in range(4):  # frames committed in a pass of their own; the others in the one that predicts
        cache = model.new_cache(1, 4)
        if alone:
            model.commit(cache, Finished(tokens[:, :alone], time[:alone]), interval=pace)
        rest = Finished(tokens[:, alone:3], time[alone:3]) if alone < 3 else None
        for finished in (rest, None):  # and once more with what that left in the cache
            z = model.predict(cache, tokens[:, 3], masked, time=3.0, interval=pace, finished=finished)
            assert error(z[0], expected) < 1e-10 and cache.frames == 3
        assert error(cache.store[..., :3, :], at_once.store[..., :3, :]) < 1e-10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("past", [0, 2])
def test_only_chosen_tokens_need_the_last_block(mode: Any, past: int) -> None:
    """In the last block a token that is not predicted is keys and values in space and nothing in time. Leaving out the
    rest changes no prediction, whichever tokens each video of a batch has chosen, and nothing in the cache."""
    config = tiny(noise_embedding=mode)
    model, tokens, pace = trained_looking(config), random_tokens(config), intervals(config)
    hidden, cache = torch.rand(2, config.tokens) < 0.7, model.new_cache(2, 3)
    if past:
        model.commit(cache, Finished(tokens[:, :past], torch.arange(float(past))), interval=pace)
    committed = cache.store[..., :past, :].clone()
    everything = torch.arange(config.tokens).expand(2, -1)
    whole = reference_conditions(model, tokens[:, : past + 1], hidden, pace)
    chosen = torch.stack([torch.tensor([4, 1]), torch.tensor([0, 5])])
    for index in (everything, chosen):
        z = model.predict(cache, tokens[:, past], hidden, time=float(past), interval=pace, chosen=index)
        assert error(z, whole.gather(1, index[..., None].expand(-1, -1, config.width))) < 1e-10
    assert torch.equal(cache.store[..., :past, :], committed)


def reference_conditions(model: Magi, tokens: Tensor, hidden: Tensor, pace: Tensor) -> Tensor:
    """The conditions (B, N, D) of the last of these frames, one video at a time, without a cache."""
    time, past = torch.arange(tokens.shape[1]).double(), tokens.shape[1] - 1
    return torch.stack([
        reference.conditions(model, list(video[:past]), video[past], mask, time, int(k), SampleConfig())
        for video, mask, k in zip(tokens, hidden, pace, strict=True)
    ])  # fmt: skip


# --- what the model is told ---


@pytest.mark.parametrize("mode", MODES)
def test_interval_and_noise_level_are_heard(mode: Any) -> None:
    """The interval embedding is added to every frame, the level's to the frame it belongs to (§3): other ids give other
    conditions. Interval k is row k - 1 of its table, the last one included."""
    config = tiny(noise_embedding=mode)
    model, tokens, time = trained_looking(config), random_tokens(config, 1, frames=3), torch.arange(2.0)
    hidden = torch.ones(1, config.tokens, dtype=torch.bool)

    def condition(interval: int, level: int) -> Tensor:
        cache, pace = model.new_cache(1, 3), torch.tensor([interval])
        model.commit(cache, Finished(tokens[:, :2], time, level), interval=pace)
        return model.predict(cache, tokens[:, 2], hidden, time=2.0, interval=pace)

    every = [condition(k, CLEAN) for k in range(1, config.max_interval + 1)]
    every += [condition(1, level) for level in range(1, config.noise_buckets + 1)]
    assert all(error(a, b) > 1e-3 for a, b in itertools.combinations(every, 2))
    with torch.no_grad():
        model.embedding.interval.weight[config.max_interval - 1] *= -1
        assert error(condition(config.max_interval, CLEAN), every[config.max_interval - 1]) > 1e-3
        assert torch.equal(condition(1, CLEAN), every[0])


def test_positions_of_long_videos() -> None:
    """A.4 interpolates the temporal embedding of long videos linearly: frame i of n stands at i T / n. Extrapolation
    counts on. Up to the trained length both count 0, 1, 2 ..."""
    for mode in ("interpolate", "extrapolate"):
        for n in (1, 5, 16):
            assert temporal_positions(n, 16, mode).tolist() == list(range(n))
    long = temporal_positions(100, 16, "interpolate")
    torch.testing.assert_close(long, torch.arange(100, dtype=torch.float64) * 16 / 100, rtol=0, atol=1e-15)
    assert long.dtype == torch.float64 and float(long.max()) < 16
    assert temporal_positions(100, 16, "extrapolate").tolist() == list(range(100))


@pytest.mark.parametrize("window", range(2, 12))
def test_windows_are_bounded(window: int) -> None:
    """A frame sees at most window - 1 earlier ones, so that with itself the window is full; at least half a window
    once there are that many; the start moves only forwards, and only when the window is full: each move costs a
    re-reading."""
    starts = [window_start(frame, window) for frame in range(6 * window)]
    assert starts == [reference.first_in_sight(frame, window) for frame in range(6 * window)], "counted out one by one"
    assert starts == sorted(starts) and starts[:window] == [0] * window
    for frame, start in enumerate(starts):
        assert 0 <= frame - start <= window - 1
        assert frame < window or frame - start >= window // 2
    for before, (frame, after) in zip(starts, enumerate(starts[1:], start=1), strict=False):
        assert after == before or (frame - before == window and after - before == window - window // 2)
    for rule in (window_start, reference.first_in_sight):
        assert [rule(frame, None) for frame in range(100)] == [0] * 100


def test_an_endless_rollout_has_a_bounded_cache() -> None:
    """With a window the cache is taken once, for as many frames as the window, however long the video; whether the
    frames in between are looked at or only committed."""
    model = trained_looking(tiny())
    sizes = {}
    for frames in (8, 30):
        settings = SampleConfig(window=4)
        past = Past(
            model,
            SampleNoise([0], tokens=6, channels=8, dtype=torch.float64, device=torch.device("cpu"), source="cpu"),
            total=frames,
            interval=torch.tensor([1]),
            settings=settings,
        )
        for t in range(frames - 1):
            past.commit(random_tokens(model.config, 1, frames=1, seed=t))
            if t % 3:
                hidden = torch.ones(1, 6, dtype=torch.bool)
                past.predict(torch.zeros(1, 6, 8, dtype=torch.float64), hidden, chosen=torch.tensor([[0]]))
                assert past.cache.frames == past.count - past.first
            assert past.cache.frames <= 3 and past.next_time <= 3
        sizes[frames] = past.cache.nbytes
    assert sizes[8] == sizes[30] == model.new_cache(1, 4).nbytes


# --- the cache ---


@pytest.mark.parametrize(
    ("mode", "dtype"), [("token", torch.float64), ("add", torch.float32), ("channel", torch.bfloat16)]
)
def test_cache_bytes_are_known_beforehand(mode: Any, dtype: torch.dtype) -> None:
    """Per frame and video 2 x blocks x L x D numbers: keys and values of the temporal layers alone, the noise token's
    included. At the paper's size in bfloat16 that is 26.2 MB, and .1 more for the noise token."""
    config = tiny(noise_embedding=mode)
    cache = trained_looking(config, dtype=dtype).new_cache(batch=3, max_frames=7)
    length = config.tokens + (mode == "token")
    assert cache.nbytes == 2 * config.depth * length * config.width * dtype.itemsize * 3 * 7
    paper = MagiConfig()
    assert 2 * paper.depth * paper.tokens * paper.width * 2 == 26_214_400


def test_rewind_and_fork_continue_alike() -> None:
    """A past that was rewound or forked is the past: other frames committed in between leave no trace, and two forks do
    not write into each other."""
    config = tiny()
    model, tokens, pace, time = trained_looking(config), random_tokens(config, 2), intervals(config), torch.arange(4.0)
    hidden = torch.ones(2, config.tokens, dtype=torch.bool)
    cache = model.new_cache(2, 4)
    model.commit(cache, Finished(tokens[:, :2], time[:2]), interval=pace)
    twin = cache.fork()
    expected = model.predict(cache, tokens[:, 2], hidden, time=2.0, interval=pace)

    model.commit(cache, Finished(-tokens[:, 2:], time[2:]), interval=pace)
    assert cache.frames == 4 and twin.frames == 2
    assert torch.equal(model.predict(twin, tokens[:, 2], hidden, time=2.0, interval=pace), expected)
    cache.rewind(2)
    assert torch.equal(model.predict(cache, tokens[:, 2], hidden, time=2.0, interval=pace), expected)

    model.commit(twin, Finished(tokens[:, 2:3], time[2:3]), interval=pace)
    model.commit(cache, Finished(tokens[:, 2:3], time[2:3]), interval=pace)
    one, other = (model.predict(c, tokens[:, 3], hidden, time=3.0, interval=pace) for c in (cache, twin))
    assert torch.equal(one, other) and cache.store.data_ptr() != twin.store.data_ptr()


def test_cache_misuse_is_explained() -> None:
    """A full cache and a rewind to frames that never were are said in one line with both numbers."""
    config = tiny()
    model, tokens, pace = trained_looking(config), random_tokens(config, 1), torch.tensor([1])
    cache = model.new_cache(1, 2)
    with pytest.raises(ValueError, match=r"holds 2 frames; frame 3 does not fit.*window"):
        model.commit(cache, Finished(tokens[:, :3], torch.arange(3.0)), interval=pace)
    model.commit(cache, Finished(tokens[:, :2], torch.arange(2.0)), interval=pace)
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"rewind to {wrong} frames: 2 are committed"):
            cache.rewind(wrong)
