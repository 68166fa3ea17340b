"""Claims about where a token sits: patches, sinusoids in space and time, and the streams' embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from magi.model import embeddings
from magi.model.embeddings import StreamEmbedding, patchify, sinusoid, temporal_positions, unpatchify


def by_hand(position: float, width: int) -> list[float]:
    """The Transformer's formula, one number at a time: sines of falling frequency, then cosines of the same."""
    half = width // 2
    angles = [position / 10_000 ** (i / half) for i in range(half)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def assert_close(found: Tensor, expected: list[list[float]]) -> None:
    """Equal up to the rounding of float64."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


# --- patches ---


def test_tokens_are_channel_major_squares() -> None:
    """Numbers that name their place: hundreds the channel, tens the row, ones the column. A token holds one square of
    every channel, channel by channel and row by row, as MAR's do; tokens are read row by row."""
    channel, row, column = (torch.arange(size).float() for size in (2, 4, 6))
    latents = (100 * channel[:, None, None] + 10 * row[:, None] + column)[None, None]  # (1, 1, 2, 4, 6)
    tokens = patchify(latents, 2)
    assert tokens.shape == (1, 1, 6, 8)
    assert tokens[0, 0, 0].tolist() == [0, 1, 10, 11, 100, 101, 110, 111]
    assert tokens[0, 0, 1].tolist() == [2, 3, 12, 13, 102, 103, 112, 113]  # to the right
    assert tokens[0, 0, 3].tolist() == [20, 21, 30, 31, 120, 121, 130, 131]  # below the first


def test_unpatchify_undoes_patchify() -> None:
    """Cutting moves numbers and makes none, so the way back is exact, also where height and width differ."""
    latents = torch.randn(2, 3, 4, 6, 12, generator=torch.Generator().manual_seed(0))
    for patch in (1, 2, 3):
        assert torch.equal(unpatchify(patchify(latents, patch), patch, 6), latents)


# --- sinusoids ---


def test_sinusoid_is_the_transformers() -> None:
    """The tensor expression is the textbook's formula, at whole and at broken positions."""
    positions = [0.0, 1.0, 2.5, 15.0, 99.75]
    assert_close(sinusoid(torch.tensor(positions), 12), [by_hand(position, 12) for position in positions])


def test_grid_embeds_row_then_column() -> None:
    """The first half of the channels tells the row, the second the column, and tokens are counted row by row. Swapped
    axes would give a grid that is not square the right shape and the wrong places."""
    expected = [by_hand(row, 8) + by_hand(column, 8) for row in range(3) for column in range(5)]
    assert_close(embeddings.sinusoid_2d(3, 5, 16), expected)


def test_every_place_of_a_grid_is_distinct() -> None:
    """Two tokens with one embedding could not be told apart. On the paper's 16 x 16 grid in the smallest preset's
    width, the nearest two places are the length of one step apart, the same at every place."""
    grid = embeddings.sinusoid_2d(16, 16, 128)
    distance = torch.cdist(grid, grid, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(math.inf)
    step = math.dist(by_hand(0, 64), by_hand(1, 64))
    assert abs(float(distance.min()) - step) < 1e-9 and step > 1


def test_interpolated_times_are_embedded_as_such() -> None:
    """A video of 32 frames for a model of 16 counts in halves (A.4): frame 2 k stands where frame k did in training,
    and frame 2 k + 1 between frames k and k + 1, as the formula has it for a broken position."""
    times = temporal_positions(32, 16, "interpolate")
    found = sinusoid(times, 12)
    assert torch.equal(found[::2], sinusoid(temporal_positions(16, 16, "interpolate"), 12))
    assert_close(found[1::2], [by_hand(k + 0.5, 12) for k in range(16)])
    assert temporal_positions(20, 16, "extrapolate").tolist() == list(range(20))


# --- the streams' embedding ---


def test_times_stay_on_the_cpu() -> None:
    """Times are float64, which not every device has: they are embedded on the CPU, and only the result goes to the
    module's device, in its type. The meta device, like a GPU, refuses to be mixed with the CPU."""
    with torch.device("meta"):
        module = StreamEmbedding(6, 8, grid=(2, 3), intervals=4, noise_levels=5, noise_embedding="token")
        tokens, masked = torch.zeros(2, 3, 6, 6), torch.zeros(2, 3, 6, dtype=torch.bool)
        kind, level, interval = (torch.zeros(shape, dtype=torch.long) for shape in ((3,), (2, 3), (2,)))
    time = temporal_positions(3, 2, "interpolate")
    assert time.device.type == "cpu" and time.dtype == torch.float64
    found = module(tokens, masked, kind, time, level, interval)
    assert found.shape == (2, 3, 7, 8) and found.device.type == "meta" and found.dtype == torch.float32
