"""Claims about the Cosmos tokenizers: one network in three forms, causal in time, and never guessed at."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from magi import checkpoint, cli
from magi.cli.runs import data_flags
from magi.cli.tokenizer_convert import main as convert_command
from magi.data.datasets.listing import Entry, Listing
from magi.data.latent_recipe import Recipe
from magi.data.latent_store import begin_store
from magi.model.config import MagiConfig
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load, save_release
from magi.tokenizers.published.convert import convert
from magi.tokenizers.published.cosmos import (
    CV4X8X8,
    CV8X8X8,
    CosmosConfig,
    CosmosTokenizer,
    CosmosTorchScript,
    statistics_of,
)
from magi.tokenizers.published.facts import PUBLISHED
from magi.tokenizers.published.trust import PIN_FILE, Trust, Untrusted, sha256_of
from magi.tokenizers.store import fingerprint, load_tokenizer
from magi.tokenizers.streaming import decode_stream
from tests.cosmos_published import pair, write_pair, write_whole
from tests.test_stable_diffusion import assert_same
from tests.test_trust import read_here as read_here

TRUSTED = Trust(code=True)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
UNMEASURED = "ignore:the latent statistics"


def tiny(temporal: int) -> CosmosTokenizer:
    """Native and random, with latents that are not normalised by 0 and 1."""
    torch.manual_seed(temporal)
    levels = 3 if temporal == 4 else 4
    tokenizer = CosmosTokenizer(
        CosmosConfig(
            temporal_compression_ratio=temporal,
            encoder_block_out_channels=(4, 4, 6, 8),
            decode_block_out_channels=(4, 6, 8, 8)[-levels:],
            num_layers=1,
        )
    )
    tokenizer.shift.copy_(torch.linspace(-0.1, 0.1, 16))
    tokenizer.scale.copy_(torch.linspace(0.5, 2, 16))
    return tokenizer.eval().requires_grad_(False)


def video(frames: int = 17, videos: int = 2) -> torch.Tensor:
    """Noise, twice as wide as high: (videos, frames, 3, 16, 32)."""
    return torch.rand(videos, frames, 3, 16, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture(autouse=True)
def unoptimised() -> Iterator[None]:
    """TorchScript is not compiled for each of a few runs."""
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoder.jit and decoder.jit of CV4x8x8, small."""
    folder = tmp_path_factory.mktemp("cosmos")
    write_pair(folder, 4)
    return folder


@pytest.fixture(scope="module")
def published_8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of CV8x8x8."""
    folder = tmp_path_factory.mktemp("cosmos")
    write_pair(folder, 8)
    return folder


def files_of(folder: Path) -> list[Path]:
    """As `magi tokenizer convert` wants them."""
    return [folder / "encoder.jit", folder / "decoder.jit"]


@pytest.fixture(params=["native 4", "native 8", "TorchScript"])
def tokenizer(request: pytest.FixtureRequest, published: Path) -> CosmosTokenizer | CosmosTorchScript:
    if request.param != "TorchScript":
        return tiny(int(request.param[-1]))
    with warnings.catch_warnings(action="ignore"):
        found = load_tokenizer(f"cosmos-cv4x8x8:{published}", trust=TRUSTED)
    assert isinstance(found, CosmosTorchScript)
    return found


def test_latents_have_the_published_shape(tokenizer: CosmosTokenizer | CosmosTorchScript) -> None:
    """16 channels at an eighth of the size; 17 frames are 5 latent frames at stride 4, 3 at stride 8; nothing about
    them is uncertain, and other numbers of frames are refused with their neighbours."""
    stride = tokenizer.temporal_stride
    posterior = tokenizer.posterior(video())
    assert posterior.deviation is None
    assert posterior.mean.shape == (2, 1 + 16 // stride, 16, 2, 4) == (2, *tokenizer.latent_shape(17, 16, 32))
    decoded = tokenizer.decode(20 * posterior.mean)
    assert decoded.shape == (2, 17, 3, 16, 32) and decoded.dtype == torch.float32
    assert decoded.abs().max() <= 1
    with pytest.raises(ValueError, match=f"16 frames.*take {17 - stride} or 17"):
        tokenizer.encode(video(16))
    with pytest.raises(ValueError, match="12 x 16"):
        tokenizer.encode(torch.zeros(1, 1, 3, 12, 16))


def test_a_prefix_is_encoded_and_decoded_exactly(tokenizer: CosmosTokenizer | CosmosTorchScript) -> None:
    """Nothing later reaches an earlier latent, nor a later latent an earlier frame: what is known of a prefix is what
    the whole says of it, so that a context may be encoded alone and a video decoded as it is made."""
    stride, pixels = tokenizer.temporal_stride, video()
    latents, frames = tokenizer.encode(pixels), tokenizer.decode(tokenizer.encode(pixels))
    for known in (1, 1 + stride):
        changed = pixels.clone()
        changed[:, known:] *= -1
        count = 1 + known // stride
        torch.testing.assert_close(tokenizer.encode(changed)[:, :count], latents[:, :count], rtol=0, atol=1e-6)
        assert (tokenizer.encode(changed)[:, count:] - latents[:, count:]).abs().amax() > 1e-4
        torch.testing.assert_close(tokenizer.encode(pixels[:, :known]), latents[:, :count], **CLOSE)
        torch.testing.assert_close(tokenizer.decode(latents[:, :count]), frames[:, :known], **CLOSE)


def test_streamed_frames_are_those_decoded_at_once(tokenizer: CosmosTokenizer | CosmosTorchScript) -> None:
    """Latent by latent, after a context of two: each brings its frames, and they never change."""
    latents = tokenizer.encode(video())
    groups = [latents[:, :2], *latents[:, 2:].split(1, dim=1)]
    streamed = list(decode_stream(tokenizer, groups))
    stride = tokenizer.temporal_stride
    assert [part.shape[1] for part in streamed] == [1 + stride] + [stride] * (latents.shape[1] - 2)
    torch.testing.assert_close(torch.cat(streamed, dim=1), tokenizer.decode(latents), **CLOSE)


def test_the_numbers_are_those_of_diffusers() -> None:
    """Latents are diffusers', normalised channel by channel, its axes in our order; decoding is the way back; and how
    many videos go through at once is a matter of memory."""
    tokenizer, pixels = tiny(4), video()
    latents = tokenizer.encode(pixels)
    raw = tokenizer.network.encode(pixels.movedim(2, 1)).latent_dist.mode()
    for channel in (0, 15):
        expected = (raw[:, channel] - tokenizer.shift[channel]) / tokenizer.scale[channel]
        torch.testing.assert_close(latents[:, :, channel], expected, **CLOSE)
    expected = tokenizer.network.decode(raw).sample.movedim(1, 2).clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(latents), expected, **CLOSE)
    torch.testing.assert_close(tokenizer.encode(pixels, videos_per_chunk=2), latents, **CLOSE)


def test_the_published_architectures_come_back_to_their_size() -> None:
    """At full width, without weights: CV4x8x8 has a decoder of two levels and CV8x8x8 one of three, and those that
    would give back fewer frames, or a smaller picture, are refused."""
    for config, frames in ((CV4X8X8, 5), (CV8X8X8, 3)):
        with torch.device("meta"):
            tokenizer = CosmosTokenizer(config)
        assert tokenizer.latent_shape(17, 256, 256) == (frames, 16, 32, 32)
    with pytest.raises(ValueError, match="too few levels for ratios 8x8x8"):
        CosmosConfig(temporal_compression_ratio=8)
    with pytest.raises(ValueError, match="ratios 2x8x8 are not a patch of 4"):
        CosmosConfig(temporal_compression_ratio=2)


@pytest.mark.filterwarnings(UNMEASURED)
@pytest.mark.parametrize("temporal", [4, 8])
@pytest.mark.usefixtures("read_here")
def test_converted_weights_are_the_network_that_was_published(
    temporal: int, published: Path, published_8: Path, tmp_path: Path
) -> None:
    """An independent network by the published names, traced as it is published, and diffusers' with its weights give
    the same latents and frames; widths and depth are read off the weights. Then no code is needed any more."""
    files = files_of(published if temporal == 4 else published_8)
    name = f"cosmos-cv{temporal}x8x8"
    made = convert(name, files, tmp_path / "converted", trust=TRUSTED)
    encoder, decoder = pair(temporal)
    pixels = video()
    with torch.no_grad():
        raw = encoder(pixels.movedim(2, 1))[0]
        torch.testing.assert_close(made.encode(pixels), raw.movedim(1, 2), **CLOSE)
        torch.testing.assert_close(made.decode(raw.movedim(1, 2)), decoder(raw).movedim(1, 2).clamp(-1, 1), **CLOSE)
    told = json.loads((tmp_path / "converted/config.json").read_text())["source"]
    assert told["sha256"] == {path.name: sha256_of(path) for path in files}
    assert told["repository"] == PUBLISHED[name].repository and max(told["difference_from_files"]) < 1e-5
    for place in (str(tmp_path / "converted"), f"{name}:{tmp_path / 'converted'}"):
        loaded = load_tokenizer(place)
        assert_same(loaded, made, pixels)
    with pytest.raises(ValueError, match=f"holds {name}, not sd14"):
        load_tokenizer(f"sd14:{tmp_path / 'converted'}")


@pytest.mark.filterwarnings(UNMEASURED)
def test_one_file_holds_both_halves(published: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """autoencoder.jit is as good as the pair: the same weights, the same tokenizer, whichever process reads them."""
    whole = convert("cosmos-cv4x8x8", [write_whole(tmp_path, 4)], tmp_path / "one", trust=TRUSTED)
    request.getfixturevalue("read_here")
    both = convert("cosmos-cv4x8x8", files_of(published), tmp_path / "two", trust=TRUSTED)
    assert fingerprint(whole) == fingerprint(both)


@pytest.mark.filterwarnings(UNMEASURED)
@pytest.mark.usefixtures("read_here")
def test_files_of_another_tokenizer_are_found_out(tmp_path: Path, published: Path, published_8: Path) -> None:
    """A pair of stride 8 has every weight that a pair of stride 4 has, by the same names: what it makes of a test video
    tells them apart. So is a decoder in the encoder's place told, and a pair with a weight too few."""
    encoder, decoder = files_of(published)
    for name, files, message in [
        ("cosmos-cv4x8x8", files_of(published_8), r"encoder\.jit is not of cosmos-cv4x8x8: of a test input it makes"),
        ("cosmos-cv8x8x8", [encoder, decoder], "too few levels for ratios 8x8x8"),
        ("cosmos-cv4x8x8", [decoder, encoder], r"decoder\.jit holds no encoder; give encoder\.jit and decoder\.jit"),
        ("cosmos-cv4x8x8", [encoder, encoder], "both hold encoder"),
        ("cosmos-cv4x8x8", [encoder], r"not the weights of a Cosmos tokenizer: decoder\.conv_in"),
        ("cosmos-cv4x8x8", [], "got 0 files"),
    ]:
        with pytest.raises(ValueError, match=message):
            convert(name, files, tmp_path / "out", trust=TRUSTED)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings(UNMEASURED)
@pytest.mark.usefixtures("read_here")
def test_a_pair_in_bfloat16_converts(published: Path, tmp_path: Path) -> None:
    """The pair keeps its own type, in which its casts may be written down, and what a CPU cannot do in it is said. The
    conversion widens the weights, which loses nothing: it is the network with them in float32."""
    for path in files_of(published):
        torch.jit.load(str(path)).to(torch.bfloat16).save(str(tmp_path / path.name))
    scripted = load_tokenizer(f"cosmos-cv4x8x8:{tmp_path}", trust=TRUSTED)
    made = convert("cosmos-cv4x8x8", files_of(tmp_path), tmp_path / "out", trust=TRUSTED)
    encoder, _ = pair(4)
    with torch.no_grad():
        expected = encoder.to(torch.bfloat16).float()(video().movedim(2, 1))[0].movedim(1, 2)
    torch.testing.assert_close(made.encode(video()), expected, **CLOSE)
    rough = scripted.decode(expected)
    assert 0 < float((rough - made.decode(expected)).norm() / rough.norm()) < 0.05
    expected_words = r"in torch\.bfloat16, which cannot run on cpu.*avg_pool3d.*magi tokenizer convert"
    with pytest.raises(ValueError, match=expected_words):
        scripted.encode(video())


def test_torchscript_runs_only_if_somebody_vouches_for_it(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named alone it is refused, with its hash; with both hashes in the name or in the user's list it loads."""
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    name = f"cosmos-cv4x8x8:{published}"
    hashes = [sha256_of(path) for path in files_of(published)]
    with pytest.raises(Untrusted, match=rf"encoder\.jit is code.*{hashes[0]} is not pinned"):
        load_tokenizer(name)
    with pytest.raises(Untrusted, match=r"decoder\.jit is code"):
        load_tokenizer(f"{name}@sha256:{hashes[0]}")
    with pytest.warns(UserWarning, match="unmeasured"):
        one = load_tokenizer(f"{name}@sha256:{','.join(hashes)}")
    (tmp_path / "pins").write_text(f"# mine\n{hashes[0]}  encoder.jit\n\n{hashes[1]}  decoder.jit\n")
    with pytest.warns(UserWarning, match="unmeasured"):
        other = load_tokenizer(name)
    assert_same(one, other, video())
    (tmp_path / "pins").write_text("encoder.jit\n")
    with pytest.raises(ValueError, match=r"pins: a sha256 is 64 hexadecimal digits, got 'encoder\.jit'"):
        load_tokenizer(name)


def test_hashes_without_effect_are_refused(tmp_path: Path) -> None:
    """Native weights are no code: a hash behind their name would trust nothing, and would not be compared either."""
    tokenizer = tiny(4)
    tokenizer.network.save_pretrained(tmp_path)
    (tmp_path / "statistics.json").write_text(json.dumps({"shift": [0.0] * 16, "scale": [1.0] * 16}))
    assert load_tokenizer(f"cosmos-cv4x8x8:{tmp_path}").latent_channels == 16
    with pytest.raises(ValueError, match=r"@sha256:0{64} has no effect"):
        load_tokenizer(f"cosmos-cv4x8x8:{tmp_path}@sha256:{'0' * 64}")


def test_a_cache_cannot_vouch_for_code(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file names the tokenizer, and whoever made the cache may have put TorchScript beside it with its hash: what
    training takes from there is the name alone, so the code is refused until the user vouches for it."""
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    hashes = ",".join(sha256_of(path) for path in files_of(published))
    named = f"cosmos-cv4x8x8:{published}@sha256:{hashes}"
    recipe = Recipe(
        tokenizer="0" * 64, latent_shape=(16, 4, 4), temporal_stride=1, size=32, crop="centre", flip=False,
        max_frames=5, deviation=False,
    )  # fmt: skip
    listing = Listing(tmp_path, (Entry("one.mp4", num_frames=5),))
    begin_store(tmp_path / "cache", recipe, listing, tokenizer=named, videos_per_shard=1)
    flags = data_flags(str(tmp_path / "cache"), names_tokenizer=True)
    assert flags[-2:] == ["--tokenizer", f"cosmos-cv4x8x8:{published}"]
    with pytest.raises(Untrusted, match=r"other verbs --trust-code"):
        load_tokenizer(flags[-1])


def test_a_description_of_no_pair_is_refused(tmp_path: Path) -> None:
    """In one line, whatever another's config.json says: no tokenizer at all, two, or a pair that cannot be one."""
    pair_of = {"place": str(tmp_path), "shift": [0.0] * 16, "scale": [1.0] * 16}
    for number, (described, message) in enumerate((
        ({}, "describes no tokenizer"),
        ({"tokenizer": "0" * 64}, "describes no tokenizer"),
        ({"tokenizer": {"pixel": 4, "cosmos": {}}}, "describes no tokenizer"),
        ({"tokenizer": {"cosmos-torchscript": {**pair_of, "temporal_stride": 3, "sha256": {}}}}, "stride 3, with hash"),
        ({"tokenizer": {"cosmos-torchscript": {**pair_of, "temporal_stride": 4, "sha256": {}}}}, "hashes of nothing"),
    )):  # fmt: skip
        folder = tmp_path / str(number)
        checkpoint.save(folder, {}, {"config.json": described})
        with pytest.raises(checkpoint.CheckpointError, match=message):
            load_tokenizer(str(folder))


def test_the_command_line_can_vouch_for_code(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--trust-code lets the files of this command run, and of no later one."""
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    words = ["tokenizer", "stats", f"cosmos-cv4x8x8:{published}", "--data", "world", "--clips", "1", "--frames", "5"]
    for name, extra, code in (("no", [], 2), ("yes", ["--trust-code"], 0), ("again", [], 2)):
        assert cli.main([*words, "--size", "32", "--out", str(tmp_path / name), *extra]) == code
    assert "encoder.jit is code" in capsys.readouterr().err


def test_a_release_refers_to_the_pair_and_holds_native_weights(
    published: Path, published_8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release never holds code. It names a pair by place and hash, and is refused when others lie there; where the
    pair lies is not what it is. With native weights it stands alone."""
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    config = MagiConfig(latent_channels=16, latent_height=2, latent_width=4, num_frames=5, depth=1, width=16, mlp_width=16, heads=1)  # fmt: skip # noqa: E501
    model = Magi(config)
    native, folder = tiny(4), tmp_path / "pair"
    save_release(tmp_path / "native", Release(model, native, SampleConfig()), card="#\n")
    assert_same(load(tmp_path / "native").tokenizer, native, video())

    shutil.copytree(published, folder)
    (folder / "statistics.json").write_text(json.dumps({"shift": [0.25] * 16, "scale": [0.5] * 16}))
    scripted = load_tokenizer(f"cosmos-cv4x8x8:{folder}", trust=TRUSTED)
    save_release(tmp_path / "scripted", Release(model, scripted, SampleConfig()), card="#\n")
    assert not list((tmp_path / "scripted").glob("tokenizer*"))
    with pytest.raises(Untrusted):
        load(tmp_path / "scripted")
    (tmp_path / "pins").write_text("".join(f"{sha256_of(path)}  {path.name}\n" for path in files_of(folder)))
    assert_same(load(tmp_path / "scripted").tokenizer, scripted, video())

    (tmp_path / "moved").mkdir()
    for path in folder.iterdir():
        path.rename(tmp_path / "moved" / path.name)
    assert fingerprint(load_tokenizer(f"cosmos-cv4x8x8:{tmp_path / 'moved'}")) == fingerprint(scripted)
    with pytest.raises(ValueError, match=r"encoder\.jit is missing; the tokenizer cosmos-cv4x8x8 is encoder\.jit and"):
        load(tmp_path / "scripted")
    shutil.copy(published_8 / "decoder.jit", folder)
    with pytest.raises(ValueError, match=r"decoder\.jit has sha256 \w+, but \w+ was trained with"):
        (tmp_path / "moved/encoder.jit").replace(folder / "encoder.jit")
        load(tmp_path / "scripted")


def test_statistics_are_read_or_said_to_be_unmeasured(tmp_path: Path) -> None:
    """In diffusers' folders they lie in a file beside the weights, in either format, or are published in config.json
    per position; without any, latents are as they are, and that is said."""
    tokenizer = tiny(4)
    tokenizer.network.save_config(tmp_path)
    save_file(tokenizer.network.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    name, statistics = f"cosmos-cv4x8x8:{tmp_path}", {"shift": tokenizer.shift, "scale": tokenizer.scale}
    with pytest.warns(UserWarning, match="unmeasured.*magi tokenizer stats"):
        bare = load_tokenizer(name)
    assert not bare.shift.any() and torch.equal(bare.scale, torch.ones(16))
    with warnings.catch_warnings(action="error"):
        save_file(statistics, tmp_path / "statistics.safetensors")
        assert_same(load_tokenizer(name), tokenizer, video())
        listed = {key: value.tolist() for key, value in statistics.items()}
        (tmp_path / "statistics.json").write_text(json.dumps(listed | {"clips": 10_000}))
        (tmp_path / "statistics.safetensors").unlink()
        assert_same(load_tokenizer(name), tokenizer, video())
    for wrong, message in [
        ({"shift": [0.0] * 16, "scale": [0.0] * 16}, "scale must be positive"),
        ({"shift": [0.0] * 4, "scale": [1.0] * 4}, r"shape \(4,\), but there are 16"),
        ({"shift": [float("nan")] * 16, "scale": [1.0] * 16}, "not finite"),
        ({"mean": []}, "does not hold the lists shift and scale"),
    ]:
        (tmp_path / "statistics.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(name)
    with pytest.raises(ValueError, match="of temporal stride 4; cosmos-cv8x8x8 has 8"):
        load_tokenizer(f"cosmos-cv8x8x8:{tmp_path}")


def test_published_statistics_are_pooled_over_positions() -> None:
    """A channel's variance over all positions is the mean of their variances plus the variance of their means: as it is
    measured on values drawn with them."""
    draw = torch.Generator().manual_seed(0)
    means, deviations = torch.randn(2, 8, generator=draw), torch.rand(2, 8, generator=draw) + 0.5
    values = means[..., None] + deviations[..., None] * torch.randn(2, 8, 40_000, generator=draw)
    found = statistics_of({"latents_mean": means.flatten().tolist(), "latents_std": deviations.flatten().tolist()}, 2)
    assert found is not None and statistics_of({"latents_mean": None, "latents_std": None}, 2) is None
    torch.testing.assert_close(found[0], values.flatten(1).mean(1), rtol=0.01, atol=0.01)
    torch.testing.assert_close(found[1], values.flatten(1).std(1), rtol=0.01, atol=0)


@pytest.mark.usefixtures("read_here")
def test_the_command_converts(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the hash of each file, which pins it; with another hash, or one too few, nothing is read."""
    files = [str(path) for path in files_of(published)]
    hashes = [sha256_of(path) for path in files_of(published)]
    words = ["cosmos-cv4x8x8", *files, "--out", str(tmp_path / "out")]
    with pytest.raises(Untrusted, match=f"--sha256 {hashes[0]} or --trust-code"):
        convert_command(words)
    with pytest.raises(ValueError, match=rf"decoder\.jit has sha256 {hashes[1]}, expected {hashes[0]}"):
        convert_command([*words, "--sha256", hashes[0]])
    with pytest.raises(ValueError, match=f"no file has sha256 {'0' * 64}"):
        convert_command([*words, "--sha256", *hashes, "0" * 64])
    with pytest.warns(UserWarning, match="unmeasured"):
        assert convert_command([*words, "--sha256", *hashes]) == 0
    assert "16 channels, 4x8x8" in capsys.readouterr().out
    with pytest.raises(ValueError, match="already exists"):
        convert_command(words)
