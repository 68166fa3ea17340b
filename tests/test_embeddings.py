"""Claims about where a token sits: patches, sinusoids in space and time, and the streams' embedding."""

from __future__ import annotations

import torch

from magi.model.embeddings import StreamEmbedding, temporal_positions


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
