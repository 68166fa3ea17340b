"""Claims about teacher forcing: who may learn from whom, where the noise falls, and that nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from magi.model import forcing
from magi.model.attention import attend
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training, noise_bucket
from magi.model.embeddings import patchify
from magi.model.forcing import CLEAN, MASKED, OBSERVATION, Streams
from magi.model.magi import Magi
from magi.model.transformer import Layer
from magi.sampling.config import SampleConfig
from magi.sampling.rollout import generate
from tests.toys import intervals, noisy_draws, random_latents, random_tokens, tiny, trained_looking

CTF = [
    pytest.param(tiny(noise_embedding=mode, masks_per_clip=copies), id=f"ctf-{mode}-{copies}")
    for mode in ("token", "channel", "add")
    for copies in (1, 3)
]
MTF = [
    pytest.param(tiny(forcing="mtf", noise_embedding=mode), id=f"mtf-{mode}") for mode in ("token", "channel", "add")
]
ONE_OF_EACH = [CTF[0], MTF[0]]


def hidden_states(model: Magi, streams: Streams) -> Tensor:
    """The transformer's output for every stream frame, (B, S, L, D)."""
    interval = intervals(model.config, len(streams.tokens))
    x = model.embedding(streams.tokens, streams.masked, streams.kind, streams.frame, streams.noise_level, interval)
    return model.transformer(x, temporal_mask=streams.temporal_mask)


def frame_dependence(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Which output frame has any gradient to which input frame of the same video, (rows, columns) bool.

    Args:
        outputs: (B, rows, ...).
        inputs: (B, columns, ...), requires gradients.
    """
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0), dtype=outputs.dtype)
    rows = []
    for row in range(outputs.shape[1]):
        gradient, *_ = torch.autograd.grad((outputs * weights)[0, row].sum(), inputs, retain_graph=True)
        assert not gradient[1:].any(), "a video depends on another one"
        rows.append(gradient[0].flatten(1).ne(0).any(dim=1))
    return torch.stack(rows)


def ctf_expected(frames: int, copies: int) -> Tensor:
    """The paper's Figure 3 spelled out cell by cell, without the last observation frame."""
    names = [("observation", 0, t) for t in range(frames - 1)]
    names += [("masked", m, t) for m in range(copies) for t in range(frames)]

    def may_see(row: tuple[str, int, int], column: tuple[str, int, int]) -> bool:
        if row[0] == "observation":
            return column[0] == "observation" and column[2] <= row[2]
        return row == column or (column[0] == "observation" and column[2] < row[2])

    return torch.tensor([[may_see(row, column) for column in names] for row in names])


@pytest.mark.parametrize("config", CTF)
def test_ctf_streams_depend_on_the_past_alone(config: MagiConfig) -> None:
    """Eq. 4: a masked frame is made from the complete frames before it and itself; observations from observations.

    Attention and MLPs give almost every allowed pair a non-zero gradient, and a forbidden one exactly zero, since
    softmax of -inf is zero: so the set of non-zero gradients must equal the figure, neither more nor less.
    """
    model = trained_looking(config)
    streams = forcing.LAYOUTS["ctf"](random_tokens(config), noisy_draws(config, hidden=4))
    streams = replace(streams, tokens=streams.tokens.requires_grad_())
    found = frame_dependence(hidden_states(model, streams), streams.tokens)
    assert torch.equal(found, ctf_expected(config.num_frames, config.masks_per_clip)), found.int()


@pytest.mark.parametrize("config", MTF)
def test_mtf_frames_depend_on_masked_frames_up_to_themselves(config: MagiConfig) -> None:
    """Eq. 3: MTF has one stream, and its frame t is made from the visible tokens of frames 1..t."""
    model = trained_looking(config)
    streams = forcing.LAYOUTS["mtf"](random_tokens(config), noisy_draws(config, hidden=4))
    streams = replace(streams, tokens=streams.tokens.requires_grad_())
    found = frame_dependence(hidden_states(model, streams), streams.tokens)
    assert torch.equal(found, torch.ones_like(found).tril()), found.int()


@pytest.mark.parametrize("config", [*CTF, *MTF])
def test_conditions_of_a_fully_hidden_clip(config: MagiConfig) -> None:
    """With every token hidden a frame says nothing of itself: CTF's condition t knows the clean frames < t, all of
    them and no other; MTF's knows nothing at all, for its history is hidden too. This is end to end, through
    `conditions`."""
    model, tokens = trained_looking(config), random_tokens(config).requires_grad_()
    draws = draw_training(replace(config, mask_ratio_min=1.0), 0, step=0, samples=range(2))
    z = model.conditions(tokens, intervals(config), draws)  # (B, M, T, N, D)
    for copy in range(config.masks_per_clip):
        if config.forcing == "mtf":
            assert not torch.autograd.grad(z.sum(), tokens, allow_unused=True, retain_graph=True)[0].any()
        else:
            found = frame_dependence(z[:, copy], tokens)
            assert torch.equal(found, torch.ones_like(found).tril(-1)), found.int()


@pytest.mark.parametrize("config", [*CTF, *MTF])
def test_hidden_values_never_reach_the_prediction(config: MagiConfig) -> None:
    """What is to be predicted must not be readable: the gradient from a masked frame's condition to its own hidden
    values is exactly zero, to its own visible values it is not. In MTF no frame sees any hidden value."""
    model, draws = trained_looking(config), noisy_draws(config, hidden=4)
    tokens = random_tokens(config).requires_grad_()
    z = model.conditions(tokens, intervals(config), draws)
    hidden = forcing.hidden(draws, config.tokens)  # (B, M, T, N)
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    for copy in range(config.masks_per_clip):
        for t in range(config.num_frames):
            (gradient,) = torch.autograd.grad((z * weights)[:, copy, t].sum(), tokens, retain_graph=True)
            reached = gradient.ne(0).any(dim=-1)  # (B, T, N)
            assert torch.equal(reached[:, t], ~hidden[:, copy, t])
            if config.forcing == "mtf":
                assert torch.equal(reached[:, :t], ~hidden[:, 0, :t])


@pytest.mark.parametrize("config", [*CTF, *MTF])
def test_the_future_and_the_answer_do_not_change_a_bit(config: MagiConfig) -> None:
    """The same without calculus: replace the hidden values of frame t and everything after it by huge numbers, and the
    conditions of frames <= t keep their very bits. Replace a frame before t, and condition t changes."""
    model, draws = trained_looking(config), noisy_draws(config, hidden=4)
    tokens, pace = random_tokens(config), intervals(config)
    before = model.conditions(tokens, pace, draws)
    hidden = forcing.hidden(draws, config.tokens).all(dim=1)  # (B, T, N), hidden in every copy
    for t in range(config.num_frames):
        changed = tokens.clone()
        changed[:, t + 1 :] = 1e3
        changed[:, t] = torch.where(hidden[:, t, :, None], -1e3, tokens[:, t])
        after = model.conditions(changed, pace, draws)
        assert torch.equal(after[:, :, : t + 1], before[:, :, : t + 1])
        assert t + 1 == config.num_frames or not torch.equal(after[:, :, t + 1], before[:, :, t + 1])


@pytest.mark.parametrize("config", [CTF[0], CTF[2], CTF[4]])
def test_noise_levels_travel_with_their_frame(config: MagiConfig) -> None:
    """The level of observation s is part of observation s, also where it is a token of its own with its own place in
    the temporal layers: changing its id changes the conditions of frames > s and no others."""
    model, draws = trained_looking(config), noisy_draws(config)
    tokens, pace = random_tokens(config), intervals(config)
    before = model.conditions(tokens, pace, draws)
    for s in range(config.num_frames):
        level = draws.noise_level.clone()
        level[:, s] = level[:, s] % config.noise_buckets + 1
        after = model.conditions(tokens, pace, replace(draws, noise_level=level))
        changed = [not torch.equal(after[:, :, t], before[:, :, t]) for t in range(config.num_frames)]
        assert changed == [t > s for t in range(config.num_frames)]


def full_ctf_streams(tokens: Tensor, draws: TrainingDraws) -> Streams:
    """Figure 3 to the letter: T observation frames, then T masked frames, temporal mask [[tril, 0], [strict tril,
    I]]."""
    frames = tokens.shape[1]
    causal = torch.ones(frames, frames, dtype=torch.bool).tril()
    nothing, own = torch.zeros_like(causal), torch.eye(frames, dtype=torch.bool)
    hidden = torch.zeros(tokens.shape[:3], dtype=torch.bool)
    for video, index in enumerate(draws.masked_tokens[:, 0]):
        hidden[video, index // tokens.shape[2], index % tokens.shape[2]] = True
    signal, sigma = draws.signal.to(tokens)[..., None, None], draws.sigma.to(tokens)[..., None, None]
    noisy = signal * tokens + sigma * draws.noise.to(tokens)
    return Streams(
        tokens=torch.cat([noisy, tokens], dim=1),
        masked=torch.cat([torch.zeros_like(hidden), hidden], dim=1),
        kind=torch.tensor([0] * frames + [1] * frames),
        frame=torch.arange(frames).repeat(2),
        noise_level=torch.cat([draws.noise_level, torch.zeros_like(draws.noise_level)], dim=1),
        temporal_mask=torch.cat([torch.cat([causal, nothing], 1), torch.cat([causal & ~own, own], 1)]),
        predicted=frames,
    )


@pytest.mark.parametrize("mode", ["token", "channel", "add"])
def test_the_last_observation_frame_may_be_left_out(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may attend to the last observation frame, so the paper's layout of 2 T frames, built here anew, gives the
    same conditions and the same loss as ours of 2 T - 1."""
    config = tiny(noise_embedding=mode)
    model, draws, latents = trained_looking(config), noisy_draws(config), random_latents(config)
    tokens, pace = patchify(latents, config.patch), intervals(config)
    ours, loss = model.conditions(tokens, pace, draws), model(latents, pace, draws)["loss"]
    monkeypatch.setitem(forcing.LAYOUTS, "ctf", full_ctf_streams)
    torch.testing.assert_close(ours, model.conditions(tokens, pace, draws), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, model(latents, pace, draws)["loss"], rtol=1e-12, atol=0)


def test_copies_share_an_observation_pass_and_nothing_else() -> None:
    """Masked copies do not attend to each other and observations see no copy, so three copies in one pass have the
    conditions of three passes, and the loss is the mean of the three losses."""
    config = tiny(masks_per_clip=3)
    model, draws, latents = trained_looking(config), noisy_draws(config), random_latents(config)
    tokens, pace = patchify(latents, config.patch), intervals(config)
    together, loss = model.conditions(tokens, pace, draws), model(latents, pace, draws)["loss"].detach()
    losses = []
    for m in range(3):
        alone = replace(
            draws,
            masked_tokens=draws.masked_tokens[:, m : m + 1],
            head_time=draws.head_time[:, :, m : m + 1],
            head_noise=draws.head_noise[:, :, m : m + 1],
        )
        z = model.conditions(tokens, pace, alone)
        torch.testing.assert_close(together[:, m : m + 1], z, rtol=1e-12, atol=1e-12)
        losses.append(model(latents, pace, alone)["loss"].detach())
    assert len({float(loss) for loss in losses}) == 3, "the copies have the same mask"
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-12, atol=0)


def test_noise_falls_on_observations_only() -> None:
    """Paper §3: noise goes into the observation frames, whose level is told. The masked stream keeps clean visible
    tokens and the clean id. In MTF the visible tokens are the observations, so there the noise falls on them."""
    config = tiny(masks_per_clip=3)
    tokens, draws = random_tokens(config), noisy_draws(config)
    noisy = tokens + draws.sigma.double()[..., None, None] * draws.noise.double()
    assert (noisy - tokens).abs().flatten(2).amax(dim=2).min() > 0.01, "the draws carry no noise"
    observed = config.num_frames - 1

    streams = forcing.LAYOUTS["ctf"](tokens, draws)
    torch.testing.assert_close(streams.tokens[:, :observed], noisy[:, :-1], rtol=1e-6, atol=1e-6)
    assert torch.equal(streams.tokens[:, observed:], tokens.repeat(1, 3, 1, 1))
    assert torch.equal(streams.noise_level[:, :observed], draws.noise_level[:, :-1])
    assert streams.noise_level[:, observed:].eq(CLEAN).all()
    assert streams.kind.tolist() == [OBSERVATION] * observed + [MASKED] * 3 * config.num_frames
    assert not streams.masked[:, :observed].any()

    streams = forcing.LAYOUTS["mtf"](tokens, noisy_draws(tiny(forcing="mtf")))
    torch.testing.assert_close(streams.tokens, noisy, rtol=1e-6, atol=1e-6)
    assert torch.equal(streams.noise_level, draws.noise_level)
    assert streams.kind.eq(MASKED).all()


@pytest.mark.parametrize("config", ONE_OF_EACH)
def test_targets_are_the_clean_hidden_tokens(config: MagiConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head learns exactly the hidden tokens, without the injected noise, each beside its own condition, under the
    diffusion times and noise drawn for it. Another order anywhere would train a token on another's condition."""
    model, draws, latents = trained_looking(config), noisy_draws(config, hidden=4), random_latents(config)
    tokens, seen = patchify(latents, config.patch), {}

    def spy(z: Tensor, target: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        seen.update(z=z, target=target, t=t, noise=noise)
        return {"mse": z.mean(dim=-1)}

    monkeypatch.setattr(model.head, "loss", spy)
    model(latents, intervals(config), draws)
    conditions = model.conditions(tokens, intervals(config), draws)
    row = 0
    for b in range(2):
        for m in range(config.masks_per_clip):
            for p, index in enumerate(draws.masked_tokens[b, m].tolist()):
                t, n = divmod(index, config.tokens)
                assert torch.equal(seen["target"][row], tokens[b, t, n])
                assert torch.equal(seen["z"][row], conditions[b, m, t, n])
                assert torch.equal(seen["t"][:, row], draws.head_time[:, b, m, p])
                assert torch.equal(seen["noise"][:, row], draws.head_noise[:, b, m, p])
                row += 1
    assert row == len(seen["target"]) == 2 * config.masks_per_clip * config.num_frames * 4


@pytest.mark.parametrize("granularity", ["clip", "frame"])
def test_noise_levels_are_drawn_as_configured(granularity: str) -> None:
    """A clean level has id 0 and deviation exactly 0, as often as asked for: inference commits frames with that id. The
    others are uniform on (0, max], and id k covers the k-th equal part. One level per clip, or one per frame."""
    config = tiny(noise_granularity=granularity, clean_probability=0.2, noise_buckets=4, noise_max=0.8)
    draws = draw_training(config, 0, step=0, samples=range(1500))
    level, sigma = draws.noise_level, draws.sigma.double()
    same = level.eq(level[:, :1]).all(dim=1) & sigma.eq(sigma[:, :1]).all(dim=1)
    assert same.all() if granularity == "clip" else same.float().mean() < 0.2
    level, sigma = (level[:, 0], sigma[:, 0]) if granularity == "clip" else (level.flatten(), sigma.flatten())

    assert torch.equal(level == CLEAN, sigma == 0)
    noisy = level > 0
    assert (sigma[noisy] > 0.2 * (level[noisy] - 1) - 1e-6).all() and (sigma[noisy] <= 0.2 * level[noisy] + 1e-6).all()
    share = torch.bincount(level, minlength=5) / len(level)
    expected = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2])
    four_sigma = 4 * (0.2 * 0.8 / len(level)) ** 0.5
    assert (share - expected).abs().max() < four_sigma, share


def test_noise_buckets_are_equal_parts() -> None:
    """The ends belong to the outermost ids, what is outside was never trained and is refused with both values."""
    config = tiny(noise_max=0.7, noise_buckets=10)
    ids = noise_bucket(config, np.array([0.0, 1e-9, 0.069, 0.071, 0.36, 0.6999, 0.7]))
    assert ids.tolist() == [0, 1, 1, 2, 6, 10, 10]
    for wrong in (-0.1, 0.71):
        with pytest.raises(ValueError, match=f"{wrong}.*0 to 0.7"):
            noise_bucket(config, wrong)


def test_noise_buckets_may_be_rounded() -> None:
    """GameNGen's reimplementation takes min(round(sigma / .07), 9) of ten: its first id ends at .035, its last begins
    at .595. Ours come one later, behind the clean id."""
    config = tiny(noise_max=0.7, noise_buckets=10, noise_bucketing="round")
    ids = noise_bucket(config, np.array([0.0, 0.034, 0.036, 0.104, 0.106, 0.594, 0.596, 0.7]))
    assert ids.tolist() == [0, 1, 2, 2, 3, 9, 10, 10]


def test_noise_may_preserve_the_variance() -> None:
    """Of a unit signal and unit noise, sqrt(1 - sigma^2) x + sigma e has variance 1 whatever sigma; x + sigma e has
    1 + sigma^2. A clean clip is untouched in both. The levels and the noise are the same draws."""
    base = tiny(latent_height=16, latent_width=16, clean_probability=0.5)
    configs = {mix: replace(base, noise_mix=mix) for mix in ("add", "vp")}
    draws = {mix: draw_training(config, 0, step=0, samples=range(6)) for mix, config in configs.items()}
    sigma = draws["vp"].sigma.double()
    assert torch.equal(draws["add"].sigma, draws["vp"].sigma) and torch.equal(draws["add"].noise, draws["vp"].noise)
    assert sigma.eq(0).any() and sigma.gt(0.3).any()
    tokens = random_tokens(configs["vp"], 6)
    for mix, variance in (("add", 1 + sigma**2), ("vp", torch.ones_like(sigma))):
        noisy = forcing.with_noise(tokens, draws[mix])
        four_sigma = 4 * (2 / tokens[0, 0].numel()) ** 0.5
        assert (noisy.var(dim=(2, 3)) / variance - 1).abs().max() < four_sigma
        assert torch.equal(noisy[sigma.eq(0)], tokens[sigma.eq(0)])


@pytest.mark.parametrize("config", ONE_OF_EACH)
def test_inference_uses_only_what_training_taught(config: MagiConfig) -> None:
    """Position table and noise id of a frame are learned together. Every pair of them that generation looks up, with
    and without observation noise, occurs in training; otherwise samples would rest on untrained numbers."""
    pairs: set[tuple[int, int]] = set()

    def note(_module: object, arguments: tuple[Tensor, ...]) -> None:
        _tokens, _masked, kind, _time, level, _interval = arguments
        pairs.update((k, int(i)) for k, column in zip(kind.tolist(), level.unbind(1), strict=True) for i in column)

    model = trained_looking(config)
    with model.embedding.register_forward_pre_hook(note):
        model.conditions(
            random_tokens(config, 60), intervals(config, 60), draw_training(config, 0, step=0, samples=range(60))
        )
        trained = set(pairs)
        pairs.clear()
        for noise in (0.0, *(config.noise_max * (k + 0.5) / config.noise_buckets for k in range(config.noise_buckets))):
            settings = SampleConfig(mask_steps=1, head_steps=1, solver="ddim", observation_noise=noise)
            list(generate(model, random_latents(config, 1, frames=2), num_frames=2, seeds=[0], settings=settings))
    assert len(pairs) >= config.noise_buckets + 1 and pairs <= trained, pairs - trained


@pytest.mark.parametrize("config", [*CTF, *MTF])
def test_every_parameter_learns(config: MagiConfig) -> None:
    """One step's loss has a gradient for every tensor of the model, so nothing is dead weight and no process of a
    distributed run waits for a missing one. Two parts have none by mathematics: the bias of the keys adds the same
    number to all scores of a query, which softmax ignores; and MTF has no observation, so no use for their table."""
    model = trained_looking(config)
    model(random_latents(config), intervals(config), noisy_draws(config))["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    without = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert without == []
    width = config.width
    for name, gradient in gradients.items():
        if name.endswith("qkv.bias"):
            assert gradient[width : 2 * width].abs().max() < 1e-12 < gradient[2 * width :].abs().min(), name
    observation, masked = gradients["embedding.position"]
    assert masked.ne(0).all() and (observation.eq(0).all() if config.forcing == "mtf" else observation.ne(0).all())


def test_attention_is_the_fused_kernels() -> None:
    """On the CPU attention is written out, elsewhere it is PyTorch's kernel: the same numbers and the same gradients
    for the same boolean mask, true where looking is allowed."""
    rng = torch.Generator().manual_seed(0)
    mask = forcing.ctf_mask(4, 2)
    inputs = [torch.randn(3, 2, len(mask), 5, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = torch.randn(inputs[0].shape, generator=rng, dtype=torch.float64)
    results = []
    for found in (attend(*inputs, mask=mask), functional.scaled_dot_product_attention(*inputs, attn_mask=mask)):
        results.append([found, *torch.autograd.grad((found * weights).sum(), inputs)])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_unfit_latents_are_refused() -> None:
    """What a user can get wrong about training data is said in one line with both sides, before any computation."""
    config = tiny()
    model, draws = trained_looking(config), noisy_draws(config)
    with pytest.raises(ValueError, match=r"\(5, 2, 4, 6\) \(frames.*the model takes \(4, 2, 4, 6\)"):
        model(random_latents(config, frames=5), intervals(config), draws)
    for wrong in (0, config.max_interval + 1):
        with pytest.raises(ValueError, match=rf"\[1, {wrong}\] are outside 1..5"):
            model(random_latents(config), torch.tensor([1, wrong]), draws)


def test_dropout_falls_where_mars_does() -> None:
    """In MAR both linear layers of an MLP are followed by dropout, and so is the projection of the attention: three
    times in a layer, once at the MLP's inner width. The layers keep the names they are saved under."""
    layer = Layer(8, 24, 2, axis="space", dropout=0.25, extra_projection=False)
    assert {name for name in layer.state_dict() if name.startswith("mlp.")} == {
        f"mlp.{index}.{part}" for index in (0, 2) for part in ("weight", "bias")
    }
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, bool]] = []
    layer.dropout.register_forward_hook(
        lambda _module, inputs, output: seen.append((inputs[0].shape[-1], torch.equal(inputs[0], output)))
    )
    layer(x)
    assert seen == [(8, False), (24, False), (8, False)]
    layer.eval()
    y = x + layer.attention.out(layer.attention(layer.attention_norm(x)))
    assert torch.equal(layer(x), y + layer.mlp(layer.mlp_norm(y)))
