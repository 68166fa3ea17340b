"""Claims about the pixel tokenizer and the small autoencoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.precision import posterior_in
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.store import fingerprint, load_tokenizer, save_autoencoder

SMALL = AutoencoderConfig(channels=(16, 16, 32), encoder_blocks=(1, 1), decoder_blocks=(1, 1, 1))
STRIDE_4 = AutoencoderConfig(latent_channels=3, channels=(16, 32), encoder_blocks=(1,), decoder_blocks=(1, 1))


def discs(videos: int, frames: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    """One small coloured disc per frame on a dark background: (videos, frames, 3, size, size) in [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    count = videos * frames
    centre = torch.rand(count, 2, 1, 1, generator=draw) * size
    colour = torch.rand(count, 3, 1, 1, generator=draw)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2).sqrt()  # (count, size, size)
    inside = (distance < 5).float()[:, None]
    return (0.1 * (1 - inside) + colour * inside).mul(2).sub(1).view(videos, frames, 3, size, size)


def lively(config: AutoencoderConfig) -> Autoencoder:
    """An untrained autoencoder whose residual branches are not zero, so that they can leak."""
    torch.manual_seed(0)
    model = Autoencoder(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@settings(max_examples=20, deadline=None)
@given(stride=st.integers(1, 4), rows=st.integers(1, 4), columns=st.integers(1, 4), frames=st.integers(1, 3))
def test_pixel_round_trip_is_exact(stride: int, rows: int, columns: int, frames: int) -> None:
    """Space to depth moves values and computes none: decoding restores every bit, at any size the stride divides."""
    tokenizer = PixelTokenizer(stride)
    pixels = torch.rand(2, frames, 3, rows * stride, columns * stride) * 2 - 1
    latents = tokenizer.encode(pixels)
    assert latents.shape == (2, *tokenizer.latent_shape(frames, rows * stride, columns * stride))
    assert torch.equal(tokenizer.decode(latents), pixels)


def test_pixel_latent_cell_holds_its_own_square() -> None:
    """A cell is made of the pixels under it and no others: or masking a token would not hide what it shows."""
    tokenizer = PixelTokenizer(4)
    pixels = torch.zeros(1, 1, 3, 16, 16)
    pixels[0, 0, 1, 5, 14] = 1
    changed = tokenizer.encode(pixels)[0, 0].abs().sum(0)
    assert changed.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("tokenizer", [PixelTokenizer(8), Autoencoder(SMALL)], ids=["pixel", "autoencoder"])
def test_a_frame_the_stride_does_not_divide_is_refused(tokenizer: Tokenizer) -> None:
    """Padding would be a silent repair: the error says what the size is and what it must be divisible by."""
    with pytest.raises(ValueError, match=r"60 x 64 pixels .* stride 8"):
        tokenizer.encode(torch.zeros(1, 2, 3, 60, 64))


@pytest.mark.parametrize("config", [SMALL, STRIDE_4], ids=["stride 8", "stride 4"])
def test_autoencoder_keeps_the_promised_shapes(config: AutoencoderConfig) -> None:
    """At either stride, latents have `latent_shape` and decoding returns pixels of the size encoded, in [-1, 1]."""
    model = lively(config)
    pixels = discs(2, 3, size=32)
    latents = model.encode(pixels)
    assert latents.shape == (2, *model.latent_shape(3, 32, 32)) and latents.dtype == torch.float32
    decoded = model.decode(100 * latents)
    assert decoded.shape == pixels.shape and decoded.abs().max() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"channels": (32,)},
        {"encoder_blocks": (1, 2, 3)},
        {"decoder_blocks": (1,)},
        {"channels": (32, 48, 90)},
    ],
)
def test_impossible_architectures_are_refused(options: dict[str, tuple[int, ...]]) -> None:
    """A list of the wrong length would otherwise be cut by zip, and groups fail far from the setting that is wrong."""
    with pytest.raises(ValueError, match="channels"):
        AutoencoderConfig(**options)


def test_autoencoder_is_per_frame() -> None:
    """`is_causal` promises that later pixels never reach earlier latents: then evaluation may encode a prefix alone."""
    model = lively(SMALL)
    pixels = discs(2, 6)
    changed = pixels.clone()
    changed[:, 3:] = torch.rand_like(changed[:, 3:]) * 2 - 1
    before, after = model.encode(pixels), model.encode(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_chunks_do_not_change_the_result() -> None:
    """Frames do not interact, so cutting them into chunks only bounds memory; equal to a convolution's rounding."""
    model = lively(SMALL)
    pixels = discs(2, 5, size=32)
    latents = model.encode(pixels, frames_per_chunk=100)
    torch.testing.assert_close(model.encode(pixels, frames_per_chunk=3), latents, rtol=1e-5, atol=1e-5)
    whole = model.decode(latents, frames_per_chunk=100)
    torch.testing.assert_close(model.decode(latents, frames_per_chunk=3), whole, rtol=1e-5, atol=1e-5)


def test_statistics_normalise_latents_and_survive_saving() -> None:
    """After measuring, each channel has mean 0 and variance 1 on those frames, decoding is what it was, and the numbers
    are part of the state: a loaded copy gives the same latents."""
    model = lively(SMALL)
    batches = [
        discs(4, 4, seed=1),
        discs(1, 3, seed=2),
        discs(2, 8, seed=3),
    ]  # of unequal size: a mean of means is wrong
    decoded = model.decode(model.encode(batches[0]))
    model.measure_statistics(batches)

    latents = torch.cat(
        [model.encode(pixels).transpose(1, 2).flatten(2).transpose(0, 1).flatten(1) for pixels in batches], 1
    )
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var(1, correction=0), torch.ones(4), rtol=1e-3, atol=0)
    torch.testing.assert_close(model.decode(model.encode(batches[0])), decoded, rtol=1e-4, atol=1e-4)

    measured = model.shift.clone(), model.scale.clone()
    model.measure_statistics(batches)  # of the raw latents again, not of those already normalised
    assert torch.equal(model.shift, measured[0]) and torch.equal(model.scale, measured[1])

    copy = Autoencoder(SMALL)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.encode(batches[0]), model.encode(batches[0]))


def test_statistics_of_nothing_or_of_a_dead_channel_are_refused() -> None:
    """Dividing by a zero deviation would turn every latent into NaN much later."""
    model = Autoencoder(SMALL)
    with pytest.raises(ValueError, match="at least one batch"):
        model.measure_statistics([])
    torch.nn.init.zeros_(model.encoder[-1].weight)
    with pytest.raises(ValueError, match="must vary"):
        model.measure_statistics([discs(1, 2)])


def test_encode_is_deterministic_and_usable_in_another_backward_pass() -> None:
    """The posterior mean has no noise; and latents must be ordinary tensors, since a generator's backward pass uses
    them."""
    model = lively(SMALL)
    pixels = discs(1, 2)
    latents = model.encode(pixels)
    assert torch.equal(latents, model.encode(pixels)) and not latents.requires_grad
    weight = torch.ones((), requires_grad=True)
    (latents * weight).sum().backward()
    torch.testing.assert_close(weight.grad, latents.sum())


def test_loss_is_the_formula_in_its_docstring() -> None:
    """Recomputed from the posterior by torch's own distributions, with weights so large that every term matters."""
    torch.manual_seed(1)
    model = Autoencoder(AutoencoderConfig(**{**vars(SMALL), "l1_weight": 2.0, "mse_weight": 3.0, "kl_weight": 0.5}))
    pixels, noise = discs(2, 2), torch.randn(2, 2, 4, 8, 8)
    with torch.no_grad():
        parts = model(pixels, noise)
        mean, log_variance = model.moments(pixels.flatten(0, 1))
        posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
        reconstruction = model.decoder(posterior.mean + posterior.stddev * noise.flatten(0, 1))
        error = reconstruction - pixels.flatten(0, 1)
    expected = 2 * error.abs().mean() + 3 * error.square().mean() + 0.5 * kl
    torch.testing.assert_close(parts["loss"], expected)
    torch.testing.assert_close(parts["kl"], kl)
    torch.testing.assert_close(parts["psnr"], 10 * torch.log10(4 / error.square().mean()))


def test_autoencoder_overfits_one_batch() -> None:
    """When gradients reach encoder and decoder, four frames are soon told apart; a decoder that got nothing from its
    latents could at best draw their mean."""
    torch.manual_seed(0)
    model = Autoencoder(STRIDE_4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pixels = discs(1, 4, size=16)
    mean_frame_error = (pixels - pixels.mean(dim=1, keepdim=True)).square().mean()
    for _ in range(150):
        parts = model(pixels, torch.randn(1, 4, 3, 4, 4))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert (model.decode(model.encode(pixels)) - pixels).square().mean() < mean_frame_error / 10


def test_default_autoencoder_is_light() -> None:
    """It encodes in every training step, on one core: a million parameters, and a bounded cost per 64 x 64 frame."""
    from torch.utils.flop_counter import FlopCounterMode

    model = Autoencoder()
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.2e6
    with FlopCounterMode(display=False) as counter:
        model.encode(torch.zeros(1, 1, 3, 64, 64))
    assert counter.get_total_flops() / 2 < 45e6  # multiply-accumulates


def test_half_precision_is_near_and_told_in_float32() -> None:
    """bf16 autocast keeps 8 bits of each product: latents are off by about a hundredth of their spread, not by nothing,
    and what comes out is float32 either way."""
    model, pixels = lively(SMALL), discs(2, 3)
    model.measure_statistics([pixels])
    exact, rough = (posterior_in(precision, model, pixels) for precision in ("fp32", "bf16"))
    assert torch.equal(exact.mean, model.encode(pixels))
    for one, other in ((exact.mean, rough.mean), (exact.deviation, rough.deviation)):
        assert one is not None and other is not None and one.dtype == other.dtype == torch.float32
        assert 1e-5 < float((one - other).abs().mean() / one.std()) < 0.03


def test_a_run_is_named_for_its_tokenizer(tmp_path: Path) -> None:
    """`magi tokenizer train --out RUN` writes RUN/release; RUN means it, as a model's run means the model."""
    save_autoencoder(tmp_path / "run" / "release", lively(SMALL), "", run={})
    one, other = (load_tokenizer(str(tmp_path / place)) for place in ("run", "run/release"))
    assert fingerprint(one) == fingerprint(other)
    with pytest.raises(ValueError, match="neither pixel"):
        load_tokenizer(str(tmp_path))
