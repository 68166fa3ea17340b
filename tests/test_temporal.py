"""Claims about generating with a tokenizer whose latent frames stand for several frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from magi.evaluation.run import continuations, evaluate
from magi.sampling import rollout
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.sampling.video import generate
from magi.tokenizers.protocol import latent_frames, pixel_frames, to_pixels, to_video
from magi.tokenizers.streaming import decode_stream
from tests.temporal import Groups, StreamedGroups
from tests.toys import FLOW, tiny, trained_looking

CONFIG = tiny(latent_channels=48, latent_height=4, latent_width=4, num_frames=5, head=FLOW)
SETTINGS = SampleConfig(mask_steps=2, head_steps=2)


def release(tokenizer: Groups) -> Release:
    return Release(trained_looking(CONFIG, dtype=torch.float32), tokenizer, SETTINGS)


def video(frames: int, *, seed: int = 0) -> Tensor:
    """Two random videos (2, T, 3, 8, 8) uint8."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, frames, 3, 8, 8), generator=rng, dtype=torch.uint8)


def made(tokenizer: Groups, context: Tensor | None, num_frames: int) -> Tensor:
    return torch.stack(list(generate(release(tokenizer), context, num_frames=num_frames, seeds=[0, 1])), dim=1)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_frames_and_latent_frames_count_each_other(stride: int) -> None:
    """T = 1 + s (t - 1) both ways; in between there is no whole number of latent frames, and the error offers two."""
    for latents in range(1, 9):
        frames = pixel_frames(latents, stride)
        assert latent_frames(frames, stride) == latents
        for more in range(1, stride):
            with pytest.raises(ValueError, match=f"take {frames} or {frames + stride}$"):
                latent_frames(frames + more, stride)


def test_the_toy_is_lossless_and_looks_back() -> None:
    """Its decoder needs the past, or the tests of streaming below would show nothing."""
    pixels = to_pixels(video(17))
    latents = Groups().encode(pixels)
    assert latents.shape == (2, *Groups().latent_shape(17, 8, 8))
    torch.testing.assert_close(Groups().decode(latents), pixels, rtol=0, atol=1e-5)
    assert not torch.equal(Groups().decode(latents[:, 1:])[:, 1:], pixels[:, 5:])


@pytest.mark.parametrize("tokenizer", [Groups(), StreamedGroups()], ids=["decoded again", "remembered"])
@pytest.mark.parametrize("groups", [[1] * 5, [2, 1, 2], [5]])
def test_streaming_decodes_the_same_frames(tokenizer: Groups, groups: list[int]) -> None:
    """However the latents of a causal tokenizer are cut, the frames joined are those of decoding all of them, and each
    group gives the frames that it completes at once."""
    latents = Groups().encode(to_pixels(video(17)))
    parts = list(decode_stream(tokenizer, latents.split(groups, dim=1)))
    assert [part.shape[1] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(groups)]
    torch.testing.assert_close(torch.cat(parts, dim=1), tokenizer.decode(latents), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 4, 6, 12])
@pytest.mark.parametrize("given", [0, 1, 5])
@pytest.mark.parametrize("tokenizer", [Groups(), StreamedGroups(), Groups(leak=0.3)], ids=["causal", "stream", "leaky"])
def test_frames_are_those_of_the_latents_decoded_together(tokenizer: Groups, given: int, num_frames: int) -> None:
    """The frames are the ones after the context when context and generated latents are decoded as one video; of as few
    latents as show them, which matters where each frame depends on all."""
    ready = release(tokenizer)
    context = video(given) if given else None
    latents = None if context is None else tokenizer.encode(to_pixels(context))
    before = latent_frames(given, 4) if given else 0
    count = next(n for n in range(1, 9) if pixel_frames(before + n, 4) >= given + num_frames)
    frames = rollout.generate(ready.model, latents, num_frames=count, seeds=[0, 1], settings=SETTINGS)
    together = torch.stack(list(frames), dim=1)
    if latents is not None:
        together = torch.cat([latents, together], dim=1)
    expected = to_video(tokenizer.decode(together))[:, given : given + num_frames]
    found = made(tokenizer, context, num_frames)
    assert found.shape[1] == num_frames
    assert (found.int() - expected.int()).abs().max() <= 1  # another order of additions may round a level


def test_no_more_latents_are_made_than_are_shown() -> None:
    """Six frames after five are two latent frames, and frames come as soon as theirs is there."""
    calls: list[int] = []

    class Counted(StreamedGroups):
        def decoding(self):  # type: ignore[no-untyped-def]
            decode = super().decoding()
            return lambda latents: (calls.append(latents.shape[1]), decode(latents))[1]

    frames = generate(release(Counted()), video(5), num_frames=6, seeds=[0, 1])
    next(frames)
    assert calls == [2, 1]
    assert len(list(frames)) == 5 and calls == [2, 1, 1]


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_what_comes_after_the_context_changes_nothing(leak: float) -> None:
    """Contexts are encoded alone, so that a leaky encoder cannot tell the future: not a bit of a continuation depends
    on the frames that it is compared with. Encoding the whole clip and keeping its first latents would leak."""
    tokenizer = Groups(leak)
    one, other = video(9), torch.cat([video(9)[:, :5], video(9, seed=1)[:, 5:]], dim=1)
    found = [
        continuations(release(tokenizer), clip, context=5, interval=1, seeds=[0, 1], batch_size=1)
        for clip in (one, other)
    ]
    assert torch.equal(*found)
    leaked = [tokenizer.encode(to_pixels(clip))[:, :2] for clip in (one, other)]
    assert torch.equal(*leaked) == (leak == 0)


@pytest.mark.parametrize(("context", "frames"), [(4, 5), (5, 3)])
def test_lengths_that_do_not_fit_are_refused_before_the_work(context: int, frames: int) -> None:
    """A context or a clip that is not of whole latent frames cannot be encoded; nothing is generated first."""
    with pytest.raises(ValueError, match="do not make whole latent frames"):
        evaluate(release(Groups()), video(context + frames), context=context, interval=1)
    if context == 4:
        with pytest.raises(ValueError, match=r"4 frames do not make whole latent frames.*take 1 or 5"):
            generate(release(Groups()), video(4), num_frames=4, seeds=[0, 1])
