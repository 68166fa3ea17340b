"""Claims about the native I3D: the network of the literature, by its count, its names, and a plain rebuilding of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from magi.evaluation.detectors.i3d import I3DChoices, InflatedInception, load_i3d, pad_same
from magi.evaluation.detectors.network import NetworkDetector
from magi.tokenizers.published import untrusted
from magi.tokenizers.published.trust import PIN_FILE, Untrusted
from tests.test_trust import Sentinel

SMALL = {"size": 32}


def i3d_state() -> dict[str, Tensor]:
    """Weights in the names and shapes of the real file, from a seed, that keep a signal about its size."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in InflatedInception(epsilon=1e-3).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            continue  # as in files of the time
        if name.endswith("running_var"):
            drawn = 0.02 * (0.5 + drawn.abs())  # small, so that the epsilon is seen
        elif name.endswith("bn.weight"):
            drawn = 1 + 0.1 * drawn
        elif len(shape) == 5:
            drawn = drawn * 0.15 * (shape[1] * shape[2] * shape[3] * shape[4]) ** -0.5
        else:
            drawn = 0.1 * drawn
        state[name] = drawn
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return i3d_state()


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(autouse=True)
def nothing_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIN_FILE, str(tmp_path / "pins"))
    monkeypatch.delenv("MAGI_I3D", raising=False)


def small(file: Path, **choices: Any) -> NetworkDetector:
    return load_i3d(file, choices=I3DChoices(**SMALL, **choices))


def clips(count: int = 2, frames: int = 9, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (count, frames, 3, size, size), generator=generator, dtype=torch.uint8)


# A second I3D, written out from the state dict alone, with the padding as piergiaj/pytorch-i3d works it out.


def plain_pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    pads = []
    for side, k, s in list(zip(x.shape[2:], kernel, stride, strict=True))[::-1]:
        total = max(k - s, 0) if side % s == 0 else max(k - side % s, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)  # zeros, also under the pools: what they see is never negative


def plain_unit(x: Tensor, state: dict[str, Tensor], name: str, stride: int = 1, eps: float = 1e-3) -> Tensor:
    weight = state[f"{name}.conv3d.weight"]
    x = F.conv3d(plain_pad(x, tuple(weight.shape[2:]), (stride,) * 3), weight, stride=stride)
    mean, variance, scale, shift = (
        state[f"{name}.bn.{part}"].reshape(1, -1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (variance + eps).sqrt() * scale + shift).clamp(min=0)


def plain_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(plain_pad(x, kernel, stride), kernel, stride)


def plain_i3d(x: Tensor, state: dict[str, Tensor], eps: float) -> Tensor:
    def mixed(x: Tensor, name: str) -> Tensor:
        def unit(x: Tensor, tower: str) -> Tensor:
            return plain_unit(x, state, f"{name}.{tower}", eps=eps)

        towers = [unit(x, "b0"), unit(unit(x, "b1a"), "b1b"), unit(unit(x, "b2a"), "b2b")]
        return torch.cat([*towers, unit(plain_pool(x, (3, 3, 3), (1, 1, 1)), "b3b")], 1)

    x = plain_unit(x, state, "Conv3d_1a_7x7", stride=2, eps=eps)
    x = plain_pool(x, (1, 3, 3), (1, 2, 2))
    x = plain_unit(x, state, "Conv3d_2b_1x1", eps=eps)
    x = plain_unit(x, state, "Conv3d_2c_3x3", eps=eps)
    x = plain_pool(x, (1, 3, 3), (1, 2, 2))
    for name in ("Mixed_3b", "Mixed_3c"):
        x = mixed(x, name)
    x = plain_pool(x, (3, 3, 3), (2, 2, 2))
    for name in ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"):
        x = mixed(x, name)
    x = plain_pool(x, (2, 2, 2), (2, 2, 2))
    for name in ("Mixed_5b", "Mixed_5c"):
        x = mixed(x, name)
    x = x.mean((-2, -1), keepdim=True)
    x = (x[:, :, :-1] + x[:, :, 1:]) / 2
    x = F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return x.flatten(2).mean(-1)


def test_it_has_the_size_of_the_literature() -> None:
    """The I3D of 400 classes has 12.7 M parameters: 12,287,264 and the classes' 410,000."""
    with torch.device("meta"):
        network = InflatedInception(epsilon=1e-3)
    counts = {name: tensor.numel() for name, tensor in network.named_parameters()}
    logits = sum(count for name, count in counts.items() if name.startswith("logits"))
    assert (sum(counts.values()), logits) == (12_697_264, 410_000)


def test_its_names_are_those_of_the_published_file() -> None:
    """57 convolutions with a batch-norm each, and the logits, whose names were written down from pytorch-i3d."""
    with torch.device("meta"):
        names = set(InflatedInception(epsilon=1e-3).state_dict())
    blocks = [f"Mixed_{block}" for block in "3b 3c 4b 4c 4d 4e 4f 5b 5c".split()]
    units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    units += [f"{block}.{tower}" for block in blocks for tower in "b0 b1a b1b b2a b2b b3b".split()]
    parts = "conv3d.weight bn.weight bn.bias bn.running_mean bn.running_var bn.num_batches_tracked".split()
    assert names == {f"{unit}.{part}" for unit in units for part in parts} | {
        "logits.conv3d.weight",
        "logits.conv3d.bias",
    }


@pytest.mark.parametrize(("frames", "size", "epsilon"), [(9, 32, "1e-3"), (17, 45, "1e-5")])
def test_it_is_the_plain_network(state: dict[str, Tensor], file: Path, frames: int, size: int, epsilon: Any) -> None:
    """Logits equal those of the rebuilding, also at sides that do not divide, and with two positions in time."""
    video = clips(1, frames, size)
    detector = load_i3d(file, choices=I3DChoices(size=size, epsilon=epsilon))
    with torch.no_grad():
        expected = plain_i3d(video.movedim(1, 2).float() / 255 * 2 - 1, state, float(epsilon))
    found = detector.features(video)
    assert found.dtype == torch.float32 and expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("side", range(5, 12))
def test_same_padding_divides_rounding_up(side: int) -> None:
    """A layer of stride 2 leaves ceil(side / 2), and the odd pixel is at the end."""
    padded = pad_same(torch.ones(1, 1, 3, side, side), (1, 7, 7), (1, 2, 2))
    assert (padded.shape[-1] - 7) // 2 + 1 == -(-side // 2)
    first = int(padded[0, 0, 0, padded.shape[-1] // 2].argmax())
    assert padded.shape[-1] - side - first - first in (0, 1)


def test_the_published_size_and_sixteen_frames_leave_one_average() -> None:
    """At 224 pixels the last average is over 2 x 7 x 7, as published: 16 frames are halved to 8, 4, 2."""
    seen: list[torch.Size] = []
    with torch.device("meta"):
        network = InflatedInception(epsilon=1e-3).eval()
        network.get_submodule("Mixed_5c").register_forward_hook(lambda module, given, made: seen.append(made.shape))
        made = network(torch.empty(1, 3, 16, 224, 224))
    assert tuple(seen[0]) == (1, 1024, 2, 7, 7) and made.shape == (1, 400)


def test_the_epsilon_is_a_choice_that_is_seen(file: Path) -> None:
    """It moves the features, the fingerprint, the name and the description."""
    one, other = small(file, epsilon="1e-3"), small(file, epsilon="1e-5")
    video = clips(1)
    assert not torch.allclose(one.features(video), other.features(video), rtol=1e-3)
    assert one.fingerprint != other.fingerprint
    assert "1e-3" in one.name and "1e-3" in one.description and "1e-5" in other.name and "1e-5" in other.description


def test_every_choice_and_the_weights_are_in_the_fingerprint(
    state: dict[str, Tensor], file: Path, tmp_path: Path
) -> None:
    """Filter, size and one changed weight each give another; the same again gives the same."""
    changed = tmp_path / "changed.safetensors"
    save_file(state | {"logits.conv3d.bias": state["logits.conv3d.bias"] + 1e-3}, changed)
    detectors = [small(file), small(file, resize="tf1"), small(changed), load_i3d(file, choices=I3DChoices(size=64))]
    prints = [detector.fingerprint for detector in detectors]
    assert len(set(prints)) == 4 and all(re.fullmatch("[0-9a-f]{64}", text) for text in prints)
    assert small(file).fingerprint == prints[0]


def test_a_clip_does_not_see_its_neighbours(file: Path) -> None:
    """Features of a batch, of its parts, and in another grouping are the same to rounding."""
    video, detector = clips(3), load_i3d(file, choices=I3DChoices(**SMALL), clips_at_once=2)
    whole = detector.features(video)
    single = torch.cat([detector.features(video[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[0], whole[1])
    assert detector.features(video[:0]).shape == (0, 400)


@pytest.mark.parametrize(
    ("video", "told"),
    [
        (clips(1).float(), "uint8"),
        (clips(1)[:, :, :1], "uint8 clips"),
        (clips(1)[0], "(9, 3, 32, 32)"),
        (clips(1)[:, :8], "9 frames or more, got 8"),
    ],
)
def test_other_clips_are_refused(file: Path, video: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        small(file).features(video)


def test_the_file_has_as_many_tensors_as_the_published_one(state: dict[str, Tensor]) -> None:
    """TATS' convert_tf_pretrained.py writes five for each of 57 convolutions and two for the logits, no counters."""
    assert len(state) == 57 * 5 + 2


def test_names_are_followed_strictly(state: dict[str, Tensor], tmp_path: Path) -> None:
    """What is missing, not known or of another shape is told in one line; counters of batches may be there."""
    counted = state | {"Conv3d_1a_7x7.bn.num_batches_tracked": torch.tensor(7)}
    cases = {
        "missing": {name: tensor for name, tensor in state.items() if name != "Mixed_4d.b2a.conv3d.weight"},
        "unexpected": state | {"Mixed_6a.b0.conv3d.weight": torch.zeros(1)},
        "has shape (101, 1024, 1, 1, 1), expected (400, 1024, 1, 1, 1)": state
        | {"logits.conv3d.weight": torch.zeros(101, 1024, 1, 1, 1)},
    }
    for told, tensors in cases.items():
        save_file(tensors, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=re.escape(told)) as error:
            small(tmp_path / "other.safetensors")
        assert "\n" not in str(error.value)
    save_file(counted, tmp_path / "other.safetensors")
    assert small(tmp_path / "other.safetensors").features(clips(1)).shape == (1, 400)


def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the reader of untrusted files in this process: starting another takes seconds."""

    def run(words: list[str], path: Path) -> None:
        assert untrusted.main(words) == 0

    monkeypatch.setattr("magi.tokenizers.published.trust._run", run)
    monkeypatch.setattr(untrusted, "limit", lambda size, seconds: None)


def test_the_pickle_and_the_safetensors_file_are_one_network(
    state: dict[str, Tensor], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published format, a pickled state dict, is read as plain tensors, from the environment variable."""
    read_here(monkeypatch)
    torch.save(state, tmp_path / "i3d_pretrained_400.pt")
    monkeypatch.setenv("MAGI_I3D", str(tmp_path / "i3d_pretrained_400.pt"))
    detector = load_i3d(choices=I3DChoices(**SMALL))
    torch.testing.assert_close(detector.features(clips(1)), small(file).features(clips(1)), rtol=1e-4, atol=1e-5)


def test_a_pickle_that_is_code_does_not_run(tmp_path: Path) -> None:
    """It is refused by the reader in its own process, and what it would have written is not there."""
    torch.save({"logits.conv3d.bias": Sentinel(tmp_path / "ran")}, tmp_path / "i3d.pt")
    with pytest.raises(Untrusted, match="is code"):
        load_i3d(tmp_path / "i3d.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("choices", [{"epsilon": "1e-4"}, {"resize": "lanczos"}, {"size": 16}])
def test_other_choices_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(choices))):
        I3DChoices(**choices)
