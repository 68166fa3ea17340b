"""Claims about OmniTokenizer's VAE: the names and numbers of the published code, and what a user must know of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.tokenizers.protocol import pixel_frames
from magi.tokenizers.published.omnitokenizer import OmniTokenizer, OmniTokenizerConfig
from magi.tokenizers.published.omnitokenizer_names import from_published, published_config, published_shapes
from tests.omnitokenizer_reference import Reference, arrays

# Widths no two of which are equal, so that none can stand in for another.
TINY = OmniTokenizerConfig(
    latent_channels=3,
    width=20,
    heads=2,
    head_width=8,
    patch=2,
    encoder_blocks="tw",
    decoder_blocks="wt",
    temporal_depth=2,
    window=2,
)
OTHER = replace(TINY, encoder_blocks="t", spatial_position="rel", causal_attention=False, causal_position=False)

# What scripts/recons/train.sh of the published code passes in its third stage, as far as it concerns the architecture,
# and a few of the arguments that do not.
ARGUMENTS: dict[str, Any] = {
    "patch_embed": "linear",
    "patch_size": 8,
    "temporal_patch_size": 4,
    "spatial_depth": 4,
    "temporal_depth": 4,
    "embedding_dim": 512,
    "enc_block": "ttww",
    "dec_block": "tttt",
    "twod_window_size": 8,
    "casual_in_temporal_transformer": True,
    "casual_in_peg": True,
    "dim_head": 64,
    "heads": 8,
    "attn_dropout": 0.0,
    "ff_dropout": 0.0,
    "ff_mult": 4.0,
    "codebook_dim": 8,
    "spatial_pos": "rope",
    "image_channels": 3,
    "use_external_codebook": False,
    "defer_temporal_pool": False,
    "defer_spatial_pool": False,
    "gen_upscale": None,
    "use_vae": True,
    "resolution": 256,
    "sequence_length": 17,
    "n_codes": 8192,
    "disc_layers": 3,
    "lr": 5e-5,
}
TINY_ARGUMENTS = ARGUMENTS | {
    "patch_size": 2,
    "spatial_depth": 2,
    "temporal_depth": 2,
    "embedding_dim": 20,
    "enc_block": "tw",
    "dec_block": "wt",
    "twod_window_size": 2,
    "dim_head": 8,
    "heads": 2,
    "codebook_dim": 3,
}


def lively(config: OmniTokenizerConfig = TINY, seed: int = 0) -> OmniTokenizer:
    """A tokenizer in float64 in which no weight is at a value that hides it."""
    draw = torch.Generator().manual_seed(seed)
    tokenizer = OmniTokenizer(config).double().eval().requires_grad_(False)
    for name, tensor in tokenizer.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
            around_one = tensor.ndim == 1 and name.endswith(("gamma", "q_scale", "k_scale", "weight"))
            fan_in = 10 if tensor.ndim == 1 else 27 if "dsconv" in name else tensor[0].numel()
            tensor.copy_(around_one + values / math.sqrt(fan_in))
    tokenizer.shift.copy_(torch.tensor([0.1, -0.2, 0.3]))
    tokenizer.scale.copy_(torch.tensor([0.5, 1.5, 2.0]))
    return tokenizer


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Uniform in [-1, 1], float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def reference(tokenizer: OmniTokenizer) -> Reference:
    config = tokenizer.config
    return Reference(
        arrays(tokenizer.state_dict()),
        patch=config.patch,
        temporal_patch=config.temporal_patch,
        window=config.window,
        heads=config.heads,
        rotary=config.spatial_position == "rope",
        causal=config.causal_attention,
        causal_position=config.causal_position,
    )


def published_state(config: OmniTokenizerConfig = TINY) -> dict[str, Tensor]:
    """The weights of `lively`, as a published file holds them: without statistics, with what training alone needs."""
    state = {name: tensor for name, tensor in lively(config).state_dict().items() if name not in ("shift", "scale")}
    extra = ("codebook.embeddings", "codebook.N", "codebook.z_avg", "codebook.codebook_usage")
    extra += ("image_discriminator.model0.0.weight", "video_discriminator.model3.1.running_mean")
    extra += ("perceptual_model.net.slice1.0.weight", "perceptual_model.lin0.model.1.weight")
    return state | {name: torch.zeros(2) for name in extra}


def expected_keys() -> dict[str, tuple[int, ...]]:
    """Every tensor of the published VAE's encoder and decoder, from the modules of the published code one by one."""
    d = (512,)
    norm = {"gamma": d, "beta": d}
    position = {"0.dsconv.weight": (512, 1, 3, 3, 3), "0.dsconv.bias": d}
    attention = {f"1.{part}.{name}": shape for part in ("norm", "context_norm") for name, shape in norm.items()}
    attention |= {"1.to_q.weight": (512, 512), "1.to_kv.weight": (1024, 512), "1.to_out.weight": (512, 512)}
    attention |= {"1.q_scale": (64,), "1.k_scale": (64,)}
    net = {"0.0.weight": (512, 2), "0.0.bias": d, "1.0.weight": (512, 512), "1.0.bias": d}
    net |= {"2.weight": (8, 512), "2.bias": (8,)}
    bias = {f"1.spatial_rel_pos_bias.net.{name}": shape for name, shape in net.items()}
    window = {f"1.norm.{name}": shape for name, shape in norm.items()}
    window |= {"1.relative_position_bias_table": (15 * 15, 8), "1.relative_position_index": (64, 64)}
    window |= {"1.qkv.weight": (1536, 512), "1.proj.weight": (512, 512), "1.proj.bias": d}
    perceptron = {"3.0.weight": d, "3.0.bias": d, "3.1.weight": (2 * 1365, 512), "3.4.weight": (512, 1365)}
    frame = position | attention | perceptron
    layers = {
        "encoder.enc_spatial_transformer": [frame, frame, window | perceptron, window | perceptron],
        "encoder.enc_temporal_transformer": [frame | bias] * 4,
        "decoder.dec_spatial_transformer": [frame] * 4,
        "decoder.dec_temporal_transformer": [frame | bias] * 4,
    }
    keys = {f"{at}.norm_out.{name}": shape for at in layers for name, shape in norm.items()}
    for at, parts in layers.items():
        keys |= {f"{at}.layers.{i}.{name}": shape for i, part in enumerate(parts) for name, shape in part.items()}
    for name, values in (("_first_frame", 3 * 8 * 8), ("", 3 * 4 * 8 * 8)):
        at = f"encoder.to_patch_emb{name}"
        keys |= {f"{at}.1.weight": (values,), f"{at}.1.bias": (values,), f"{at}.2.weight": (512, values)}
        keys |= {f"{at}.2.bias": d, f"{at}.3.weight": d, f"{at}.3.bias": d}
        at = f"decoder.to_pixels{name}"
        keys |= {f"{at}.0.weight": (values, 512), f"{at}.0.bias": (values,)}
    keys |= {"pre_vq_conv.1.weight": (16, 512), "pre_vq_conv.1.bias": (16,)}
    return keys | {"post_vq_conv.1.weight": (512, 8), "post_vq_conv.1.bias": d}


def test_the_published_names_and_shapes() -> None:
    """The defaults make exactly the tensors that the published modules register, 54 M parameters, and two of ours."""
    expected = expected_keys()
    assert published_shapes(OmniTokenizerConfig()) == expected
    with torch.device("meta"):
        tokenizer = OmniTokenizer()
    assert tokenizer.state_dict().keys() == expected.keys() | {"shift", "scale"}
    buffers = ("beta", "relative_position_index")
    learnt = sum(math.prod(shape) for name, shape in expected.items() if not name.endswith(buffers))
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == learnt == 53_712_544


@pytest.mark.parametrize(
    ("config", "frames", "size"), [(TINY, 1, 8), (TINY, 5, 12), (TINY, 17, 8), (OTHER, 17, 4), (OTHER, 9, 8)]
)
def test_the_numbers_are_those_of_the_plain_loops(config: OmniTokenizerConfig, frames: int, size: int) -> None:
    """Encoder and decoder agree with an implementation of other parts to the rounding of float64, statistics apart.

    One video has little contrast: the norm of a patch hides the range of the pixels from all that has more.
    """
    tokenizer = lively(config)
    tokenizer.pre_vq_conv[1].bias[-2:] = torch.tensor([80.0, -80.0])  # beyond both bounds of the log variance
    slow = reference(tokenizer)
    pixels = noise(2, frames, 3, size, size)
    pixels[1] *= 0.01
    known = tokenizer.posterior(pixels)
    assert known.deviation is not None
    latents = noise(*known.mean.shape, seed=2) * 2
    decoded = tokenizer.decode(latents)
    shift, scale = (values.numpy()[:, None, None] for values in (tokenizer.shift, tokenizer.scale))
    for i in range(2):
        mean, deviation = slow.encode(pixels[i].numpy())
        np.testing.assert_allclose(known.mean[i], (mean - shift) / scale, rtol=0, atol=1e-10)
        np.testing.assert_allclose(known.deviation[i], deviation / scale, rtol=1e-10, atol=0)
        np.testing.assert_allclose(decoded[i], slow.decode(latents[i].numpy() * scale + shift), rtol=0, atol=1e-10)
    assert 0.02 < (decoded.abs() == 1).double().mean() < 0.9, "some values are clamped and some are not"


def test_later_frames_leak_into_earlier_latents() -> None:
    """Why `is_causal` is False: frames from 5 on change the two latents before them, unless no temporal layer has its
    position convolution; then attention and padding are causal and not a bit changes."""
    tokenizer = lively()
    assert not tokenizer.is_causal
    pixels = noise(1, 17, 3, 8, 8)
    changed = pixels.clone()
    changed[:, 5:] = noise(1, 12, 3, 8, 8, seed=3)

    def moved() -> tuple[float, float]:
        before, after = tokenizer.encode(pixels)[:, :2], tokenizer.encode(changed)[:, :2]
        alone = tokenizer.encode(pixels[:, :5])
        return float((before - after).abs().max()), float((before - alone).abs().max())

    assert min(moved()) > 0.1
    for name, weight in tokenizer.state_dict().items():
        if "temporal" in name and "dsconv" in name:
            weight.zero_()
    by_replacing, by_cutting = moved()
    assert by_replacing == 0 and by_cutting < 1e-12


def test_later_latents_leak_into_earlier_frames() -> None:
    """The decoder has the same convolution: frames are shown only when all latents of the clip are there."""
    tokenizer = lively()
    latents = noise(1, 5, 3, 4, 4)
    changed = latents.clone()
    changed[:, 4:] = noise(1, 1, 3, 4, 4, seed=3)
    assert (tokenizer.decode(latents) - tokenizer.decode(changed))[:, :5].abs().max() > 0.01


def test_videos_go_through_a_few_at_a_time() -> None:
    """A batch of any size takes the memory of 8 videos: no more are ever in the network, either way, and the result is
    that of all at once."""
    tokenizer = lively()
    seen: list[int] = []
    for half in (tokenizer.encoder, tokenizer.decoder):
        half.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    pixels = noise(10, 5, 3, 8, 8)
    latents = tokenizer.encode(pixels)
    frames = tokenizer.decode(latents)
    assert seen == [8, 2, 8, 2]
    torch.testing.assert_close(tokenizer.encode(pixels, videos_per_chunk=10), latents, rtol=0, atol=1e-12)
    torch.testing.assert_close(tokenizer.decode(latents, videos_per_chunk=10), frames, rtol=0, atol=1e-12)


def test_shapes_and_precision() -> None:
    """`latent_shape` is told the truth at 1 + 4 k frames; whatever the weights' precision, results are float32."""
    tokenizer = lively()
    exact = tokenizer.encode(noise(2, 17, 3, 8, 8))
    assert OmniTokenizer().latent_shape(17, 256, 256) == (5, 8, 32, 32)
    for weights in (torch.float32, torch.bfloat16):
        tokenizer.to(weights)
        known = tokenizer.posterior(noise(2, 17, 3, 8, 8).float())
        assert known.deviation is not None
        assert known.mean.shape == known.deviation.shape == (2, *tokenizer.latent_shape(17, 8, 8))
        decoded = tokenizer.decode(known.mean)
        assert decoded.shape == (2, 17, 3, 8, 8) and decoded.abs().max() <= 1
        assert {x.dtype for x in (known.mean, known.deviation, decoded)} == {torch.float32}
        assert torch.corrcoef(torch.stack([known.mean.double().flatten(), exact.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("frames", "height", "width", "message"),
    [
        (16, 8, 8, "take 13 or 17"),
        (5, 9, 8, "not divisible by the tokenizer's stride 2"),
        (5, 8, 12, "square frames, got 8 x 12"),
        (5, 10, 10, "windows of 4 x 4; take a multiple of 4, such as 12"),
    ],
)
def test_videos_it_cannot_take_are_refused(frames: int, height: int, width: int, message: str) -> None:
    """Each would otherwise fail inside a layer, or not at all: the published code takes any grid to be square."""
    with pytest.raises(ValueError, match=message):
        lively().encode(noise(1, frames, 3, height, width))


def test_latents_it_cannot_have_made_are_refused() -> None:
    """A decoder without windows would take an oblong grid, and rotate its tokens as if it were square."""
    with pytest.raises(ValueError, match="square frames"):
        lively(replace(TINY, encoder_blocks="t", decoder_blocks="t")).decode(noise(1, 2, 3, 4, 2))


def test_statistics_normalise_and_survive_saving(tmp_path: Path) -> None:
    """Shift and scale move latents and not what they decode to; a saved and restored copy gives the same latents."""
    tokenizer = lively().float()
    pixels = noise(1, 5, 3, 8, 8).float()
    normalised = tokenizer.encode(pixels)
    documents = {"config.json": {"omnitokenizer": asdict(tokenizer.config)}}
    checkpoint.save(tmp_path / "saved", {"tokenizer": tokenizer.state_dict()}, documents)
    restored = OmniTokenizer(checkpoint.read_config(OmniTokenizerConfig, asdict(TINY))).requires_grad_(False)
    restored.load_state_dict(checkpoint.load_tensors(tmp_path / "saved", "tokenizer", restored.state_dict()))
    assert torch.equal(restored.encode(pixels), normalised)
    decoded = tokenizer.decode(normalised)
    mean, deviation = (value[:, None, None] for value in (tokenizer.shift.clone(), tokenizer.scale.clone()))
    tokenizer.shift.zero_()
    tokenizer.scale.fill_(1)
    torch.testing.assert_close(tokenizer.encode(pixels), normalised * deviation + mean)
    torch.testing.assert_close(tokenizer.decode(normalised * deviation + mean), decoded)


@pytest.mark.parametrize("spelling", ["casual", "causal"])
def test_a_published_file_gives_its_tokenizer(spelling: str) -> None:
    """Weights and arguments as they are published, with all that only trains, make the tokenizer they came from."""
    words = {name.replace("casual", spelling): value for name, value in TINY_ARGUMENTS.items()}
    tokenizer = from_published(published_state(), words)
    assert tokenizer.config == TINY and not tokenizer.training
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    expected = lively().float().state_dict() | {"shift": torch.zeros(3), "scale": torch.ones(3)}
    made = tokenizer.state_dict()
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], value) for name, value in expected.items())


def test_published_arguments() -> None:
    """Those of the published training script are the defaults; a file older than an argument has what the published
    code then takes, and a false word is read as such."""
    assert published_config(ARGUMENTS) == OmniTokenizerConfig()
    old = {name: value for name, value in ARGUMENTS.items() if name not in ("twod_window_size", "spatial_pos")}
    assert published_config(old) == OmniTokenizerConfig(window=4, spatial_position="rel")
    assert published_config(ARGUMENTS | {"casual_in_peg": False}) == OmniTokenizerConfig(causal_position=False)
    assert published_config(ARGUMENTS | {"causal_in_peg": True, "ff_mult": 4}) == OmniTokenizerConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_embed": "cnn"}, "patch_embed='cnn' is not supported, only 'linear'"),
        ({"defer_temporal_pool": True}, "defer_temporal_pool=True"),
        ({"gen_upscale": 2}, "gen_upscale=2"),
        ({"attn_dropout": 0.1}, "attn_dropout=0.1"),
        ({"codebook_dim": None}, "codebook_dim=None is not supported, only type int"),
        ({"heads": 8.0}, "heads=8.0"),
        ({"enc_block": "ttaa"}, "'ttaa'"),
        ({"enc_block": "tt"}, "spatial_depth=4 cannot have the 2 layers 'tt'"),
        ({"spatial_pos": "sine"}, "'sine'"),
        ({"q_strides": "1411"}, "q_strides='1411'"),
        ({"causal_in_peg": False}, "contradict each other: .*'causal_in_peg': False, 'casual_in_peg': True"),
    ],
)
def test_arguments_of_another_tokenizer_are_refused(change: dict[str, Any], message: str) -> None:
    """The published code computes something else for each, and the weights' names would not always tell."""
    with pytest.raises(ValueError, match=message):
        published_config(ARGUMENTS | change)


@pytest.mark.parametrize("name", ["dim_head", "enc_block", "casual_in_peg", "spatial_depth"])
def test_a_missing_argument_is_named(name: str) -> None:
    """Guessing it would give other numbers; the error says every spelling that would do."""
    with pytest.raises(ValueError, match=f"lack .*{name}"):
        published_config({key: value for key, value in ARGUMENTS.items() if key != name})


def test_other_weights_are_refused_with_every_difference() -> None:
    """One name missing, one too many and one of another shape: all three are listed, and training's are not."""
    state = published_state()
    del state["encoder.enc_temporal_transformer.layers.1.0.dsconv.bias"]
    state["teacher.weight"] = torch.zeros(1)
    state["decoder.to_pixels.0.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        from_published(state, TINY_ARGUMENTS)
    assert str(error.value).endswith(
        "missing: encoder.enc_temporal_transformer.layers.1.0.dsconv.bias; unexpected: teacher.weight; "
        "of another shape: decoder.to_pixels.0.bias (7,) instead of (48,)"
    )


def test_long_lists_are_cut_and_counted() -> None:
    """A file of something else differs in everything: a few names and their number say as much."""
    with pytest.raises(
        CheckpointError, match=r"missing: encoder\.to_patch_emb_first_frame\.1\.weight, .* and \d+ more"
    ):
        from_published({}, TINY_ARGUMENTS)


def test_the_quantised_tokenizer_is_told_from_the_vae() -> None:
    """They differ by one tensor: the error says which file to take instead of a shape."""
    state = published_state() | {"pre_vq_conv.1.weight": torch.zeros(3, 20), "pre_vq_conv.1.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"3 rows where a VAE has 6.*quantises; take one of the files named _vae"):
        from_published(state, TINY_ARGUMENTS | {"use_vae": False})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be positive, got 0"),
        ({"decoder_blocks": ""}, "decoder_blocks"),
        ({"width": 21}, "21 is not divisible by the 2 heads"),
        ({"head_width": 6}, "head_width 6 must be divisible by 4"),
    ],
)
def test_impossible_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    """Each would otherwise fail far from the setting that is wrong."""
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_more_latents_than_it_was_trained_on_are_decoded_with_a_word() -> None:
    """Its temporal layers have met 5 latent frames at most: 6 come out as something, and the user is told."""
    tokenizer = OmniTokenizer(TINY).eval()
    side = TINY.patch * TINY.window
    for latents, told in ((5, False), (6, True)):
        shape = tokenizer.latent_shape(pixel_frames(latents, tokenizer.temporal_stride), side, side)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tokenizer.decode(torch.zeros(1, *shape))
        assert [str(warning.message).startswith("6 latent frames") for warning in caught] == [True] * told
