"""Claims about numbers that are computed from where they stand: the published hash, and normal noise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from magi.sampling.counted import _mixed, _signed, hashed, normal

MANY = 200_000
# The first numbers of SplitMix64 from the seed 1234567, which implementations compare themselves with.
SPLITMIX = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)


def test_the_hash_is_splitmix64() -> None:
    """Its numbers are the finaliser of multiples of its constant, counted from a seed."""
    states = torch.tensor([_signed((1234567 + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(1, 6)])
    assert _mixed(states).tolist() == [_signed(word) for word in SPLITMIX]


@pytest.mark.parametrize("key", [0, -1, hashed((3, "sample head", 1))])
def test_numbers_are_normal(key: int) -> None:
    """Four moments, and the whole distribution: the largest distance between the two cumulative curves, whose standard
    limit is 1.95 / sqrt(n) at one in a thousand."""
    found = normal(torch.tensor(key), torch.arange(MANY // 2)).double().flatten()
    spread = MANY**-0.5
    for power, expected, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(float((found**power).mean()) - expected) < 4 * deviation * spread
    below = torch.special.ndtr(found.sort().values)
    assert float((below - (torch.arange(MANY) + 0.5) / MANY).abs().max()) < 1.95 * spread
    assert float(found.abs().max()) < 6.7  # of 32 bits: sqrt(2 log 2^33)


def test_neighbours_know_nothing_of_each_other() -> None:
    """Pairs, next counts, next keys and the same counts of another key are uncorrelated, as numbers and as squares."""
    counts = torch.arange(MANY // 2)
    here, there, elsewhere = (normal(torch.tensor(key), counts).double() for key in (5, 6, hashed("elsewhere")))
    pairs = [(here[:, 0], here[:, 1]), (here[:-1, 0], here[1:, 0]), (here[:-1, 1], here[1:, 0])]
    pairs += [(a[:, i], b[:, i]) for a, b in itertools.combinations((here, there, elsewhere), 2) for i in (0, 1)]
    for a, b in pairs:
        for left, right in ((a, b), (a**2 - 1, b**2 - 1)):
            correlation = (left * right).mean() / (left.square().mean() * right.square().mean()).sqrt()
            assert abs(float(correlation)) < 4.5 / math.sqrt(len(a))


def test_a_number_stands_where_it_stands() -> None:
    """Of an array of keys and counts any part is what it is in the whole."""
    keys, counts = torch.tensor([[1], [-2]]), torch.arange(7)
    whole = normal(keys, counts)
    assert whole.shape == (2, 7, 2) and whole.dtype == torch.float32
    assert torch.equal(normal(keys[1], counts[3:5]), whole[1, 3:5])
    torch.testing.assert_close(
        whole[0, 0], torch.tensor([0.326044, -0.262601]), rtol=0, atol=1e-6
    )  # seeds keep their videos
    assert hashed((7, "a")) != hashed((7, "b")) and -(2**63) <= hashed(7) < 2**63
