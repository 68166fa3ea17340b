"""Claims about the compiled head: it computes what its twin in torch does, notices other weights, and says what is
missing."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from magi.model.head import SOLVERS, DiffusionHead, HeadConfig, Kind
from magi.model.head_kernel import compiled, packed
from magi.sampling.config import SampleConfig
from magi.sampling.rollout import generate
from tests.toys import error, tiny, trained_looking

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc").split()[0]) is None, reason="no C compiler on this machine"
)


def head_of(config: HeadConfig, *, channels: int, dtype: torch.dtype = torch.float64) -> DiffusionHead:
    """A head without zeros, which would hide what multiplies them."""
    torch.manual_seed(0)
    head = DiffusionHead(channels, 12, config).to(dtype).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


def draw(head: DiffusionHead, rows: int, **settings: Any) -> torch.Tensor:
    """Tokens of fixed noise."""
    rng = torch.Generator().manual_seed(rows)
    dtype, steps = head.output.linear.weight.dtype, settings.pop("num_steps", 7)
    z = torch.randn(rows, 12, generator=rng, dtype=torch.float64).to(dtype)
    noise = torch.randn(steps + 1, rows, head.token_channels, generator=rng, dtype=torch.float64).to(dtype)
    return head.sample(z, noise, num_steps=steps, spacing=None, **settings)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("width", "channels", "depth"), [(16, 3, 2), (33, 5, 1), (8, 20, 0), (64, 16, 3)])
def test_compiled_equals_torch(width: int, channels: int, depth: int, rows: int) -> None:
    """Rows that fill the code's tiles or not, widths and channels that fill its panels or not: in float64 to rounding,
    through seven steps that each see what the one before made."""
    head = head_of(HeadConfig(kind="flow", depth=depth, width=width, time_dim=8), channels=channels)
    for solver in SOLVERS["flow"]:
        assert error(draw(head, rows, solver=solver, compiled=True), draw(head, rows, solver=solver)) < 1e-12


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_every_solver_in_both_types(kind: Kind) -> None:
    """The diffusion's outputs are twice the channels, and Heun keeps one result while it asks for the next. More steps
    than one chunk of modulations has: the second chunk is used as well."""
    config = HeadConfig(kind=kind, depth=2, width=24, time_dim=8)
    for solver in SOLVERS[kind]:
        for dtype, most in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
            head = head_of(config, channels=6, dtype=dtype)
            for parameter in head.parameters():
                parameter.data.mul_(0.3)
            options: dict[str, Any] = {"solver": solver, "num_steps": 60}
            assert error(draw(head, 20, **options, compiled=True), draw(head, 20, **options)) < most


def test_changed_weights_are_packed_again() -> None:
    """In place, by loading, or in a copy: the packed weights are those of the moment; unchanged, they are the same."""
    head = head_of(HeadConfig(kind="flow", depth=1, width=16, time_dim=8), channels=4)
    first = packed(head.layers)
    before = draw(head, 2, solver="euler", compiled=True)
    assert packed(head.layers) is first
    other = copy.deepcopy(head)
    with torch.no_grad():
        other.blocks[0].expand.weight.mul_(2)
    after = draw(other, 2, solver="euler", compiled=True)
    assert error(after, before) > 1e-3 and error(after, draw(other, 2, solver="euler")) < 1e-12
    head.load_state_dict(other.state_dict())
    assert error(draw(head, 2, solver="euler", compiled=True), after) < 1e-12


def test_videos_are_the_same() -> None:
    """Whole videos in float64, of several seeds at once: what the compiled head makes is what torch makes."""
    config = tiny()
    model = trained_looking(config).eval()
    plain = SampleConfig(mask_steps=3, head_steps=5)
    videos = [
        torch.stack(list(generate(model, None, num_frames=3, seeds=[1, 2], settings=settings)))
        for settings in (plain, replace(plain, compiled_head=True))
    ]
    assert error(videos[1], videos[0]) < 1e-9


def test_what_is_missing_is_told_at_once(tmp_path: Path) -> None:
    """A type that there is no code for, no compiler, and one that fails: one line each, before anything is sampled."""
    half = trained_looking(tiny(), dtype=torch.bfloat16).eval()
    with pytest.raises(ValueError, match=r"float32 or float64 on the CPU, this one is torch\.bfloat16 on cpu"):
        generate(half, None, num_frames=1, seeds=[0], settings=SampleConfig(head_steps=5, compiled_head=True))
    with pytest.raises(ValueError, match=r"this one is torch\.float32 on meta"):
        compiled(torch.float32, torch.device("meta"))
    script = "import torch; from magi.model.head_kernel import compiled; compiled(torch.float32, torch.device('cpu'))"
    for compiler, told in ((tmp_path / "none", "install one or set CC"), ("false", "cannot compile the head")):
        command = [sys.executable, "-c", script]
        ran = subprocess.run(command, env={**os.environ, "CC": str(compiler)}, capture_output=True, text=True)
        assert ran.returncode == 1 and told in ran.stderr.splitlines()[-1]
