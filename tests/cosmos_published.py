"""A small Cosmos tokenizer as NVIDIA publishes one: another implementation than diffusers', by the published names.

Its submodules are called as in the published TorchScript files, so that a traced pair of it has their state dicts; the
sums are written anew from the paper (arXiv 2501.03575, section 3) and are an oracle for diffusers' network as we set it
up. Of no training, and small.

Shapes: (b, c, t, h, w) everywhere.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

PATCH = 4


class Convolution(nn.Module):
    """Over time only what came before, the first frame repeated where there is nothing."""

    def __init__(
        self, source: int, target: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
    ):
        super().__init__()
        self.conv3d = nn.Conv3d(source, target, kernel, stride)
        self.before = kernel[0] - stride[0]
        self.around = (kernel[1] // 2) if stride[1] == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :, :1]] * self.before + [x], dim=2)
        return self.conv3d(functional.pad(x, (self.around,) * 4))


def factorised(source: int, target: int) -> nn.Sequential:
    return nn.Sequential(Convolution(source, target, (1, 3, 3)), Convolution(target, target, (3, 1, 1)))


class Norm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.norm(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=x.shape[0])


class Block(nn.Module):
    def __init__(self, source: int, target: int):
        super().__init__()
        self.norm1, self.conv1 = Norm(source), factorised(source, target)
        self.norm2, self.conv2 = Norm(target), factorised(target, target)
        self.nin_shortcut = Convolution(source, target, (1, 1, 1)) if source != target else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        update = self.conv1(functional.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(functional.silu(self.norm2(update)))


class Attention(nn.Module):
    """Among the places of a frame, or of a place among the frames up to now."""

    def __init__(self, channels: int, *, in_time: bool):
        super().__init__()
        self.norm = Norm(channels)
        self.q, self.k, self.v, self.proj_out = (Convolution(channels, channels, (1, 1, 1)) for _ in range(4))
        self.in_time = in_time

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        batch, height = x.shape[0], x.shape[3]
        pattern = "b c t h w -> (b h w) t c" if self.in_time else "b c t h w -> (b t) (h w) c"
        q, k, v = (rearrange(part(normed), pattern) for part in (self.q, self.k, self.v))
        scores = q @ k.transpose(1, 2) * x.shape[1] ** -0.5
        if self.in_time:
            later = torch.ones_like(scores).triu(1).bool()
            scores = scores.masked_fill(later, float("-inf"))
        mixed = scores.softmax(dim=-1) @ v
        if self.in_time:
            mixed = rearrange(mixed, "(b h w) t c -> b c t h w", b=batch, h=height)
        else:
            mixed = rearrange(mixed, "(b t) (h w) c -> b c t h w", b=batch, h=height)
        return x + self.proj_out(mixed)


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.block_2 = Block(channels, channels), Block(channels, channels)
        self.attn_1 = nn.Sequential(Attention(channels, in_time=False), Attention(channels, in_time=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Stride(nn.Module):
    """Down or up, in time, in space, in both or in neither; all three convolutions are there whatever is used."""

    def __init__(self, channels: int, *, down: bool, space: bool, time: bool):
        super().__init__()
        spatial, temporal = (2, 2) if down else (1, 1)
        in_space = Convolution(channels, channels, (1, 3, 3), (1, spatial, spatial))
        in_time = Convolution(channels, channels, (3, 1, 1), (temporal, 1, 1))
        self.conv1, self.conv2 = (in_space, in_time) if down else (in_time, in_space)
        self.conv3 = Convolution(channels, channels, (1, 1, 1))
        self.down, self.space, self.time = down, space, time

    def forward(self, x: Tensor) -> Tensor:
        if not (self.space or self.time):
            return x
        if self.down and self.space:
            x = functional.pad(x, (0, 1, 0, 1))
            x = self.conv1(x) + functional.avg_pool3d(x, (1, 2, 2))
        if self.down and self.time:
            x = torch.cat([x[:, :, :1], x], dim=2)
            x = self.conv2(x) + functional.avg_pool3d(x, (2, 1, 1))
        if not self.down and self.time:
            x = repeat(x, "b c t h w -> b c (t two) h w", two=2)[:, :, 1:]
            x = self.conv1(x) + x
        if not self.down and self.space:
            x = repeat(x, "b c t h w -> b c t (h i) (w j)", i=2, j=2)
            x = self.conv2(x) + x
        return self.conv3(x)


class Haar(nn.Module):
    """Blocks of two frames, rows and columns to their sums and differences, twice over; orthogonal, so it inverts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("wavelets", torch.full((2,), 0.5**0.5))  # as published; not a weight

    def cube(self) -> Tensor:
        """(8, 2, 2, 2), the bands of a block, orthonormal; its axes are time, rows and columns."""
        one = torch.stack([self.wavelets, self.wavelets * (1 - 2 * torch.arange(2))])
        return rearrange(torch.einsum("ai,bj,ck->abcijk", one, one, one), "a b c i j k -> (a b c) i j k")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :, :1]] * (PATCH - 1) + [x], dim=2)
        for _ in range(2):
            cells = rearrange(x, "b c (t i) (h j) (w k) -> b c t h w i j k", i=2, j=2, k=2)
            x = rearrange(
                torch.einsum("bcthwijk,mijk->bmcthw", cells, self.cube() / 8**0.5), "b m c t h w -> b (m c) t h w"
            )
        return x


class Inverse(Haar):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            bands = rearrange(x, "b (m c) t h w -> b m c t h w", m=8)
            cells = torch.einsum("bmcthw,mijk->bcthwijk", bands, self.cube() * 8**0.5)
            x = rearrange(cells, "b c t h w i j k -> b c (t i) (h j) (w k)")
        return x[:, :, PATCH - 1 :]


class Level(nn.Module):
    def __init__(self, widths: list[int]):
        super().__init__()
        self.block = nn.ModuleList(Block(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList()


class Encoder(nn.Module):
    def __init__(self, widths: tuple[int, ...], *, blocks: int, latents: int, temporal: int):
        super().__init__()
        self.patcher3d = Haar()
        self.conv_in = factorised(3 * PATCH**3, widths[0])
        self.down = nn.ModuleList()
        for level, (source, target) in enumerate(pairwise(widths)):
            self.down.append(Level([source] + [target] * blocks))
            if level < len(widths) - 2:
                first = level == 0
                self.down[-1].downsample = Stride(target, down=True, space=first, time=first and temporal == 8)
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = Norm(widths[-1]), factorised(widths[-1], latents)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(self.patcher3d(x))
        for level in self.down:
            for block in level.block:
                x = block(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, widths: tuple[int, ...], *, blocks: int, latents: int, temporal: int):
        super().__init__()
        *levels, coarsest = widths
        self.conv_in = factorised(latents, coarsest)
        self.mid = Middle(coarsest)
        self.up = nn.ModuleList()
        for level in range(len(levels)):
            source = levels[level + 1] if level + 1 < len(levels) else coarsest
            self.up.append(Level([source] + [levels[level]] * (blocks + 1)))
            if level > 0:
                step = len(levels) - 1 - level  # from the coarsest on
                time = temporal == 8 and step == 1
                self.up[-1].upsample = Stride(
                    levels[level], down=False, space=time or (temporal == 4 and step == 0), time=time
                )
        self.norm_out, self.conv_out = Norm(levels[0]), factorised(levels[0], 3 * PATCH**3)
        self.unpatcher3d = Inverse()

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.unpatcher3d(self.conv_out(functional.silu(self.norm_out(x))))


class WholeEncoder(nn.Module):
    def __init__(self, encoder: Encoder, latents: int):
        super().__init__()
        self.encoder = encoder
        self.quant_conv = Convolution(latents, latents, (1, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.quant_conv(self.encoder(x))
        return latents, torch.zeros_like(latents)  # a deterministic "distribution"


class WholeDecoder(nn.Module):
    def __init__(self, decoder: Decoder, latents: int):
        super().__init__()
        self.post_quant_conv = Convolution(latents, latents, (1, 1, 1))
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(x))


class Whole(nn.Module):
    """Encoder and decoder in one, as in autoencoder.jit."""

    def __init__(self, encoder: WholeEncoder, decoder: WholeDecoder):
        super().__init__()
        self.encoder, self.quant_conv = encoder.encoder, encoder.quant_conv
        self.decoder, self.post_quant_conv = decoder.decoder, decoder.post_quant_conv

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.quant_conv(self.encoder(x))
        return self.decoder(self.post_quant_conv(latents)), latents


def pair(temporal: int, *, latents: int = 16) -> tuple[WholeEncoder, WholeDecoder]:
    """A random tokenizer of temporal stride 4 or 8, whose widths all differ where they may."""
    torch.manual_seed(temporal)
    decoder = (4, 6, 8) if temporal == 4 else (4, 6, 8, 8)
    options = {"latents": latents, "temporal": temporal}
    encoder = WholeEncoder(Encoder((3, 4, 6, 8), blocks=1, **options), latents)
    return encoder.eval(), WholeDecoder(Decoder(decoder, blocks=1, **options), latents).eval()


def write_pair(folder: Path, temporal: int) -> None:
    """Trace a pair as it is published and write encoder.jit and decoder.jit."""
    encoder, decoder = pair(temporal)
    with torch.no_grad():
        video = torch.rand(1, 3, 17, 16, 16)
        for module, given, name in ((encoder, video, "encoder"), (decoder, encoder(video)[0], "decoder")):
            torch.jit.trace(module, given, check_trace=False).save(str(folder / f"{name}.jit"))


def write_whole(folder: Path, temporal: int) -> Path:
    """The same as autoencoder.jit."""
    with torch.no_grad():
        traced = torch.jit.trace(Whole(*pair(temporal)), torch.rand(1, 3, 17, 16, 16), check_trace=False)
    traced.save(str(folder / "autoencoder.jit"))
    return folder / "autoencoder.jit"
