"""Claims about the levels of determinism: which one a training has, that it says so, and that asking is heard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from magi.training.determinism import MEANING, Level, level_of
from tests.toy_runs import RUN, assert_same_bits, everything, run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is asked of torch is asked for the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(
    ("device", "deterministic", "tree", "level"),
    [(CUDA, False, False, "D0"), (CUDA, False, True, "D0"), (CUDA, True, False, "D2"), (CUDA, True, True, "D3"),
     (CPU, False, False, "D2"), (CPU, False, True, "D3"), (CPU, True, False, "D2")],
)  # fmt: skip
def test_levels(device: torch.device, deterministic: bool, tree: bool, level: Level) -> None:
    """A GPU promises nothing unless it is asked to; a tree makes the number of processes not matter."""
    assert level_of(device, deterministic=deterministic, tree=tree) == level


@pytest.mark.parametrize(
    ("parts", "reduction", "level"), [(None, "fast", "D2"), (4, "fast", "D2"), (4, "tree", "D3"), (None, "tree", "D2")]
)
def test_a_run_says_and_keeps_its_level(
    parts: int | None, reduction: str, level: Level, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its start, and in each checkpoint beside the number of its processes. A tree whose parts are as many as the
    processes depends on their number, so it is no D3."""
    run(tmp_path, config=replace(RUN, total_samples=4, parts=parts, reduction=reduction))
    assert f"determinism {level}: {MEANING[level]}" in capsys.readouterr().out
    kept = json.loads((tmp_path / "step-00000001" / "state.json").read_text())
    assert (kept["determinism"], kept["processes"]) == (level, 1)


def test_asking_is_heard_and_changes_no_bit_of_a_cpu(tmp_path: Path, restored: None) -> None:
    """Torch is told to take kernels that sum in one order; a CPU's already do, and twice the same run is the same."""
    expected = everything(run(tmp_path / "plain"))
    assert not torch.are_deterministic_algorithms_enabled()
    found = everything(run(tmp_path / "asked", config=replace(RUN, deterministic=True)))
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    assert_same_bits(found, expected)
