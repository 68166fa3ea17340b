"""What `magi checkpoint` tells of a run, and makes of it. One run is trained for all tests; each has a copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from magi import checkpoint, cli
from magi.sampling.release import load
from tests.test_cli import TOY, failure, magi


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, with three checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "toy.yaml").write_text(TOY)
    words = [
        "--config",
        folder / "toy.yaml",
        "--train.keep-checkpoints",
        "3",
        "--device",
        "cpu",
        "--out",
        folder / "run",
    ]
    assert magi("train", *words) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to do with as one likes."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def flip_a_bit(path: Path) -> None:
    """Change a byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_list_names_what_is_damaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oldest first, how far each was, whether it is whole; the exit code is 1 when one is not."""
    assert magi("checkpoint", "list", run) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["step-00000001", "4"],
        ["step-00000002", "8"],
        ["step-00000003", "12"],
    ]
    assert all(line.endswith("whole") for line in lines)
    flip_a_bit(run / "step-00000002" / "ema.safetensors")
    (run / "step-00000003" / "state.json").unlink()
    assert magi("checkpoint", "list", run) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    assert "whole" in lines[0]
    assert "DAMAGED: ema.safetensors has the right size and another SHA-256" in lines[1]
    assert "?" in lines[2] and "state.json is missing" in lines[2]


def test_verify_reads_all_that_a_run_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every checkpoint and the release; given one of them, that one; and nothing is changed."""
    assert magi("checkpoint", "verify", run) == 0
    assert capsys.readouterr().out.count("whole") == 4
    flip_a_bit(run / "release" / "model.safetensors")
    assert magi("checkpoint", "verify", run) == 1
    told = capsys.readouterr().out
    assert told.count("whole") == 3 and "release: model.safetensors has the right size and another SHA-256" in told
    assert magi("checkpoint", "verify", run / "step-00000001", run / "step-00000002") == 0
    assert capsys.readouterr().out.count("whole") == 2
    (run / "step-00000001" / checkpoint.MANIFEST).unlink()
    assert magi("checkpoint", "verify", run / "step-00000001") == 1
    assert "MANIFEST.json is missing" in capsys.readouterr().out


def test_export_has_the_averaged_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the newest checkpoint what the run itself released at its end; and it can be sampled from."""
    assert magi("checkpoint", "export", run, "--out", tmp_path / "made") == 0
    assert "step-00000003, 12 samples" in capsys.readouterr().out
    ours, theirs = load(tmp_path / "made").model.state_dict(), load(run / "release").model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert magi("sample", tmp_path / "made", "--frames", "2", "--device", "cpu", "--out", tmp_path / "videos") == 0
    assert magi("checkpoint", "export", run / "step-00000001", "--out", tmp_path / "first") == 0
    first = load(tmp_path / "first").model.state_dict()
    assert not all(torch.equal(first[name], theirs[name]) for name in first)


def test_export_passes_over_damage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest that is whole, with a warning that names the others; asked for a damaged one by name it refuses."""
    flip_a_bit(run / "step-00000003" / "ema.safetensors")
    assert magi("checkpoint", "export", run, "--out", tmp_path / "made") == 0
    seen = capsys.readouterr()
    assert "step-00000002, 8 samples" in seen.out and "passing over a damaged checkpoint" in seen.err
    told = failure(capsys, "checkpoint", "export", run / "step-00000003", "--out", tmp_path / "other")
    assert "ema.safetensors has the right size and another SHA-256" in told


def test_export_says_what_is_missing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another tokenizer, no settings, no checkpoints, a folder that is there: refused in a line, nothing written."""
    to = ["--out", tmp_path / "made"]
    assert "is not the one" in failure(capsys, "checkpoint", "export", run, "--tokenizer", "pixel:4", *to)
    (run / "config.yaml").unlink()
    assert "give --tokenizer" in failure(capsys, "checkpoint", "export", run, *to)
    assert "holds no checkpoints" in failure(capsys, "checkpoint", "export", tmp_path, *to)
    (tmp_path / "there").mkdir()
    told = failure(capsys, "checkpoint", "export", run, "--tokenizer", "pixel:8", "--out", tmp_path / "there")
    assert "never overwritten" in told and not (tmp_path / "made").exists()
    assert magi("checkpoint", "export", run, "--tokenizer", "pixel:8", *to) == 0


class Opened:
    """Opens a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_convert_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain tensors become safetensors with a manifest; a file that would do something is refused, and does nothing."""
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(tensors, tmp_path / "plain.pt")
    assert magi("checkpoint", "convert", tmp_path / "plain.pt", "--out", tmp_path / "plain") == 0
    checkpoint.verify(tmp_path / "plain")
    found = checkpoint.load_tensors(tmp_path / "plain", "tensors", tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    torch.save({"a": torch.ones(1), "trap": Opened(tmp_path / "sprung")}, tmp_path / "trap.pt")
    told = failure(capsys, "checkpoint", "convert", tmp_path / "trap.pt", "--out", tmp_path / "trapped")
    assert "--trust-code" in told
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "trapped").exists()
    told = failure(
        capsys, "checkpoint", "convert", tmp_path / "plain.pt", "--sha256", "0" * 64, "--out", tmp_path / "other"
    )
    assert "expected " + "0" * 64 in told and not (tmp_path / "other").exists()


@pytest.mark.parametrize("verb", ["checkpoint", "tokenizer"])
def test_verbs_that_are_several_answer_alike(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a subverb the error lists them; a near miss is corrected; --help prints a line for each."""
    assert f"magi {verb} convert" in failure(capsys, verb)
    assert f"did you mean magi {verb} convert?" in failure(capsys, verb, "convret")
    assert cli.main([verb, "--help"]) == 0
    assert "convert " in capsys.readouterr().out
