"""Claims about LPIPS: the distance of the paper, by a plain rebuilding of it, with weights made from a seed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from magi.evaluation.lpips import STEPS, Features, Lpips, Trunk, load_lpips
from magi.tokenizers.published.trust import PIN_FILE, Trust
from tests.test_i3d import read_here

# torchvision's `features`: number of each convolution, its channels and kernel, as its files have them.
ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
VGG16 = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)} | {
    17: (512, 256),
    19: (512, 512),
    21: (512, 512),
    24: (512, 512),
    26: (512, 512),
    28: (512, 512),
}
SHAPES: dict[Trunk, dict[int, tuple[int, int, int]]] = {
    "alex": ALEXNET,
    "vgg": {number: (*channels, 3) for number, channels in VGG16.items()},
}
LAYERS: dict[Trunk, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def trunk_state(trunk: Trunk) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for number, (outputs, inputs, kernel) in SHAPES[trunk].items():
        drawn = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"features.{number}.weight"] = drawn * (2 / (inputs * kernel**2)) ** 0.5
        state[f"features.{number}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return state | {"classifier.6.weight": torch.zeros(2, 2)}  # there, and of no use


def layer_state(trunk: Trunk) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(LAYERS[trunk])}


def made(folder: Path, trunk: Trunk) -> tuple[Lpips, dict[str, Tensor], dict[str, Tensor]]:
    state, layers = trunk_state(trunk), layer_state(trunk)
    save_file(state, folder / "trunk.safetensors")
    save_file(layers, folder / "layers.safetensors")
    loaded = load_lpips(folder / "trunk.safetensors", trunk=trunk, layers=folder / "layers.safetensors")
    return loaded, state, layers


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    return made(tmp_path_factory.mktemp("lpips"), "alex")[0]


@pytest.fixture(autouse=True)
def nothing_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    monkeypatch.delenv("MAGI_LPIPS", raising=False)


def frames(*shape: int, seed: int = 0, size: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, size, size), generator=generator, dtype=torch.uint8)


def plain_layers(x: Tensor, state: dict[str, Tensor], trunk: Trunk) -> list[Tensor]:
    """The compared layers of one frame, written out from the two papers' tables."""
    x = (x.double() / 255 * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1)) / torch.tensor(
        [0.458, 0.448, 0.450]
    ).reshape(3, 1, 1)
    found = []

    def conv(x: Tensor, number: int, stride: int = 1, padding: int = 1) -> Tensor:
        weight, bias = (state[f"features.{number}.{part}"].double() for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, stride, padding).clamp(min=0)

    if trunk == "alex":
        x = conv(x, 0, 4, 2)
        found.append(x)
        x = conv(F.max_pool2d(x, 3, 2), 3, 1, 2)
        found.append(x)
        x = conv(F.max_pool2d(x, 3, 2), 6)
        found.append(x)
        for number in (8, 10):
            x = conv(x, number)
            found.append(x)
        return found
    for group in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        x = F.max_pool2d(x, 2) if found else x
        for number in group:
            x = conv(x, number)
        found.append(x)
    return found


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_it_is_the_papers_distance(trunk: Trunk, tmp_path: Path) -> None:
    """By layer, the squared difference of unit vectors, weighted by channel, averaged over space; then their sum."""
    lpips, state, layers = made(tmp_path, trunk)
    video, truth = frames(2, seed=1), frames(2, seed=2)
    expected = []
    for one, two in zip(video, truth, strict=True):
        total = 0.0
        pairs = zip(plain_layers(one[None], state, trunk), plain_layers(two[None], state, trunk), strict=True)
        for number, (x, y) in enumerate(pairs):
            x, y = (z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y))
            weighted = (x - y) ** 2 * layers[f"lin{number}.model.1.weight"]
            total += float(weighted.sum(1).mean())
        expected.append(total)
    found = lpips(video, truth)
    assert found.dtype == torch.float64 and min(expected) > 0.01
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_it_is_a_distance_of_frames(alex: Lpips) -> None:
    """Nothing to itself, the same both ways, growing with noise, one number per frame, and no frame sees another."""
    video = frames(2, 3)
    noise = frames(2, 3, seed=1).int() - 128
    near, far = ((video.int() + noise * share // 100).clamp(0, 255).to(torch.uint8) for share in (5, 50))
    assert torch.equal(alex(video, video), torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(alex(video, far), alex(far, video))
    assert (alex(video, near) < alex(video, far)).all() and alex(video, far).shape == (2, 3)
    torch.testing.assert_close(alex(video[1, 2], far[1, 2]), alex(video, far)[1, 2], rtol=1e-4, atol=1e-6)
    assert alex(video[:0], video[:0]).shape == (0, 3)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_names_are_torchvisions(trunk: Trunk) -> None:
    """The trunk has exactly the convolutions of torchvision's `features`, in their places."""
    with torch.device("meta"):
        state = Features(trunk).state_dict()
    weights = {name: tuple(tensor.shape) for name, tensor in state.items() if name.endswith("weight")}
    assert weights == {f"features.{number}.weight": (o, i, k, k) for number, (o, i, k) in SHAPES[trunk].items()}
    assert len(state) == 2 * len(weights) and STEPS[trunk].count("tap") == 5


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_the_published_layers_come_with_torchmetrics(
    trunk: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real weights of the layers fit, and none is negative: the distance of equal frames is the least there is."""
    read_here(monkeypatch)
    save_file(trunk_state(trunk), tmp_path / "trunk.safetensors")
    monkeypatch.setenv("MAGI_LPIPS", str(tmp_path / "trunk.safetensors"))
    lpips = load_lpips(trunk=trunk, trust=Trust())
    assert [len(weight) for weight in lpips.weights] == list(LAYERS[trunk])
    assert all(bool((weight >= 0).all()) for weight in lpips.weights)
    assert f"{trunk}.pth" in lpips.description and trunk in lpips.name


def test_other_files_are_refused(alex: Lpips, tmp_path: Path) -> None:
    """AlexNet's file for VGG, layers of the other trunk, and a trunk of no such name are told in one line."""
    made(tmp_path, "alex")
    save_file(layer_state("vgg"), tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match="does not fit the network: missing features") as error:
        load_lpips(tmp_path / "trunk.safetensors", trunk="vgg", layers=tmp_path / "vgg.safetensors")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape("lin1.model.1.weight has shape (1, 128, 1, 1), expected (1, 192")):
        load_lpips(tmp_path / "trunk.safetensors", layers=tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match="trunk must be one of 'alex', 'vgg'; got 'squeeze'"):
        load_lpips(tmp_path / "trunk.safetensors", trunk="squeeze")  # type: ignore[arg-type]


def test_other_frames_are_refused(alex: Lpips) -> None:
    good = frames(2)
    for video, truth, told in (
        (good.float(), good, "torch.float32"),
        (good, good[:1], "expected one shape"),
        (good[..., :31], good[..., :31], "32 pixels or more, got (40, 31)"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            alex(video, truth)


def test_the_fingerprint_holds_both_files(alex: Lpips, tmp_path: Path) -> None:
    """The same files give the same; one changed weight in either gives another."""
    same, state, layers = made(tmp_path, "alex")
    assert same.fingerprint == alex.fingerprint
    save_file(layers | {"lin0.model.1.weight": layers["lin0.model.1.weight"] * 2}, tmp_path / "layers.safetensors")
    other = load_lpips(tmp_path / "trunk.safetensors", layers=tmp_path / "layers.safetensors")
    save_file(state | {"features.0.bias": state["features.0.bias"] * 2}, tmp_path / "trunk.safetensors")
    third = load_lpips(tmp_path / "trunk.safetensors", layers=tmp_path / "layers.safetensors")
    assert len({same.fingerprint, other.fingerprint, third.fingerprint}) == 3
