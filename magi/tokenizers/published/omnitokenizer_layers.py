"""The layers of OmniTokenizer, by the names of its published weights, computing what these were trained to compute.

Three things here look like mistakes and are facts about the weights. Keys and values come from tokens that were not
normalised. The position convolution of the temporal layers reads its tokens in an order they are not in. The position
bias of an `Attention` is held but never added: the published code drops it wherever torch has a fused attention, that
is from torch 2.1 on, and was trained so. Knows tokens; not pixels, latents or files.

Source: the published code (FoundationVision/OmniTokenizer, commit 701b619, modules/attention.py); arXiv 2406.09399.

Shapes:
    B videos, t latent frames, h x w latent grid, D width; H heads of d values; N lines of S tokens that see each other.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

Axis: TypeAlias = Literal["space", "time"]

ATTENTION_SCALE = 8.0  # queries and keys are unit vectors, so their products are small
ROTARY_BASE = 10_000.0

# A layer's parts by the number they have in the published weights; "2" is cross-attention, which the tokenizer lacks.
POSITION, ATTENTION, FEED_FORWARD = "0", "1", "3"


class LayerNorm(nn.Module):
    """Layer normalisation with a learnt scale; the offset is a buffer, zero unless loaded otherwise."""

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        return functional.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class GatedGelu(nn.Module):
    """The first half of the values, gated by the GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., 2 M) to (..., M)."""
        value, gate = x.chunk(2, dim=-1)
        return functional.gelu(gate) * value


def feed_forward(width: int, multiplier: float) -> nn.Sequential:
    """A gated perceptron on tokens (..., D), with 2/3 of the usual inner width because the gate needs its own."""
    inner = int(multiplier * (2 / 3) * width)
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 2 * inner, bias=False),
        GatedGelu(),
        nn.Identity(),  # dropout in training; keeps the numbers of the layers
        nn.Linear(inner, width, bias=False),
    )


class PositionConvolution(nn.Module):
    """A 3 x 3 x 3 convolution of each channel alone, from which tokens learn where they are.

    Before a temporal layer the tokens lie in memory with time last, and are read as if time were first. What the
    convolution then takes for three frames are tokens of other places and times, later ones among them: this is where
    the tokenizer loses its causality.
    """

    def __init__(self, width: int, *, axis: Axis, causal: bool) -> None:
        super().__init__()
        self.axis = axis
        self.frames = (2, 0) if causal else (1, 1)  # of padding, before and after
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, t, h, w, D) to the same shape."""
        _, t, h, w, _ = tokens.shape
        if self.axis == "time":
            tokens = rearrange(tokens, "b t h w d -> b (h w t) d")
            tokens = rearrange(tokens, "b (t h w) d -> b t h w d", t=t, h=h)  # not the order they are in
        video = functional.pad(rearrange(tokens, "b t h w d -> b d t h w"), (1, 1, 1, 1, *self.frames))
        tokens = rearrange(self.dsconv(video), "b d t h w -> b t h w d")
        if self.axis == "time":
            tokens = rearrange(tokens, "b t h w d -> b (t h w) d")
            tokens = rearrange(tokens, "b (h w t) d -> b t h w d", h=h, w=w)
        return tokens


def rotate(x: Tensor, height: int, width: int) -> Tensor:
    """Turn pairs of values by angles that grow with a token's column (even pairs) or row (odd pairs).

    Args:
        x: queries or keys (N, H, S, d) of S = height * width tokens, row by row; 4 divides d.
    """
    precision = torch.promote_types(x.dtype, torch.float32)
    cell = torch.arange(height * width, device="cpu")
    exponents = torch.arange(0, x.shape[-1], 4, device="cpu", dtype=torch.float64) / x.shape[-1]
    position = torch.stack([cell % width, cell // width], dim=-1).double()  # (S, 2)
    angles = rearrange(position[:, None] * ROTARY_BASE ** -exponents[:, None], "s pair place -> s (pair place)")
    cosine, sine = (table.to(x.device, precision) for table in (angles.cos(), angles.sin()))  # (S, d / 2)
    first, second = x.to(precision).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).to(x.dtype)


class PositionBias(nn.Module):
    """A perceptron from relative positions to a bias per head: weights the published files hold and attention ignores.

    Kept so that a file is loaded whole, and refused where it differs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = [nn.Sequential(nn.Linear(inputs, width), nn.LeakyReLU(0.1)) for inputs in (2, width)]
        self.net = nn.ModuleList([*hidden, nn.Linear(width, heads)])


class Attention(nn.Module):
    """Attention along space or time between unit queries and keys.

    Args:
        width: D.
        heads: H.
        head_width: d, which need not be D / H.
        axis: the tokens of one frame see each other, or those of one place.
        rotary: tell positions by rotation; space only.
        biased: hold a `PositionBias`.
        causal: see no later token; for time.
    """

    def __init__(
        self, width: int, heads: int, *, head_width: int, axis: Axis, rotary: bool, biased: bool, causal: bool
    ) -> None:
        super().__init__()
        self.heads, self.axis, self.rotary, self.causal = heads, axis, rotary, causal
        if biased:
            self.spatial_rel_pos_bias = PositionBias(width, heads)
        self.norm = LayerNorm(width)
        self.context_norm = LayerNorm(width)  # of a context there never is
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, t, h, w, D) to the same shape."""
        b, _, h, w, _ = tokens.shape
        lines = "(b t) (h w)" if self.axis == "space" else "(b h w) t"
        x = rearrange(tokens, f"b t h w d -> {lines} d")
        projected = (self.to_q(self.norm(x)), *self.to_kv(x).chunk(2, dim=-1))  # only queries are normalised
        query, key, value = (rearrange(part, "n s (heads d) -> n heads s d", heads=self.heads) for part in projected)
        if self.rotary:
            query, key = rotate(query, h, w), rotate(key, h, w)
        query = functional.normalize(query, dim=-1) * self.q_scale
        key = functional.normalize(key, dim=-1) * self.k_scale
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal, scale=ATTENTION_SCALE)
        out = self.to_out(rearrange(out, "n heads s d -> n s (heads d)"))
        return rearrange(out, f"{lines} d -> b t h w d", b=b, h=h, w=w)


class WindowAttention(nn.Module):
    """Attention among the tokens of a square window of one frame, with a learnt bias per relative position and head."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, *, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        side = 2 * window - 1  # of the square of relative positions
        self.norm = LayerNorm(width)
        self.relative_position_bias_table = nn.Parameter(torch.empty(side**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        cell = torch.arange(window**2)
        row, column = cell // window, cell % window
        down, right = (place[:, None] - place[None, :] + window - 1 for place in (row, column))
        self.register_buffer("relative_position_index", down * side + right)  # (S, S), S = window^2
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, t, h, w, D) to the same shape."""
        _, t, h, w, _ = tokens.shape
        size = self.window
        x = rearrange(self.norm(tokens), "b t (i r) (j c) d -> (b t i j) (r c) d", r=size, c=size)
        qkv = rearrange(self.qkv(x), "n s (three heads d) -> three n heads s d", three=3, heads=self.heads)
        query, key, value = qkv.unbind()
        bias = rearrange(self.relative_position_bias_table[self.relative_position_index], "q k heads -> heads q k")
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        out = self.proj(rearrange(out, "n heads s d -> n s (heads d)"))
        return rearrange(out, "(b t i j) (r c) d -> b t (i r) (j c) d", t=t, i=h // size, j=w // size, r=size)


class Transformer(nn.Module):
    """Layers of position, attention and feed-forward, each added to its input; a norm at the end.

    Args:
        blocks: a letter per layer: "t" attends along the axis, "w" within windows and without a position convolution.
        axis: along which the "t" layers attend.
        width: D.
        heads: H.
        head_width: d of the "t" layers.
        window: side of the windows of the "w" layers.
        multiplier: of the feed-forward's inner width.
        rotary: the "t" layers tell positions by rotation; space only.
        biased: the "t" layers hold a `PositionBias`.
        causal: no "t" layer sees a later token.
        causal_position: the position convolution is padded in front only.
    """

    def __init__(
        self,
        blocks: str,
        axis: Axis,
        *,
        width: int,
        heads: int,
        head_width: int,
        window: int,
        multiplier: float,
        rotary: bool,
        biased: bool,
        causal: bool,
        causal_position: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for letter in blocks:
            layer = nn.ModuleDict()
            if letter == "t":
                layer[POSITION] = PositionConvolution(width, axis=axis, causal=causal_position)
                layer[ATTENTION] = Attention(
                    width, heads, head_width=head_width, axis=axis, rotary=rotary, biased=biased, causal=causal
                )
            else:
                layer[ATTENTION] = WindowAttention(width, heads, window=window)
            layer[FEED_FORWARD] = feed_forward(width, multiplier)
            self.layers.append(layer)
        self.norm_out = LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, t, h, w, D) to the same shape."""
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            for part in layer.values():
                tokens = tokens + part(tokens)
        return self.norm_out(tokens)
