"""Claims about the benchmarks: what they count is right, what they compare is the same work, they leave no trace."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from magi.bench import kernels
from magi.bench.attention import in_two_parts
from magi.bench.decoding import run_decoding_bench
from magi.bench.measure import Spread, alternate, count_operations, fitted_exponent
from magi.bench.run import run_bench
from magi.bench.sampling import (
    Rollout,
    UncachedMagi,
    count_head_operations,
    measure_cache,
    race,
    step_settings,
)
from magi.bench.training import count_training_flops, plain_loss, typical_draws
from magi.cli.bench import main as bench_command
from magi.model import plan
from magi.model.attention import attend
from magi.model.config import PRESETS, MagiConfig
from magi.model.forcing import ctf_mask
from magi.model.head import DiffusionHead, HeadConfig
from magi.report.frame_time import draw
from magi.sampling.config import SampleConfig
from magi.sampling.rollout import generate
from tests.toys import FLOW, error, intervals, random_latents, tiny, trained_looking

CPU = torch.device("cpu")
SUMMARY = {"median", "min", "max", "repeats"}
FRAME_PARTS = ("transformer", "head", "total")


def numbers(value: Any) -> list[float]:
    """All numbers in a nested report."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list | tuple):
        return [number for inner in value for number in numbers(inner)]
    return [] if isinstance(value, str) or value is None else [float(value)]


def patched_model(config: MagiConfig) -> Any:
    """A model that may be trained with AdamW and autocast: float32. Its head has the 1000 steps that the rows need."""
    return trained_looking(replace(config, head=replace(config.head, train_steps=1000)), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_quick_bench_reports_everything(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every documented key is there and every number finite; the file and the table say what is returned; and the model
    comes back with the weights, the methods and the frozen parameters that it had."""
    model = patched_model(tiny(head=FLOW) if kind == "flow" else tiny()).requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = run_bench(model, quick=True, json_path=tmp_path / "made" / "bench.json")

    assert set(report) == {
        "machine", "method", "model", "effort", "training", "training_flops", "attention_in_two_parts", "roofline",
        "frame", "frame_flops", "growth", "operations", "cache", "deterministic",
    }  # fmt: skip
    assert {"cpu", "cores", "device", "torch", "threads", "omp_wait_policy", "date"} <= set(report["machine"])
    for precision in ("fp32", "bf16"):
        quantities = report["training"][precision]
        assert set(quantities) == {"step_seconds", "clips_per_second", "tokens_per_second", "gflops"}
        assert all(set(summary) == SUMMARY for summary in quantities.values())
    for row in report["frame"]:
        assert {"mask_steps", "head_steps", "solver", "batch"} <= set(row)
        assert set(row["total"]) == set(row["transformer"]) == set(row["head"]) == set(row["rest"]) == SUMMARY
        assert all(row[part]["min"] > 0 for part in ("transformer", "head", "rest"))
    for growth in report["growth"]:
        for part in ("total", "transformer"):
            for timed in (growth["cached"][part], growth["uncached"][part]):
                seconds = [summary["median"] for summary in timed["seconds"]]
                assert len(seconds) == len(growth["lengths"]) and seconds == sorted(seconds)
                assert set(timed["exponent"]) == SUMMARY
            assert len(growth["speedup"][part]) == len(growth["lengths"])
    assert all(math.isfinite(number) for number in numbers(report))
    assert report["frame_flops"]["counted"] == pytest.approx(report["frame_flops"]["planned"], rel=0.02)
    roofline = report["roofline"]
    assert min(numbers(roofline["peaks"])) > 0
    shares = [
        *roofline["training"].values(),
        *(row[p] for row in roofline["sampling"] for p in (*FRAME_PARTS, "total")),
    ]
    assert all(0 < share["min"] <= share["median"] <= share["max"] <= 1.3 for share in shares)

    assert json.loads((tmp_path / "made" / "bench.json").read_text()) == json.loads(json.dumps(report))
    printed = capsys.readouterr().out
    assert "custom: " in printed and f"{report['cache']['bytes_per_frame']:,}" in printed
    assert not {"predict", "commit"} & set(vars(model)) and "sample" not in vars(model.head)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model.training


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """A name that is neither a preset nor a release is an error of the user's, told before anything is measured."""
    with pytest.raises(ValueError, match="no released model"):
        run_bench(tmp_path / "nowhere", quick=True)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_operations_of_a_denoising_step(depth: int) -> None:
    """Counted by hand, a block is norm, modulation, linear, SiLU, linear, gated sum; around the blocks are the input,
    the norm, its modulation and the output; and the solvers add their update. Each is one aten operation. At the
    paper's depth this is within 30 everywhere; MAR's code issues 110."""
    solvers = {
        "ddpm": 4,  # scale the output, move the mean, exp, add noise
        "ddim": 2,
        "dpm++": 5,  # to the clean token (2), to the next state (2), extrapolate
        "euler": 1,
        "heun": 3,  # to the next state, the sum of two slopes, from the old state along it
    }
    for kind in ("diffusion", "flow"):
        head = DiffusionHead(4, 8, HeadConfig(kind=kind, depth=depth, width=8, time_dim=4))
        for solver, counts in count_head_operations(head, steps=20, rows=2).items():
            calls = 2 if solver == "heun" else 1
            assert counts["loop"] == calls * (4 + 6 * depth) + solvers[solver], solver
            assert counts["loop"] < counts["all"] + 1  # but for the last step's noise, the tables come on top
            assert counts["loop"] <= 30 * calls


def test_views_are_not_operations() -> None:
    """Transposing, slicing and expanding read no memory; sums, products, copies and writes in place do. A product over
    three axes is one operation, whatever views surround it."""
    x = torch.ones(2, 3, 4)
    assert count_operations(lambda: x.transpose(0, 1)[:, :1].expand(3, 5, 4).unsqueeze(0).chunk(2)) == 0
    assert count_operations(lambda: x.clone().add_(1.0).mul(2.0)) == 3
    assert count_operations(lambda: x @ torch.ones(4, 4)) == 2  # with the ones
    assert count_operations(lambda: x.mT.reshape(-1)) == 1  # a copy, which reshape has to make here


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.7])
def test_exponent_of_a_power_law(exponent: float) -> None:
    """On a law without noise the fit is the law, whatever its constant."""
    sizes = [8, 16, 32, 100]
    assert fitted_exponent(sizes, [3e-4 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-12)


def test_cache_bytes_are_the_formula() -> None:
    """Keys and values of every temporal layer, for the tokens of a frame and its noise level's: 26.2 MB in bfloat16 for
    the paper's model, plus the one token."""
    config = tiny()
    held = measure_cache(patched_model(config), batch=3, frames=5)
    assert held["bytes_per_frame"] == held["formula"] == 2 * config.depth * (config.tokens + 1) * config.width * 4
    paper = plan.cache_bytes(PRESETS["xl"], bytes_per_value=2)
    assert paper == 26_214_400 + 26_214_400 // 256


def test_runs_take_turns() -> None:
    """One untimed run each, then in turn: a change in the machine's load cannot favour one of them."""
    order: list[str] = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, device=CPU)
    assert "".join(order) == "ab" + "abab"
    assert {name: len(spread.values) for name, spread in times.items()} == {"a": 2, "b": 2}


def test_summaries() -> None:
    """A rate is work over time, value by value: the median of the rates is the rate at the median time."""
    seconds = Spread((2.0, 1.0, 4.0))
    assert seconds.summary() == {"median": 2.0, "min": 1.0, "max": 4.0, "repeats": 3}
    assert seconds.per(8.0).summary() == {"median": 4.0, "min": 2.0, "max": 8.0, "repeats": 3}
    assert seconds.times(10.0).values == (20.0, 10.0, 40.0)


def test_frames_are_timed_in_parts() -> None:
    """What is inside the model's and the head's calls is within the total, for each of two rollouts of one model."""
    model = patched_model(tiny())
    settings = SampleConfig(mask_steps=2, head_steps=3)
    times = race({"one": Rollout(model, settings), "two": Rollout(model, settings, batch=2)}, frames=2)
    assert [len(each) for each in times.values()] == [2, 2]
    for each in times.values():
        assert all(min(t.transformer, t.head, t.rest) > 0 for t in each)
        assert all(t.transformer + t.head + t.rest == pytest.approx(t.total) for t in each)


def test_settings_are_capped_and_distinct() -> None:
    """With 16 tokens 64 mask steps are 16, and the paper's row is then the same as the second."""
    assert [(s.mask_steps, s.head_steps, s.solver) for s in step_settings("diffusion", 16)] == [
        (16, 100, "ddpm"), (8, 100, "ddpm"), (16, 25, "dpm++"), (8, 25, "dpm++")
    ]  # fmt: skip
    assert len(step_settings("flow", 256)) == 5


@pytest.mark.parametrize("forcing", ["ctf", "mtf"])
def test_without_a_cache_it_is_the_same_video(forcing: Any) -> None:
    """The slow side of the comparison does the same work: equal latents in float64, also with noisy observations, a
    given beginning and a window that moves."""
    model = trained_looking(tiny(forcing=forcing))
    settings = SampleConfig(mask_steps=2, head_steps=3, window=3, observation_noise=0.2)
    context, uncached = random_latents(model.config, frames=1), UncachedMagi(model).eval()
    for _ in range(2):  # the second rollout finds nothing of the first
        videos = [
            torch.stack(list(generate(m, context, num_frames=4, seeds=[3, 4], interval=[1, 2], settings=settings)))
            for m in (model, uncached)
        ]
        torch.testing.assert_close(videos[0], videos[1], rtol=1e-9, atol=1e-9)
    assert {id(p) for p in uncached.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("changes", [{}, {"masks_per_clip": 2}, {"forcing": "mtf"}], ids=["ctf", "two copies", "mtf"])
def test_pruning_is_exact(changes: dict[str, Any]) -> None:
    """The last observation frame and the head on visible tokens change neither the loss nor a gradient."""
    config = tiny(mask_ratio_min=0.3, **changes)
    model, latents, interval = trained_looking(config), random_latents(config), intervals(config)
    masked, everything = typical_draws(config, [5, 6])
    assert masked.masked_tokens.shape[-1] < everything.masked_tokens.shape[-1] == config.num_frames * config.tokens
    losses = [model(latents, interval, masked)["loss"], plain_loss(model, latents, interval, masked, everything)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    for pruned, plain in zip(*(torch.autograd.grad(loss, list(model.parameters())) for loss in losses), strict=True):
        torch.testing.assert_close(pruned, plain, rtol=1e-9, atol=1e-12)


def test_pruning_saves_what_it_should() -> None:
    """One of 2 T frames; of the other observations all but keys and values in the last temporal layer; of visible
    tokens what follows attention there, and the head. Forward and backward together cost what the planner says of both
    layouts, and the paper's model saves 11 % with 5 frames and 4.7 % with 16."""
    ratios = {}
    for name, frames in (("tiny", 5), ("tiny", 16), ("xl", 5), ("xl", 16)):
        config = replace(PRESETS[name], num_frames=frames)
        flops = count_training_flops(config)
        pruned = plan.forward_flops(config, masked=typical_draws(config, [0])[0].masked_tokens.shape[-1])
        plain = plan.transformer_flops(config, frames=2 * frames, attended=2 * frames)
        plain += plan.forward_flops(config, masked=frames * config.tokens).head
        assert 2.9 < flops["pruned"] / pruned.total <= 3
        assert flops["ratio"] == pytest.approx(pruned.total / plain, rel=2e-3)
        ratios[name, frames] = flops["ratio"]
    assert ratios["xl", 5] <= 0.89 and ratios["xl", 16] <= 0.955


@pytest.mark.parametrize("copies", [1, 3])
def test_attention_in_two_parts_is_the_whole(copies: int) -> None:
    """The same results and gradients, so that what is compared is the same work; and the first masked frame, which sees
    itself alone, has its own value."""
    whole = [torch.randn(2, 3, 3 + copies * 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    parts = [tensor.detach().clone().requires_grad_() for tensor in whole]
    expected = attend(*whole, mask=ctf_mask(4, copies))
    found = in_two_parts(*parts, frames=4)
    assert error(found, expected) < 1e-12 and error(found[..., 3, :], whole[2][..., 3, :]) < 1e-12
    weights = torch.randn_like(expected)
    for result in (expected, found):
        (result * weights).sum().backward()
    assert all(error(a.grad, b.grad) < 1e-12 for a, b in zip(parts, whole, strict=True))  # type: ignore[arg-type]


def test_quick_decoding_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every way of reading is timed, and the file and the table say what is returned."""
    report = run_decoding_bench(quick=True, json_path=tmp_path / "made" / "decode.json")
    assert json.loads((tmp_path / "made" / "decode.json").read_text()) == json.loads(json.dumps(report))
    assert [(row["interval"], row["size"]) for row in report["rows"]] == [(1, 32), (2, 32)]
    for row in report["rows"]:
        assert set(row["clips_per_second"]) == {"sought", "whole", "isolated"}
        assert all(set(rates) == SUMMARY for rates in row["clips_per_second"].values())
    assert all(math.isfinite(number) for number in numbers(report))
    printed = capsys.readouterr().out
    assert "MPEG-4 tiny" in printed and "only prove that everything runs" in printed
    with pytest.raises(ValueError, match="measures one core, got --threads 2"):
        bench_command(["decode", "--threads", "2"])


def test_the_picture_shows_every_way_of_a_batch_size() -> None:
    """A bar of three parts for each row, the quickest at the bottom, as long as its parts together."""
    parts = {"transformer": 2.0, "head": 5.0, "rest": 1.0}
    rows = [
        {
            "mask_steps": 4, "head_steps": 9, "solver": "ddpm", "compiled_head": compiled, "batch": batch,
            **{name: {"median": value / (1 + compiled)} for name, value in {**parts, "total": 8.0}.items()},
        }
        for compiled in (False, True) for batch in (1, 8)
    ]  # fmt: skip
    axes = draw({"frame": rows, "model": {"name": "any"}}).axes[0]
    bars = sorted((bar.get_y(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert len(bars) == 6 and bars[2][1] == 4 and bars[-1][1] == 8
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4 x 9 ddpm, compiled", "4 x 9 ddpm"]
    with pytest.raises(ValueError, match="no frames of batch 3"):
        draw({"frame": rows}, batch=3)


def test_the_profile_of_kernels_is_of_a_mask_step() -> None:
    """What `python -m magi.bench.kernels` profiles on a GPU, made here: conditions for the tokens revealed after some
    frames, and a token for each of them."""
    model = trained_looking(PRESETS["tiny"], dtype=torch.float32)
    parts = kernels.mask_step(model, 2)
    with torch.inference_mode():
        z, tokens = (run() for run in parts.values())
    assert isinstance(z, Tensor) and z.shape == (2, kernels.REVEALED, model.config.width)
    assert isinstance(tokens, Tensor) and tokens.shape == (2 * kernels.REVEALED, model.config.token_channels)
