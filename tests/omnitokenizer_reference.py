"""OmniTokenizer's VAE said slowly: one video, one token, one head at a time, in NumPy and float64.

Written from the published description (FoundationVision/OmniTokenizer, commit 701b619) and sharing nothing with
`magi.tokenizers.published.omnitokenizer` but the names of the weights. Tokens are an array (t, h, w, D).
"""

from __future__ import annotations

import cmath
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

Array = np.ndarray
erf = np.vectorize(math.erf)


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def normed(x: Array, scale: Array, offset: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + offset


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def unit(x: Array) -> Array:
    return x / math.sqrt(sum(value**2 for value in x))


def turned(x: Array, row: int, column: int) -> Array:
    """Pairs of values as complex numbers: even ones turn with the column, odd ones with the row."""
    out = x.copy()
    for pair in range(len(x) // 2):
        place = column if pair % 2 == 0 else row
        z = complex(x[2 * pair], x[2 * pair + 1]) * cmath.exp(1j * place * 10_000 ** (-4 * (pair // 2) / len(x)))
        out[2 * pair], out[2 * pair + 1] = z.real, z.imag
    return out


@dataclass
class Reference:
    """The tokenizer with these weights, and the sizes that weights do not tell."""

    weights: dict[str, Array]
    patch: int
    temporal_patch: int
    window: int
    heads: int
    rotary: bool
    causal: bool  # attention along time
    causal_position: bool

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        """Pixels (T, 3, H, W) in [-1, 1] to mean and deviation (t, C, h, w)."""
        video = pixels / 2
        p, frames = self.patch, [slice(0, 1)]
        frames += [slice(i, i + self.temporal_patch) for i in range(1, len(video), self.temporal_patch)]
        tokens = np.array(
            [
                [
                    [self.embed(video[f, :, y : y + p, x : x + p], f.start == 0) for x in range(0, video.shape[3], p)]
                    for y in range(0, video.shape[2], p)
                ]
                for f in frames
            ]
        )
        tokens = self.transformer(tokens, "encoder.enc_spatial_transformer")
        tokens = self.transformer(tokens, "encoder.enc_temporal_transformer")
        moments = np.moveaxis(linear(tokens, self.weights, "pre_vq_conv.1"), -1, 1)
        channels = moments.shape[1] // 2
        return moments[:, :channels], np.exp(np.clip(moments[:, channels:], -30, 20) / 2)

    def decode(self, latents: Array) -> Array:
        """Latents (t, C, h, w), not normalised, to pixels (T, 3, H, W)."""
        tokens = linear(np.moveaxis(latents, 1, -1), self.weights, "post_vq_conv.1")
        tokens = self.transformer(tokens, "decoder.dec_temporal_transformer")
        tokens = self.transformer(tokens, "decoder.dec_spatial_transformer")
        p, (t, h, w, _) = self.patch, tokens.shape
        video = np.zeros((1 + self.temporal_patch * (t - 1), 3, h * p, w * p))
        for i, y, x in itertools.product(range(t), range(h), range(w)):
            name = "to_pixels" if i else "to_pixels_first_frame"
            first, count = (1 + self.temporal_patch * (i - 1), self.temporal_patch) if i else (0, 1)
            values = iter(linear(tokens[i, y, x], self.weights, f"decoder.{name}.0"))
            for colour, frame, row, column in itertools.product(range(3), range(count), range(p), range(p)):
                video[first + frame, colour, y * p + row, x * p + column] = next(values)
        return np.clip(2 * video, -1, 1)

    def embed(self, block: Array, is_first: bool) -> Array:
        """A token of a block of pixels (frames, 3, p, p): colours outermost, then frames, rows, columns."""
        name = "encoder.to_patch_emb_first_frame" if is_first else "encoder.to_patch_emb"
        places = itertools.product(range(3), range(len(block)), range(self.patch), range(self.patch))
        values = np.array([block[frame, colour, row, column] for colour, frame, row, column in places])
        w = self.weights
        values = normed(values, w[f"{name}.1.weight"], w[f"{name}.1.bias"])
        return normed(linear(values, w, f"{name}.2"), w[f"{name}.3.weight"], w[f"{name}.3.bias"])

    def transformer(self, x: Array, name: str) -> Array:
        w, along_time = self.weights, "temporal" in name
        for layer in itertools.count():
            at = f"{name}.layers.{layer}"
            if f"{at}.3.1.weight" not in w:
                break
            if f"{at}.0.dsconv.weight" in w:
                x = x + self.position(x, f"{at}.0.dsconv", along_time)
            attend = self.windows if f"{at}.1.qkv.weight" in w else self.lines
            x = x + attend(x, f"{at}.1", along_time)
            hidden = linear(normed(x, w[f"{at}.3.0.weight"], w[f"{at}.3.0.bias"]), w, f"{at}.3.1")
            value, gate = np.split(hidden, 2, axis=-1)
            x = x + linear(value * gate * (1 + erf(gate / math.sqrt(2))) / 2, w, f"{at}.3.4")
        return normed(x, w[f"{name}.norm_out.gamma"], w[f"{name}.norm_out.beta"])

    def position(self, x: Array, name: str, along_time: bool) -> Array:
        """The convolution, over the tokens in the order of memory: with time last before a layer along time."""
        t, h, w, _ = x.shape
        places = list(itertools.product(range(t), range(h), range(w)))
        if along_time:
            places = [(i, y, column) for y, column, i in itertools.product(range(h), range(w), range(t))]
        kernel, offset, out = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], np.zeros_like(x)
        for n, place in enumerate(places):
            i, y, column = n // (h * w), n // w % h, n % w  # where the convolution takes token n to be
            total = offset.copy()
            for di, dy, dx in itertools.product(range(3), range(3), range(3)):
                a, b, c = i + di - (2 if self.causal_position else 1), y + dy - 1, column + dx - 1
                if 0 <= a < t and 0 <= b < h and 0 <= c < w:
                    total += kernel[:, 0, di, dy, dx] * x[places[(a * h + b) * w + c]]
            out[place] = total
        return out

    def lines(self, x: Array, name: str, along_time: bool) -> Array:
        """Attention of the tokens of a frame, or of a place, with unit queries and keys."""
        w, (t, h, width, _) = self.weights, x.shape
        q = normed(x, w[f"{name}.norm.gamma"], w[f"{name}.norm.beta"]) @ w[f"{name}.to_q.weight"].T
        k, v = np.split(x @ w[f"{name}.to_kv.weight"].T, 2, axis=-1)
        out, d = np.zeros_like(q), q.shape[-1] // self.heads
        grid = list(itertools.product(range(h), range(width)))
        lines = [[(i, *cell) for cell in grid] for i in range(t)]
        if along_time:
            lines = [[(i, *cell) for i in range(t)] for cell in grid]
        for line, head in itertools.product(lines, range(self.heads)):
            part = slice(head * d, head * d + d)
            rotated = self.rotary and not along_time
            keys = [turned(k[at][part], *at[1:]) if rotated else k[at][part] for at in line]
            keys = [unit(key) * w[f"{name}.k_scale"] for key in keys]
            for n, at in enumerate(line):
                query = unit(turned(q[at][part], *at[1:]) if rotated else q[at][part]) * w[f"{name}.q_scale"]
                seen = n + 1 if along_time and self.causal else len(line)
                shares = softmax(np.array([8 * (query @ key) for key in keys[:seen]]))
                out[at][part] = sum(share * v[other][part] for share, other in zip(shares, line[:seen], strict=True))
        return out @ w[f"{name}.to_out.weight"].T

    def windows(self, x: Array, name: str, along_time: bool) -> Array:
        """Attention among the tokens of each window, with a bias by relative position."""
        assert not along_time
        w, size, table = self.weights, self.window, self.weights[f"{name}.relative_position_bias_table"]
        y = normed(x, w[f"{name}.norm.gamma"], w[f"{name}.norm.beta"])
        q, k, v = np.split(y @ w[f"{name}.qkv.weight"].T, 3, axis=-1)
        out, d = np.zeros_like(x), x.shape[-1] // self.heads
        cells = list(itertools.product(range(size), range(size)))
        corners = itertools.product(range(x.shape[0]), range(0, x.shape[1], size), range(0, x.shape[2], size))
        for (i, top, left), head in itertools.product(corners, range(self.heads)):
            part = slice(head * d, head * d + d)
            for row, column in cells:
                scores = [
                    q[i, top + row, left + column, part] @ k[i, top + r, left + c, part] / math.sqrt(d)
                    + table[(row - r + size - 1) * (2 * size - 1) + column - c + size - 1, head]
                    for r, c in cells
                ]
                shares = softmax(np.array(scores))
                out[i, top + row, left + column, part] = sum(
                    share * v[i, top + r, left + c, part] for share, (r, c) in zip(shares, cells, strict=True)
                )
        return linear(out, w, f"{name}.proj")


def arrays(state: dict[str, torch.Tensor]) -> dict[str, Array]:
    """A state dict as arrays."""
    return {name: tensor.numpy() for name, tensor in state.items()}
