"""Claims about generation: it computes what training taught, and a video is a function of its seed alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from magi import checkpoint
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.model.masking import unmasking_counts
from magi.sampling import reference, rollout
from magi.sampling.config import SampleConfig
from magi.sampling.noise import SampleNoise
from magi.sampling.presets import Preset, with_preset
from magi.sampling.release import Release, load, save_release
from magi.seeds import generator
from magi.tokenizers.pixel import PixelTokenizer
from tests.toys import FLOW, error, random_latents, tiny, trained_looking

QUICK = SampleConfig(mask_steps=3, head_steps=3, solver="ddim")


def videos(
    model: Magi,
    context: Tensor | None,
    seeds: Sequence[int],
    *,
    frames: int = 2,
    interval: int | Sequence[int] = 1,
    settings: SampleConfig = QUICK,
) -> Tensor:
    """Generated latents (B, T, C', h, w)."""
    made = rollout.generate(model, context, num_frames=frames, seeds=seeds, interval=interval, settings=settings)
    return torch.stack(list(made), dim=1)


# --- the fast sampler is the specification ---

LONG = {"frames": 7}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: model, settings, call
    "paper's ddpm": ({}, {"solver": None}, {}),
    "ddpm, trimmed": ({}, {"solver": "ddpm", "spacing": "trimmed"}, {}),
    "more mask steps than tokens": ({}, {"mask_steps": 64}, {}),
    "unconditional": ({}, {}, {"context": 0, "frames": 4}),
    "interval per video": ({}, {}, {"interval": [1, 5, 2, 3, 5, 4, 1]}),
    "observation noise": ({}, {"observation_noise": 0.3}, {}),
    "variance-preserving noise": ({"noise_mix": "vp"}, {"observation_noise": 0.3}, {}),
    "interpolated": ({}, {}, {"frames": 6}),  # 8 frames in the time of 4
    "extrapolated": ({}, {"time_mode": "extrapolate"}, LONG),
    "window": ({}, {"window": 4}, {"frames": 10}),
    "smallest window": ({}, {"window": 2}, LONG),
    "odd window, noise, long context": ({}, {"window": 3, "observation_noise": 0.1}, {"context": 5, "frames": 5}),
    "flow": ({"head": FLOW}, {"solver": None}, {}),
    "flow, heun, cold": ({"head": FLOW}, {"solver": "heun", "temperature": 0.7}, {}),
    "dpm++": ({}, {"solver": "dpm++"}, {}),
    "drawn on the device": ({}, {"noise_source": "device", "observation_noise": 0.3}, {}),
    "ddpm, drawn on the device": ({}, {"noise_source": "device", "solver": "ddpm"}, {}),
    "mtf": ({"forcing": "mtf"}, {}, {}),
    "mtf, window, noise": ({"forcing": "mtf"}, {"window": 3, "observation_noise": 0.3}, LONG),
    "level as channels": ({"noise_embedding": "channel"}, {"observation_noise": 0.3}, {}),
    "fewer head steps at the end": ({}, {"solver": "ddpm", "head_steps": 6, "head_steps_last": 2}, {}),
    "fewer head steps at the end, flow": ({"head": FLOW}, {"solver": None, "head_steps": 5, "head_steps_last": 1}, {}),
    "compiled head": ({}, {"compiled_head": True}, {}),
    "compiled head, ddpm, window": ({}, {"compiled_head": True, "solver": "ddpm", "window": 3}, LONG),
    "level added, extra projection": ({"noise_embedding": "add", "temporal_out_proj": True}, {}, {}),
}
EVERY_BATCH_SIZE = ("paper's ddpm", "interval per video", "odd window, noise, long context", "flow")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", CASES)
def test_rollout_is_the_reference(name: str, dtype: torch.dtype) -> None:
    """The reference keeps no cache, hoists nothing, denoises every token and makes one video at a time. The rollout
    makes the same videos from the same seeds, in batches of 1, 2, 3 and 7, to rounding: 1e-9 in float64, 1e-4 in
    float32."""
    changes, options, call = CASES[name]
    frames, given, pace = call.get("frames", 2), call.get("context", 2), call.get("interval", [1] * 7)
    model, settings = trained_looking(tiny(**changes), dtype=dtype), replace(QUICK, **options)
    sizes = (1, 2, 3, 7) if name in EVERY_BATCH_SIZE else (2,)
    context = random_latents(model.config, 7, frames=given).to(dtype)
    seeds = [3, 1, 4, 15, 92, 65, 35]
    expected = [
        reference.generate_one(model, context[b], num_frames=frames, seed=seeds[b], interval=pace[b], settings=settings)
        for b in range(max(sizes))
    ]
    assert 0.3 < float(torch.stack(expected).std()) < 1e4, "samples of a sensible scale compare well"
    for size in sizes:
        last = max(sizes) - size  # not always the first videos
        found = videos(
            model,
            context[last : last + size] if given else None,
            seeds[last : last + size],
            frames=frames,
            interval=pace[last : last + size],
            settings=settings,
        )
        for b in range(size):
            for t in range(frames):
                assert error(found[b, t], expected[last + b][t]) < (1e-9 if dtype == torch.float64 else 1e-4), (b, t)


def test_interpolated_times_are_exact() -> None:
    """5 frames in the time of 4 stand at 0, .8, 1.6 ...: both sides must embed the same numbers in float64, not one of
    them rounded to float32 first."""
    model = trained_looking(tiny())
    context = random_latents(model.config, 1, frames=1)
    expected = reference.generate_one(model, context[0], num_frames=4, seed=0, interval=1, settings=QUICK)
    assert error(videos(model, context, [0], frames=4)[0], expected) < 1e-9


@pytest.mark.parametrize("name", ["observation noise", "window"])
def test_a_batch_is_a_set(name: str) -> None:
    """Which videos share a batch, and in what order, changes none of them: noise and order of a video come from its own
    seed, and no layer mixes videos."""
    _, options, _ = CASES[name]
    model, settings = trained_looking(tiny()), replace(QUICK, **options)
    context, seeds, pace = random_latents(model.config, 5), [8, 6, 7, 5, 3], [1, 2, 3, 4, 5]
    together = videos(model, context, seeds, interval=pace, settings=settings, frames=4)
    chosen = [3, 0, 4]
    some = videos(
        model,
        context[chosen],
        [seeds[i] for i in chosen],
        interval=[pace[i] for i in chosen],
        settings=settings,
        frames=4,
    )
    for row, i in enumerate(chosen):
        assert error(some[row], together[i]) < 1e-10
    assert all(error(together[a], together[b]) > 0.1 for a, b in itertools.combinations(range(5), 2))


@pytest.mark.parametrize(
    "changes", [{"width": 128}, {"width": 128, "head": replace(FLOW, width=128)}], ids=["ddim", "flow"]
)
def test_deterministic_mode_is_bit_equal(changes: dict[str, Any]) -> None:
    """Products of a few rows may round differently from products of many, so the promise of equal bits holds only where
    each video is computed by itself: that is the deterministic mode."""
    model = trained_looking(tiny(**changes), dtype=torch.float32)
    settings = replace(QUICK, deterministic=True, solver=None, window=3, observation_noise=0.2)
    context, seeds, pace = random_latents(model.config, 7).float(), [5, 3, 8, 9, 7, 9, 3], [1, 2, 1, 2, 1, 2, 1]
    seven = videos(model, context, seeds, interval=pace, settings=settings)
    for size in (1, 2, 3):
        part = videos(model, context[:size], seeds[:size], interval=pace[:size], settings=settings)
        assert torch.equal(part, seven[:size])
    free = videos(model, context, seeds, interval=pace, settings=replace(settings, deterministic=False))
    assert max(error(free[b, t], seven[b, t]) for b in range(7) for t in range(2)) < 1e-4, (
        "the same videos, to rounding"
    )


def test_the_number_of_frames_asked_for_changes_only_interpolated_times() -> None:
    """Without interpolation a frame depends on what came before it, not on how many will follow."""
    model, settings = trained_looking(tiny()), replace(QUICK, time_mode="extrapolate")
    context = random_latents(model.config, 1, frames=1)
    long = videos(model, context, [0], frames=6, settings=settings)
    assert torch.equal(videos(model, context, [0], frames=2, settings=settings), long[:, :2])
    assert error(videos(model, context, [0], frames=6)[:, :2], long[:, :2]) > 1e-3


def test_frames_arrive_one_by_one() -> None:
    """`generate` is lazy: the first frame costs its own mask steps and no later one's, which is what a live stream
    needs."""
    model, calls = trained_looking(tiny()), []
    with model.embedding.register_forward_hook(lambda *_: calls.append(1)):
        stream = rollout.generate(model, None, num_frames=1000, seeds=[0], settings=QUICK)
        assert not calls
        next(stream)
        assert len(calls) == QUICK.mask_steps
        next(stream)
        assert len(calls) == 2 * QUICK.mask_steps + 1, "one more pass commits the first frame (A.4)"


# --- randomness ---


def test_every_token_is_revealed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks shown to the model shrink by MAR's counts in the drawn order; a token keeps the value it was given, is
    never seen before, and the finished frame holds exactly those values."""
    config = tiny(latent_height=8, latent_width=8)  # 16 tokens
    model, seen, predict = trained_looking(config), [], Magi.predict

    def spy(self: Magi, cache: Any, tokens: Tensor, masked: Tensor, **rest: Any) -> Tensor:
        seen.append((tokens.clone(), masked.clone()))
        return predict(self, cache, tokens, masked, **rest)

    monkeypatch.setattr(Magi, "predict", spy)
    settings = replace(QUICK, mask_steps=6)
    made = cut_tokens(config, videos(model, None, [0, 1], frames=2, settings=settings))
    counts = unmasking_counts(16, 6)
    orders = SampleNoise([0, 1], tokens=16, channels=8, dtype=torch.float64, device=torch.device("cpu"), source="cpu")
    assert len(seen) == 2 * len(counts)
    for frame in range(2):
        order, revealed = orders.order(frame), 0
        for (tokens, masked), count in zip(seen[frame * 6 : frame * 6 + 6], counts, strict=True):
            for b in range(2):
                known = order[b, :revealed]
                assert masked[b].sum() == 16 - revealed and not masked[b, known].any()
                assert torch.equal(tokens[b, known], made[b, frame, known])
                assert not tokens[b, order[b, revealed:]].any()
            revealed += count
        assert revealed == 16


def cut_tokens(config: MagiConfig, latents: Tensor) -> Tensor:
    """Latents (B, T, C', h, w) to tokens (B, T, N, C), written out by index rather than by `patchify`."""
    rows, columns, p = *config.grid, config.patch
    tokens = torch.empty(*latents.shape[:2], config.tokens, config.token_channels, dtype=latents.dtype)
    for n, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        tokens[:, :, n] = latents[:, :, :, i * p : (i + 1) * p, j * p : (j + 1) * p].flatten(2)
    return tokens


def test_noise_is_keyed_by_seed_frame_and_step() -> None:
    """Orders differ between frames and seeds; head noise between frames, steps, seeds; observation noise between frames
    and seeds; a full frame is drawn, so the tokens needed in a step get theirs whichever they are."""
    noise = SampleNoise([1, 2, 1], tokens=16, channels=4, dtype=torch.float64, device=torch.device("cpu"), source="cpu")
    orders = torch.stack([noise.order(f) for f in range(3)], dim=1)  # (B, F, N)
    assert torch.equal(orders.sort(dim=-1).values, torch.arange(16).expand(3, 3, 16))
    assert torch.equal(orders[0], orders[2]) and len({tuple(o) for o in orders[:2].flatten(0, 1).tolist()}) == 6
    draws = [noise.head(f, s, head_steps=5)[:, b] for f in range(2) for s in range(2) for b in range(2)]
    draws += [noise.observation(f)[b][None] for f in range(2) for b in range(2)]
    assert noise.head(0, 0, head_steps=5).shape == (6, 3, 16, 4)
    firsts = torch.stack([d[0] for d in draws])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(firsts, 2))
    everything = torch.cat([d.flatten() for d in draws])
    assert abs(float(everything.mean())) < 4 / len(everything) ** 0.5 and abs(float(everything.std()) - 1) < 0.05
    assert torch.equal(noise.head(0, 0, head_steps=5)[:, 0], noise.head(0, 0, head_steps=5)[:, 2])


def test_a_seed_keeps_its_videos() -> None:
    """The contract, spelt out: row i of the head's noise is draw i of one NumPy stream per seed, frame and mask step.
    Whoever changes this changes every video that was ever made."""
    noise = SampleNoise([7, 8], tokens=6, channels=8, dtype=torch.float32, device=torch.device("cpu"), source="cpu")
    found = noise.head(3, 2, head_steps=5)
    for video, seed in enumerate((7, 8)):
        stream = generator(seed, "sample head", 3, 2).standard_normal((6, 6, 8), dtype=np.float32)
        assert np.array_equal(found[:, video].numpy(), stream)
    first = [-0.0597, 0.9822, -0.5166]
    torch.testing.assert_close(found[0, 0, 0, :3], torch.tensor(first), rtol=0, atol=1e-4)


@pytest.mark.parametrize("source", ["cpu", "device"])
def test_noise_rows_do_not_depend_on_how_many_are_drawn(source: Any) -> None:
    """Row i belongs to (seed, frame, mask step, i): fewer rows are the first of more, and NumPy's integers are seeds
    like any other."""
    like: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "source": source}
    noise, same = (SampleNoise(s, tokens=6, channels=8, **like) for s in ([7, 8], np.array([7, 8])))
    many = noise.head(3, 2, head_steps=5)
    for head_steps in (0, 3):
        assert torch.equal(same.head(3, 2, head_steps=head_steps), many[: head_steps + 1])
    rows = many.flatten(2).flatten(0, 1)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(rows, 2))


@pytest.mark.parametrize("source", ["cpu", "device"])
def test_noise_of_some_tokens_is_theirs_among_all(source: Any) -> None:
    """Whichever tokens a step reveals and in whichever order; of an odd number of channels too, whose last number has
    no partner."""
    for channels in (8, 5):
        noise = SampleNoise(
            [7, 8], tokens=6, channels=channels, dtype=torch.float64, device=torch.device("cpu"), source=source
        )
        chosen = torch.tensor([[5, 0, 2], [1, 4, 3]])
        some, whole = noise.head(1, 2, head_steps=3, chosen=chosen), noise.head(1, 2, head_steps=3)
        assert whole.shape == (4, 2, 6, channels) and some.shape == (4, 2, 3, channels)
        assert torch.equal(some, whole.take_along_dim(chosen[None, ..., None], dim=2))
        assert len(whole.unique()) == whole.numel()


@pytest.mark.parametrize(("solver", "rows"), [("ddpm", 4), ("ddim", 1), ("dpm++", 1)])
def test_only_noise_that_is_read_is_drawn(solver: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ancestral sampling adds noise after each of its 3 steps; the other solvers start from noise and add none. That
    the videos are those of the reference, which always draws all rows, is shown above."""
    drawn, head = set(), SampleNoise.head

    def spy(self: SampleNoise, frame: int, mask_step: int, *, head_steps: int, **rest: Any) -> Tensor:
        noise = head(self, frame, mask_step, head_steps=head_steps, **rest)
        drawn.add(len(noise))
        return noise

    monkeypatch.setattr(SampleNoise, "head", spy)
    videos(trained_looking(tiny()), None, [0], settings=replace(QUICK, solver=solver))
    assert drawn == {rows}


@pytest.mark.parametrize("source", ["cpu", "device"])
def test_global_randomness_is_neither_read_nor_moved(source: Any) -> None:
    """Before and after scrambling torch's and NumPy's global generators a seed gives the same bits, and generating
    leaves those generators where they were."""
    model, settings = trained_looking(tiny()), replace(QUICK, noise_source=source, solver="ddpm", observation_noise=0.2)
    first = videos(model, None, [4, 2], settings=settings)
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert torch.equal(videos(model, None, [4, 2], settings=settings), first)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    alone = videos(model, None, [2], settings=settings)
    assert error(alone[0], first[1]) < 1e-10


def test_temperature_zero_of_a_flow_is_one_video() -> None:
    """The noise is scaled by the temperature, so at zero seeds with the same order of tokens would agree: one mask step
    has no order, and every seed gives the same video."""
    model = trained_looking(tiny(head=FLOW))
    settings = SampleConfig(mask_steps=1, head_steps=2, temperature=0.0)
    made = videos(model, None, [0, 1, 2], settings=settings)
    assert error(made[1], made[0]) < 1e-12 and error(made[2], made[0]) < 1e-12
    assert error(*videos(model, None, [0, 1], settings=replace(settings, temperature=1.0))) > 0.1


# --- what users get wrong ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"seeds": [1, 2, 3]}, "2 contexts but 3 seeds"),
        ({"interval": [1, 2, 3]}, "3 intervals but 2 seeds"),
        ({"interval": 6}, r"interval 6 is outside.*1\.\.5"),
        ({"interval": [1, 0]}, r"interval 0 is outside.*1\.\.5"),
        ({"context": torch.zeros(2, 1, 2, 4, 4)}, r"\(2, 1, 2, 4, 4\); expected \(videos, frames, 2, 4, 6\)"),
        ({"context": torch.zeros(2, 2, 4, 6)}, r"\(2, 2, 4, 6\); expected \(videos, frames, 2, 4, 6\)"),
        ({"settings": replace(QUICK, observation_noise=0.9)}, r"0\.9 is outside the trained range 0 to 0\.7"),
        ({"settings": replace(QUICK, solver="euler")}, "solver 'euler' does not fit a head of kind 'diffusion'"),
        ({"settings": replace(QUICK, head_steps=11, solver="ddpm")}, "num_steps is 11.*1 to 10"),
        ({"model": trained_looking(tiny(head=FLOW)), "settings": SampleConfig(spacing="full")}, "flow head takes"),
        (
            {"model": trained_looking(tiny(forcing="mtf", mtf_first_frame_clean=True)), "context": None},
            "never learned to make a first frame",
        ),
        ({"model": trained_looking(tiny()).train()}, r"training mode.*model\.eval\(\)"),
    ],
)
def test_mistakes_are_explained(call: dict[str, Any], message: str) -> None:
    """Whatever does not fit the model or the other arguments is one line with what was given and what is expected. The
    call itself says it, where the mistake is, and not the first frame that is asked for."""
    arguments: dict[str, Any] = {
        "model": trained_looking(tiny()),
        "context": torch.zeros(2, 1, 2, 4, 6),
        "num_frames": 1,
        "seeds": [0, 1],
        "settings": QUICK,
    }
    with pytest.raises(ValueError, match=message) as caught:
        rollout.generate(**{**arguments, **call})
    assert "\n" not in str(caught.value)


def test_no_seeds_are_refused() -> None:
    """A batch of no videos is a mistake, and said to be one."""
    with pytest.raises(ValueError, match="seeds"):
        rollout.generate(trained_looking(tiny()), None, num_frames=1, seeds=[], settings=QUICK)


@pytest.mark.parametrize("source", ["cpu", "device"])
def test_numpy_integers_are_integers(source: Any) -> None:
    """Seeds and intervals often come out of arrays; they give the videos of the same plain numbers."""
    model, settings = trained_looking(tiny()), replace(QUICK, noise_source=source)
    plain = videos(model, None, [3, 4], interval=[2, 5], settings=settings)
    assert torch.equal(videos(model, None, np.array([3, 4]), interval=np.array([2, 5]), settings=settings), plain)
    one = videos(model, None, [3, 4], interval=2, settings=settings)
    assert torch.equal(videos(model, None, np.arange(3, 5), interval=np.int64(2), settings=settings), one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_steps": 0}, "mask_steps must be at least 1, got 0"),
        ({"head_steps": -1}, "head_steps must be at least 1, got -1"),
        ({"head_steps_last": 0}, "head_steps_last must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"window": 1}, "at least 2 frames.*got 1"),
    ],
)
def test_settings_are_checked_where_they_are_made(options: dict[str, Any], message: str) -> None:
    """A setting that no model could use never comes to exist."""
    with pytest.raises(ValueError, match=message):
        SampleConfig(**options)


def test_head_steps_change_evenly() -> None:
    """From the first mask step to the last, both as asked for; a single one takes the first's."""
    settings = SampleConfig(head_steps=50, head_steps_last=5)
    assert [settings.head_steps_at(step, mask_steps=4) for step in range(4)] == [50, 35, 20, 5]
    assert settings.head_steps_at(0, mask_steps=1) == 50
    assert {SampleConfig().head_steps_at(step, mask_steps=64) for step in range(64)} == {100}


@pytest.mark.parametrize("name", get_args(Preset))
def test_presets_fit_every_head(name: Preset) -> None:
    """A preset changes steps and solver alone, whatever was there; exact is the paper's; and the others are quicker."""
    before = SampleConfig(mask_steps=7, head_steps=9, head_steps_last=3, spacing="trimmed", window=8, temperature=0.5)
    for head in (HeadConfig(), HeadConfig(kind="flow")):
        after = with_preset(before, name, head)
        assert after.window == 8 and after.temperature == 0.5 and after.solver_for(head)
        paper = with_preset(before, "exact", head)
        assert (paper.mask_steps, paper.head_steps, paper.head_steps_last) == (64, 100, None)
        assert after == paper or after.mask_steps * after.head_steps < paper.mask_steps * paper.head_steps / 10
    assert with_preset(before, name, HeadConfig()).solver_for(HeadConfig()) == ("ddpm" if name == "exact" else "dpm++")


@pytest.mark.parametrize(
    "head", [HeadConfig(width=16, depth=1, train_steps=10, time_dim=8), FLOW], ids=["diffusion", "flow"]
)
def test_a_backbone_may_be_in_another_type(head: HeadConfig) -> None:
    """The transformer in bfloat16 beside a float32 head: tokens keep the head's type, keys and values take the
    backbone's, and the first frame is that of float32 to the backbone's three digits. In its own type nothing moves."""
    model = trained_looking(tiny(head=head), dtype=torch.float32)
    context, settings = random_latents(model.config, 2, frames=2).float(), replace(QUICK, solver=None, temperature=0.5)
    exact = videos(model, context, [1, 2], frames=1, settings=settings)
    assert torch.equal(
        videos(copy.deepcopy(model).backbone_to(torch.float32), context, [1, 2], frames=1, settings=settings), exact
    )
    half = copy.deepcopy(model).backbone_to(torch.bfloat16)
    found = videos(half, context, [1, 2], frames=1, settings=settings)
    assert found.dtype == torch.float32 and half.new_cache(1, 1).store.dtype == torch.bfloat16
    assert half.head.cond_embed.weight.dtype == torch.float32 and half.head_position.dtype == torch.bfloat16
    assert 1e-6 < error(found, exact) < 0.1


def test_a_release_is_loaded_without_drawing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is built without memory and takes the tensors of the file as they are: nothing is initialised, the bytes
    are there once, and it is the model that was saved, its computed positions included."""
    model, given = trained_looking(tiny(), dtype=torch.float32), {}
    save_release(tmp_path / "release", Release(model, PixelTokenizer(8), SampleConfig()), card="")
    read = checkpoint.load_tensors

    def noted(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        found = read(*arguments, **options)
        given.update({name: tensor.data_ptr() for name, tensor in found.items()})
        return found

    def drawn(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        assert tensor.is_meta, "a weight was drawn"
        return tensor

    for name in ("normal_", "xavier_uniform_", "zeros_", "constant_"):
        monkeypatch.setattr(torch.nn.init, name, drawn)
    monkeypatch.setattr(checkpoint, "load_tensors", noted)
    found = load(tmp_path / "release").model
    assert {name: parameter.data_ptr() for name, parameter in found.named_parameters()} == given
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    assert torch.equal(found.embedding.spatial, model.embedding.spatial)
