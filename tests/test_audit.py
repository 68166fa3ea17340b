"""Claims about the audit of tokenizers, and about their statistics: what is honest passes, each lie is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from magi import cli
from magi.cli import tokenizer_audit
from magi.data.world import World, WorldConfig
from magi.experiments.smoke import write_cosmos
from magi.tokenizers.audit import SAME, Finding, audit, relative_change
from magi.tokenizers.causal_autoencoder import CausalAutoencoder
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Posterior, Tokenizer, to_pixels
from magi.tokenizers.published.facts import PUBLISHED
from magi.tokenizers.statistics import channel_moments, measure_statistics
from magi.tokenizers.store import load_tokenizer
from tests.temporal import Groups, StreamedGroups
from tests.test_causal_autoencoder import SMALL, lively

CLIPS = to_pixels(World(WorldConfig(size=32, num_frames=9)).clips(range(2)).video)
WATCHES = ("prefix", "one by one", "twice", "other clips", "latents of", "decoded")
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wrapped:
    """A tokenizer that does something before and after another, whatever it says of itself."""

    inner: Tokenizer = field(default_factory=lambda: PixelTokenizer(8))
    before_encode: Step = lambda pixels: pixels
    after_encode: Step = lambda latents: latents
    before_decode: Step = lambda latents: latents
    after_decode: Step = lambda pixels: pixels
    says: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return self.says.get(name, getattr(self.inner, name))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.after_encode(self.inner.encode(self.before_encode(pixels)))

    def posterior(self, pixels: Tensor) -> Posterior:
        return Posterior(self.encode(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        return self.after_decode(self.inner.decode(self.before_decode(latents)))


class Forgetful(StreamedGroups):
    """Decodes each latent frame as if it were the first that had a past."""

    def decoding(self) -> Callable[[Tensor], Tensor]:
        begun: list[bool] = []

        def decode(latents: Tensor) -> Tensor:
            frames = self.decode(torch.cat([torch.zeros_like(latents[:, :1]), latents], dim=1))[:, 1:]
            shown = frames if begun else frames[:, 3:]
            begun.append(True)
            return shown

        return decode


def look(tokenizer: Any, **options: Any) -> dict[str, Finding]:
    found = list(audit(tokenizer, CLIPS, **options))
    assert len({one.check for one in found}) == len(found)
    return {one.check: one for one in found}


def broken(tokenizer: Any, **options: Any) -> set[str]:
    return {check for check, finding in look(tokenizer, **options).items() if finding.holds is False}


@pytest.mark.parametrize(
    "tokenizer",
    [PixelTokenizer(4), load_tokenizer("world64"), StreamedGroups(), Groups(), Groups(leak=1e-2)],
    ids=["pixel", "autoencoder", "streamed groups", "groups", "leaky, and says so"],
)
def test_the_honest_pass(tokenizer: Tokenizer) -> None:
    """No claim of a tokenizer that keeps its word is found broken: with and without parameters, temporal stride and
    memory; and what is not causal and does not claim to be is measured, not accused."""
    found = look(tokenizer)
    assert not [one for one in found.values() if one.holds is False]
    leak = found["encoder: prefix, suffix replaced"]
    assert leak.holds is (True if tokenizer.is_causal else None) and leak.value is not None
    assert (leak.value <= SAME[torch.float32]) == tokenizer.is_causal


def test_an_untrained_autoencoder_is_causal_and_no_good() -> None:
    """Structure is right before any training: the causal autoencoder fails where it must have learnt, nowhere else."""
    failed = broken(lively(SMALL, torch.float32))
    assert "round trip, PSNR" in failed
    assert not [check for check in failed if any(word in check for word in WATCHES)]


def leak_late(latents: Tensor) -> Tensor:
    """Every latent frame hears of the last one."""
    return latents + 0.05 * latents[:, -1:]


PREFIX = {"encoder: prefix, suffix replaced", "encoder: prefix alone, not in the whole"}
SUFFIX = {"decoder: prefix, suffix replaced", "decoder: latents one by one, not at once"}
LATENTS = {"latents of 9 frames", "latents of 1 frame"}
LIES: dict[str, tuple[Any, set[str]]] = {
    "leaks in the encoder": (Wrapped(after_encode=leak_late), PREFIX),
    "leaks in the decoder": (Wrapped(Groups(), before_decode=leak_late), SUFFIX),
    "height and width exchanged": (
        Wrapped(after_encode=lambda z: z.mT, before_decode=lambda z: z.mT),
        {f"{what} at {place}" for what in ("encoder: a square", "decoder: a cell") for place in ((0, 0, 3), (8, 3, 0))},
    ),
    "time backwards": (
        Wrapped(Groups(), after_encode=lambda z: z.flip(1), before_decode=lambda z: z.flip(1)),
        {f"{what} at {place}" for what in ("encoder: a square", "decoder: a cell")
         for place in ((0, 0, 15), (2, 15, 0))} | PREFIX | SUFFIX,
    ),
    "pixels from 0 to 1": (
        Wrapped(before_encode=lambda x: (x + 1) / 2), {"offset of an even grey", "contrast kept", "round trip, PSNR"},
    ),
    "pixels beyond the range": (Wrapped(after_decode=lambda x: x * 1.1), {"decoded pixels"}),
    "noise in the latents": (
        Wrapped(after_encode=lambda z: z + 0.01 * torch.randn_like(z)),
        {"encoded twice", "encoded without the other clips"} | PREFIX,
    ),
    "clips that mix": (
        Wrapped(after_encode=lambda z: z - 0.1 * z.mean(dim=0, keepdim=True)),
        {"encoded without the other clips"} | PREFIX,
    ),
    "a stream that forgets": (Forgetful(), {"decoder: latents one by one, not at once"}),
    "not a number": (
        Wrapped(after_decode=lambda x: torch.full_like(x, torch.nan) if torch.is_autocast_enabled("cpu") else x),
        {"decoder: bf16, not float32"},
    ),
    "finer than it says": (Wrapped(PixelTokenizer(4), says={"spatial_stride": 8}), LATENTS),
    "other channels than it says": (Wrapped(says={"latent_channels": 4}), LATENTS),
    "frames that are lost": (Wrapped(after_decode=lambda x: x[:, :-1]), {"9 frames decoded", "1 frame decoded"}),
    "takes any number of frames": (
        Wrapped(Groups(), says={"latent_shape": lambda t, h, w: (1 + (t - 1) // 4, 48, h // 2, w // 2)}),
        {"10 frames, no whole latent frames"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_caught(lie: str) -> None:
    """A tokenizer right in all but one thing is told from a right one, and by the check that is about that thing."""
    torch.manual_seed(0)
    tokenizer, expected = LIES[lie]
    assert broken(tokenizer) == expected


def test_shapes_come_first() -> None:
    """With wrong shapes nothing else can be compared, so nothing else is claimed to have been looked at."""
    assert "round trip, PSNR" not in look(Wrapped(PixelTokenizer(4), says={"spatial_stride": 8}))


def test_quality_is_asked_for() -> None:
    """A constant picture is no reconstruction; and what is enough otherwise is for the user to say."""
    blind = Wrapped(after_decode=lambda x: x.mean(dim=(1, 3, 4), keepdim=True).expand_as(x))
    assert "round trip, PSNR" in broken(blind)
    assert broken(PixelTokenizer(4), least_psnr=99) == set()
    assert broken(load_tokenizer("world64"), least_psnr=99) == {"round trip, PSNR"}


def test_too_little_to_tell_is_refused() -> None:
    """One clip cannot show that clips do not mix, nor two frames what comes before and after both."""
    with pytest.raises(ValueError, match="2 clips of 3 frames and 32 pixels, or more"):
        list(audit(PixelTokenizer(8), CLIPS[:1]))
    with pytest.raises(ValueError, match="too few"):
        list(audit(PixelTokenizer(16), CLIPS))


def test_the_command_fails_where_a_claim_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 0 and 1 tell a script which it was; the failures are listed, and the file holds every finding."""
    words = ["tokenizer", "audit", "pixel:8", "--frames", "9", "--size", "32", "--json", str(tmp_path / "audit.json")]
    assert cli.main(words) == 0
    shown, record = capsys.readouterr().out, json.loads((tmp_path / "audit.json").read_text())
    assert record["holds"] and all(one["check"] in shown and one["found"] in shown for one in record["findings"])
    monkeypatch.setattr(tokenizer_audit, "load_tokenizer", lambda name: Wrapped(after_encode=leak_late))
    assert cli.main(words) == tokenizer_audit.BROKEN == 1
    assert "encoder: prefix, suffix replaced: expected the same, to 0.0001, found" in capsys.readouterr().out
    assert not json.loads((tmp_path / "audit.json").read_text())["holds"]


# Statistics


def test_moments_are_those_of_all_values_together() -> None:
    """Batch by batch, of unequal sizes, they are what torch says of everything at once, far from zero too."""
    batches = [1000 + torch.randn(b, 2, 3, 4, 4, dtype=torch.float64) for b in (1, 4, 2)]
    mean, deviation, count = channel_moments(batches)
    values = torch.cat(batches).transpose(1, 2).transpose(0, 1).flatten(1)
    assert count == values.shape[1]
    torch.testing.assert_close(mean, values.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(deviation, values.std(1, correction=0), rtol=1e-10, atol=0)


def test_failing_leaves_the_statistics_alone() -> None:
    """A tokenizer whose new data cannot be measured goes on with what it had."""
    model = lively(SMALL, torch.float32)
    before = model.shift.clone(), model.scale.clone()
    with pytest.raises(ValueError, match="at least one batch"):
        measure_statistics(model, [])
    assert torch.equal(model.shift, before[0]) and torch.equal(model.scale, before[1])


def test_stats_writes_a_normalised_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder loads as a tokenizer whose latents have mean 0 and variance 1 on those clips, decoding as before."""
    out, words = tmp_path / "mine", "--data world --clips 6 --frames 5 --batch 4 --max-interval 3 --device cpu".split()
    assert cli.main(["tokenizer", "stats", "world64", *words, "--out", str(out)]) == 0
    made, old = load_tokenizer(str(out)), load_tokenizer("world64")
    pixels = to_pixels(World(WorldConfig(num_frames=5, max_interval=3)).clips(range(6)).video)
    mean, deviation, count = channel_moments([made.encode(pixels)])
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.ones_like(mean), rtol=1e-5, atol=0)
    assert relative_change(made.decode(made.encode(pixels)), old.decode(old.encode(pixels))) < 1e-5
    shown = capsys.readouterr().out
    assert f"{count:,} values of each channel" in shown and "6 clips" in shown
    assert json.loads((out / "config.json").read_text())["statistics"]["clips"] == 6
    for name, told in (("pixel:8", "has no statistics"), ("world64", "exists; give another --out")):
        assert cli.main(["tokenizer", "stats", name, "--data", "world", "--out", str(out)]) == cli.MISUSE
        assert told in capsys.readouterr().err


def test_stats_keep_where_a_tokenizer_comes_from(tmp_path: Path) -> None:
    """Of published weights the licence goes on to hold, and the name: measured, they are still loaded by it. What was
    never published is not said to be."""
    write_cosmos(tmp_path / "placed")
    words = "--data world --size 32 --frames 5 --clips 1 --device cpu".split()
    names = (
        f"cosmos-cv4x8x8:{tmp_path / 'placed'}",
        f"cosmos-cv4x8x8:{tmp_path / '0'}",
        str(tmp_path / "1"),
        "world64",
    )
    for number, name in enumerate(names):
        assert cli.main(["tokenizer", "stats", name, *words, "--out", str(tmp_path / str(number))]) == 0
        told = json.loads((tmp_path / str(number) / "config.json").read_text()).get("source")
        if name == "world64":
            assert told is None
        else:
            assert (told["name"], told["licence"]) == ("cosmos-cv4x8x8", PUBLISHED["cosmos-cv4x8x8"].licence)
            assert told["licence"] in (tmp_path / str(number) / "README.md").read_text()
            load_tokenizer(f"cosmos-cv4x8x8:{tmp_path / str(number)}")


def test_what_has_statistics_is_known_by_them() -> None:
    """Any tokenizer with shift and scale can be measured, and no other."""
    from magi.tokenizers.statistics import Normalised

    assert isinstance(CausalAutoencoder(SMALL), Normalised) and not isinstance(PixelTokenizer(4), Normalised)


PARTS = (  # of a clip or of the clips, which are encoded alone and compared
    *("encoded without the other clips", "encoder: prefix, suffix replaced", "encoder: prefix alone, not in the whole"),
)


class Coarse(nn.Module):
    """Squares of pixels, a thousandth off where more than one video is encoded, as other sums may be."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.inner, self.weight = PixelTokenizer(8), nn.Parameter(torch.zeros(1, dtype=kind))
        self.latent_channels, self.spatial_stride = self.inner.latent_channels, self.inner.spatial_stride
        self.temporal_stride, self.is_causal = 1, True
        self.latent_shape, self.decode = self.inner.latent_shape, self.inner.decode

    def posterior(self, pixels: Tensor) -> Posterior:
        return Posterior(self.encode(pixels))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.inner.encode(pixels) * (1 + 1e-3 * (len(pixels) > 1))


@pytest.mark.parametrize(("kind", "failing"), [(torch.float32, {*PARTS}), (torch.bfloat16, set())])
def test_rounding_is_that_of_the_weights(kind: torch.dtype, failing: set[str]) -> None:
    """A thousandth is what bfloat16 weights may round off, and far more than float32 ones do."""
    assert broken(Coarse(kind)) == failing
