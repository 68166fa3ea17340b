"""Planted bugs of tokenizers, and of what counts their frames."""

from __future__ import annotations

from collections.abc import Callable

from pytest import MonkeyPatch
from torch import Tensor

from magi.sampling import video
from magi.sampling.video import latents_to_make
from magi.tokenizers import causal_autoencoder, streaming
from magi.tokenizers.causal_autoencoder import TimeConvolution
from magi.tokenizers.published import trust
from magi.tokenizers.published.omnitokenizer import OmniTokenizer
from magi.tokenizers.published.omnitokenizer_layers import PositionConvolution
from magi.tokenizers.published.stable_diffusion import StableDiffusionAutoencoder
from tests.mutants.mutant import Mutant


def looks_ahead(patch: MonkeyPatch) -> None:
    """Each temporal convolution sees the two frames that come after instead of those before."""
    right = TimeConvolution.forward

    def wrong(self: TimeConvolution, features: Tensor, past: causal_autoencoder.Past) -> Tensor:
        return right(self, features.flip(1), past).flip(1)

    patch.setattr(TimeConvolution, "forward", wrong)


def repaired_axes(patch: MonkeyPatch) -> None:
    """The position convolution along time sees time where it is, as nobody's weights were trained."""
    right = PositionConvolution.forward

    def wrong(self: PositionConvolution, tokens: Tensor) -> Tensor:
        axis, self.axis = self.axis, "space"
        try:
            return right(self, tokens)
        finally:
            self.axis = axis

    patch.setattr(PositionConvolution, "forward", wrong)


def whole_range(patch: MonkeyPatch) -> None:
    """Pixels enter OmniTokenizer as they are, not halved."""
    right: Callable[..., Tensor] = OmniTokenizer._moments
    patch.setattr(OmniTokenizer, "_moments", lambda self, pixels: right(self, 2 * pixels))


def unscaled(patch: MonkeyPatch) -> None:
    """Stable Diffusion's latents leave as the network gives them."""
    right = StableDiffusionAutoencoder.posterior

    def wrong(self: StableDiffusionAutoencoder, pixels: Tensor, **rest: int) -> object:
        scale = self.scale.clone()
        self.scale.fill_(1)
        try:
            return right(self, pixels, **rest)
        finally:
            self.scale.copy_(scale)

    patch.setattr(StableDiffusionAutoencoder, "posterior", wrong)


def one_more(given: int, num_frames: int, stride: int) -> int:
    """A latent frame more than is shown."""
    return 1 + latents_to_make(given, num_frames, stride)


TEMPORAL, CAUSAL, OMNI, DIFFUSION, TRUST = (
    f"tests/test_{name}.py::"
    for name in ("temporal", "causal_autoencoder", "omnitokenizer", "stable_diffusion", "trust")
)

TOKENIZER_MUTANTS = [
    Mutant("the causal autoencoder looks ahead", looks_ahead, (CAUSAL + "test_it_never_looks_ahead",)),
    Mutant(
        "a latent frame is made that is not shown",
        lambda patch: patch.setattr(video, "latents_to_make", one_more),
        (TEMPORAL + "test_frames_are_those_of_the_latents_decoded_together[leaky-5-4]",),
    ),
    Mutant(
        "what was decoded is shown again",
        lambda patch: patch.setattr(streaming, "pixel_frames", lambda *_: 0),
        (TEMPORAL + "test_streaming_decodes_the_same_frames[groups0-decoded again]",),
    ),
    Mutant(
        "OmniTokenizer's axes are put right",
        repaired_axes,
        (OMNI + "test_later_frames_leak_into_earlier_latents", OMNI + "test_later_latents_leak_into_earlier_frames"),
    ),
    Mutant(
        "OmniTokenizer is shown twice the contrast",
        whole_range,
        (OMNI + "test_the_numbers_are_those_of_the_plain_loops[config0-1-8]",),
    ),
    Mutant(
        "Stable Diffusion's latents are not scaled", unscaled, (DIFFUSION + "test_the_numbers_are_those_of_diffusers",)
    ),
    Mutant(
        "any code may run",
        lambda patch: patch.setattr(trust.Trust, "allows", lambda *_: True),
        (TRUST + "test_trust_is_by_hash",),
    ),
]
