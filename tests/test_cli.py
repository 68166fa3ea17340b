"""The command line as its users meet it: help, one-line errors, settings and their order, and what each verb leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from magi import checkpoint, cli
from magi.cli import evaluate as evaluate_verb
from magi.cli import tokenizer as tokenizer_verb
from magi.cli import train as train_verb
from magi.cli.clips import read_given
from magi.cli.models import find_release
from magi.cli.runs import resolve
from magi.cli.settings import flatten, read_flags, write_settings
from magi.cli.tokenizer_train import TokenizerArguments
from magi.cli.train import TrainArguments
from magi.data.clips import BEYOND
from magi.data.world import World, WorldConfig
from magi.evaluation.pixel import psnr, ssim
from magi.evaluation.world import FROZEN, WorldTest, describe, is_frozen
from magi.experiments.autoencoder import AutoencoderRun
from magi.experiments.presets import PRESETS, TOKENIZERS, own_tokenizer
from magi.experiments.video import OWN, VideoRun
from magi.model import plan
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load, save_release
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import to_pixels, to_video
from magi.tokenizers.store import load_tokenizer
from magi.training.loop import TrainConfig
from magi.video import read_video, write_video
from tests.test_lpips import trunk_state
from tests.toys import trained_looking

TOY = """
tokenizer: pixel:8
data: {world: {size: 32, num_frames: 4, max_interval: 2}}
model: {latent_channels: 192, latent_height: 4, latent_width: 4, num_frames: 4, depth: 1, width: 16, mlp_width: 32,
        heads: 2, head: {width: 16, depth: 1}, head_repeats: 1, max_interval: 2}
train: {total_samples: 12, batch_size: 4, log_every: 4, checkpoint_every: 4, evaluate_every: 1000000, precision: fp32,
        optim: {warmup_samples: 8}}
sample: {mask_steps: 2, head_steps: 2}
watch_clips: 0
"""
VERBS = (
    "demo", "train", "tokenizer train", "tokenizer audit", "tokenizer stats", "tokenizer convert", "encode",
    "data index", "data report", "world", "record", "sample", "evaluate", "info", "bench", "bench cache",
    "bench decode", "bench peer", "bench presets", "bench sampling", "bench stream", "bench training",
    "report", "reproduce", "selftest", "checkpoint list", "checkpoint verify", "checkpoint export",
    "checkpoint convert",
)  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Settings of a run that takes a second."""
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released model of 32-pixel videos with random weights, in the folder of a run."""
    config = MagiConfig(
        latent_channels=192, latent_height=4, latent_width=4, num_frames=6, depth=1, width=16, mlp_width=16, heads=2,
        head=HeadConfig(width=16, depth=1), max_interval=3,
    )  # fmt: skip
    run = tmp_path_factory.mktemp("run")
    network, settings = trained_looking(config, dtype=torch.float32), SampleConfig(mask_steps=3, head_steps=2)
    save_release(run / "release", Release(network, PixelTokenizer(8), settings), card="")
    return run


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 9 frames of the world."""
    folder = tmp_path_factory.mktemp("videos") / "clips"
    assert magi("world", "--out", folder, *"--videos 2 --frames 9 --size 32 --seed 4".split()) == 0
    return folder


def magi(*words: str | Path) -> int:
    """Run a command in this process; the exit code."""
    return cli.main([str(word) for word in words])


def resolved(*words: str | Path) -> VideoRun:
    """The settings that a training command would train with."""
    whole = [*map(str, words), "--out", "x"]
    return resolve(TrainArguments, whole, verb="train", presets=PRESETS, fallback=VideoRun()).run


def failure(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What a command that must fail says: code 2, and on stderr one line after the verb's name, warnings aside."""
    capsys.readouterr()
    assert magi(*words) == cli.MISUSE
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if not line.startswith(f"magi {words[0]}: warning: ")]
    assert line.startswith(f"magi {words[0]}: ")
    return line


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_help_opens_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb explains itself without a model or a folder at hand, and shows a command to copy."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb.split(), "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"$ magi {verb} " in shown
    assert "--debug" in shown and "--threads" in shown


def test_help_of_a_preset_shows_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """`magi train tiny --help` is about tiny: its width, not the paper's."""
    for preset, width in (("tiny", 128), ("xl", 1280)):
        with pytest.raises(SystemExit):
            cli.main(["train", preset, "--help"])
        shown = capsys.readouterr().out
        assert f"(default: {width})" in shown[shown.index("--model.width") :].split("--model.mlp-width")[0]


def test_usage_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone, `magi` fails and tells how to use it; --help does not fail."""
    assert cli.main([]) == cli.MISUSE
    assert capsys.readouterr().err == cli.usage()
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == cli.usage() and all(f"\n  {verb}" in shown for verb in cli.VERBS)
    assert cli.main(["tokenizer", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb}" in shown for verb in tokenizer_verb.SUBVERBS)


# Errors


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train", "name a preset (tiny, "),
        ("train tny --out x", "there is no preset 'tny'"),
        ("train tiny --data world", "give --out"),
        ("train tiny --out x", "--data FOLDER"),
        ("train tiny --data nowhere --out x", "nowhere"),
        ("train tiny --data EMPTY --out x", "holds no video files"),
        ("train tiny --data world --out x --train.batchsize 4", "did you mean --train.batch-size?"),
        ("train tiny --data world --out x --model.dept 4", "did you mean --model.depth"),
        ("train tiny --data world --out x --train.batch-size many", "--train.batch-size: invalid"),
        ("train tiny --data world --out x --train.batch-size 7", "is not a multiple of batch_size 7"),
        ("train tiny --data world --out x --model.forcing other", "'ctf', 'mtf'"),
        ("train tiny --data world --out x --data.folder.size 32", "--data.folder.* has no effect"),
        ("train tiny --data world --out x --model.num-frames 8", "--model.num-frames is 8"),
        ("train tiny --data world --out x --tokenizer nothing", "tokenizer 'nothing'"),
        ("train tiny --data world --out x --model.latent-height 10", "4 or 8 times smaller"),
        ("train tiny --data world --out x --threads 0", "threads must be at least 1"),
        ("train tiny --data world --out x --threads few", "--threads"),
        ("train tiny --data world --out x --device abacus", "'auto', 'cpu', 'cuda', 'mps'"),
        ("train tiny --data world --out", "--out"),
        ("train --config nowhere.yaml --out x", "nowhere.yaml: no such settings file"),
        ("train --config", "--config"),
        ("tokenizer", "magi tokenizer train"),
        ("tokenizer tran tiny", "magi tokenizer train"),
        ("tokenizer train tiny --out x", "--data FOLDER"),
        ("tokenizer train tiny --data world --out x --kind causal", "take 1 or 5"),
        ("tokenizer audit", "name a tokenizer first"),
        ("tokenizer audit pixel:4 --frames 2", "2 clips of 3 frames and 16 pixels, or more"),
        ("tokenizer stats world64 --data world", "give --out"),
        ("train tiny --data world --out x --own-tokenizer-samples 12", "a multiple of its batch, 8: 12"),
        ("train world64 --out x --own-tokenizer-samples 8", "no effect with tokenizer 'world64'"),
        ("world --videos 2", "give --out"),
        ("world --out x --videos 0", "--videos must be at least 1"),
        ("world --out x --videos 1 --size 48", "expected 32 or 64"),
        ("world --out FULL --videos 1", "not an empty folder"),
        ("world --out x --videos 1 --device abacus", "'auto', 'cpu', 'cuda', 'mps'"),
        ("sample", "name a model first"),
        ("sample nowhere --out x", "there is no model 'nowhere'"),
        ("sample no/where --out x", "no/where does not exist"),
        ("sample EMPTY --out x", "holds no released model"),
        ("sample MODEL", "give --out"),
        ("sample MODEL --out x --frames 0", "--frames must be at least 1"),
        ("sample MODEL --out x --interval 9", "--interval 9 is outside the 1..3 that the model knows"),
        ("sample MODEL --out x --sample.mask-step 2", "did you mean --sample.mask-steps"),
        ("sample MODEL --out x --sample.window 1", "window must hold at least 2 frames"),
        ("sample MODEL --out x --context nowhere", "nowhere does not exist"),
        ("sample MODEL --out x --context CLIPS --context-frames 10", "is too short: it has 9 frames"),
        ("sample MODEL --out x --context CLIPS --count 3", "holds 2 videos"),
        ("sample MODEL --out FULL", "not an empty folder"),
        ("evaluate MODEL", "give --data"),
        ("evaluate MODEL --data nowhere", "nowhere"),
        ("evaluate MODEL --data CLIPS --clips 0", "--clips must be at least 1"),
        ("evaluate MODEL --data CLIPS --frames 30", "is too short"),
        ("info", "name a model first"),
        ("info nowhere", "presets are tiny, small"),
        ("info tiny --model.heads 7", "width 128 is not divisible by heads 7"),
    ],
)
def test_errors_are_one_line(
    words: str, told: str, model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What a user can get wrong is said in one line that names it, with code 2, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    Path("FULL").mkdir()
    (tmp_path / "FULL" / "file").touch()
    places = {"MODEL": str(model), "CLIPS": str(clips)}
    assert told in failure(capsys, *[places.get(word, word) for word in words.split()])
    assert not Path("x").exists()


def test_a_reader_who_has_enough_is_no_error() -> None:
    """`magi info tiny | head -0`: nothing is told, and the code is that of a command whose pipe was closed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "magi", "info", "tiny"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (cli.CLOSED, "")


def test_a_pipe_that_breaks_elsewhere_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the output's own reader may leave in silence."""

    def broken(arguments: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "of a worker")

    monkeypatch.setattr("magi.cli.info.compute", broken)
    assert cli.main(["info", "tiny"]) == cli.MISUSE
    assert "of a worker" in capsys.readouterr().err


def test_weights_of_diffusers_need_a_name(tmp_path: Path) -> None:
    """The folder alone does not say how its latents are scaled, so the error says how to name it."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(ValueError, match=r"weights as diffusers writes them.*NAME:.*sd14"):
        load_tokenizer(str(tmp_path))


def test_an_unknown_verb_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the finger names what was meant."""
    assert cli.main(["trian", "tiny"]) == cli.MISUSE
    assert capsys.readouterr().err == "magi: unknown verb 'trian'; did you mean train?\n"


def test_debug_shows_the_traceback() -> None:
    """The same error, raised instead of told."""
    with pytest.raises(ValueError, match="--data FOLDER"):
        cli.main(["train", "tiny", "--out", "x", "--debug"])


@pytest.mark.parametrize("bug", [AssertionError, TypeError, KeyError, RuntimeError])
def test_a_bug_is_not_taken_for_misuse(
    bug: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What fails by no user's fault leaves the command as it was raised, and nothing is told in its place; so Python
    shows the traceback, down to the function that has the bug."""

    def broken(arguments: Any) -> None:
        raise bug("not here")

    monkeypatch.setattr("magi.cli.info.compute", broken)
    with pytest.raises(bug, match="not here") as raised:
        cli.main(["info", "tiny"])
    assert raised.traceback[-1].name == "broken"
    assert capsys.readouterr().err == ""


def test_a_bug_shows_its_traceback() -> None:
    """The same from outside: the process ends with code 1 and the traceback on stderr."""
    bug = "import magi.cli, magi.cli.info as verb; verb.compute = lambda arguments: 1 + ''"
    program = f"{bug}; magi.cli.main(['info', 'tiny'])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback") and "TypeError" in ended.stderr.splitlines()[-1]


def test_interrupt_and_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C gives the code that shells expect of it; a GPU that is full gives advice, not a page of frames."""

    def stop(arguments: Any) -> None:
        raise KeyboardInterrupt

    def fill(arguments: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("magi.cli.info.compute", stop)
    assert cli.main(["info", "tiny"]) == cli.INTERRUPTED
    monkeypatch.setattr("magi.cli.info.compute", fill)
    assert "smaller batches" in failure(capsys, "info", "tiny")


# Settings


def test_preset_then_files_then_flags(tmp_path: Path) -> None:
    """Each later source overrules the earlier, setting by setting, and leaves the others as they were."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("train: {seed: 1, keep_checkpoints: 5, optim: {lr: 1e-3}}")
    two.write_text("train:\n  seed: 2\n  optim:\n    betas: [0.8, 0.9]\n")
    run = resolved("tiny", "--config", one, two, "--train.seed", "3", "--data", "world")
    preset = PRESETS["tiny"]
    assert run.train.seed == 3
    assert run.train.optim.betas == (0.8, 0.9)
    assert run.train.optim.lr == 1e-3
    assert run.train.keep_checkpoints == 5
    untouched = replace(run.train, seed=0, keep_checkpoints=preset.train.keep_checkpoints, optim=preset.train.optim)
    assert untouched == preset.train
    assert run.model == preset.model
    assert resolved("tiny", "--config", one, two, "--data", "world").train.seed == 2
    assert resolved("tiny", "--config", two, one, "--data", "world").train.seed == 1


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_the_file(name: str, tmp_path: Path) -> None:
    """Every setting of every preset, written as YAML and read without the preset, is the same: None, tuples and all."""
    unusual = replace(PRESETS[name], sample=SampleConfig(window=4, solver="ddim", deterministic=True))
    for run in (PRESETS[name], unusual):
        write_settings(tmp_path / "config.yaml", run, note="")
        assert resolved("--config", tmp_path / "config.yaml") == run


def test_tokenizer_settings_survive_the_file(tmp_path: Path) -> None:
    """The same for an autoencoder's run, which has tuples of no fixed length."""
    coarse = AutoencoderConfig(channels=(16, 24), encoder_blocks=(1,), decoder_blocks=(1, 1))
    words = ["--config", str(tmp_path / "config.yaml"), "--out", "x"]
    for run in (*TOKENIZERS.values(), AutoencoderRun(autoencoder=coarse)):
        write_settings(tmp_path / "config.yaml", run, note="")
        found = resolve(TokenizerArguments, words, verb="tokenizer train", presets={}, fallback=AutoencoderRun())
        assert found.run == run


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("train: {sede: 1}", "there is no setting train.sede; did you mean train.seed?"),
        ("model: {head: {widht: 8}}", "there is no setting model.head.widht; did you mean model.head.width?"),
        ("trian: {seed: 1}", "did you mean train.seed?"),
        ("- a\n- b", "holds a list"),
        ("train: {seed: [}", "is not valid YAML"),
        ("train: {seed: many}", "--train.seed: invalid"),
    ],
)
def test_settings_files_are_checked(
    content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name in a file is as much an error as a misspelt flag."""
    path = tmp_path / "my.yaml"
    path.write_text(content)
    assert told in failure(capsys, "train", "tiny", "--data", "world", "--config", path, "--out", tmp_path / "x")


def test_flags_of_a_file_name_every_setting(tmp_path: Path) -> None:
    """Nothing in a file is passed over: as many flags as there are values."""
    write_settings(tmp_path / "config.yaml", PRESETS["xl"], note="")
    flags = read_flags(tmp_path / "config.yaml", VideoRun())
    assert sum(flag.startswith("--") for flag in flags) == len(flatten(asdict(PRESETS["xl"])))


# Data and presets


def test_own_videos_by_shorthand(clips: Path) -> None:
    """`--data FOLDER` says kind and path, and keeps the preset's size, length and intervals."""
    run = resolved("tiny", "--data", clips)
    assert run.data.kind == "folder" and run.data.folder == replace(PRESETS["tiny"].data.folder, path=str(clips))
    of_world = resolved("world64", "--data", clips)
    assert of_world.data.folder.path == str(clips)
    assert of_world.data.folder.max_interval == PRESETS["world64"].data.world.max_interval
    back = resolved("tiny", "--data", "world")
    assert back.data.kind == "world" and back.data.world.max_interval == PRESETS["tiny"].data.folder.max_interval


def test_the_shorthand_overrules_files(tmp_path: Path, clips: Path) -> None:
    """It is a flag, so it comes after what a file says."""
    write_settings(tmp_path / "config.yaml", resolved("tiny", "--data", "elsewhere"), note="")
    assert resolved("--config", tmp_path / "config.yaml", "--data", clips).data.folder.path == str(clips)


def test_own_videos_pass_the_check(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first command of a newcomer, up to the training itself; it writes nothing. Videos that are all too short for
    the model are found now, and not after its tokenizer was trained."""
    words = ["train", "tiny", "--data", str(clips), "--out", str(tmp_path / "run"), "--check"]
    assert cli.main(words) == 2
    assert "none of its 2 videos can be used" in capsys.readouterr().err
    assert cli.main([*words, "--data.folder.num-frames", "9", "--model.num-frames", "9"]) == 0
    assert capsys.readouterr().out == "data, tokenizer and model fit\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name, run in PRESETS.items() if run.tokenizer == OWN])
def test_presets_fit_themselves(name: str) -> None:
    """The latents of a preset's own autoencoder are those its model takes, and its clips are as long as the model's."""
    train_verb.check_fit_of(PRESETS[name])
    run = PRESETS[name]
    assert run.train.total_samples > run.train.optim.warmup_samples + run.train.optim.decay_samples
    assert run.train.batch_size % 8 == 0  # so that the processes of one machine can share it
    assert run.sample.mask_steps <= 64


def test_the_own_tokenizer_follows_the_run() -> None:
    """Channels, stride and data are the run's; what no autoencoder can do is refused with both numbers."""
    world = resolved("tiny", "--data", "world", "--model.latent-channels", "6", "--train.seed", "5")
    own = own_tokenizer(world)
    assert own.autoencoder.latent_channels == 6 and own.autoencoder.spatial_stride == 8
    assert own.data.world == replace(world.data.world, num_frames=4) and own.train.seed == 5
    assert own_tokenizer(replace(world, own_tokenizer_samples=80)).train == replace(own.train, total_samples=80)
    fine = replace(world, model=replace(world.model, latent_height=16, latent_width=16))
    assert own_tokenizer(fine).autoencoder.spatial_stride == 4
    with pytest.raises(ValueError, match=r"64 pixels.*latents 4"):
        own_tokenizer(replace(world, model=replace(world.model, latent_height=4, latent_width=4)))


# Verbs


def test_the_world_tells_the_truth(clips: Path) -> None:
    """The states beside a video are those of the world of that seed, and the video shows that world, near enough."""
    world = World(WorldConfig(size=32, num_frames=9, min_interval=1, max_interval=1, seed=4))
    assert len(list(clips.iterdir())) == 4
    for sample in (0, 1):
        states = world.simulate([sample])
        told = json.loads((clips / f"world-{sample:06d}.json").read_text())
        positions = torch.tensor([body["position"] for body in told["bodies"]], dtype=torch.float64)  # (K, T, 2)
        assert torch.equal(positions.transpose(0, 1), states.position[0][:, states.present[0]])
        seen = torch.from_numpy(read_video(clips / f"world-{sample:06d}.mp4").frames).int()
        assert (seen - world.render(states)[0].permute(0, 2, 3, 1).int()).abs().float().mean() < 2


def test_the_world_is_drawn_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device reaches whatever draws; not told, it is the CPU, which draws the same everywhere."""
    drawn_on: list[torch.device] = []
    monkeypatch.setattr("magi.cli.world.pick_device", torch.device)
    monkeypatch.setattr("magi.cli.world.write_world", lambda *_, device, **__: drawn_on.append(device))
    assert magi("world", "--out", tmp_path / "a", "--videos", "1") == 0
    assert magi("world", "--out", tmp_path / "b", "--videos", "1", "--device", "cuda") == 0
    assert [device.type for device in drawn_on] == ["cpu", "cuda"]


def test_sample_continues_videos(model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each video of a folder gets its film with truth beside it, and the record says what was really done."""
    out = tmp_path / "out"
    words = "--context-frames 3 --frames 4 --device cpu --sample.mask-steps 99".split()
    assert magi("sample", model, "--context", clips, "--out", out, *words) == 0
    assert "4 mask steps (not 99: one per token), 2 ddpm steps" in capsys.readouterr().out
    record = json.loads((out / "sample.json").read_text())
    assert (record["mask_steps_made"], record["seeds"], record["device"]) == (4, [0, 1], "cpu")
    assert (record["torch"], record["threads"]) == (torch.__version__, torch.get_num_threads())
    assert sorted(path.name for path in out.iterdir()) == sorted([*record["files"], "sample.json"])
    film = read_video(out / "000-world-000000.mp4").frames
    side = (32 + 2) * 8  # a frame of one pixel, enlarged eight times
    assert film.shape == (3 + 4, side, 2 * side, 3)
    corner = film[:, 4, -4].astype(int)  # of the frame on the right
    assert np.abs(corner[:3] - 150).max() < 10 and np.abs(corner[3:] - (255, 150, 40)).max() < 10


def test_sample_without_truth_or_context(model: Path, clips: Path, tmp_path: Path) -> None:
    """A video too short to compare with is continued alone; without a context, videos are made from nothing. Dots in a
    name are part of it."""
    short, free = tmp_path / "short", tmp_path / "free"
    one = tmp_path / "2024.01.05.mp4"
    one.write_bytes((clips / "world-000000.mp4").read_bytes())
    assert magi("sample", model, "--context", one, "--frames", "5", "--count", "2", "--out", short) == 0
    assert magi("sample", model, "--frames", "2", "--count", "2", "--plain", "--out", free) == 0
    assert read_video(short / "001-2024.01.05.mp4").frames.shape == (5 + 5, 34 * 8, 34 * 8, 3)
    assert (short / "001-2024.01.05.gif").is_file() and len(list(short.iterdir())) == 5
    first, second = (read_video(free / f"00{i}.mp4").frames for i in (0, 1))
    assert first.shape == (2, 32, 32, 3) and (first != second).any()
    assert sorted(path.suffix for path in free.iterdir()) == [".json", ".mp4", ".mp4"]


def test_sample_with_a_backbone_in_bfloat16(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line before the work says so and so does the record; the head stays what it was."""
    for backbone in ("float32", "bfloat16"):
        out = tmp_path / backbone
        assert magi("sample", model, "--frames", "2", "--plain", "--backbone", backbone, "--out", out) == 0
        assert json.loads((out / "sample.json").read_text())["backbone"] == backbone
        assert ("all but the head in bfloat16" in capsys.readouterr().out) == (backbone == "bfloat16")
    half = load(find_release(str(model)), backbone=torch.bfloat16).model
    assert {name.split(".")[0] for name, tensor in half.named_parameters() if tensor.dtype == torch.float32} == {"head"}


def test_sample_is_a_function_of_the_seed(
    model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Video i has seed + i: the second of two at seed 5 is the first at seed 6, whatever batch it was made in; what
    that costs is said."""
    words = ["sample", model, "--context", clips / "world-000001.mp4", "--plain", "--sample.deterministic"]
    assert magi(*words, *"--frames 3 --seed 5 --count 2 --batch 2 --out".split(), tmp_path / "a") == 0
    assert magi(*words, *"--frames 3 --seed 6 --count 1 --batch 1 --out".split(), tmp_path / "b") == 0
    assert capsys.readouterr().out.count("deterministic: one video at a time") == 2
    again = (tmp_path / "b" / "000-world-000001.mp4").read_bytes()
    assert (tmp_path / "a" / "001-world-000001.mp4").read_bytes() == again
    assert (tmp_path / "a" / "000-world-000001.mp4").read_bytes() != again


def test_evaluate(model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row per score on the console, every frame in the file; the world adds its bodies and the name of its test."""
    words = "--clips 2 --context-frames 3 --frames 4".split()
    assert magi("evaluate", model, "--data", "world", "--json", tmp_path / "w.json", *words) == 0
    shown = capsys.readouterr().out
    assert magi("evaluate", model, "--data", clips, "--out", tmp_path / "f.json", *words) == 0
    world, folder = (json.loads((tmp_path / name).read_text()) for name in ("w.json", "f.json"))
    assert all(f"\n{name} " in shown for name in world["scores"])
    assert f"{world['test']['sha256']}: not the frozen test" in shown and not world["test"]["frozen"]
    assert all(len(values) == 4 for values in (*world["scores"].values(), *folder["scores"].values()))
    assert len(world["test"]["sha256"]) == 64 and "test" not in folder
    assert "position error, model" in world["scores"] and "position error, model" not in folder["scores"]
    assert folder["scores"]["PSNR, tokenizer"] == [100.0] * 4  # pixels lose nothing


def test_evaluate_many_samples_in_windows_with_lpips(
    model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was asked for is on the console and in the file, under names that tell one sample from the best of two;
    `magi report` shows it, windows in a table of their own, and names a window's score that is none."""
    weights = tmp_path / "alexnet.safetensors"
    save_file(trunk_state("alex"), weights)
    out, page = tmp_path / "w.json", tmp_path / "w.html"
    words = "--data world --clips 2 --context-frames 3 --frames 5 --samples 2 --windows 2".split()
    assert magi("evaluate", model, *words, "--lpips", weights, "--json", out) == 0
    shown, record = capsys.readouterr().out, json.loads(out.read_text())
    names = [f"{measure}, model, {which}" for measure in ("PSNR", "SSIM", "LPIPS", "position error")
             for which in ("single sample", "best of 2")]  # fmt: skip
    windows = record["windows"]["scores"]
    assert record["samples"] == 2 and record["windows"]["frames"] == 2 and record["lpips"] in shown
    assert "speed ratio, model" in windows and all(len(values) == 2 for values in windows.values())
    assert all(len(record["scores"][name]) == 5 for name in names)
    assert all(f"\n{name} " in shown for name in (*names, *windows)) and "\n4 continuations\n" in shown
    assert magi("report", out, "--out", page) == 0
    assert all(name in page.read_text() for name in (*names, *windows, "+3 to +4"))
    out.write_text(json.dumps(record | {"windows": {"frames": 2, "scores": {"a": ["b"]}}}))
    assert "windows.scores['a'] must be a list of numbers" in failure(capsys, "report", out, "--out", page)
    for asked, told in [
        ("--data CLIPS --windows 4", "--windows 4 grades the world's bodies"),
        ("--protocol world --samples 2", "--samples 2 has no effect with --protocol"),
        ("--data world --lpips nowhere.pth", "there is no file nowhere.pth"),
    ]:
        assert told in failure(capsys, "evaluate", model, *asked.replace("CLIPS", str(clips)).split())


def test_evaluate_takes_the_frozen_test(clips: Path) -> None:
    """Nothing said, the world's clips are those that results are published on, and a folder gives 64."""
    world = evaluate_verb.EvaluateArguments(data="world")
    test = evaluate_verb.read_clips(world, size=64)
    assert isinstance(test, WorldTest)
    told = evaluate_verb.identify({**describe(test), "frozen": is_frozen(test)})
    assert told.startswith("256 clips of 21 frames, interval 1, ") and told.endswith(f"{FROZEN[1]}: the frozen test")
    assert evaluate_verb.EvaluateArguments(data=str(clips)).clip_count == 64
    assert replace(world, clips=3).clip_count == 3


def test_info(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the JSON are the planner's; flags plan another model; a trained one tells its own."""
    assert magi("info", "xl") == 0
    assert "808.7 M" in capsys.readouterr().out
    assert magi("info", "tiny", "--json", "--model.depth", "2") == 0
    costs = json.loads(capsys.readouterr().out)
    config = replace(PRESETS["tiny"].model, depth=2)
    assert costs["parameters"] == plan.count_parameters(config)
    assert costs["FLOPs per training clip"] == pytest.approx(asdict(plan.training_flops(config)))
    assert magi("info", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["mask steps per frame"] == 3


def test_a_checkpoint_is_not_a_release(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pointing at step-00000003 of a run is answered with where its model is."""
    assert magi("train", "--config", toy, "--device", "cpu", "--out", tmp_path / "run") == 0
    told = failure(capsys, "sample", tmp_path / "run" / "step-00000003", "--out", tmp_path / "out")
    assert "RUN/release" in told


# Training


def weights(run: Path) -> bytes:
    return (run / "release" / "model.safetensors").read_bytes()


def test_a_run_can_be_repeated_from_its_record(toy: Path, tmp_path: Path) -> None:
    """`--config RUN/config.yaml` gives the same bits, and the record is the resolved settings in full."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert magi("train", "--config", toy, "--device", "cpu", "--train.seed", "9", "--out", first) == 0
    assert yaml.safe_load((first / "config.yaml").read_text())["train"]["seed"] == 9
    assert magi("train", "--config", first / "config.yaml", "--device", "cpu", "--out", second) == 0
    assert weights(first) == weights(second)
    assert magi("train", "--config", toy, "--device", "cpu", "--out", tmp_path / "other") == 0
    assert weights(tmp_path / "other") != weights(first)


def test_another_run_is_refused_in_the_same_folder(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record and its checkpoints stay what they are; the error names the setting and both values."""
    words = ["train", "--config", toy, "--device", "cpu", "--out", tmp_path / "run"]
    assert magi(*words) == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    told = failure(capsys, *words, "--train.seed", "8")
    assert "train.seed: saved 0, now 8" in told
    assert (tmp_path / "run" / "config.yaml").read_text() == before


@contextmanager
def terminate_when(path: Path) -> Iterator[None]:
    """Send SIGTERM to this process as soon as there is something in a file."""

    def wait() -> None:
        while not (path.exists() and path.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join(timeout=10)


def test_sigterm_saves_and_the_same_command_resumes(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was stopped, and resumed to where an uninterrupted one ends, has the same weights bit for bit."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ["train", "--config", toy, "--device", "cpu", "--train.checkpoint-every", "1000000", "--out"]
    with terminate_when(run / "metrics.jsonl"):
        assert magi(*words, run, "--train.total-samples", "1000000") == 143
    told = capsys.readouterr().err
    assert told.startswith("magi train: stopped at ") and f"--out {run}" in told and told.count("\n") == 1
    stopped = checkpoint.newest_valid(run)
    assert stopped is not None
    end = json.loads((stopped / "state.json").read_text())["samples"] + 8
    for folder in (run, whole):
        assert magi(*words, folder, "--train.total-samples", str(end)) == 0
    assert "resuming from" in capsys.readouterr().out
    assert weights(run) == weights(whole)
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["total_samples"] == end


def test_a_run_trains_its_own_tokenizer_first(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tokenizer: own` is an autoencoder in the run's folder, and in the release; the same command adds nothing, and
    one whose autoencoder would be another is refused."""
    small = AutoencoderConfig(channels=(8, 8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1, 1), norm_groups=4)
    short = TrainConfig(total_samples=8, batch_size=4, precision="fp32")
    own = AutoencoderRun(data=resolved("--config", toy).data, autoencoder=small, train=short)
    monkeypatch.setattr(train_verb, "own_tokenizer", lambda run: own)
    run = tmp_path / "run"
    words = ["train", "--config", toy, "--out", run, *"--tokenizer own --model.latent-channels 4 --device cpu".split()]
    assert magi(*words) == 0
    trained, carried = load_tokenizer(str(run / "tokenizer" / "release")), load_tokenizer(str(run / "release"))
    assert isinstance(trained, Autoencoder) and isinstance(carried, Autoencoder)
    for name, tensor in carried.state_dict().items():
        assert torch.equal(trained.state_dict()[name], tensor)
    assert yaml.safe_load((run / "config.yaml").read_text())["tokenizer"] == OWN
    capsys.readouterr()
    assert magi(*words) == 0
    assert "first the autoencoder" not in capsys.readouterr().out
    changed = replace(own, train=replace(short, seed=3, log_every=7))
    monkeypatch.setattr(train_verb, "own_tokenizer", lambda run: changed)
    told = failure(capsys, *words)
    assert "train.seed: saved 0, now 3" in told and "log_every" not in told and "--tokenizer" in told
    changed = replace(own, train=replace(short, log_every=7))
    assert magi(*words) == 0, "how often a loss was written decides no weight"


def test_a_tokenizers_training_is_told(toy: Path, tmp_path: Path) -> None:
    """PSNR and SSIM of held clips stand in the log at each evaluation, and at the end in the card and on a page with
    pictures; and the same numbers, since the clips are the same."""
    toy.write_text("""
kind: causal
data: {world: {size: 32, num_frames: 5}}
autoencoder: {channels: [8, 8, 8], encoder_blocks: [1, 1], decoder_blocks: [1, 1, 1], norm_groups: 4}
train: {total_samples: 12, batch_size: 4, log_every: 4, evaluate_every: 8, precision: fp32}
""")
    run = tmp_path / "run"
    assert magi("tokenizer", "train", "--config", toy, "--out", run, "--device", "cpu") == 0
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in log if "fixed ssim" in line] == [8, 12]
    card, page = (run / "release" / "README.md").read_text(), (run / "reconstruction.html").read_text()
    made = load_tokenizer(str(run / "release"))
    clips = World(WorldConfig(size=32, num_frames=5)).clips(range(BEYOND, BEYOND + 64)).video
    shown = to_video(made.decode(made.encode(to_pixels(clips))))
    assert made.temporal_stride == 4 and "causal" in card
    assert f"{psnr(shown, clips).mean():.2f} dB PSNR, {ssim(shown, clips).mean():.4f} SSIM" in " ".join(card.split())
    assert page.count("data:image/png") == 4 and page.count("<svg") == 4


def test_what_is_cut_off_is_said(tmp_path: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model makes squares; of a wide video it sees the middle alone, which the user must not have to guess."""
    frames = read_video(clips / "world-000000.mp4").frames
    write_video(tmp_path / "wide.mp4", np.concatenate([frames, frames], axis=2), fps=10)
    for name, expected in (("wide.mp4", True), ("square.mp4", False)):
        if name == "square.mp4":
            write_video(tmp_path / name, frames, fps=10)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read_given(tmp_path / name, size=32, context=2, frames=2, interval=1)
        assert any("of its 64 x 32 pixels the middle 32 x 32 are used" in str(w.message) for w in caught) == expected


def test_an_unfinished_run_is_told_from_a_wrong_path(tmp_path: Path) -> None:
    """Who stopped a run and asks for its release is told that it is not there yet."""
    with pytest.raises(
        ValueError, match=r"there is no .*release yet; a run writes one to RUN/release when it is finished"
    ):
        find_release(str(tmp_path / "release"))


def test_a_warning_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a folder is found by every source that opens it, and is no news the second time; another
    command tells it again."""

    def look(_words: object) -> int:
        for name in ("a.mp4", "b.mp4", "a.mp4"):
            with warnings.catch_warnings():  # after which Python itself forgets what it has told
                warnings.warn(f"not used: {name}", stacklevel=1)
        return 0

    monkeypatch.setattr("magi.cli.info.main", look)
    for _ in range(2):
        assert cli.main(["info"]) == 0
        assert capsys.readouterr().err.splitlines() == [f"magi info: warning: not used: {n}.mp4" for n in "ab"]
