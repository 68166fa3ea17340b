"""Claims about the published detectors: found, trusted, refused, fed and checked, with weights made from a seed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from magi.evaluation.detectors import choosing, files
from magi.evaluation.detectors.choosing import NO_CURVE, choose
from magi.evaluation.detectors.i3d import load_i3d
from magi.evaluation.detectors.inception import InceptionChoices, load_inception
from magi.evaluation.detectors.inception_network import InceptionV3
from magi.evaluation.detectors.network import NetworkDetector, resize
from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.detectors.self_check import SHIPPED, probe, remember, self_check, stored
from magi.evaluation.detectors.torchscript_i3d import load_torchscript_i3d
from magi.evaluation.detectors.videomae import load_videomae
from magi.evaluation.features import features_of
from magi.evaluation.lpips import load_lpips
from magi.evaluation.protocols import LATTE, DetectorName
from magi.tokenizers.published.trust import PIN_FILE, Trust, Untrusted, sha256_of

PROBE = "8084382fb06d66a669dcf560fdefe74994891ffbdf38d28e64aabd88c23d3575"
TRUSTED = Trust(code=True)


@pytest.fixture(autouse=True)
def nothing_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    monkeypatch.delenv("MAGI_TRUST_CODE", raising=False)
    for weights in files.PUBLISHED:
        monkeypatch.delenv(weights.variable, raising=False)


def clips(count: int = 2, frames: int = 16, size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, 3, size, size), generator=generator, dtype=torch.uint8)


class ScriptedI3D(nn.Module):
    """The call of StyleGAN-V's program, with something simple inside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(400, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if resize:
            b, c, t, h, w = x.shape
            x = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
            x = torch.nn.functional.interpolate(x, size=[24, 24], mode="bilinear", align_corners=False)
            x = x.reshape(b, t, c, 24, 24).permute(0, 2, 1, 3, 4)
        if rescale:
            x = 2 * x / 255 - 1
        logits = x.abs().mean(dim=[2, 3, 4]) @ self.weight.t()
        return logits if return_features else torch.softmax(logits, dim=1)


class ScriptedInception(nn.Module):
    """The call of NVIDIA's program."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2048, 3, generator=torch.Generator().manual_seed(1)))

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.uint8 and img.ndim == 4
        features = img.to(torch.float32).mean(dim=[2, 3]) @ self.weight.t()
        return features if return_features else features[:, :1008]


class Writing(nn.Module):
    """A program that leaves a file when it runs, which TorchScript can: by `torch.save`."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        torch.save(x, self.path)
        return x.new_zeros([x.shape[0], 400])


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


# Where the weights come from.


@pytest.mark.parametrize(
    ("load", "weights"),
    [
        (load_torchscript_i3d, files.I3D_TORCHSCRIPT),
        (load_i3d, files.I3D),
        (load_videomae, files.VIDEOMAE),
        (load_inception, files.INCEPTION),
        (load_lpips, files.LPIPS),
    ],
)
def test_an_absent_file_is_refused_in_one_line(
    load: Any, weights: files.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file, where that is published and both ways to give it: not given, or not there, by either way."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = []
    for path, variable in ((None, None), (tmp_path / "none.pt", None), (None, str(tmp_path / "none.pt"))):
        if variable:
            monkeypatch.setenv(weights.variable, variable)
        with pytest.raises(ValueError) as error:
            load(path)
        lines.append(str(error.value))
    for line in lines:
        assert "\n" not in line and weights.file in line and weights.published in line
        assert f"environment variable {weights.variable}" in line and "give its path" in line
    assert "was not given" in lines[0] and "none.pt" in lines[1]
    assert f"none.pt (from {weights.variable})" in lines[2]


def test_the_published_places_are_those_of_the_notes() -> None:
    """The dropbox file of StyleGAN-V, the state dict in TATS, and the two files of FID."""
    assert "ge9e5ujwgetktms" in files.I3D_TORCHSCRIPT.published and files.I3D_TORCHSCRIPT.file == "i3d_torchscript.pt"
    assert "songweige/TATS" in files.I3D.published and files.I3D.file == "i3d_pretrained_400.pt"
    assert "pt_inception-2015-12-05-6726825d.pth" in files.INCEPTION.file


def test_a_path_is_preferred_to_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch()
    monkeypatch.setenv("MAGI_I3D", str(tmp_path / "one"))
    assert files.find(files.I3D, None) == tmp_path / "one"
    assert files.find(files.I3D, tmp_path / "two") == tmp_path / "two"


def test_formats_are_told_by_their_bytes(tmp_path: Path) -> None:
    """The three kinds of file are told apart whatever they are called; a wrong kind is told in one line."""
    torch.save({"x": torch.ones(2)}, tmp_path / "pickle")
    torch.save({"x": torch.ones(2)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file({"x": torch.ones(2)}, tmp_path / "safe")
    script(ScriptedI3D(), tmp_path / "script")
    kinds = [files.format_of((tmp_path / name).read_bytes()) for name in ("pickle", "old", "safe", "script")]
    assert kinds == ["pickle", "pickle", "safetensors", "torchscript"]
    with pytest.raises(ValueError, match="TorchScript program, expected a state dict"):
        load_i3d(tmp_path / "script", trust=TRUSTED)
    for name in ("pickle", "safe"):
        with pytest.raises(ValueError, match="expected a TorchScript program"):
            load_torchscript_i3d(tmp_path / name, trust=TRUSTED)
    (tmp_path / "safe").write_bytes((tmp_path / "safe").read_bytes()[:20])
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        load_i3d(tmp_path / "safe")


# Programs.


def test_an_untrusted_program_is_not_even_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is unpacked, and its hash and the ways to trust it are told."""
    path = script(ScriptedI3D(), tmp_path / "i3d_torchscript.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_args, **_options: pytest.fail("it was loaded"))
    for load in (load_torchscript_i3d, load_inception):
        with pytest.raises(Untrusted, match=sha256_of(path)) as error:
            load(path)
        assert "--trust-code" in str(error.value) and "\n" not in str(error.value)


def test_a_program_can_write_and_does_not_unless_trusted(tmp_path: Path) -> None:
    """What the refusal is for: the same program, trusted, leaves a file."""
    mark = tmp_path / "ran"
    path = script(Writing(str(mark)), tmp_path / "i3d_torchscript.pt")
    with pytest.raises(Untrusted):
        load_torchscript_i3d(path)
    assert not mark.exists()
    load_torchscript_i3d(path, trust=TRUSTED).features(clips(1))
    assert mark.exists()


def test_a_pinned_program_is_given_pixels_and_asked_for_features(tmp_path: Path) -> None:
    """Trusted by its hash alone, it gets 0..255 as (B, 3, T, H, W), and does rescaling and resizing itself."""
    path = script(ScriptedI3D(), tmp_path / "i3d_torchscript.pt")
    detector = load_torchscript_i3d(path, trust=Trust(sha256=frozenset({sha256_of(path)})), clips_at_once=2)
    video = clips(3)
    frames = F.interpolate(video.flatten(0, 1).float(), (24, 24), mode="bilinear").unflatten(0, (3, 16))
    expected = (frames / 255 * 2 - 1).abs().mean((1, 3, 4)) @ ScriptedI3D().weight.T
    torch.testing.assert_close(detector.features(video), expected.detach())
    assert detector.dim == 400 and sha256_of(path) in detector.description
    with pytest.raises(Untrusted):
        load_torchscript_i3d(path, trust=Trust(sha256=frozenset({"0" * 64})))


def test_a_program_of_another_network_is_told(tmp_path: Path) -> None:
    path = script(ScriptedInception(), tmp_path / "inception.pt")
    detector = load_inception(path, trust=TRUSTED)
    wrong = NetworkDetector("I3D", 400, "0" * 64, None, "", lambda video: detector.features(video[:, :1]))
    with pytest.raises(ValueError, match=re.escape("made features (2, 2048) of 2 clips, expected (2, 400)")):
        wrong.features(clips())


def test_nvidias_program_is_given_bytes_of_single_frames(tmp_path: Path) -> None:
    """A frame is a clip of one; two are refused, as is a choice that the program would not see."""
    path = script(ScriptedInception(), tmp_path / "inception-2015-12-05.pt")
    detector = load_inception(path, trust=TRUSTED)
    frames = clips(3, 1)
    expected = frames[:, 0].float().mean((-2, -1)) @ ScriptedInception().weight.T
    torch.testing.assert_close(detector.features(frames), expected.detach())
    with pytest.raises(ValueError, match="clips of 1 frames, got 2"):
        detector.features(clips(1, 2))
    with pytest.raises(ValueError, match="would have no effect"):
        load_inception(path, trust=TRUSTED, choices=InceptionChoices())


# FID's network, and a second one that is written out from the state dict.


@pytest.fixture(scope="module")
def inception_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in InceptionV3().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif name.endswith("bn.weight"):
            drawn = 1 + 0.1 * drawn
        elif len(shape) == 4:
            drawn = drawn * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        else:
            drawn = 0.1 * drawn
        if not name.endswith("num_batches_tracked"):
            state[name] = drawn
    return state


def plain_inception(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The Inception of FID: paddings by kernel, average without the border, the maximum in the last block."""

    def conv(x: Tensor, name: str, stride: int = 1, pad: Any = "same") -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=pad)
        mean, variance, scale, shift = (
            state[f"{name}.bn.{part}"].reshape(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 0.001).sqrt() * scale + shift).clamp(min=0)

    def chain(x: Tensor, block: str, *names: str) -> Tensor:
        for name in names:
            x = conv(x, f"{block}.{name}")
        return x

    def average(x: Tensor) -> Tensor:
        counted = F.avg_pool2d(F.pad(torch.ones_like(x), (1, 1, 1, 1)), 3, 1)
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / counted

    double = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    x = conv(x, "Conv2d_1a_3x3", 2, 0)
    x = conv(conv(x, "Conv2d_2a_3x3", 1, 0), "Conv2d_2b_3x3")
    x = F.max_pool2d(x, 3, 2)
    x = conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", 1, 0)
    x = F.max_pool2d(x, 3, 2)
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        towers = [chain(x, b, "branch1x1"), chain(x, b, "branch5x5_1", "branch5x5_2"), chain(x, b, *double)]
        x = torch.cat([*towers, chain(average(x), b, "branch_pool")], 1)
    b = "Mixed_6a"
    dbl = conv(chain(x, b, *double[:2]), f"{b}.branch3x3dbl_3", 2, 0)
    x = torch.cat([conv(x, f"{b}.branch3x3", 2, 0), dbl, F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(x, b, *(f"branch7x7_{i}" for i in (1, 2, 3)))
        dbl = chain(x, b, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        x = torch.cat([chain(x, b, "branch1x1"), seven, dbl, chain(average(x), b, "branch_pool")], 1)
    b = "Mixed_7a"
    three = conv(chain(x, b, "branch3x3_1"), f"{b}.branch3x3_2", 2, 0)
    seven = conv(chain(x, b, *(f"branch7x7x3_{i}" for i in (1, 2, 3))), f"{b}.branch7x7x3_4", 2, 0)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_7b", "Mixed_7c"):
        three, dbl = chain(x, b, "branch3x3_1"), chain(x, b, *double[:2])
        towers = [chain(x, b, "branch1x1"), chain(three, b, "branch3x3_2a"), chain(three, b, "branch3x3_2b")]
        towers += [chain(dbl, b, "branch3x3dbl_3a"), chain(dbl, b, "branch3x3dbl_3b")]
        pooled = average(x) if b == "Mixed_7b" else F.max_pool2d(x, 3, 1, padding=1)
        x = torch.cat([*towers, chain(pooled, b, "branch_pool")], 1)
    return x.mean((2, 3))


def test_fids_network_is_the_plain_one(inception_state: dict[str, Tensor], tmp_path: Path) -> None:
    """Features equal those of the rebuilding, at a size that has a border in the last blocks."""
    path = tmp_path / "pt_inception.safetensors"
    save_file(inception_state, path)
    detector = load_inception(path, choices=InceptionChoices(size=107))
    frames = clips(2, 1, 107)
    with torch.no_grad():
        expected = plain_inception(frames[:, 0].float() / 255 * 2 - 1, inception_state)
    found = detector.features(frames)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(detector.features(frames[1:]), found[1:], rtol=1e-4, atol=1e-4)
    other = load_inception(path, choices=InceptionChoices(size=107, resize="tf1"))
    assert other.fingerprint != detector.fingerprint and other.name != detector.name


def test_fids_network_has_the_size_of_the_literature() -> None:
    """InceptionV3 without its side branch has 21,785,568 parameters before the classes, of which there are 1,008."""
    with torch.device("meta"):
        counts = {name: tensor.numel() for name, tensor in InceptionV3().named_parameters()}
    classes = sum(count for name, count in counts.items() if name.startswith("fc."))
    assert (sum(counts.values()) - classes, classes) == (21_785_568, 1008 * 2049)


# Resizing.


def test_resizing_keeps_what_needs_none_and_filters_differ() -> None:
    """At its size a clip passes unchanged; a level picture stays level; of noise each filter makes something else."""
    video = clips(1, 2, 20)
    kinds = ("bilinear", "antialias", "tf1")
    for how in kinds:
        assert torch.equal(resize(video, 20, how), video.float())
        torch.testing.assert_close(resize(torch.full_like(video, 77), 9, how), torch.full((1, 2, 3, 9, 9), 77.0))
    made = [resize(video, 9, how) for how in kinds]
    assert all((one - other).abs().max() > 5 for i, one in enumerate(made) for other in made[:i])


def test_tensorflow_ones_filter_reads_from_the_corner() -> None:
    """Of a ramp, pixel i at twice the size is i / 2, the last held; PyTorch's centres would give i / 2 - 1/4."""
    ramp = torch.arange(6.0).expand(1, 1, 3, 6, 6)
    expected = torch.tensor([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5])
    assert torch.equal(resize(ramp, 12, "tf1"), expected.expand(1, 1, 3, 12, 12))
    assert torch.equal(resize(ramp.mT, 12, "tf1"), expected.expand(1, 1, 3, 12, 12).mT)


# The self-check.


class Means:
    """A detector that is simple enough to be known."""

    name, dim, fingerprint, frames = "means", 3, "a" * 64, None

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def features(self, video: Tensor) -> Tensor:
        return video.float().mean((1, 3, 4)) * self.factor


def test_the_probe_is_fixed() -> None:
    """Pinned to the byte, whatever the machine: a stored vector is worth nothing for another clip."""
    import hashlib

    clip = probe()
    assert clip.dtype == torch.uint8 and tuple(clip.shape) == (1, 16, 3, 64, 64)
    assert hashlib.sha256(clip.numpy().tobytes()).hexdigest() == PROBE
    assert torch.equal(probe(frames=1), probe(frames=1)) and probe(frames=1).shape[1] == 1


def test_a_self_check_tells_the_difference(tmp_path: Path) -> None:
    """It passes what was remembered, fails what drifted by more than the tolerance, and says by how much."""
    detector: Detector = Means()
    store = tmp_path / "store.json"
    remember(detector, store)
    expected = stored(detector, store)
    assert self_check(detector, expected).passed and "passed" in str(self_check(detector, expected))
    assert self_check(Means(1.0005), expected).passed
    drifted = self_check(Means(1.01), expected)
    assert drifted.passed is False and drifted.difference == pytest.approx(0.01, rel=1e-3)
    assert "FAILED" in str(drifted) and "1.00e-02" in str(drifted)
    with pytest.raises(ValueError, match="makes 3 features"):
        self_check(detector, torch.zeros(4))


def test_nothing_stored_is_no_pass(tmp_path: Path) -> None:
    """The store that ships is empty, and a detector without an entry is said to be unchecked; a store grows."""
    assert json.loads(SHIPPED.read_text()) == {}
    found = self_check(Means(), stored(Means()))
    assert found.passed is None and "not self-checked" in str(found)
    other = Means()
    other.fingerprint = "b" * 64
    remember(Means(), tmp_path / "store.json")
    assert stored(other, tmp_path / "store.json") is None
    remember(other, tmp_path / "store.json")
    assert len(json.loads((tmp_path / "store.json").read_text())) == 2
    (tmp_path / "store.json").write_text("[]")
    with pytest.raises(ValueError, match="no store of features"):
        stored(other, tmp_path / "store.json")


# What a protocol asks for.


@pytest.mark.parametrize("inception", [True, False])
def test_a_protocols_detectors_come_with_what_is_to_be_said(
    inception: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is loaded is named with its file's hash and what became of its self-check; Inception, where its file
    is named, reads each frame of the clip by itself, and where it is not, one line says why there is no curve."""
    monkeypatch.setenv("MAGI_TRUST_CODE", "1")
    network = script(ScriptedI3D(), tmp_path / "i3d.pt")
    monkeypatch.setenv(files.I3D_TORCHSCRIPT.variable, str(network))
    single = script(ScriptedInception(), tmp_path / "inception.pt")
    if inception:
        monkeypatch.setenv(files.INCEPTION.variable, str(single))
    chosen = choose("i3d-torchscript")
    told, record = "\n".join(chosen.lines()), chosen.record()
    assert sha256_of(network) in told and "not self-checked" in told
    assert record["clips"] == {"description": chosen.lines()[0], "self_check": chosen.lines()[1]}
    if not inception:
        assert chosen.frame_detector is None and record["frames"] == NO_CURVE and "MAGI_INCEPTION" in told
        return
    assert sha256_of(single) in told and told.count("not self-checked") == 2
    assert chosen.frame_detector is not None and chosen.frame_detector.name.startswith("FID")
    protocol = replace(LATTE, real_count=6, frames=10)  # as few as I3D takes
    parts = clips(6, 10).split(4)
    found = features_of(
        parts, "real", protocol=protocol, detector=chosen.detector, frame_detector=chosen.frame_detector
    )
    expected = load_inception(single, trust=TRUSTED).features(clips(6, 10)[:, 3:4]).double()
    assert found.clips.shape == (6, 400) and len(found.by_frame) == 10
    torch.testing.assert_close(found.by_frame[3].mean, expected.mean(0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.by_frame[3].covariance("N"), expected.T.cov(correction=0), rtol=1e-3, atol=1e-2)


def test_a_self_check_that_failed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are still made, and the line beside them, which the record keeps, says FAILED."""
    monkeypatch.setenv("MAGI_TRUST_CODE", "1")
    monkeypatch.setenv(files.I3D_TORCHSCRIPT.variable, str(script(ScriptedI3D(), tmp_path / "i3d.pt")))
    monkeypatch.setattr(choosing, "stored", lambda detector: torch.ones(detector.dim))
    chosen = choose("i3d-tfhub")
    assert "self-check FAILED" in "\n".join(chosen.lines()) and "FAILED" in chosen.record()["clips"]["self_check"]


def test_every_detectors_absence_is_told() -> None:
    """Of those that ship none is absent; of the others the line says what is, and where it is published."""
    wanted = {"i3d-torchscript": files.I3D_TORCHSCRIPT, "i3d-tfhub": files.I3D_TORCHSCRIPT}
    wanted |= {"i3d-videogpt": files.I3D, "videomae": files.VIDEOMAE}
    assert {*wanted, "world"} == set(get_args(DetectorName)) == set(choosing.LOADERS)
    for name, weights in wanted.items():
        with pytest.raises(ValueError, match=re.escape(f"environment variable {weights.variable}")):
            choose(cast(DetectorName, name))


# VideoMAE.


def videomae_folder(folder: Path, **config: Any) -> Path:
    """A tiny VideoMAE in the published format, with weights from a seed."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {"image_size": 32, "patch_size": 16, "num_frames": 4, "tubelet_size": 2, "num_hidden_layers": 2}
    settings |= {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "use_mean_pooling": True}
    made = transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**settings | config))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(folder)
    return folder


def test_videomae_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    """Its features are what the classes are read from: the classifier on them gives the model's own logits."""
    folder = videomae_folder(tmp_path / "tiny")
    detector = load_videomae(folder)
    from transformers import VideoMAEForVideoClassification

    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    video = clips(2, 4, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        pixels = ((video.movedim(2, -1) / 255 - mean) / std).movedim(-1, 2)
        expected = model(pixel_values=pixels).logits
        found = detector.features(video)
        torch.testing.assert_close(model.classifier(found), expected, rtol=1e-4, atol=1e-5)
    assert (detector.dim, detector.frames, found.shape) == (24, 4, (2, 24))
    with pytest.raises(ValueError, match="clips of 4 frames, got 16"):
        detector.features(clips(1, 16, 32))


def test_a_pretrained_videomae_has_no_norm_of_classes(tmp_path: Path) -> None:
    """Of an encoder with its decoder, the encoder's tokens are averaged; filter and weights move the fingerprint."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {"image_size": 32, "patch_size": 16, "num_frames": 4, "num_hidden_layers": 1, "use_mean_pooling": False}
    settings |= {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "decoder_num_hidden_layers": 1}
    settings |= {"decoder_hidden_size": 12, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 8}
    model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**settings)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    detector, video = load_videomae(tmp_path), clips(1, 4, 32)
    with torch.no_grad():
        expected = model.videomae(pixel_values=video / 127.5 - 1).last_hidden_state.mean(1)
    torch.testing.assert_close(detector.features(video), expected, rtol=1e-4, atol=1e-5)
    assert load_videomae(tmp_path, filter="antialias").fingerprint != detector.fingerprint


def test_videomae_without_the_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional library that is absent is told with how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ImportError, match="pip install transformers"):
        load_videomae(tmp_path)


def test_videomae_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    """No config, no safetensors, a pickle alone, or a model that brings its own code."""
    with pytest.raises(ValueError, match=re.escape("has no config.json")):
        load_videomae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base"}))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="only a pickle"):
        load_videomae(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="code that comes with a model is not run"):
        load_videomae(tmp_path)
