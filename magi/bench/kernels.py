"""Which kernels does sampling spend a GPU's time in? A mask step of the paper's model, by kernel.

python -m magi.bench.kernels --batch 1 64
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from magi.model.config import PRESETS
from magi.model.magi import Finished, Magi

PAST, REVEALED, HEAD_STEPS = 4, 4, 100


def kernels_of(run: Callable[[], object]) -> list[tuple[float, int, str]]:
    """Microseconds, number and name of the kernels that a second run launches, those that take most first."""
    run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    spent: dict[str, list[float]] = defaultdict(list)
    for event in profiled.events() or ():
        if event.device_type == DeviceType.CUDA:
            spent[event.name].append(event.device_time)
    return sorted(((sum(times), len(times), name) for name, times in spent.items()), reverse=True)


@torch.inference_mode()
def mask_step(model: Magi, batch: int) -> dict[str, Callable[[], object]]:
    """The transformer's pass after a few frames, and the head's loop for the tokens that it reveals."""
    config, device = model.config, model.head_position.device
    cache, interval = model.new_cache(batch, PAST + 1), torch.ones(batch, dtype=torch.long, device=device)
    frames = torch.randn(batch, PAST, config.tokens, config.token_channels, device=device, dtype=model.token_dtype)
    model.commit(cache, Finished(frames, torch.arange(float(PAST)), 0), interval=interval)
    masked = torch.ones(batch, config.tokens, dtype=torch.bool, device=device)
    chosen = torch.arange(REVEALED, device=device).repeat(batch, 1)
    z = torch.randn(batch * REVEALED, config.width, device=device, dtype=model.token_dtype)
    noise = torch.randn(HEAD_STEPS + 1, batch * REVEALED, config.token_channels, device=device)
    return {
        "the transformer's pass": lambda: model.predict(
            cache, frames[:, 0], masked, time=float(PAST), interval=interval, chosen=chosen
        ),
        f"{HEAD_STEPS} denoising steps": lambda: model.head.sample(z, noise, num_steps=HEAD_STEPS),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m magi.bench.kernels", description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    with torch.device("cuda"):
        model = Magi(PRESETS["xl"]).eval().requires_grad_(False).backbone_to(torch.bfloat16)
    for batch in parser.parse_args().batch:
        for part, run in mask_step(model, batch).items():
            with torch.inference_mode():
                rows = kernels_of(run)
            count, total = sum(row[1] for row in rows), sum(row[0] for row in rows)
            print(f"batch {batch}, {part}: {count} kernels, {total:,.0f} us")
            for microseconds, number, name in rows[:12]:
                print(f"{microseconds:10,.0f} us {number:6} x  {name[:100]}")


if __name__ == "__main__":
    main()
