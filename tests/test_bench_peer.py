"""Claims about the bench beside MAR's code: both do the same work, or it says so; MAR's code leaves no trace."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from magi.bench.mar import FixedRatio, import_mar
from magi.bench.measure import Spread, alternate
from magi.bench.peer import QUICK, Work, build_magi, build_mar, compare, run_peer_bench
from magi.cli.bench import main as bench_command

# The interface of MAR's code, and none of its work: a linear model that reveals one token a step.
MAR_FILE = """
import math
import torch
from torch import nn
from models.diffloss import DiffLoss

class MAR(nn.Module):
    def __init__(self, *, img_size, vae_stride, patch_size, vae_embed_dim, diffusion_batch_mul, diffloss_w,
                 encoder_embed_dim, num_sampling_steps, proj_dropout, **others):
        super().__init__()
        self.side, self.channels = img_size // vae_stride // patch_size, vae_embed_dim
        self.repeats = diffusion_batch_mul
        self.dropout = nn.Dropout(proj_dropout)
        self.embed = nn.Linear(vae_embed_dim, encoder_embed_dim)
        self.diffloss = DiffLoss(vae_embed_dim, encoder_embed_dim, int(num_sampling_steps))

    def random_masking(self, x, orders):
        count = math.ceil(x.shape[1] * self.mask_ratio_generator.rvs(1)[0])
        return torch.zeros(x.shape[:2]).scatter(1, orders[:, :count], 1.0)

    def forward(self, imgs, labels):
        x = imgs.flatten(2).mT
        mask = self.random_masking(x, torch.rand(x.shape[:2]).argsort(-1))
        z, x = (part.flatten(0, 1).repeat(self.repeats, 1) for part in (self.dropout(self.embed(x)), x))
        errors = (self.diffloss.net(x, None, z) - x).square().mean(-1)
        return (errors * mask.flatten().repeat(self.repeats)).mean()

    def sample_tokens(self, bsz, num_iter=64, cfg=1.0, temperature=1.0):
        tokens = torch.zeros(bsz, self.side**2, self.channels).cuda()
        for step in range(num_iter):
            tokens[:, step] = self.diffloss.sample(self.embed(tokens[:, step]), temperature, cfg)
        return tokens.mT.reshape(bsz, self.channels, self.side, self.side)
"""
DIFFLOSS_FILE = """
import torch
from torch import nn
from diffusion import EXTRA_STEPS

class Net(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.linear = nn.Linear(channels + width, channels)

    def forward(self, x, t, c):
        return self.linear(torch.cat([x, c.to(x.dtype)], dim=-1))

class DiffLoss(nn.Module):
    def __init__(self, channels, width, steps):
        super().__init__()
        self.net, self.steps, self.channels = Net(channels, width), steps, channels

    def sample(self, z, temperature=1.0, cfg=1.0):
        x = torch.randn(len(z), self.channels).cuda()
        for step in range(self.steps + EXTRA_STEPS):
            x = self.net.forward(x, None, z).float()
        return x
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like MAR's repository."""
    folder = tmp_path / "mar"
    files = {"models/mar.py": MAR_FILE, "models/diffloss.py": DIFFLOSS_FILE, "diffusion/__init__.py": "EXTRA_STEPS = 0"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_bench_reports_both_sides(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every documented key is there, for both sides, with the work that was asked for: one row of the head per token
    and denoising step, and ratios of the times beside them."""
    assert bench_command(["peer", str(checkout), "--quick", "--json", str(tmp_path / "peer.json")]) == 0
    report = json.loads((tmp_path / "peer.json").read_text())
    assert set(report) == {"machine", "work", "operations", "counts", "sampling", "training"}
    assert report["machine"]["threads"] == 1
    sampling, training = report["counts"]["sampling"], report["counts"]["training"]
    rows, latents = QUICK.tokens * QUICK.head_steps, QUICK.tokens * QUICK.channels
    assert sampling["head_rows"] == {"mar": rows, "magi": rows}
    assert sampling["latents"] == {"mar": latents, "magi": latents}
    masked = math.ceil(QUICK.tokens * 0.867)
    assert training["masked"] == {"mar": masked, "magi": masked}
    tokens = {"mar": QUICK.tokens, "magi": masked}  # MAR runs its head on all tokens
    assert training["head_rows"] == {n: QUICK.train_batch * QUICK.head_repeats * t for n, t in tokens.items()}
    assert [measured["batch"] for measured in report["sampling"]] == list(QUICK.batches)
    for measured in (*report["sampling"], report["training"]):
        assert all(ratio["median"] > 0 for ratio in measured["ratio"].values())
    printed = capsys.readouterr().out
    assert "quick" in printed and "times faster than MAR" in printed


def test_other_work_is_refused(checkout: Path) -> None:
    """Code that denoises in more steps than it is told must not be compared with."""
    (checkout / "diffusion" / "__init__.py").write_text("EXTRA_STEPS = 1")
    with pytest.raises(ValueError, match="not the same work: rows of the head, MAR 24, ours 20"):
        run_peer_bench(checkout, quick=True)


def test_models_are_the_work(checkout: Path) -> None:
    """Ours has the tokens, layers and dropout of the work, one frame, MAR's mask ratio, and nothing left at zero that
    would hide what is computed; the paper's own defaults are what a training step repeats and drops."""
    work = Work()
    model, mar = build_magi(work), build_mar(import_mar(checkout), work)
    config = model.config
    assert (config.tokens, config.token_channels, config.num_frames) == (64, 16, 1)
    assert (2 * len(list(model.transformer.blocks)), config.width, config.mlp_width) == (8, 192, 768)
    assert (config.head.depth, config.head.width, config.head_repeats, config.dropout) == (3, 256, 4, 0.1)
    assert config.frame_tokens == config.tokens + 1, "MAR's sequence has its class as one more token"
    assert all(bool(parameter.any()) for side in (model, mar) for parameter in side.parameters())
    assert not model.training and not mar.training and mar.dropout.p == 0.1
    assert isinstance(mar.mask_ratio_generator, FixedRatio)
    assert mar.mask_ratio_generator.rvs(2).tolist() == pytest.approx([0.867, 0.867], abs=1e-3)


def test_mars_code_leaves_no_trace(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules have everybody's names: afterwards those of others are back, the path is what it was, no compiled
    files lie in the user's folder, and tensors move to a GPU again."""
    other = type(sys)("models")
    monkeypatch.setitem(sys.modules, "models", other)
    path, cuda = list(sys.path), torch.Tensor.cuda
    run_peer_bench(checkout, quick=True)
    assert sys.modules["models"] is other and "diffusion" not in sys.modules and "models.mar" not in sys.modules
    assert sys.path == path and torch.Tensor.cuda is cuda
    assert not list(checkout.rglob("*.pyc"))


def test_mistakes_are_told_in_one_line(checkout: Path, tmp_path: Path) -> None:
    """What to fetch, what to install, what to leave out."""
    mistakes = {
        (): "name the folder of MAR's code",
        (str(tmp_path),): r"is no checkout of MAR, models/mar\.py is missing; git clone",
        (str(checkout), "--threads", "2"): "one thread, got --threads 2",
    }
    for words, message in mistakes.items():
        with pytest.raises(ValueError, match=message) as told:
            bench_command(["peer", *words])
        assert "\n" not in str(told.value)
    (checkout / "models" / "mar.py").write_text("from a_library_that_is_not_there import Block")
    with pytest.raises(ValueError, match=r"needs timm and scipy: No module named .*; pip install timm scipy") as told:
        bench_command(["peer", str(checkout)])
    assert "\n" not in str(told.value)


def test_ratios_are_of_the_same_turn() -> None:
    """A slow turn falls on both sides and leaves the ratio; of several ways of theirs the fastest counts."""
    seconds = {"a": Spread((4.0, 40.0)), "b": Spread((6.0, 30.0)), "ours": Spread((2.0, 10.0))}
    ratio = compare(seconds, {"x": (["a"], "ours"), "y": (["a", "b"], "ours")})["ratio"]
    assert (ratio["x"]["min"], ratio["x"]["max"]) == (2.0, 4.0)
    assert (ratio["y"]["min"], ratio["y"]["max"]) == (2.0, 3.0)


def test_another_clock() -> None:
    """Times are differences on the clock that is given."""
    ticks = iter(range(100))
    times = alternate({"a": lambda: next(ticks)}, repeats=2, device=torch.device("cpu"), clock=lambda: next(ticks))
    assert times["a"].values == (2, 2)
