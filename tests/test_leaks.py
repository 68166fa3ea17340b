"""The promise under every prediction number: what is made depends on the given frames and on nothing after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from magi.distributed import Distributed
from magi.evaluation.by_protocol import ProtocolRun, generate_clips
from magi.evaluation.manifest import Manifest
from magi.evaluation.protocols import WORLD
from magi.evaluation.run import continuations
from magi.sampling import rollout
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.tokenizers.autoencoder import AutoencoderConfig
from magi.tokenizers.causal_autoencoder import CausalAutoencoder
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Tokenizer, to_pixels, to_video
from magi.tokenizers.published.omnitokenizer import OmniTokenizer, OmniTokenizerConfig
from tests.toys import FLOW, tiny, trained_looking

CONTEXT, FRAMES, SIDE = 5, 8, 16
SETTINGS = SampleConfig(mask_steps=2, head_steps=2)
Continue = Callable[[Release, Tensor], Tensor]


def lively(tokenizer: CausalAutoencoder | OmniTokenizer) -> CausalAutoencoder | OmniTokenizer:
    """Weights all random: new ones hold zeros by design, behind which a leak would hide."""
    rng = torch.Generator().manual_seed(0)
    for parameter in tokenizer.parameters():
        parameter.requires_grad_(False).add_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return tokenizer.eval()


def make(kind: str) -> Tokenizer:
    """A tokenizer of 4 x 4 cells of 16-pixel frames."""
    if kind == "per frame":
        return PixelTokenizer(4)
    if kind == "causal":
        config = AutoencoderConfig(
            latent_channels=3, channels=(8, 16), encoder_blocks=(1,), decoder_blocks=(1, 1), norm_groups=4
        )
        return lively(CausalAutoencoder(config))
    return lively(
        OmniTokenizer(
            OmniTokenizerConfig(
                latent_channels=3,
                width=16,
                heads=2,
                head_width=8,
                patch=4,
                encoder_blocks="tt",
                decoder_blocks="t",
                temporal_depth=1,
                window=4,
            )
        )
    )


def release(kind: str) -> Release:
    tokenizer = make(kind)
    config = tiny(
        latent_channels=tokenizer.latent_channels, latent_height=4, latent_width=4, head=FLOW,
        num_frames=tokenizer.latent_shape(13, SIDE, SIDE)[0],
    )  # fmt: skip
    return Release(trained_looking(config, dtype=torch.float32).requires_grad_(False), tokenizer, SETTINGS)


def video(seed: int) -> Tensor:
    """Two clips of noise (2, 13, 3, 16, 16) uint8."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, CONTEXT + FRAMES, 3, SIDE, SIDE), generator=rng, dtype=torch.uint8)


def honest(model: Release, clips: Tensor) -> Tensor:
    return continuations(model, clips, context=CONTEXT, interval=1, seeds=[0, 1])


def encode_everything_then_cut(model: Release, clips: Tensor) -> Tensor:
    """The leak of OmniTokenizer's own evaluation (evaluation.md, 4.3): all frames are encoded, two latents are kept."""
    tokenizer = model.tokenizer
    given = tokenizer.latent_shape(CONTEXT, SIDE, SIDE)[0]
    latents = tokenizer.encode(to_pixels(clips))
    made = rollout.generate(
        model.model, latents[:, :given], num_frames=latents.shape[1] - given, seeds=[0, 1], settings=SETTINGS
    )
    whole = torch.cat([latents[:, :given], torch.stack(list(made), dim=1)], dim=1)
    return to_video(tokenizer.decode(whole))[:, CONTEXT:]


def check_blind_to_what_comes(continue_: Continue, model: Release) -> None:
    """Every pixel after the context is another one; every bit of what is generated must be the same."""
    one, other = video(0), video(0)
    other[:, CONTEXT:] = 255 - one[:, CONTEXT:]  # 255 is odd: no value is its own mirror
    assert (one[:, CONTEXT:] != other[:, CONTEXT:]).all()
    assert torch.equal(continue_(model, one), continue_(model, other)), "what comes after the context shows"


@pytest.mark.parametrize("kind", ["per frame", "causal", "not causal"])
def test_nothing_after_the_context_is_seen(kind: str) -> None:
    """Whatever the tokenizer: per frame, looking back in time, or looking both ways as OmniTokenizer does."""
    check_blind_to_what_comes(honest, release(kind))


@pytest.mark.parametrize("kind", ["per frame", "causal", "not causal"])
@pytest.mark.parametrize("frame", range(CONTEXT))
def test_every_given_frame_is_seen(kind: str, frame: int) -> None:
    """The counterpart: change one given frame and something else is made, or blindness would prove nothing."""
    model, one, other = release(kind), video(0), video(0)
    other[:, frame] = 255 - one[:, frame]
    assert not torch.equal(honest(model, one), honest(model, other))


def test_a_planted_leak_is_found() -> None:
    """Encoding the whole clip and cutting its latents turns the test red where the tokenizer looks ahead; one frame by
    itself cannot tell what comes, so there the same code does not leak."""
    with pytest.raises(AssertionError, match="what comes after the context shows"):
        check_blind_to_what_comes(encode_everything_then_cut, release("not causal"))
    check_blind_to_what_comes(encode_everything_then_cut, release("per frame"))


@dataclass(frozen=True)
class Given:
    """Two real clips by number."""

    video: Tensor
    manifest: Manifest

    def clips(self, numbers: range, *, size: int) -> Tensor:
        return self.video[numbers.start : numbers.stop]


def test_a_protocol_hands_over_the_context_alone(tmp_path: Path) -> None:
    """The same through the whole path of `magi evaluate --protocol`, down to the bytes of the shard."""
    protocol = replace(WORLD, frames=CONTEXT + FRAMES, real_count=2, generated_count=2)
    model, one, other = release("not causal"), video(0), video(0)
    other[:, CONTEXT:] = 255 - one[:, CONTEXT:]
    files = []
    for name, clips in (("one", one), ("other", other)):
        run = ProtocolRun(model, protocol, tmp_path / name, SIDE, SETTINGS)
        folder = generate_clips(run, Given(clips, Manifest("world", "", "", ())), group=Distributed())
        files.append((folder.path(0) / "clips.safetensors").read_bytes())
    assert files[0] == files[1]
