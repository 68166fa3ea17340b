"""How does time grow with the number of frames? (Fig. 5a)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from magi.bench.measure import fitted_exponent
from magi.bench.sampling import FrameTime, Rollout, UncachedMagi, race
from magi.model.magi import Magi
from magi.report.studies import Curves, Series, Study, Table, Verdict
from magi.reproduce.plan import LINEAR
from magi.reproduce.workshop import Workshop

REPEATS = 3


class BidirectionalMagi(UncachedMagi):
    """A model of the same size whose frames all see each other, later ones too, so that nothing can be cached.

    Like GameNGen it reads everything again for each frame. It only has to take the time of one: nothing was trained.
    """

    def sight(self, frames: int, device: torch.device) -> Tensor:
        """Which frame sees which, (frames, frames) bool: all."""
        return torch.ones(frames, frames, dtype=torch.bool, device=device)


def study(workshop: Workshop) -> Study:
    """Generate the longest video in three ways at once, frame by frame in turn, and fit exponents."""
    scale = workshop.scale
    torch.manual_seed(0)
    model = Magi(scale.model).to(workshop.distributed.device).eval().requires_grad_(False)
    rollouts = {
        "KV cache": Rollout(model, scale.sample),
        "no cache": Rollout(UncachedMagi(model).eval(), scale.sample),
        "bidirectional, no cache": Rollout(BidirectionalMagi(model).eval(), scale.sample),
    }
    race(rollouts, frames=2)  # warm-up
    races = [race(rollouts, frames=max(scale.cache_lengths)) for _ in range(REPEATS)]
    rows, series, exponents = [], [], {}
    for name in rollouts:
        row = [name]
        for part in ("total", "transformer"):
            reached = [reached_at(times[name], part, scale.cache_lengths) for times in races]
            fits = sorted(fitted_exponent(scale.cache_lengths, each) for each in reached)
            middle = [sorted(at)[len(at) // 2] for at in zip(*reached, strict=True)]
            exponents[name, part] = fits[len(fits) // 2]
            row.append(f"{exponents[name, part]:.2f} ({fits[0]:.2f} to {fits[-1]:.2f})")
            relative = [value / middle[0] for value in middle]
            series.append(Series(f"{name}, {part}", list(map(float, scale.cache_lengths)), relative))
            row.append(f"{relative[-1]:.1f}")
        rows.append(row)
    cached = exponents["KV cache", "total"]
    verdict: Verdict = "held" if cached <= LINEAR else "did not hold"
    first, last = scale.cache_lengths[0], scale.cache_lengths[-1]
    columns = ("", "exponent, total", f"{last} frames over {first}", "exponent, transformer", f"{last} over {first}")
    return Study(
        name="time",
        title="Time against frames",
        question="Does the time to generate a video grow linearly with its length?",
        claim="With the KV cache inference time is approximately linear in the number of frames (Fig. 5a).",
        verdict=verdict,
        answer=f"Time grows with frames to the power {cached:.2f} with the cache, "
        f"{exponents['no cache', 'total']:.2f} without, {exponents['bidirectional, no cache', 'total']:.2f} for a "
        f"bidirectional model of the same size ({first} to {last} frames; of the transformer alone "
        f"{exponents['KV cache', 'transformer']:.2f}, {exponents['no cache', 'transformer']:.2f}, "
        f"{exponents['bidirectional, no cache', 'transformer']:.2f}).",
        protocol={
            "model": f"{sum(p.numel() for p in model.parameters()):,} parameters, {scale.model.tokens} tokens a frame, "
            "untrained: time does not depend on the weights",
            "sampling": asdict(scale.sample),
            "videos": "one at a time, the three ways in turn frame by frame",
            "repeats": f"{REPEATS}; median, smallest and largest",
        },
        tables=[Table("Growth of time", columns, rows)],
        curves=[Curves(f"Time, of that for {first} frames", "frames", "times", series, log="xy")],
    )


def reached_at(times: Sequence[FrameTime], part: str, lengths: Sequence[int]) -> list[float]:
    """Seconds after which each length was reached."""
    spent = [getattr(time, part) for time in times]
    return [sum(spent[:length]) for length in lengths]
