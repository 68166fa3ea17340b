"""Claims about Stable Diffusion's autoencoder: the numbers are diffusers', the layout ours, the files the published."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from magi import checkpoint
from magi.model.config import MagiConfig
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load, save_release
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.published.facts import PUBLISHED
from magi.tokenizers.published.stable_diffusion import StableDiffusionAutoencoder, StableDiffusionConfig
from magi.tokenizers.store import describe, fingerprint, load_tokenizer, restore
from magi.tokenizers.streaming import decode_stream

TINY = StableDiffusionConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2)
LEGACY_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def tiny() -> StableDiffusionAutoencoder:
    torch.manual_seed(0)
    return StableDiffusionAutoencoder(TINY).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Two videos of three frames that are as wide as four cells and as high as two, no two frames alike."""
    return torch.rand(2, 3, 3, 16, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_same(one: Tokenizer, other: Tokenizer, pixels: torch.Tensor) -> None:
    """By weights and description the same to the bit; by latents to rounding, which knows where in memory they lie."""
    assert fingerprint(one) == fingerprint(other)
    torch.testing.assert_close(one.encode(pixels), other.encode(pixels), rtol=1e-4, atol=1e-6)


def write_published(
    folder: Path, tokenizer: StableDiffusionAutoencoder, *, vae: str = "", pickled: bool = False
) -> Path:
    """A folder as diffusers writes it; `pickled` as it did before safetensors, with the old names of attention layers.

    Returns:
        the file of weights.
    """
    tokenizer.network.save_config(folder / vae)
    state = {name: tensor.clone() for name, tensor in tokenizer.network.state_dict().items()}
    if not pickled:
        save_file(state, folder / vae / "diffusion_pytorch_model.safetensors")
        return folder / vae / "diffusion_pytorch_model.safetensors"
    for new, old in LEGACY_NAMES.items():
        state = {name.replace(f".attentions.0.{new}.", f".attentions.0.{old}."): t for name, t in state.items()}
    torch.save(state, folder / vae / "diffusion_pytorch_model.bin")
    return folder / vae / "diffusion_pytorch_model.bin"


def test_the_numbers_are_those_of_diffusers(tiny: StableDiffusionAutoencoder, pixels: torch.Tensor) -> None:
    """Frame by frame and video by video, latents are diffusers' mean times 0.18215, deviations its deviation times as
    much, and decoding undoes the scale: an axis taken for another would not find its frame."""
    assert torch.equal(tiny.scale, torch.full((4,), 1 / 0.18215)) and not tiny.shift.any()
    posterior, decoded = tiny.posterior(pixels), tiny.decode(tiny.encode(pixels))
    assert posterior.deviation is not None
    for video in range(2):
        for frame in range(3):
            told = tiny.network.encode(pixels[video, frame][None]).latent_dist
            close = {"rtol": 1e-4, "atol": 1e-6}
            torch.testing.assert_close(posterior.mean[video, frame], told.mean[0] * 0.18215, **close)
            torch.testing.assert_close(posterior.deviation[video, frame], told.std[0] * 0.18215, **close)
            back = tiny.network.decode(told.mean).sample[0].clamp(-1, 1)
            torch.testing.assert_close(decoded[video, frame], back, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.mean, tiny.encode(pixels), rtol=1e-4, atol=1e-6)


def test_shapes_are_the_published_ones() -> None:
    """4 channels at an eighth of the size, one latent frame a frame; by default the architecture has the 83,653,863
    parameters of Stable Diffusion 1.4's autoencoder."""
    with torch.device("meta"):
        full = StableDiffusionAutoencoder()
    assert full.latent_shape(16, 256, 256) == (16, 4, 32, 32)
    assert sum(parameter.numel() for parameter in full.parameters()) == 83_653_863
    assert full.is_causal and full.temporal_stride == 1
    with pytest.raises(ValueError, match="60 x 64"):
        full.latent_shape(1, 60, 64)


def test_frames_do_not_meet(tiny: StableDiffusionAutoencoder, pixels: torch.Tensor) -> None:
    """What is in other frames, and how many go through at once, changes nothing: it is causal, and may be streamed."""
    changed = pixels.clone()
    changed[:, 1:] *= -1
    latents, close = tiny.encode(pixels, frames_per_chunk=6), {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(tiny.encode(changed)[:, 0], latents[:, 0], **close)
    assert not torch.allclose(tiny.encode(changed)[:, 1:], latents[:, 1:], **close)
    torch.testing.assert_close(tiny.encode(pixels, frames_per_chunk=1), latents, **close)
    whole = tiny.decode(latents, frames_per_chunk=6)
    torch.testing.assert_close(tiny.decode(latents, frames_per_chunk=4), whole, rtol=1e-4, atol=1e-5)
    streamed = torch.cat(list(decode_stream(tiny, latents.split(1, dim=1))), dim=1)
    torch.testing.assert_close(streamed, whole, rtol=1e-4, atol=1e-5)


def test_what_it_is_does_not_depend_on_how_it_lies_in_memory(tiny: StableDiffusionAutoencoder) -> None:
    """A fingerprint is of the values: the same in another memory layout, another in a coarser type, which NumPy may not
    know and the network computes in."""
    other = copy.deepcopy(tiny)
    other.network.to(memory_format=torch.channels_last)
    assert fingerprint(other) == fingerprint(tiny)
    other.network.to(torch.bfloat16)
    assert fingerprint(other) != fingerprint(tiny)


def test_it_computes_in_the_type_of_its_network(pixels: torch.Tensor) -> None:
    """In bfloat16 latents come near those of float32, by 8 bits, and are float32 themselves, as are their scales."""
    torch.manual_seed(0)
    tokenizer = StableDiffusionAutoencoder(TINY)
    exact = tokenizer.encode(pixels)
    tokenizer.network.to(torch.bfloat16)
    rough = tokenizer.encode(pixels)
    assert rough.dtype == tokenizer.decode(rough).dtype == torch.float32
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("vae", ["", "vae"], ids=["its own folder", "a pipeline's folder"])
def test_published_folders_load(
    vae: str, tiny: StableDiffusionAutoencoder, pixels: torch.Tensor, tmp_path: Path
) -> None:
    """A folder of diffusers gives the very tokenizer whose weights it holds, and the same again through a release."""
    if vae:
        (tmp_path / "model_index.json").write_text("{}")
    write_published(tmp_path, tiny, vae=vae)
    loaded = load_tokenizer(f"sd14:{tmp_path}")
    assert_same(loaded, tiny, pixels)


def test_a_release_holds_the_tokenizer(tiny: StableDiffusionAutoencoder, pixels: torch.Tensor, tmp_path: Path) -> None:
    """A model's release needs no published folder any more: weights, scale and configuration are in it, to the bit."""
    config = MagiConfig(
        latent_height=2, latent_width=4, patch=2, num_frames=2, depth=1, width=16, mlp_width=16, heads=1
    )
    measured = restored_copy(tiny)
    measured.shift += torch.arange(4.0)
    save_release(tmp_path / "release", Release(Magi(config), measured, SampleConfig()), card="# Tiny\n")
    release = load(tmp_path / "release")
    assert_same(release.tokenizer, measured, pixels)
    assert_same(load_tokenizer(str(tmp_path / "release")), measured, pixels)
    assert fingerprint(measured) != fingerprint(tiny)


def restored_copy(tokenizer: StableDiffusionAutoencoder) -> StableDiffusionAutoencoder:
    """Another module with the same weights."""
    copy = StableDiffusionAutoencoder(tokenizer.config)
    copy.load_state_dict(tokenizer.state_dict())
    return copy.requires_grad_(False)


def test_old_releases_are_described_as_before(tmp_path: Path) -> None:
    """The shipped model and pixel tokenizers keep their descriptions and fingerprints, which are in users' runs."""
    assert fingerprint(load_tokenizer("world64")) == "ee0fddb42182795c89511f4211bcc937513a1a678dd4cd4b8e115e729061741c"
    assert describe(PixelTokenizer(4)) == {"pixel": 4}
    assert fingerprint(PixelTokenizer(4)) == "0dddb81726e69a6065a839bb092da4886488a75a5f29b11194f42ad3e99a9ab5"
    with pytest.raises(checkpoint.CheckpointError, match="'wavelets'; this version knows pixel, autoencoder"):
        restore(tmp_path, {"wavelets": {}})


def test_other_files_are_refused(tiny: StableDiffusionAutoencoder, tmp_path: Path) -> None:
    """Weights of another width, a missing tensor and another class are told by name: nothing is half loaded."""
    write_published(tmp_path / "wide", StableDiffusionAutoencoder(replace(TINY, block_out_channels=(8, 4, 8, 8))))
    tiny.network.save_config(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"conv_out\.weight has shape \(3, 8, 3, 3\), expected \(3, 4, 3, 3\).* more$"):
        load_tokenizer(f"sd14:{tmp_path / 'wide'}")

    weights = write_published(tmp_path / "less", tiny)
    state = checkpoint.load_tensors(weights.parent, weights.stem, None)
    del state["quant_conv.bias"]
    save_file(state | {"surplus": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"2 differences: quant_conv\.bias is missing; surplus is unexpected"):
        load_tokenizer(f"sd14:{tmp_path / 'less'}")

    described = json.loads((weights.parent / "config.json").read_text())
    for change, message in [
        ({"_class_name": "VQModel"}, "no config.json of an AutoencoderKL"),
        ({"in_channels": 1}, "in_channels is 1, expected the 3 of RGB"),
        ({"latents_mean": [0.0]}, "latents_mean is given"),
        ({"wings": 2}, "unknown StableDiffusionConfig settings wings"),
    ]:
        (weights.parent / "config.json").write_text(json.dumps(described | change))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(f"sd14:{weights.parent}")


@pytest.mark.parametrize("name", ["sd14", "sd-vae-ft-ema", "sd-vae-ft-mse"])
def test_what_is_missing_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without folder, cache and network, each way to name it ends in one line with the exact files, where they are
    published, their licence, and a command that places them: nothing is fetched unless the repository is named."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    entry = PUBLISHED[name]
    (tmp_path / "empty").mkdir()
    for place in ("", f":{tmp_path / 'nowhere'}", f":{tmp_path / 'empty'}", f":{entry.repository}"):
        with pytest.raises(ValueError) as caught:
            load_tokenizer(f"{name}{place}")
        told = str(caught.value)
        assert "\n" not in told
        assert entry.repository in told and entry.licence in told and all(file in told for file in entry.files)
        assert f"hf download {entry.repository} {' '.join(entry.files)} --local-dir FOLDER" in told
    fetched: list[object] = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *words: fetched.append(words))
    with pytest.raises(ValueError, match="there is no folder CompVis/another"):
        load_tokenizer("sd14:CompVis/another")
    assert not fetched


def test_the_hubs_cache_is_used_without_network(
    tiny: StableDiffusionAutoencoder, pixels: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `hf download` placed in the cache is found by the bare name and by the repository's."""
    import huggingface_hub

    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = cache / "models--CompVis--stable-diffusion-v1-4"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    write_published(repository / "snapshots" / ("0" * 40), tiny, vae="vae")
    for name in ("sd14", "sd14:CompVis/stable-diffusion-v1-4"):
        assert_same(load_tokenizer(name), tiny, pixels)


def test_an_impossible_architecture_is_refused() -> None:
    """Lists of different lengths would otherwise be zipped, or fail far from the setting that is wrong."""
    with pytest.raises(ValueError, match="3 entries, down_block_types 4"):
        StableDiffusionConfig(block_out_channels=(4, 4, 4))
    with pytest.raises(ValueError, match=r"scaling_factor must be positive, got 0\.0"):
        StableDiffusionConfig(scaling_factor=0.0)
