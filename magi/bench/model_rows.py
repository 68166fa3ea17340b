"""The lines that `magi bench MODEL`, `magi bench sampling` and `magi bench training` print, from their report.

A report may have one of both halves, and one that is older than the roofline has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from magi.bench.rows import Row, measured

Report = Mapping[str, Any]


def rows(report: Report) -> Iterator[Row]:
    """All lines."""
    if "training" in report:
        yield from training_rows(report)
    if "frame" in report:
        yield from sampling_rows(report)
    if "roofline" in report:
        yield from _peak_rows(report["roofline"])


def training_rows(report: Report) -> Iterator[Row]:
    """Speed of training and its operations."""
    training, flops = report["training"], report["training_flops"]
    batch = f"batch {training['batch']}"
    shares = report.get("roofline", {}).get("training", {})
    for precision in ("fp32", "bf16"):
        for quantity in ("clips_per_second", "tokens_per_second", "gflops"):
            title = f"training {precision}, {quantity.replace('_', ' ')}"
            yield measured(title, training[precision][quantity], batch, key=f"{title}, {batch}")
        if precision in shares:
            title = f"  achieved over possible, training {precision}"
            yield measured(title, shares[precision], "limit compute", key=f"{title}, {batch}")
    compared = f"{flops['ratio']:.3f} of the plain layout"
    yield _counted("training operations, GFLOP per clip", flops["pruned"] / 1e9, compared)
    for copies, faster in report.get("attention_in_two_parts", {}).items():
        title = f"times faster if CTF's temporal attention were in two parts, masks per clip {copies}"
        yield measured(title, faster, "the attention alone")


def sampling_rows(report: Report) -> Iterator[Row]:
    """Frames, their growth, operations and cache."""
    shares = report.get("roofline", {}).get("sampling", [None] * len(report["frame"]))
    for row, share in zip(report["frame"], shares, strict=True):
        parts = ", ".join(f"{part} {row[part]['median']:.3g}" for part in ("transformer", "head", "rest"))
        compiled = ", compiled head" if row.get("compiled_head") else ""
        what = f"{row['mask_steps']} x {row['head_steps']} {row['solver']}{compiled}, batch {row['batch']}"
        yield measured(f"ms per frame, {what}", row["total"], parts)
        if share is not None:
            limits = ", ".join(
                f"{part} {share[part]['median']:.3g} of {limit}" for part, limit in share["limits"].items()
            )
            yield measured("  achieved over possible", share["total"], limits, key=f"achieved over possible, {what}")
    exact = report["deterministic"]
    compared = f"{exact['ratio']:.2f} x batched {exact['batched']['median']:.3g}"
    yield measured(f"ms per frame, deterministic, batch {exact['batch']}", exact["deterministic"], compared)
    for growth in report["growth"]:
        yield from _growth_rows(growth)
    if "frame_flops" in report:
        flops = report["frame_flops"]
        what = f"{flops['mask_steps']} x {flops['head_steps']} {flops['solver']}"
        note = f"after {flops['past']} frame, formula {flops['planned'] / 1e9:,.4g}"
        yield _counted(f"sampling operations, GFLOP per frame, {what}", flops["counted"] / 1e9, note)
    for solver, count in report["operations"].items():
        title, with_setup = f"operations per denoising step, {solver}", f"{count['all']:.1f} with set-up"
        yield Row((title, f"{count['loop']}", with_setup, "goal <= 30"), title, (count["loop"],))
    title, cache = "KV cache per frame, bytes", report["cache"]
    cells = (title, f"{cache['bytes_per_frame']:,}", "", f"formula {cache['formula']:,}")
    yield Row(cells, title, (cache["bytes_per_frame"],))


def _growth_rows(growth: Report) -> Iterator[Row]:
    lengths, batch = ", ".join(map(str, growth["lengths"])), f"batch {growth['batch']}"
    goals = {"total": "goal <= 1.05", "transformer": "goal <= 1.10"}
    for part, told in (("total", "with head"), ("transformer", "transformer alone")):
        for way in ("cached", "uncached"):
            timed = growth[way][part]
            yield _several(f"seconds for {lengths} frames, {way}, {told}", timed["seconds"], batch)
            title, note = f"  exponent, {way}, {told}", f"{batch}, {goals[part]}" if way == "cached" else batch
            yield measured(title, timed["exponent"], note, key=f"{title}, {batch}, {lengths}")
        yield _several(f"  times faster with the cache, {told}", growth["speedup"][part], batch, key=lengths)


def _peak_rows(roofline: Report) -> Iterator[Row]:
    """What was possible."""
    peaks = roofline["peaks"]
    shape = " x ".join(map(str, peaks["shape"]))
    for precision, rate in peaks["flops"].items():
        yield _counted(f"possible GFLOP/s, {precision}", rate / 1e9, f"a product {shape}")
    yield _counted("possible GB/s, a large copy", peaks["copy"] / 1e9, "read and written")
    for part, rate in peaks["read"].items():
        yield _counted(f"possible GB/s, weights of the {part}", rate / 1e9, "read from wherever they fit")


def _counted(title: str, value: float, note: str) -> Row:
    return Row((title, f"{value:,.4g}", "", note), title, (value,))


def _several(title: str, summaries: list[Mapping[str, float]], note: str, *, key: str = "") -> Row:
    medians = tuple(summary["median"] for summary in summaries)
    return Row((title, ", ".join(f"{value:.3g}" for value in medians), "", note), f"{title}, {note}, {key}", medians)
