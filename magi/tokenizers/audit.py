"""Whether a tokenizer keeps what it claims: shapes, axes, causality, and equality of whatever must not matter.

Trusts nothing but the numbers that come out. Knows no architecture and no file, and prints nothing.

Shapes:
    B videos, T = 1 + s (t - 1) frames, H x W pixels; t latent frames, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from magi.seeds import generator
from magi.tokenizers.protocol import Tokenizer, latent_frames, pixel_frames
from magi.tokenizers.streaming import decode_stream

# Relative change that rounding explains, by the type of the weights: the same numbers are added in another order.
SAME = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
OFFSET = 0.1  # a twentieth of the range of a pixel
GAIN = 0.2  # how far from 1 the contrast of a reconstruction may be
NEAR = 1  # cells: convolutions spread what they see
PUSH = 3.0  # deviations by which a latent value is moved
FEWEST_LATENTS, FEWEST_CELLS = 3, 4  # a beginning, a middle and an end; corners that are not next to each other


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    claim: str  # what must be, or what the tokenizer says of itself
    found: str
    value: float | None = None  # the number behind `found`, if it is one
    holds: bool | None = None  # None where nothing is claimed


@torch.no_grad()
def audit(tokenizer: Tokenizer, pixels: Tensor, *, least_psnr: float | None = None) -> Iterator[Finding]:
    """Look at a tokenizer, one finding after the other; if a shape is wrong, at shapes alone.

    Args:
        tokenizer: on the device of `pixels`.
        pixels: (B, T, 3, H, W) in [-1, 1], at least two clips like those it is for, of at least `FEWEST_LATENTS` latent
            frames and `FEWEST_CELLS` cells along height and width.
        least_psnr: of the round trip, in dB; unless given it must beat the mean colour of each clip.

    Raises:
        ValueError: there are too few clips, frames or pixels to tell.
    """
    stride, space = tokenizer.temporal_stride, tokenizer.spatial_stride
    clips, num_frames, _, *size = pixels.shape
    frames = latent_frames(num_frames, stride)
    if clips < 2 or frames < FEWEST_LATENTS or min(size) < FEWEST_CELLS * space:
        raise ValueError(
            f"{clips} clips of {num_frames} frames and {min(size)} pixels are too few to tell anything; take 2 clips "
            f"of {pixel_frames(FEWEST_LATENTS, stride)} frames and {FEWEST_CELLS * space} pixels, or more"
        )
    are_right = True
    for finding in shapes(tokenizer, pixels):
        are_right &= finding.holds is not False
        yield finding
    if not are_right:
        return
    latents, one = tokenizer.encode(pixels), pixels[:1]
    reconstructed = tokenizer.decode(latents)
    yield from round_trip(reconstructed, pixels, least_psnr=least_psnr)
    yield from levels(tokenizer, reconstructed, pixels)
    yield from normalisation(latents)
    yield from axes(tokenizer, one, latents=latents[:1])
    yield from repeats(tokenizer, pixels, latents=latents)
    yield from causality(tokenizer, one, latents=latents[:1])
    yield from pieces(tokenizer, one, latents=latents[:1])
    yield from half_precision(tokenizer, one, latents=latents[:1])


def shapes(tokenizer: Tokenizer, pixels: Tensor) -> Iterator[Finding]:
    """Latents and frames are as many and as large as the strides say: of the whole clips, and of one frame alone."""
    stride, space = tokenizer.temporal_stride, tokenizer.spatial_stride
    clips, num_frames, _, height, width = pixels.shape
    for frames in (num_frames, 1):
        part, words = pixels[:, :frames], "1 frame" if frames == 1 else f"{frames} frames"
        shape = (1 + (frames - 1) // stride, tokenizer.latent_channels, height // space, width // space)
        said = tuple(tokenizer.latent_shape(frames, height, width))
        posterior, latents = tokenizer.posterior(part), tokenizer.encode(part)
        parts = [latents, posterior.mean, *([] if posterior.deviation is None else [posterior.deviation])]
        made = {tuple(x.shape[1:]) for x in parts}
        is_right = said == shape and made == {shape} and all(len(x) == clips for x in parts)
        told = " and ".join(map(str, sorted(made))) + ("" if said == shape else f"; latent_shape says {said}")
        yield Finding(f"latents of {words}", str(shape), told, holds=is_right)
        if is_right:
            decoded = tuple(tokenizer.decode(latents).shape)
            yield Finding(f"{words} decoded", str(tuple(part.shape)), str(decoded), holds=decoded == part.shape)
    if stride > 1:
        try:
            tokenizer.latent_shape(num_frames + 1, height, width)
            refused = False
        except ValueError:
            refused = True
        check = f"{num_frames + 1} frames, no whole latent frames"
        yield Finding(check, "refused", "refused" if refused else "taken", holds=refused)


def round_trip(reconstructed: Tensor, pixels: Tensor, *, least_psnr: float | None) -> Iterator[Finding]:
    """Clips (B, T, 3, H, W) survive encoding and decoding better than as one colour, or as well as is asked for."""
    flat = reduce(pixels, "b t c h w -> b 1 c 1 1", "mean").expand_as(pixels)
    least = psnr(flat, pixels) if least_psnr is None else least_psnr
    found = psnr(reconstructed, pixels)
    claim = f"above {least:.2f} dB" + (", the mean colour's" if least_psnr is None else "")
    yield Finding("round trip, PSNR", claim, f"{found:.2f} dB", found, found > least)
    extreme = float(reconstructed.abs().max())
    yield Finding("decoded pixels", "in [-1, 1]", f"up to {extreme:.3f}", extreme, extreme <= 1)


def levels(tokenizer: Tokenizer, reconstructed: Tensor, pixels: Tensor) -> Iterator[Finding]:
    """Brightness and contrast of clips (B, T, 3, H, W) are kept: a wrong range of pixels shows as an offset or a gain.

    The grey is as bright as the clips are, since a tokenizer of dark scenes need not know a bright one.
    """
    grey = pixels.mean().expand_as(pixels[:1])
    offset = float((tokenizer.decode(tokenizer.encode(grey)) - grey).mean())
    claim = f"within {OFFSET} of 0"
    yield Finding("offset of an even grey", claim, f"{offset:+.3f}", offset, abs(offset) <= OFFSET)
    centred, truth = reconstructed - reconstructed.mean(), pixels - pixels.mean()
    gain = float((centred * truth).mean() / truth.square().mean().clamp(min=1e-12))
    yield Finding("contrast kept", f"within {GAIN} of 1", f"{gain:.3f}", gain, abs(gain - 1) <= GAIN)


def normalisation(latents: Tensor) -> Iterator[Finding]:
    """How far from normalised the channels of latents (B, t, C, h, w) are on these clips: for information."""
    channels = rearrange(latents, "b t c h w -> c (b t h w)")
    mean, deviation = channels.mean(dim=1), channels.std(dim=1, correction=0)
    offset = float(mean.abs().max())
    yield Finding("channel means", "about 0", f"{float(mean.min()):+.2f} to {float(mean.max()):+.2f}", offset)
    worst = float((deviation.clamp(min=1e-12).log()).abs().max().exp())
    spread = f"{float(deviation.min()):.2f} to {float(deviation.max()):.2f}"
    yield Finding("channel deviations", "about 1", spread, worst)


def axes(tokenizer: Tokenizer, pixels: Tensor, *, latents: Tensor) -> Iterator[Finding]:
    """A square that appears in a corner of a clip (1, T, 3, H, W) moves the latents there, and the other way round."""
    stride, space = tokenizer.temporal_stride, tokenizer.spatial_stride
    frames, _, height, width = latents.shape[1:]
    before = tokenizer.decode(latents)
    for place in ((0, 0, width - 1), (frames - 1, height - 1, 0)):
        time, row, column = place
        shown = slice(pixel_frames(time, stride) if time else 0, pixel_frames(time + 1, stride))
        rows, columns = (slice(space * start, space * (start + 1)) for start in (row, column))
        changed = pixels.clone()
        square = changed[:, shown, :, rows, columns]
        square[:] = 1 if float(square.mean()) < 0 else -1
        seen = (tokenizer.encode(changed) - latents)[0].abs()
        yield _nearest(f"encoder: a square at {place}", "seen", place, reduce(seen, "t c h w -> t h w", "sum"))

        moved = torch.zeros_like(pixels[0])
        for push in (PUSH, -PUSH):  # one of them may lead where pixels are already as dark as they get
            pushed = latents.clone()
            pushed[:, time, :, row, column] += push
            moved += (tokenizer.decode(pushed) - before)[0].abs()
        cells = reduce(moved, "t c (h i) (w j) -> t h w", "mean", i=space, j=space)
        later = reduce(cells[1:], "(t s) h w -> t h w", "mean", s=stride)
        yield _nearest(f"decoder: a cell at {place}", "shown", place, torch.cat([cells[:1], later]))


def repeats(tokenizer: Tokenizer, pixels: Tensor, *, latents: Tensor) -> Iterator[Finding]:
    """Clips (B, T, 3, H, W) have the same latents every time, and whatever is encoded beside them."""
    again = relative_change(tokenizer.encode(pixels), latents)
    yield _same("encoded twice", again, tokenizer)
    alone = relative_change(tokenizer.encode(pixels[-1:]), latents[-1:])
    yield _same("encoded without the other clips", alone, tokenizer)


def causality(tokenizer: Tokenizer, pixels: Tensor, *, latents: Tensor) -> Iterator[Finding]:
    """Whether the beginning of a clip (1, T, 3, H, W) changes when noise replaces what comes after it, either way."""
    random = generator(0, "audit")
    noise = torch.from_numpy(random.uniform(-1, 1, pixels.shape)).to(pixels)
    latent_noise = torch.from_numpy(random.standard_normal(latents.shape)).to(latents)
    shown, encoder, decoder = tokenizer.decode(latents), [], []
    for kept in _cuts(latents.shape[1]):
        frames = pixel_frames(kept, tokenizer.temporal_stride)
        replaced = tokenizer.encode(torch.cat([pixels[:, :frames], noise[:, frames:]], dim=1))
        encoder.append(relative_change(replaced[:, :kept], latents[:, :kept]))
        decoded = tokenizer.decode(torch.cat([latents[:, :kept], latent_noise[:, kept:]], dim=1))
        decoder.append(relative_change(decoded[:, :frames], shown[:, :frames]))
    yield _same("encoder: prefix, suffix replaced", max(encoder), tokenizer, is_claimed=tokenizer.is_causal)
    yield _same("decoder: prefix, suffix replaced", max(decoder), tokenizer, is_claimed=tokenizer.is_causal)


def pieces(tokenizer: Tokenizer, pixels: Tensor, *, latents: Tensor) -> Iterator[Finding]:
    """Whether prefixes of a clip (1, T, 3, H, W) encoded alone, and latents decoded as they come, are as in the whole.

    Streams are equal by contract whether causal or not: what is not causal waits for the last latent.
    """
    alone = []
    for kept in _cuts(latents.shape[1]):
        prefix = pixels[:, : pixel_frames(kept, tokenizer.temporal_stride)]
        alone.append(relative_change(tokenizer.encode(prefix), latents[:, :kept]))
    yield _same("encoder: prefix alone, not in the whole", max(alone), tokenizer, is_claimed=tokenizer.is_causal)
    streamed = torch.cat(list(decode_stream(tokenizer, latents.split(1, dim=1))), dim=1)
    whole = tokenizer.decode(latents)
    if streamed.shape != whole.shape:
        found = f"{streamed.shape[1]} frames"
        yield Finding("decoder: latents one by one", f"{whole.shape[1]} frames", found, holds=False)
    else:
        yield _same("decoder: latents one by one, not at once", relative_change(streamed, whole), tokenizer)


def half_precision(tokenizer: Tokenizer, pixels: Tensor, *, latents: Tensor) -> Iterator[Finding]:
    """What bf16 autocast changes of a clip (1, T, 3, H, W): for information, as long as it is finite."""
    whole = tokenizer.decode(latents)
    with torch.autocast(pixels.device.type, torch.bfloat16):
        coarse, shown = tokenizer.encode(pixels), tokenizer.decode(latents)
    for name, now, before in (("encoder", coarse, latents), ("decoder", shown, whole)):
        change, is_finite = relative_change(now, before), bool(now.isfinite().all())
        yield Finding(f"{name}: bf16, not float32", "finite", f"{change:.1e}", change, holds=is_finite)


def relative_change(now: Tensor, before: Tensor) -> float:
    """Root mean square of the difference of two tensors of shape (...), relative to that of the second."""
    difference, size = (float(x.double().square().mean().sqrt()) for x in (now.cpu() - before.cpu(), before.cpu()))
    return difference / max(size, 1e-12)


def psnr(video: Tensor, truth: Tensor) -> float:
    """Mean over frames of the peak signal-to-noise ratio in dB, at most 100, of pixels (B, T, 3, H, W) in [-1, 1]."""
    error = reduce((video - truth).square(), "b t c h w -> b t", "mean")
    return float((-10 * torch.log10(error / 4)).clamp(max=100).mean())


def rounding(tokenizer: Tokenizer) -> float:
    """The relative change that rounding explains: that of the coarsest of its weights."""
    types = {weight.dtype for weight in tokenizer.parameters()} if isinstance(tokenizer, nn.Module) else set()
    return max((SAME[kind] for kind in types & SAME.keys()), default=SAME[torch.float32])


def _cuts(frames: int) -> list[int]:
    """Latent frames of the beginnings that are looked at: the shortest, one in the middle, the longest."""
    return sorted({1, frames // 2, frames - 1})


def _same(check: str, change: float, tokenizer: Tokenizer, *, is_claimed: bool = True) -> Finding:
    within = rounding(tokenizer)
    claim = f"the same, to {within:g}" if is_claimed else "not claimed"
    return Finding(check, claim, f"{change:.1e}", change, (change <= within) if is_claimed else None)


def _nearest(check: str, verb: str, place: tuple[int, int, int], change: Tensor) -> Finding:
    """Where a change (t, h, w) is largest, and whether that is where it was made."""
    found = tuple(int(i) for i in torch.unravel_index(change.argmax(), change.shape))
    is_near = bool(change.max() > 0) and all(abs(a - b) <= NEAR for a, b in zip(found, place, strict=True))
    told = f"at {found} of {tuple(change.shape)}" if bool(change.max() > 0) else "nowhere"
    return Finding(check, f"{verb} there, or next to it", told, holds=is_near)
