"""Claims about the causal autoencoder: it never looks ahead, and pieces of a video are worth as much as the whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magi.tokenizers.autoencoder import Autoencoder
from magi.tokenizers.causal_autoencoder import CausalAutoencoder, Past
from magi.tokenizers.kl import AutoencoderConfig
from magi.tokenizers.store import fingerprint, load_tokenizer, save_autoencoder
from magi.tokenizers.streaming import StreamingDecoder, decode_stream

SMALL = AutoencoderConfig(channels=(8, 8, 16), encoder_blocks=(1, 2), decoder_blocks=(1, 1, 2), norm_groups=4)
STRIDE_4 = AutoencoderConfig(
    latent_channels=3, channels=(8, 16), encoder_blocks=(2,), decoder_blocks=(1, 2), norm_groups=4
)


def lively(config: AutoencoderConfig, dtype: torch.dtype = torch.float64) -> CausalAutoencoder:
    """An untrained autoencoder whose residual branches are not zero, so that they can leak, with odd statistics."""
    torch.manual_seed(0)
    model = CausalAutoencoder(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    model.shift.normal_()
    model.scale.uniform_(0.5, 2)
    return model.to(dtype)


MODEL = lively(STRIDE_4)


def clip(frames: int, size: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two videos of noise: (2, frames, 3, size, size) in [-1, 1]."""
    return torch.rand(2, frames, 3, size, size, generator=torch.Generator().manual_seed(frames), dtype=dtype) * 2 - 1


def relative(now: Tensor, before: Tensor) -> float:
    return float((now - before).norm() / before.norm())


@pytest.mark.parametrize("config", [SMALL, STRIDE_4], ids=["stride 8", "stride 4"])
def test_four_frames_to_a_latent_and_the_first_alone(config: AutoencoderConfig) -> None:
    """T = 1 + 4 (t - 1) at any t, both ways, in float32 and [-1, 1]; other numbers of frames are refused by name."""
    model = lively(config, torch.float32)
    for count in (1, 2, 4):
        pixels = clip(1 + 4 * (count - 1), size=32, dtype=torch.float32)
        posterior = model.posterior(pixels)
        assert posterior.deviation is not None and posterior.deviation.shape == posterior.mean.shape
        assert posterior.mean.shape == (2, *model.latent_shape(pixels.shape[1], 32, 32))
        assert posterior.mean.shape[1] == count and posterior.mean.dtype == torch.float32
        decoded = model.decode(100 * posterior.mean)
        assert decoded.shape == pixels.shape and decoded.abs().max() == 1
    with pytest.raises(ValueError, match="take 5 or 9"):
        model.encode(clip(6, size=32, dtype=torch.float32))


def test_it_never_looks_ahead() -> None:
    """Whatever comes later, in pixels or in latents, changes not a bit of what came before; and all of it matters to
    what comes after, or there would be nothing to leak."""
    pixels, other = clip(13), clip(17)[:, :13]
    latents, noise = MODEL.encode(pixels), MODEL.encode(other)
    frames = MODEL.decode(latents)
    for kept in (1, 2, 3):
        seen = 1 + 4 * (kept - 1)
        changed = MODEL.encode(torch.cat([pixels[:, :seen], other[:, seen:]], dim=1))
        assert torch.equal(changed[:, :kept], latents[:, :kept])
        assert relative(changed[:, kept], latents[:, kept]) > 0.01
        shown = MODEL.decode(torch.cat([latents[:, :kept], noise[:, kept:]], dim=1))
        assert torch.equal(shown[:, :seen], frames[:, :seen])
        assert relative(shown[:, seen:], frames[:, seen:]) > 0.01
        past = MODEL.encode(torch.cat([other[:, :seen], pixels[:, seen:]], dim=1))
        assert relative(past[:, kept], latents[:, kept]) > 1e-3, "it is no autoencoder of frames"


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 6)))
def test_pieces_are_worth_the_whole(cuts: set[int]) -> None:
    """However a video is cut between latent frames, encoded and decoded piece by piece it is the same: each convolution
    over time is handed the two frames that it looks back on. In float64, so that nothing hides in rounding."""
    bounds = [0, *sorted(cuts), 7]
    pixels = clip(25, size=8)
    encode, decode = MODEL.encoding(), MODEL.decoding()
    whole = MODEL.posterior(pixels)
    parts = [encode(pixels[:, max(0, 4 * a - 3) : 4 * b - 3]) for a, b in pairwise(bounds)]
    for name in ("mean", "deviation"):
        joined = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert relative(joined, getattr(whole, name)) < 1e-12
    shown = [decode(whole.mean[:, a:b]) for a, b in pairwise(bounds)]
    assert [part.shape[1] for part in shown] == [4 * (b - a) - (3 if a == 0 else 0) for a, b in pairwise(bounds)]
    assert relative(torch.cat(shown, dim=1), MODEL.decode(whole.mean)) < 1e-12


def test_chunks_bound_memory_and_nothing_else() -> None:
    """In float32 the number of frames at once changes no more than rounding does."""
    model = lively(SMALL, torch.float32)
    pixels = clip(17, size=16, dtype=torch.float32)
    latents = model.encode(pixels, frames_per_chunk=1000)
    frames = model.decode(latents, frames_per_chunk=1000)
    for count in (1, 16, 33):
        assert relative(model.encode(pixels, frames_per_chunk=count), latents) < 1e-5
        assert relative(model.decode(latents, frames_per_chunk=count), frames) < 1e-5


def test_frames_come_as_their_latents_do() -> None:
    """`decode_stream` finds the memory, hands it one latent frame at a time, and joined the frames are `decode`'s."""
    latents = MODEL.encode(clip(13))
    assert isinstance(MODEL, StreamingDecoder)
    frames = list(decode_stream(MODEL, latents.split(1, dim=1)))
    assert [part.shape[1] for part in frames] == [1, 4, 4, 4]
    assert relative(torch.cat(frames, dim=1), MODEL.decode(latents)) < 1e-12


def test_two_videos_at_once_do_not_share_a_past() -> None:
    """What is remembered belongs to one pass: streams may interleave, and the model itself stays as it was."""
    one, two = MODEL.encode(clip(9)), MODEL.encode(clip(17))[:, :3]
    first, second = MODEL.decoding(), MODEL.decoding()
    woven = [(first(one[:, i : i + 1]), second(two[:, i : i + 1])) for i in range(3)]
    assert relative(torch.cat([a for a, _ in woven], dim=1), MODEL.decode(one)) < 1e-12
    assert relative(torch.cat([b for _, b in woven], dim=1), MODEL.decode(two)) < 1e-12


def test_a_piece_of_a_latent_frame_is_refused() -> None:
    """Frames that do not fill a latent frame cannot wait for the others unsaid."""
    encode = MODEL.encoding()
    encode(clip(5))
    with pytest.raises(ValueError, match=r"whole latent frames of 4 frames, got 6"):
        encode(clip(6))


def test_a_still_has_the_same_latent_for_ever() -> None:
    """Before the first frame it is taken to have stood still; with zeros before it the first latents would differ."""
    latents = MODEL.encode(clip(1).expand(-1, 13, -1, -1, -1))
    assert relative(latents, latents[:, :1].expand_as(latents)) < 1e-12


def test_it_learns_what_moves() -> None:
    """Gradients reach the encoder and the decoder in space and time: nine different frames are soon told apart."""
    torch.manual_seed(0)
    model = CausalAutoencoder(AutoencoderConfig(**{**vars(STRIDE_4), "latent_channels": 8}))
    pixels = torch.full((1, 9, 3, 16, 16), -0.8)
    for frame in range(9):
        pixels[0, frame, frame % 3, frame : frame + 6, 9 - frame : 15 - frame] = 0.9
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        parts = model(pixels, torch.randn(1, 3, 8, 4, 4))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    mean_frame_error = (pixels - pixels.mean(dim=1, keepdim=True)).square().mean()
    error = (model.decode(model.encode(pixels)) - pixels).square().mean()
    assert error < mean_frame_error / 10


def test_training_sees_the_posterior_it_later_tells() -> None:
    """The loss is that of decoding a sample of `posterior`: same moments, same decoder, before normalisation."""
    pixels, noise = clip(9), torch.randn(2, 3, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        parts = MODEL(pixels, noise)
        sample = MODEL.raw(MODEL.posterior(pixels).sample(noise))
        error = MODEL.decoder(sample, Past()) - pixels
    torch.testing.assert_close(parts["mse"], error.square().mean())
    torch.testing.assert_close(parts["l1"], error.abs().mean())


def test_a_saved_one_is_the_same(tmp_path: Path) -> None:
    """Weights, statistics and kind survive the folder; one of frames with the same settings is told from it."""
    model = lively(SMALL, torch.float32)
    save_autoencoder(tmp_path / "release", model, "card", run={})
    loaded = load_tokenizer(str(tmp_path / "release"))
    assert isinstance(loaded, CausalAutoencoder) and loaded.temporal_stride == 4 and loaded.is_causal
    pixels = clip(5, dtype=torch.float32)
    assert torch.equal(loaded.encode(pixels), model.encode(pixels))
    assert fingerprint(loaded) == fingerprint(model) != fingerprint(Autoencoder(SMALL))


def test_the_encoder_costs_less_than_that_of_frames() -> None:
    """It encodes in every training step: of the same settings it takes less per frame, since four go together."""
    from torch.utils.flop_counter import FlopCounterMode

    costs = []
    for model in (CausalAutoencoder(), Autoencoder()):
        with FlopCounterMode(display=False) as counter:
            model.encode(torch.zeros(1, 17, 3, 64, 64))
        costs.append(counter.get_total_flops() / 17)
    assert costs[0] < costs[1]
