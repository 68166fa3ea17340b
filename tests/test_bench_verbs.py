"""Claims about halves, comparisons, rooflines and profiles of `magi bench`, and the floors that `magi info` tells."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from magi import cli
from magi.bench import model_rows, run
from magi.bench.compare import Earlier, differences, ratios, read_earlier, told_likeness
from magi.bench.decoding import rows as decoding_rows
from magi.bench.measure import Spread
from magi.bench.measured import MEASURED, RECORDED, SUITE_H100
from magi.bench.outcome import described
from magi.bench.presets import run_presets_bench
from magi.bench.roofline import Peaks, fastest, frame_possible, frame_shares, measure_peaks
from magi.bench.sampling import count_head_operations
from magi.bench.stream import SMALLEST, codes, run_stream_bench
from magi.model import plan
from magi.model.config import PRESETS
from magi.model.head import SOLVERS, DiffusionHead, HeadConfig
from magi.model.latency import (
    CEILINGS,
    Work,
    head_kernels_per_call,
    head_loop_weights,
    sampling_latency,
)
from magi.sampling.presets import Preset
from magi.sampling.release import load
from tests.toys import tiny

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
XL, H200 = PRESETS["xl"], CEILINGS["h200"]


# Floors: the table that the goals were set by, of 256 tokens, 64 x 100 steps, 8 frames in the cache


@pytest.mark.parametrize(
    ("batch", "transformer", "weights", "cached", "head", "floor", "rate"),
    [(1, 32.2, 23.8, 3.1, 51, 83, 12.0), (8, 258, 24, 25, 51, 38.6, 25.9), (64, 2063, 24, 200, 74, 33.4, 30.0)],
)
def test_floors(
    batch: int, transformer: float, weights: float, cached: float, head: float, floor: float, rate: float
) -> None:
    """Milliseconds of a batch and floors per video, worked out by other means; within 3 %."""
    found = sampling_latency(XL, Work(8, 64, 100, "ddpm", batch), H200)
    told = {
        1e3 * found.transformer_compute: transformer,
        1e3 * found.weight_read: weights,
        1e3 * found.cache_read: cached,
        1e3 * found.head_floor: head,
        1e3 * found.floor / batch: floor,
        found.frames_per_second: rate,
    }
    assert list(told) == pytest.approx(list(told.values()), rel=0.03)
    assert found.floor < found.recorded < found.launched


@pytest.mark.parametrize(("batch", "estimate"), [(1, 4227), (8, 4470)])
def test_estimate_of_kernels_started_one_by_one(batch: int, estimate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAR's head issues 110 operations a step: with these the estimate is that of its code, within 8 %."""
    monkeypatch.setattr("magi.model.latency.head_kernels_per_call", lambda config, solver: 110)
    found = sampling_latency(XL, Work(8, 64, 100, "ddpm", batch), H200)
    assert 1e3 * found.launched == pytest.approx(estimate, rel=0.08)


def test_what_latency_counts() -> None:
    """Kernels of the head are the operations that it issues; weights of its loop those that it has."""
    for kind, solvers in SOLVERS.items():
        config = tiny(head=HeadConfig(kind=kind, depth=2, width=8, time_dim=4))
        head = DiffusionHead(config.token_channels, config.width, config.head)
        counted = count_head_operations(head, steps=20, rows=2)
        for solver in solvers:
            per_step = plan.CALLS_PER_STEP[solver] * head_kernels_per_call(config, solver)
            assert counted[solver]["loop"] == per_step
        linear = [head.input_proj, head.output.linear, *(m for b in head.blocks for m in (b.expand, b.project))]
        assert head_loop_weights(config) == sum(layer.weight.numel() for layer in linear)


def test_measurements_are_those_of_the_results() -> None:
    """What the code says was measured is in the file that it names; and 64 x 100 steps are what the log says."""
    for frames in MEASURED.values():
        for frame in frames:
            speed = json.loads((ROOT / frame.source).read_text())["speed"]
            entry = speed[f"sampling xl, {frame.mask_steps} x {frame.head_steps}, batch {frame.batch}"]
            for part in ("total", "transformer", "head"):
                assert getattr(frame, part) == pytest.approx(sum(entry[part]) / len(entry[part]), rel=1e-5)
    speed = json.loads((ROOT / SUITE_H100).read_text())["speed"]
    for batch, seconds in RECORDED["h100"].items():
        entry = speed[f"ms per latent frame, xl, torch.bfloat16, 64 x 100, batch {batch}, in graphs"]
        assert seconds == pytest.approx(entry["second"][-1] * batch / 1e3, rel=1e-5)
    alone = MEASURED["h200"][0]
    assert alone.transformer_pass == pytest.approx(0.0274, abs=1e-4)
    assert alone.denoising_step == pytest.approx(0.00056, abs=1e-5)
    assert alone.at_steps(mask_steps=64, head_steps=100) == pytest.approx(5.4, abs=0.05)
    assert alone.at_steps(mask_steps=4, head_steps=100) == pytest.approx(alone.total)


def test_info_tells_floors_beside_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the paper's model on an H200, measured at batch 1 and 8; of another only floors; of another GPU nothing."""
    assert cli.main("info xl --gpu h200 --past 8".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["per", "video", "83.5", "38.7", "33.5"] for line in lines)
    assert any("a pass of the transformer" in line and line.split()[-2:] == ["27.4", "129.0"] for line in lines)
    assert any("results/gpu" in line for line in lines)
    assert cli.main("info xl --gpu h200 --json --model.depth 10".split()) == 0
    told = json.loads(capsys.readouterr().out)["sampling"]
    assert told["measured"] == [] and len(told["bfloat16, seconds per frame of a batch"]) == 3
    assert cli.main("info xl --gpu a100 --json".split()) == 0
    assert "sampling" not in json.loads(capsys.readouterr().out)


# Rooflines


def test_the_longer_of_computing_and_reading_binds() -> None:
    """On a machine that computes at once, weights bind, and twice the rate halves them; where reading is free, twice
    the videos need twice the operations."""
    config, row = tiny(), {"mask_steps": 2, "head_steps": 3, "solver": "ddpm", "batch": 4}
    measured = {**row, **{part: Spread((8.0, 2.0, 4.0)).summary() for part in ("total", "transformer", "head")}}

    def possible(flops: float, read: float, **changes: Any) -> dict[str, float]:
        peaks = Peaks({"fp32": flops}, (1, 1, 1), copy=read, read={"transformer": read, "head": read})
        return frame_possible(config, peaks, past=3, row=row | changes, precision="fp32", bytes_per_value=4)

    slow, fast = possible(1e30, 1e9), possible(1e30, 2e9)
    assert frame_shares(measured, slow)["limits"] == {"transformer": "bytes", "head": "bytes"}
    assert slow["head bytes"] == pytest.approx(2 * 3 * head_loop_weights(config) * 4 / 1e9)
    assert slow["head bytes"] / fast["head bytes"] == pytest.approx(2)
    four, eight = possible(1e9, 1e30), possible(1e9, 1e30, batch=8)
    told = frame_shares(measured, four)
    assert told["limits"] == {"transformer": "compute", "head": "compute"}
    assert eight["transformer compute"] == pytest.approx(2 * four["transformer compute"])
    least = 1e3 * (four["transformer compute"] + four["head compute"]) / 4
    assert told["total"] == pytest.approx({"median": least / 4, "min": least / 8, "max": least / 2, "repeats": 3})


def test_a_matrix_product_reaches_the_peak() -> None:
    """The same product, timed again, is the peak's rate up to the machine's noise: clock and count are right."""
    config = tiny(width=64, heads=2, mlp_width=256)
    peaks = measure_peaks(config, rows=512, device=CPU, dtype=torch.float32)
    x, weight = torch.randn(512, 64), torch.randn(64, 256)
    again = 2 * 512 * 64 * 256 / fastest(lambda: x @ weight, device=CPU)
    assert peaks.shape == (512, 64, 256) and 0.3 < again / peaks.flops["fp32"] < 3


# Comparing


def report_of_training(**machine: Any) -> dict[str, Any]:
    """A report as `magi bench training` makes it, with numbers made up."""
    rates = {
        name: Spread((1.0, 2.0, 4.0)).summary()
        for name in ("step_seconds", "clips_per_second", "tokens_per_second", "gflops")
    }
    return {
        "machine": {"cpu": "some", "torch": "2", "threads": 1, "date": "today", "load_before": 1.0} | machine,
        "model": {"name": "tiny", "parameters": 7, "head": {"kind": "flow"}},
        "effort": {"quick": False, "lengths": (8, 16)},
        "training": {"batch": 16, "fp32": rates, "bf16": deepcopy(rates)},
        "training_flops": {"pruned": 1e9, "plain": 2e9, "ratio": 0.5},
    }


def test_a_planted_slowdown_is_found(tmp_path: Path) -> None:
    """Half the rate is a ratio of .5 beside that figure, and 1 beside all others."""
    old, new = report_of_training(), report_of_training(date="tomorrow", load_before=2.0)
    new["training"]["bf16"]["clips_per_second"] = Spread((0.5, 1.0, 2.0)).summary()
    (tmp_path / "old.json").write_text(json.dumps(old))
    earlier = read_earlier(tmp_path / "old.json", section="training_flops", rows=model_rows.rows)
    assert earlier is not None
    rows = list(model_rows.rows(new))
    old_figures = {row.key: row.figures for row in earlier.rows}
    found = {row.key: ratios(row.figures, old_figures[row.key]) for row in rows}
    slower = found.pop("training bf16, clips per second, batch 16")
    assert slower == "0.5" and set(found.values()) == {"1"} and len(found) == 6
    told = described(new, rows, earlier)
    assert "  new / old" in told and "of the same machine, threads, torch and model" in told
    assert any(line.split()[5:7] == ["0.5", "1"] for line in told.splitlines())
    new["training"]["batch"] = 2  # another batch is another figure
    assert "0.5  " not in described(new, list(model_rows.rows(new))[:3], earlier)


def test_other_machines_are_told_apart() -> None:
    """Processor, threads, torch and model each are named with both values; the date and the load are not."""
    old = report_of_training()
    new = report_of_training(threads=2, torch="3", cpu="other", date="tomorrow", load_before=3.0)
    new["model"]["head"]["kind"] = "diffusion"
    new["effort"]["quick"] = True
    found = "\n".join(differences(new, old))
    assert len(found.splitlines()) == 5
    for told in ("threads: saved 1, now 2", "torch", "cpu", "head.kind", "quick"):
        assert told in found
    line = told_likeness(new, Earlier(Path("old.json"), old, []))
    assert "say little" in line and "threads: saved 1, now 2" in line and "\n" not in line


def test_ratios() -> None:
    """Figure by figure; what is not in both has none, and zero has no ratio but to itself."""
    assert ratios((3.0, 1.0), (2.0, 4.0)) == "1.5, 0.25"
    assert ratios((3.0,), ()) == ratios((3.0,), (1.0, 2.0)) == ""
    assert ratios((0.0, 1.0), (0.0, 0.0)) == "1, -"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    """No JSON, another benchmark's, and one without its parts: a line that says which file and what to do."""
    path = tmp_path / "b.json"
    for text, message in (
        ("{", "not JSON"),
        ('{"frame": []}', "has no 'rows'"),
        ('{"rows": [{"film": "x"}]}', "measure it again"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_earlier(path, section="rows", rows=decoding_rows)
    assert read_earlier(None, section="rows", rows=decoding_rows) is None


@pytest.mark.parametrize(
    ("name", "section", "rows"),
    [("bench-tiny-cpu", "frame", model_rows.rows), ("decode-cpu", "rows", decoding_rows)],
)
def test_recorded_results_can_be_compared_with(name: str, section: str, rows: Any) -> None:
    """Files of the results folder are read, and their rows have keys of their own."""
    earlier = read_earlier(ROOT / "results" / f"{name}.json", section=section, rows=rows)
    assert earlier is not None
    keys = [row.key for row in earlier.rows]
    assert len(set(keys)) == len(keys) > 3 and all(row.figures for row in earlier.rows)


# The verbs


@pytest.mark.parametrize("part", ["sampling", "training"])
def test_halves_of_a_model(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each measures its own half, beside an earlier run, and profiles it as text that names no folder."""
    toy = tiny(head=HeadConfig(depth=1, width=16, time_dim=16), depth=1)
    monkeypatch.setitem(PRESETS, "tiny", toy)
    monkeypatch.setattr(run, "QUICK", replace(run.QUICK, head_steps=10))
    path, profile, earlier = tmp_path / "b.json", tmp_path / "new" / "p.txt", ROOT / "results" / "bench-tiny-cpu.json"
    words = ["bench", part, "tiny", "--quick", "--device", "cpu", "--threads", "1"]
    made = ["--json", str(path), "--profile", str(profile), "--compare", str(earlier)]
    assert cli.main([*words, *made]) == 0
    report = json.loads(path.read_text())
    assert ("frame" in report, "training" in report) == (part == "sampling", part == "training")
    printed = capsys.readouterr().out
    assert "new / old" in printed and "say little" in printed and "achieved over possible" in printed
    text = profile.read_text()
    assert text.startswith(f"magi bench {part} tiny --profile FILE: ") and "aten::addmm" in text
    assert "head" in text and "rest" in text and str(ROOT) not in text
    (tmp_path / "other.json").write_text('{"rows": []}')
    assert cli.main([*words, "--compare", str(tmp_path / "other.json")]) == cli.MISUSE
    assert "give a file that --json of this benchmark wrote" in capsys.readouterr().err


# Presets


def test_presets_are_measured_beside_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every preset and the release's own way: time and quality, each finite; exact is once as fast as exact."""
    report = run_presets_bench(load("world64"), name="world64", quick=True, json_path=tmp_path / "presets.json")
    assert json.loads((tmp_path / "presets.json").read_text()) == report
    assert set(report["presets"]) == {*get_args(Preset), "as released"}
    for row in report["presets"].values():
        assert row["faster"]["min"] > 0 and row["distance"] > 0 and row["interval"][0] < row["interval"][1]
        assert len(row["position_error"]) == report["effort"]["frames"]
    presets = report["presets"]
    assert presets["exact"]["faster"]["min"] == presets["exact"]["faster"]["max"] == 1
    assert presets["fastest"]["faster"]["median"] > presets["annealed"]["faster"]["median"] > 1
    assert "world-FVD" in capsys.readouterr().out


# Streaming


def test_streams_are_measured_in_both_codes(tmp_path: Path) -> None:
    """The model that is named in the goals: .8 M parameters, 16 tokens. Every way in torch and, where there is a
    compiler, in C; fewer steps make more frames."""
    report = run_stream_bench(quick=True, json_path=tmp_path / "stream.json")
    assert json.loads((tmp_path / "stream.json").read_text()) == json.loads(json.dumps(report))
    assert 0.8e6 < report["model"]["parameters"] < 0.82e6 and SMALLEST.tokens == 16
    rates = {name: summary["median"] for name, summary in report["frames_per_second"].items()}
    assert set(rates) == {f"{way}, {code}" for way in ("16 x 100", "8 x 100", "fast", "fastest") for code in codes()}
    assert rates["16 x 100, torch"] < rates["8 x 100, torch"] < rates["fast, torch"]
    assert all(row[code]["min"] > 0 for row in report["denoising_step"] for code in codes())
    assert cli.main("bench stream --threads 2".split()) == cli.MISUSE
