"""The whole story on small numbers: world -> video files -> train -> kill -> resume -> sample -> evaluate, through the
command line."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from magi.cli import main
from magi.video import read_video

TINY = (
    "--tokenizer pixel:4 --data.folder.size 32 --data.folder.num-frames 6 --data.folder.max-interval 2 "
    "--data.folder.flip False --model.num-frames 6 --model.latent-channels 48 --model.depth 1 --model.width 32 "
    "--model.mlp-width 64 --model.heads 2 --model.head.width 32 --model.head.depth 1 --model.head-repeats 1 "
    "--model.max-interval 2 --train.total-samples 160 --train.batch-size 4 --train.checkpoint-every 16 "
    "--train.log-every 8 --train.evaluate-every 160 --sample.mask-steps 2 --sample.head-steps 4 "
).split()


def test_world_train_kill_resume_sample_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb hands its files to the next; a SIGKILL in the middle costs no more than what came after the last
    checkpoint."""
    videos, run = tmp_path / "videos", tmp_path / "run"
    assert main(["world", "--out", str(videos), "--videos", "4", "--size", "32", "--frames", "16"]) == 0
    assert len(list(videos.glob("*.mp4"))) == 4

    train = ["train", "tiny", "--data", str(videos), "--out", str(run), "--device", "cpu", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "magi", *train], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(run.glob("step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = sorted(run.glob("step-*"))
    assert saved, "no checkpoint was written before the kill"
    assert not (run / "release").exists(), "the run ended before it could be killed; make it longer"

    assert main(train) == 0
    assert "resuming from" in capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "step" in line]
    assert steps == sorted(set(steps)) and steps[-1] == 40, "resuming lost or repeated a line of the log"

    release, samples = str(run / "release"), tmp_path / "samples"
    context = str(sorted(videos.glob("*.mp4"))[0])
    words = [
        "sample",
        release,
        "--context",
        context,
        "--context-frames",
        "3",
        "--frames",
        "3",
        "--out",
        str(samples),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    films = list(samples.glob("*.mp4"))
    assert films and all(len(read_video(film).frames) > 0 for film in films)

    scores = tmp_path / "scores.json"
    words = ["evaluate", release, "--data", str(videos), "--clips", "2", "--context-frames", "3", "--frames", "3"]
    assert main([*words, "--json", str(scores), "--device", "cpu"]) == 0
    graded = json.loads(scores.read_text())["scores"]
    who = ("model", "copy last", "tokenizer")
    assert graded.keys() == {f"{measure}, {name}" for measure in ("PSNR", "SSIM") for name in who}
    assert all(len(values) == 3 and all(map(math.isfinite, values)) for values in graded.values())
