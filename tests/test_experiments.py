"""The paper's experiments: what they say against the paper, what they would take, and that every part of them fits."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from magi import cli
from magi.cli.smoke import WALKS
from magi.experiments import k600_omni, ucf101_cosmos, ucf101_sd14
from magi.experiments.paper import EMA_HALF_LIFE_STEPS
from magi.experiments.planning import GPUS, Footage, plan_cache, plan_training
from magi.experiments.presets import FOOTAGE, PRESETS
from magi.experiments.video import VideoRun
from magi.model import plan
from magi.sampling.config import SampleConfig
from magi.video import read_video

PAPER: dict[str, VideoRun] = {
    "ucf101-sd14": ucf101_sd14.VIDEO,
    "ucf101-cosmos": ucf101_cosmos.VIDEO,
    "k600-omni": k600_omni.VIDEO,
}


@pytest.mark.parametrize(
    ("name", "frames", "channels", "latents", "batch", "epochs", "lr"),
    [
        ("ucf101-sd14", 16, 4, 16, 128, 1400, 5e-5),
        ("ucf101-cosmos", 17, 16, 5, 128, 1400, 5e-5),
        ("k600-omni", 17, 8, 5, 256, 150, 1e-4),
    ],
)
def test_experiments_are_the_papers(
    name: str, frames: int, channels: int, latents: int, batch: int, epochs: int, lr: float
) -> None:
    """A.1 and A.3: clip, batch, epochs, warm-up of 10,000 steps, weight decay .02, EMA .9999 per step, intervals up to
    25; 256 tokens per frame, which MAR's 64 steps are made for; sampling as the paper. The rate is ours."""
    run, videos = PAPER[name], FOOTAGE[name].videos
    assert PRESETS[name] == run
    data, model, train = run.data.folder, run.model, run.train
    assert (data.num_frames, data.size, data.min_interval, data.max_interval) == (frames, 256, 1, 25)
    assert (model.latent_channels, model.num_frames, model.tokens, model.max_interval) == (channels, latents, 256, 25)
    assert (model.depth, model.width, model.head.depth, model.head.width) == (20, 1280, 3, 1024)
    assert train.batch_size == batch and 0 <= train.total_samples - videos * epochs < batch
    assert train.optim.warmup_samples == 10_000 * batch and train.optim.weight_decay == 0.02
    assert train.optim.lr == pytest.approx(lr) and train.optim.decay == "none"
    assert 0.5 ** (batch / train.ema_half_life) == pytest.approx(0.9999, abs=1e-7)
    assert round(math.log(0.5) / math.log(0.9999)) == EMA_HALF_LIFE_STEPS
    assert run.sample == SampleConfig() and model.forcing == "ctf"
    planned = plan_training(run, None, gpu=GPUS["h200"], count=8, utilisation=0.4)
    assert planned.fits == ("fits with --checkpointed" if run.checkpointed else "fits")


def test_a_plan_is_arithmetic() -> None:
    """Days are operations over what the GPUs make of them; memory is the state and each GPU's share of the batch."""
    run = PAPER["ucf101-sd14"]
    one, eight = (
        plan_training(run, FOOTAGE["ucf101-sd14"], gpu=GPUS["h200"], count=count, utilisation=0.4) for count in (1, 8)
    )
    assert one.steps == eight.steps == 145_688 and eight.epochs == pytest.approx(1400, abs=0.01)
    assert one.flops == pytest.approx(18_648_064 * plan.training_flops(run.model).total)
    assert one.days / eight.days == pytest.approx(8)
    assert eight.days == pytest.approx(one.flops / (0.4 * 989e12 * 8) / 86_400)
    state = sum(plan.training_bytes(sum(plan.count_parameters(run.model).values())).values())
    assert one.bytes_per_gpu - state == pytest.approx(8 * (eight.bytes_per_gpu - state))
    assert eight.fits == "fits with --checkpointed" and one.fits == "does not fit"
    with pytest.raises(ValueError, match="a batch of 128 clips cannot be shared evenly by 3 GPUs"):
        plan_training(run, None, gpu=GPUS["h200"], count=3, utilisation=0.4)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], got 40"):
        plan_training(run, None, gpu=GPUS["h200"], count=8, utilisation=40)


def test_the_disk_of_latents_is_counted_by_hand() -> None:
    """SD: mean and deviation of 4 x 32 x 32 half floats, each frame and its mirror. Cosmos: the values alone, of 5
    latent frames of each drawn clip; and no more clips differ than are drawn."""
    footage = Footage(videos=10, mean_frames=186)
    frames = plan_cache(PAPER["ucf101-sd14"], footage)
    assert (
        frames.bytes_per_video == 186 * (4 * 32 * 32 * 2) * 2 * 2 and frames.total_bytes == 10 * frames.bytes_per_video
    )
    drawn = plan_cache(PAPER["ucf101-cosmos"], footage, clips_per_video=16)
    assert drawn.bytes_per_video == 16 * 5 * (16 * 32 * 32 * 2)
    assert 15 < drawn.distinct <= 16 < drawn.possible
    unmirrored = replace(PAPER["ucf101-sd14"].data.folder, flip=False)
    run = replace(PAPER["ucf101-sd14"], data=replace(PAPER["ucf101-sd14"].data, folder=unmirrored))
    assert plan_cache(run, footage).bytes_per_video == frames.bytes_per_video / 2


def test_info_plans_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    """The command tells the planner's numbers, and refuses to plan where nothing says how long is trained, or where no
    tokenizer makes so many latents of a clip."""
    assert cli.main("info k600-omni --gpu h200 --count 8 --mfu .5 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    planned = plan_training(PAPER["k600-omni"], FOOTAGE["k600-omni"], gpu=GPUS["h200"], count=8, utilisation=0.5)
    assert told["training"]["steps"] == planned.steps == 230_052
    assert told["training"]["days"] == pytest.approx(planned.days)
    assert told["latents on disk"]["total_bytes"] == plan_cache(PAPER["k600-omni"], FOOTAGE["k600-omni"]).total_bytes
    assert cli.main("info world64 --gpu h200".split()) == 0
    assert "epochs" not in capsys.readouterr().out
    assert cli.main("info ucf101-cosmos --clips-per-video 4 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)["latents on disk"]
    assert told["bytes_per_video"] == 4 * 5 * (16 * 32 * 32 * 2)
    assert cli.main("info ucf101-sd14 --clips-per-video 4".split()) == cli.MISUSE
    assert "--clips-per-video has no effect on ucf101-sd14" in capsys.readouterr().err
    for frames in (1, 7, 20):  # of 17
        words = f"info ucf101-cosmos --gpu h200 --model.num-frames {frames}"
        assert cli.main(words.split()) == cli.MISUSE
        assert f"clips of 17 frames are never {frames} latent frames" in capsys.readouterr().err
    assert cli.main("info tiny --count 8".split()) == cli.MISUSE
    assert "--count has no effect without --gpu" in capsys.readouterr().err
    assert cli.main("info k600-omni --gpu h200 --count 0".split()) == cli.MISUSE
    assert "--count must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", WALKS)
def test_an_experiment_from_videos_to_videos(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trees, lists and tokenizers in the real formats, at tiny width: index, latents, training, and 12 frames after 5,
    by the commands that a user types, in a folder with a space in its name. That the film has 17 frames shows the
    temporal stride counted at every step."""
    out = tmp_path / "my walk"
    assert cli.main(["train", name, "--smoke", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    commands = [line.split()[2:4] for line in shown.splitlines() if line.startswith("$ magi")]
    assert [verb for verb, _ in commands] == ["data", "encode", "train", "sample"]
    (film,) = (out / "samples").glob("*.mp4")
    assert len(read_video(film).frames) == 17
    assert (out / "run" / "release" / "config.json").is_file()


def test_only_experiments_are_walked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is to be walked, and where to, is said in one line; nothing is written over."""
    assert cli.main(["train", "tiny", "--smoke", "--out", str(tmp_path / "new")]) == cli.MISUSE
    assert "ucf101-sd14, ucf101-cosmos, k600-omni), not tiny" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert cli.main(["train", "ucf101-sd14", "--smoke", "--out", str(tmp_path)]) == cli.MISUSE
    assert "is not an empty folder" in capsys.readouterr().err
