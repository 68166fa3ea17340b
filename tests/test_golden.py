"""Claims about what earlier versions wrote: it is read, goes on, and gives the same numbers; or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.sampling.release import load
from tests.golden.make import MODEL, TRAINING, frames, sums
from tests.toy_runs import run

VERSIONS = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if (path / "expected.json").is_file())


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_a_run_of_an_earlier_version_goes_on(version: Path, tmp_path: Path) -> None:
    """Stopped by the version that made it and finished by this one, it ends with the numbers of that version."""
    shutil.copytree(version / "run", tmp_path / "run")
    state = run(tmp_path / "run", model=MODEL, config=TRAINING)
    expected = json.loads((version / "expected.json").read_text())
    assert state.step == 5
    for found, name in ((state.model, "weights"), (state.ema.model, "average")):
        assert sums(found.state_dict()) == pytest.approx(expected[name], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_a_release_of_an_earlier_version_samples(version: Path) -> None:
    """The same seed is the same video."""
    expected = json.loads((version / "expected.json").read_text())
    assert frames(load(version / "release")) == pytest.approx(expected["frames"], rel=1e-3, abs=1e-4)


def test_there_are_some() -> None:
    """The format that is written now is among them."""
    formats = {json.loads((version / "release" / "MANIFEST.json").read_text())["format"] for version in VERSIONS}
    assert checkpoint.FORMAT_VERSION in formats


def test_a_later_format_is_refused_precisely(tmp_path: Path) -> None:
    """What a later version wrote is not guessed at: the error has both numbers."""
    shutil.copytree(VERSIONS[-1] / "release", tmp_path / "release")
    manifest = tmp_path / "release" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="has format 2; this version reads format 1"):
        load(tmp_path / "release")


def test_a_setting_of_a_later_version_is_refused_precisely(tmp_path: Path) -> None:
    """One that this version does not know could mean anything."""
    shutil.copytree(VERSIONS[-1] / "run", tmp_path / "run")
    step = tmp_path / "run" / "step-00000003"
    config = json.loads((step / "config.json").read_text())
    config["train"]["later"] = 1
    (step / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    files = {
        name: checkpoint._fingerprint(step / name) for name in checkpoint._file_names(step) if name != "MANIFEST.json"
    }
    (step / "MANIFEST.json").write_text(json.dumps({"format": 1, "files": files}))
    with pytest.raises(CheckpointError, match=r"train\.later: saved 1, now absent"):
        run(tmp_path / "run", model=MODEL, config=TRAINING)
