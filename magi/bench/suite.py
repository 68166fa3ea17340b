"""Does an accelerator compute what the CPU computes, and how fast? One command, one JSON; the core's libraries suffice.

    python -m magi.bench.suite --device cuda --out suite.json

Correctness comes first: the same weights, draws and seeds on the CPU and on the device, in float64 to rounding, in the
precisions people use to what these can hold. Then speed, of the laptop model and of the paper's.

Shapes: B videos, T frames, C' latent channels, h x w latent pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi.bench.measure import machine, now
from magi.bench.memory import measure_memory
from magi.bench.sampling import Rollout, UncachedMagi, race
from magi.bench.training import measure_training
from magi.data.world import World, WorldConfig
from magi.distributed import Distributed
from magi.evaluation.detectors.world import load as load_detector
from magi.model.config import PRESETS, Forcing, MagiConfig
from magi.model.draws import draw_training
from magi.model.head import HeadConfig
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.rollout import generate
from magi.tokenizers.protocol import to_pixels
from magi.tokenizers.store import load_tokenizer
from magi.training.graphs import Compute
from magi.training.loop import TrainConfig, step_of

CHECKED = replace(PRESETS["tiny"], num_frames=5, head=HeadConfig(width=128))
# NumPy's noise: the device's own is float32, and its sines differ in the last digit from one device to another
STEPS = SampleConfig(mask_steps=4, head_steps=8, noise_source="cpu", cuda_graphs=False)
FRAMES = 6  # of a generated video: past the trained length, so that positions are interpolated
SPEED_FRAMES = 3

Check = tuple[str, float, float]  # what is compared, relative error, bound


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| in float64 on the CPU; infinite where a number is not finite."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    if not torch.isfinite(found).all():
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def checks(device: torch.device) -> Iterator[Check]:
    """Everything that is compared with the CPU, in rising order of what it takes to be right. A comparison that breaks
    off is one that fails, and the others go on."""
    groups: list[Iterator[Check]] = []
    for forcing in ("ctf", "mtf"):
        config = replace(CHECKED, forcing=forcing)
        groups += [training_checks(config, device)]
        groups += [graph_checks(config, device)] if device.type == "cuda" else []
    groups += [sampling_checks(head, device) for head in (HeadConfig(width=128), HeadConfig(kind="flow", width=128))]
    for group in [*groups, pixel_checks(device)]:
        try:
            yield from group
        except RuntimeError as error:
            traceback.print_exc()
            yield f"broke off: {str(error).splitlines()[0]}", math.inf, 0.0


def training_checks(config: MagiConfig, device: torch.device) -> Iterator[Check]:
    """Loss and gradients of one step."""
    expected = step(config, torch.device("cpu"), torch.float64)
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        found = step(config, device, dtype)
        for what in expected:
            yield (
                f"{config.forcing}, {what}, {str(dtype).removeprefix('torch.')}",
                relative(found[what], expected[what]),
                bound,
            )
    mixed = step(config, device, torch.float32, autocast=True)
    yield f"{config.forcing}, loss, bf16 autocast", relative(mixed["loss"], expected["loss"]), 1e-2
    yield f"{config.forcing}, gradient, bf16 autocast", relative(mixed["gradient"], expected["gradient"]), 5e-2


def step(config: MagiConfig, device: torch.device, dtype: torch.dtype, *, autocast: bool = False) -> dict[str, Tensor]:
    """Loss () and the gradients of all parameters, one after the other, of one training step."""
    model = trained_a_little(config).to(device, dtype).train()
    draws = draw_training(config, 0, step=3, samples=range(4)).to(device)
    draws = replace(draws, noise=draws.noise.to(dtype), head_noise=draws.head_noise.to(dtype))
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = model(latents(config, 4).to(device, dtype), torch.tensor([1, 2, 3, 1], device=device), draws)["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return {"loss": loss.detach(), "gradient": torch.cat([gradient.flatten() for gradient in gradients])}


def graph_checks(config: MagiConfig, device: torch.device) -> Iterator[Check]:
    """Steps that are recorded and replayed against the same steps launched one by one: three steps that differ in every
    input, then the first again, whose graph is there by then. With dropout, whose draws must be the same too."""
    for dropout in (0.0, 0.1):
        model = trained_a_little(replace(config, dropout=dropout)).to(device).train()
        results = []
        for graphs in (False, True):
            compute = step_of(model, TrainConfig(cuda_graphs=graphs), Distributed(device=device))
            results.append(torch.cat([some_step(model, compute, number, device) for number in (3, 4, 5, 3)]))
        what = f"{config.forcing}, loss and gradients in graphs, bf16 autocast, dropout {dropout:g}"
        yield what, relative(results[1], results[0]), 1e-5


def some_step(model: Magi, compute: Compute, number: int, device: torch.device) -> Tensor:
    """Loss, norm and gradients of a step, one after the other."""
    draws = draw_training(model.config, 0, step=number, samples=range(4)).to(device)
    torch.manual_seed(number)
    interval = torch.full((4,), number - 2, device=device)
    parts, norm = compute([((latents(model.config, 4) * number).to(device), interval, draws)])
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([parts["loss"].view(1), norm.view(1), *gradients]).detach().clone()


def trained_a_little(config: MagiConfig) -> Magi:
    """A model all of whose weights matter: the zeros that a head begins with would hide mistakes."""
    torch.manual_seed(0)
    model = Magi(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def latents(config: MagiConfig, count: int) -> Tensor:
    """Unit normal latents (B, T, C', h, w), the same each time."""
    shape = (count, config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def sampling_checks(head: HeadConfig, device: torch.device) -> Iterator[Check]:
    """Whole videos under the noise contract: device, cache and batch size change nothing but rounding."""
    counted, name = replace(STEPS, noise_source="device"), f"{head.kind} head"
    exact = trained_a_little(replace(CHECKED, head=head)).double().eval()
    expected, expected_counted = video(exact, [5]), video(exact, [5], counted)
    on_device = exact.to(device)
    yield f"{name}, video, float64", relative(video(on_device, [5]), expected), 1e-9
    yield f"{name}, video among three, float64", relative(video(on_device, [4, 5, 6])[1:2], expected), 1e-9
    uncached = UncachedMagi(on_device).eval()
    yield f"{name}, video without a cache, float64", relative(video(uncached, [5]), expected), 1e-9
    there = video(on_device, [5], counted)
    yield f"{name}, video from the device's own noise", relative(there, expected_counted), 1e-4
    if device.type == "cuda":
        yield from replayed_checks(on_device, name)
    single = on_device.float()
    yield f"{name}, first frame, float32", relative(video(single, [5])[:, :1], expected[:, :1]), 1e-4


def replayed_checks(model: Magi, name: str) -> Iterator[Check]:
    """Videos in graphs against the same videos launched one by one: recorded, then replayed with other seeds; with a
    window and noise, and with a video more."""
    settings = replace(STEPS, cuda_graphs=True)
    moved = replace(settings, window=3, observation_noise=0.2)
    for what, seeds, how in (
        ("recorded", [5], settings), ("replayed", [6], settings),
        ("recorded, window and noise", [5, 6], moved), ("replayed, window and noise", [7, 8], moved),
    ):  # fmt: skip
        plain = video(model, seeds, replace(how, cuda_graphs=False))
        yield f"{name}, video in graphs, {what}", relative(video(model, seeds, how), plain), 1e-9


@torch.no_grad()
def video(model: Magi, seeds: list[int], settings: SampleConfig = STEPS) -> Tensor:
    """Generated latents (B, T, C', h, w)."""
    return torch.stack(list(generate(model, None, num_frames=FRAMES, seeds=seeds, settings=settings)), dim=1)


@torch.no_grad()
def pixel_checks(device: torch.device) -> Iterator[Check]:
    """What stands between pixels and numbers: the tokenizer and the detector that ship, the world's drawing."""
    world = WorldConfig(num_frames=8)
    clips = World(world).clips(range(4)).video
    drawn = World(world, device).clips(range(4)).video.cpu()
    yield "world, share of other pixels", float((drawn != clips).float().mean()), 1e-4
    ours, theirs = load_tokenizer("world64"), load_tokenizer("world64")
    assert isinstance(theirs, torch.nn.Module)
    theirs.to(device)
    code = ours.encode(to_pixels(clips))
    yield "tokenizer, latents", relative(theirs.encode(to_pixels(clips.to(device))), code), 1e-3
    yield "tokenizer, pixels", relative(theirs.decode(code.to(device)), ours.decode(code)), 1e-3
    here, there = load_detector(), load_detector()
    there.network.to(device)
    seen = there.network.pooled_moving(to_pixels(clips.to(device)))
    yield "detector, features", relative(seen, here.network.pooled_moving(to_pixels(clips))), 1e-3


def speeds(device: torch.device, *, small: bool) -> dict[str, Any]:
    """How fast training and exact sampling are, of the laptop's model and, unless `small`, of the paper's."""
    found: dict[str, Any] = {}

    def say(name: str, measured: dict[str, Any]) -> None:
        found[name] = measured
        print(f"{name}: {json.dumps(measured)[:400]}", flush=True)

    trained: list[tuple[str, Forcing, int]] = [("tiny", "ctf", b) for b in (8, 16, 64)]
    trained += [("tiny", "mtf", 16)] if small else [("tiny", "mtf", 16), ("xl", "ctf", 1), ("xl", "ctf", 2)]
    for name, forcing, batch in trained:
        model = made_on(device, replace(PRESETS[name], forcing=forcing))
        measure = partial(measure_training, model, batch=batch, repeats=3, device=device)
        say(f"training {name} {forcing}, batch {batch}", attempt(measure))
        del model, measure
    planned = [("tiny", 64, False)] if small else [("tiny", 64, False), ("base", 4, False), ("base", 4, True)]
    planned += [] if small else [("xl", 1, False), ("xl", 2, False), ("xl", 4, True)]
    for name, batch, again in planned if device.type == "cuda" else []:
        measured = partial(measure_memory, PRESETS[name], batch=batch, checkpointed=again, device=device)
        say(f"memory to train {name}, batch {batch}{', blocks checkpointed' if again else ''}", attempt(measured))
    sampled = [("tiny", SampleConfig(mask_steps=16, cuda_graphs=False))]
    sampled += [] if small else [("xl", SampleConfig(mask_steps=4, cuda_graphs=False))]
    for name, settings in sampled:
        model = made_on(device, PRESETS[name]).eval().requires_grad_(False)
        for batch in (1, 8):
            rollout = {"": Rollout(model, settings, batch)}
            race(rollout, frames=1)
            times = race(rollout, frames=SPEED_FRAMES)[""][1:]
            seconds = {part: [getattr(t, part) for t in times] for part in ("total", "transformer", "head")}
            say(f"sampling {name}, {settings.mask_steps} x {settings.head_steps}, batch {batch}", seconds)
    if device.type == "cuda":
        streams = [("tiny", torch.float32, b) for b in (1, 8, 64)]
        streams += [] if small else [("xl", torch.bfloat16, 1), ("xl", torch.bfloat16, 64)]
        for name, backbone, batch in streams:
            model = made_on(device, PRESETS[name]).eval().requires_grad_(False).backbone_to(backbone)
            for graphs in (False, True) if batch < 64 or name == "tiny" else (True,):
                settings = SampleConfig(cuda_graphs=graphs, noise_source="device")
                how = "in graphs" if graphs else "launched one by one"
                what = f"ms per latent frame, {name}, {backbone}, 64 x 100, batch {batch}, {how}"
                say(what, attempt(partial(pace, model, settings, batch=batch)))
            del model
    return found


@torch.no_grad()
def pace(model: Magi, settings: SampleConfig, *, batch: int) -> dict[str, Any]:
    """Milliseconds per latent frame and video, frame by frame: in a first rollout, which records its graphs if it is to
    have any, and in a second, which finds them."""
    seeds, device = range(batch), model.head_position.device
    told = {}
    for rollout in ("first", "second"):
        frames = generate(model, None, num_frames=SPEED_FRAMES, seeds=seeds, settings=settings)
        readings = [now(device)]
        for _ in frames:
            readings.append(now(device))
        told[rollout] = [(after - before) * 1e3 / batch for before, after in pairwise(readings)]
    return told


def made_on(device: torch.device, config: MagiConfig) -> Magi:
    """A model whose weights are drawn on the device: a CPU takes long over those of the paper's."""
    with device:
        return Magi(config)


def attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured, or why it cannot be: a device that is too small says so without ending the suite."""
    try:
        return measure()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError):
            traceback.print_exc()
        return {"failed": str(error).splitlines()[0]}


def write(path: Path | None, report: dict[str, Any]) -> None:
    """Save the results so far."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the suite; the status says whether all checks hold."""
    parser = argparse.ArgumentParser(prog="python -m magi.bench.suite", description="Check and measure a device.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=None, help="JSON of all results")
    parser.add_argument("--small", action="store_true", help="without the paper's model, for a CPU or a small device")
    parser.add_argument("--only-checks", action="store_true", help="measure nothing")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"error: --device {given.device}: torch {torch.__version__} finds none here", file=sys.stderr)
        return 2
    start = time.perf_counter()
    rows = []
    for what, error, bound in checks(device):
        told = error if math.isfinite(error) else None  # JSON knows no infinity
        rows.append({"what": what, "relative error": told, "bound": bound, "holds": error <= bound})
        print(f"{'holds ' if error <= bound else 'FAILS '} {error:9.2e} <= {bound:.0e}  {what}", flush=True)
    print(f"checks took {time.perf_counter() - start:.0f} s", flush=True)
    report: dict[str, Any] = {"machine": machine(device), "checks": rows}
    write(given.out, report)  # whatever becomes of the rest
    if not given.only_checks:
        report["speed"] = speeds(device, small=given.small)
        write(given.out, report)
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
