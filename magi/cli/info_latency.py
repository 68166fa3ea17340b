"""The part of `magi info MODEL --gpu` that says how fast frames could be sampled, and how fast they were."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from magi.bench.measured import MEASURED, RECORDED
from magi.model.config import PRESETS, MagiConfig
from magi.model.latency import CEILINGS, Work, denoising_calls, sampling_latency
from magi.report.console import table
from magi.sampling.config import SampleConfig

BATCHES = (1, 8, 64)


def sampling_on(gpu: str, config: MagiConfig, sample: SampleConfig, *, past: int) -> dict[str, Any]:
    """Floors, estimates and measurements of a frame as plain numbers; nothing for a GPU whose ceilings are not known.

    Args:
        gpu: its name.
        config: of the model.
        sample: how it samples.
        past: frames in the cache.
    """
    if gpu not in CEILINGS:
        return {}
    ceilings, solver = CEILINGS[gpu], sample.solver_for(config.head)
    rows = []
    for batch in BATCHES:
        work = Work(past, sample.mask_steps, sample.head_steps, solver, batch)
        found = sampling_latency(config, work, ceilings)
        derived = ("transformer_floor", "head_floor", "floor", "frames_per_second")
        rows.append({**asdict(found), **{name: getattr(found, name) for name in derived}})
    steps = min(sample.mask_steps, config.tokens)
    measured = [
        {
            "source": frame.source,
            "precision": frame.precision,
            "batch": frame.batch,
            "mask_steps": frame.mask_steps,
            "head_steps": frame.head_steps,
            "seconds": frame.total,
            "transformer pass": frame.transformer_pass,
            "denoising step": frame.denoising_step,
            "seconds at these steps": frame.at_steps(mask_steps=steps, head_steps=sample.head_steps),
        }
        for frame in MEASURED.get(gpu, ())
        if frame.config == config and solver == "ddpm"
    ]
    exactly = config == PRESETS["xl"] and (steps, sample.head_steps, solver) == (64, 100, "ddpm")
    recorded = RECORDED.get(gpu, {}) if exactly else {}
    return {
        "sampling": {
            "ceilings": asdict(ceilings),
            "past": past,
            "mask steps": steps,
            "head steps": sample.head_steps,
            "head calls": denoising_calls(config, Work(past, sample.mask_steps, sample.head_steps, solver)),
            "bfloat16, seconds per frame of a batch": rows,
            "measured": measured,
            "measured in graphs, bfloat16": recorded,
        }
    }


def show_sampling(gpu: str, told: dict[str, Any]) -> str:
    """The same as a table: a column for each batch size."""
    latencies, ceilings = told["bfloat16, seconds per frame of a batch"], told["ceilings"]
    steps = f"{told['mask steps']} x {told['head steps']}"

    def milliseconds(title: str, name: str) -> tuple[str, ...]:
        return (title, *(f"{1e3 * row[name]:,.1f}" for row in latencies))

    rows = [
        (f"a latent frame on {gpu}, {steps} after {told['past']}, ms", *(f"batch {row['batch']}" for row in latencies)),
        milliseconds("transformer: operations, bf16", "transformer_compute"),
        milliseconds("  reading its weights", "weight_read"),
        milliseconds("  reading keys and values", "cache_read"),
        milliseconds(f"head: {told['head calls']:,} calls one after the other", "head_stages"),
        milliseconds("  operations", "head_compute"),
        milliseconds("floor", "floor"),
        ("  per video", *(f"{1e3 * row['floor'] / row['batch']:,.1f}" for row in latencies)),
        ("  latent frames per second", *(f"{row['frames_per_second']:,.1f}" for row in latencies)),
        milliseconds("estimate, kernels recorded in graphs", "recorded"),
        milliseconds("estimate, kernels started one by one", "launched"),
    ]
    measured = {frame["batch"]: frame for frame in told["measured"]}
    if measured:
        first = next(iter(measured.values()))
        of = f"{first['precision']}, {first['mask_steps']} x {first['head_steps']}"
        for title, key in (
            (f"measured, {of}, one by one", "seconds"),
            ("  a pass of the transformer", "transformer pass"),
            ("  a denoising step of the head", "denoising step"),
            (f"  so {steps} would take, at most", "seconds at these steps"),
        ):
            cells = [measured[row["batch"]][key] if row["batch"] in measured else None for row in latencies]
            rows.append((title, *("" if cell is None else _milliseconds(cell) for cell in cells)))
    recorded = told["measured in graphs, bfloat16"]
    if recorded:
        times = [recorded.get(row["batch"]) for row in latencies]
        rows.append(("measured in graphs, bf16, third frame", *("" if t is None else _milliseconds(t) for t in times)))
    assumed = (
        f"floor: the larger of operations at {ceilings['flops'] / 1e12:,.0f} TFLOP/s and bytes at "
        f"{ceilings['bytes_per_second'] / 1e12:g} TB/s; of the head\n"
        f"{1e6 * ceilings['stage_seconds']:g} us per product that waits for another. Estimates: "
        f"{1e6 * ceilings['gap_seconds']:g} us between kernels in graphs, "
        f"{1e6 * ceilings['launch_seconds']:g} us to start one"
    )
    sources = sorted({frame["source"] for frame in told["measured"]})
    return "\n".join([table(rows), assumed, *(f"measured: {source}, after 1 to 2 frames" for source in sources)])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}" if seconds > 1e-3 else f"{1e3 * seconds:.3f}"
