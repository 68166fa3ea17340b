"""The wheel carries the trained model, and works where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SAMPLE = """
import sys, magi, torch
assert "site" in magi.__file__ and {root!r} not in magi.__file__, magi.__file__
release = magi.load("world64")
context = torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8)
frames = list(magi.generate(release, context, num_frames=2, seeds=[0]))
assert [tuple(frame.shape) for frame in frames] == [(1, 3, 64, 64)] * 2
print("sampled")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree as `pip` would."""
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_model_and_only_the_package(wheel: Path) -> None:
    """Users install it without the repository: the weights must be inside, tests and results outside."""
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("model.safetensors", "tokenizer.safetensors", "config.json", "MANIFEST.json", "README.md"):
        assert f"magi/pretrained/world64/{name}" in names
    assert "magi/py.typed" in names
    assert all(name.startswith(("magi/", "magi_video-")) for name in names)
    assert wheel.stat().st_size < 16 * 2**20


def test_an_installed_wheel_samples_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """Installed alone into an empty folder and run from elsewhere, nothing of the repository can help it."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    script = SAMPLE.format(root=str(ROOT))
    # -P keeps the current folder off the path; the editable install of the repository comes after PYTHONPATH
    result = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0 and "sampled" in result.stdout, result.stderr
