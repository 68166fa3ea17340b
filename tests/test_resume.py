"""Claims about stopping: a run that was stopped, however and however often, ends as if it never had been."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import sampled_from, sets
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.data.folder import FolderConfig
from magi.data.world import WorldConfig
from magi.data.world_files import write_world
from magi.distributed import Distributed
from magi.experiments.data import DataConfig
from magi.experiments.video import VideoRun, train_video
from magi.model.config import MagiConfig
from magi.model.magi import Magi
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.store import save_autoencoder
from magi.training import optim
from magi.training.ema import Ema
from magi.training.loop import Interrupted, TrainConfig
from magi.training.saving import Saver
from magi.training.state import TrainingState
from tests.toy_runs import (
    MODEL,
    RUN,
    Crash,
    assert_same_bits,
    checkpoints,
    copy_of,
    crash,
    everything,
    metrics,
    run,
    score,
    terminate,
)  # fmt: skip
from tests.toys import tiny

Uninterrupted = tuple[Path, dict[str, Tensor]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The folder and the final numbers of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, everything(run(folder, evaluate=score))


@pytest.mark.parametrize("stops", [[0], [4], [12], [36], [20, 16, 28]], ids=str)
def test_a_crash_changes_nothing(stops: list[int], tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """There is no state beside the checkpoint's: data, masks, rates and averages follow from the position. So a run
    that fell back to a checkpoint, once or often, ends with the same bits, the same checkpoints and the same log."""
    reference, expected = uninterrupted
    for at in stops:
        with pytest.raises(Crash):
            run(tmp_path, at=at, event=crash, evaluate=score)
    assert_same_bits(everything(run(tmp_path, evaluate=score)), expected)
    assert metrics(tmp_path) == metrics(reference) and len(metrics(tmp_path)) == 13
    assert checkpoints(tmp_path) == checkpoints(reference) == ["step-00000009", "step-00000010"]


@pytest.mark.parametrize("at", [0, 16, 36])
def test_sigterm_saves_and_resumes(at: int, tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """The signal is noted, the step is finished and saved, and the run says where it stopped; the handlers are given
    back. Running the same command again ends with the same bits, having lost not one step. In the last step there is
    nothing left to stop."""
    reference, expected = uninterrupted
    before = signal.getsignal(signal.SIGTERM)
    if at < 36:
        with pytest.raises(Interrupted, match=f"stopped at {at + 4} of 40 samples"):
            run(tmp_path, at=at, event=terminate, evaluate=score)
        assert checkpoints(tmp_path)[-1] == f"step-{at // 4 + 1:08d}"
        steps: list[int] = []
        final = run(tmp_path, watch=lambda _model, step: steps.append(step), evaluate=score)
        assert steps[0] == at // 4 + 1
    else:
        final = run(tmp_path, at=at, event=terminate, evaluate=score)
    assert signal.getsignal(signal.SIGTERM) == before
    assert_same_bits(everything(final), expected)
    assert metrics(tmp_path) == metrics(reference)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_crash_changes_nothing_under_dropout(precision: Any, tmp_path: Path) -> None:
    """Dropout is part of a step, so its masks too must follow from seed and step; rounding to bf16 is as repeatable as
    any."""
    wet, config = replace(MODEL, dropout=0.1), replace(RUN, precision=precision)
    expected = everything(run(tmp_path / "whole", model=wet, config=config))
    with pytest.raises(Crash):
        run(tmp_path / "stopped", model=wet, config=config, at=20, event=crash)
    assert_same_bits(everything(run(tmp_path / "stopped", model=wet, config=config)), expected)


def test_a_run_gets_past_a_damaged_checkpoint(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """Falling back to the checkpoint before a damaged one is of use only if the run can then save that step anew."""
    run(tmp_path, evaluate=score)
    weights = tmp_path / checkpoints(tmp_path)[-1] / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.warns(UserWarning, match="passing over a damaged checkpoint"):
        state = run(tmp_path, evaluate=score)
    assert_same_bits(everything(state), uninterrupted[1])


def test_a_finished_run_is_left_alone(uninterrupted: Uninterrupted) -> None:
    """Running the command once more loads the end and does nothing."""
    folder, expected = uninterrupted
    before = (folder / "metrics.jsonl").read_bytes()
    state = run(folder, watch=lambda *_: pytest.fail("a step was made"))
    assert_same_bits(everything(state), expected)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused_whole(tmp_path: Path) -> None:
    """A checkpoint belongs to its configuration: every field that differs is listed with both values, and nothing is
    loaded. Otherwise half of a run would follow one recipe and half another."""
    run(tmp_path, config=replace(RUN, total_samples=12))
    changed = replace(RUN, seed=1, batch_size=2, optim=replace(RUN.optim, lr=0.5))
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path, config=changed, model=replace(MODEL, forcing="mtf"))
    message = str(caught.value)
    for difference in (
        "model.forcing: saved 'ctf', now 'mtf'",
        "train.seed: saved 0, now 1",
        "train.batch_size: saved 4, now 2",
        "train.optim.lr: saved 0.01, now 0.5",
    ):
        assert difference in message
    assert message.count(", now ") == 4, "only what differs"
    assert "Nothing was loaded" in message and "\n" not in message

    model = Magi(MODEL)
    state = TrainingState(model, Ema(model, half_life_samples=1), optim.build_optimizer(model, RUN.optim))
    before = copy_of(model)
    with pytest.raises(CheckpointError):
        state.load(tmp_path / "step-00000003", {"model": {}, "train": asdict(RUN)})
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items()) and state.step == 0


FREE = {
    *(f"train.{name}" for name in ("total_samples", "checkpoint_every", "keep_checkpoints", "log_every")),
    *(f"train.{name}" for name in ("evaluate_every", "workers", "tensorboard", "cuda_graphs", "sharding")),
    *(f"data.folder.{name}" for name in ("path", "index", "annotations", "cache_mb", "bad_files", "max_bad_fraction")),
    "data.folder.isolate", "data.latents.path", "watch_clips", "own_tokenizer_samples",
}  # fmt: skip
"""All that decides no weight of a run whose rate does not fall, beside how samples are drawn."""


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every single setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def another(value: Any) -> Any:
    """A value of the same kind, where it has one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, list | tuple):
        return [*value, 1]
    return f"other {value}" if isinstance(value, str) else value + 1


def with_others(settings: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy in which these settings have another value."""
    copy: dict[str, Any] = json.loads(json.dumps(settings))
    for path in paths:
        *parents, name = path.split(".")
        part = copy
        for parent in parents:
            part = part[parent]
        part[name] = another(part[name])
    return copy


SETTINGS = json.loads(
    json.dumps(asdict(VideoRun(model=MODEL, train=replace(RUN, optim=replace(RUN.optim, decay="none")))))
)
"""Of a whole run, as a checkpoint keeps them."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingState, Path]:
    """A state, and the checkpoint of it."""
    model = Magi(MODEL)
    state = TrainingState(model, Ema(model, half_life_samples=1), optim.build_optimizer(model, RUN.optim))
    folder = tmp_path_factory.mktemp("saved")
    saver = Saver(folder, SETTINGS, Distributed(), keep=1)
    saver.begin(state)
    saver.finish()
    return state, checkpoint.step_directory(folder, 0)


@settings(max_examples=60)
@given(paths=sets(sampled_from(sorted(dict(leaves(SETTINGS)))), max_size=6))
def test_whatever_is_set_otherwise_is_told(saved: tuple[TrainingState, Path], paths: set[str]) -> None:
    """Any settings, in any company: each that decides a weight with both values, no other, and all in one line. What
    decides none may be set otherwise."""
    state, directory = saved
    now = with_others(SETTINGS, paths)
    told = sorted(path for path in paths if path not in FREE and not path.startswith("sample."))
    if not told:
        state.load(directory, now)
        return
    with pytest.raises(CheckpointError) as caught:
        state.load(directory, now)
    message, before, after = str(caught.value), dict(leaves(SETTINGS)), dict(leaves(now))
    assert all(f"{path}: saved {before[path]!r}, now {after[path]!r}" in message for path in told)
    assert message.count(": saved ") == len(told) and "\n" not in message


def test_every_setting_is_told(saved: tuple[TrainingState, Path]) -> None:
    """The same, of each setting alone: none of the model's, the training's and the data's is forgotten."""
    paths = dict(leaves(SETTINGS))
    assert paths.keys() >= FREE
    for kind, prefix in ((MagiConfig, "model"), (TrainConfig, "train"), (FolderConfig, "data.folder")):
        for field in fields(kind):
            assert any(path == f"{prefix}.{field.name}" or path.startswith(f"{prefix}.{field.name}.") for path in paths)
    for path in paths:
        test_whatever_is_set_otherwise_is_told.hypothesis.inner_test(saved, {path})


def test_periods_and_length_may_change(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """They decide no weight: a run that is extended, with other periods, ends as if it had been that long from the
    start."""
    run(tmp_path, config=replace(RUN, total_samples=20, log_every=8, checkpoint_every=4))
    state = run(tmp_path, config=replace(RUN, evaluate_every=4, keep_checkpoints=1))
    assert_same_bits(everything(state), uninterrupted[1])


def test_what_decides_no_weight_may_change(tmp_path: Path) -> None:
    """How samples are drawn and shown, what is kept in memory and when a folder is given up on change no weight, so a
    run resumes under other values of them; the same fields elsewhere, and their neighbours, are compared as ever."""
    folder = {"path": "videos", "cache_mb": 256, "max_bad_fraction": 0.01, "isolate": True, "seed": 0}
    saved = {"train": asdict(RUN), "sample": {"head_steps": 100}, "watch_clips": 4, "data": {"folder": folder}}
    model = Magi(MODEL)
    state = TrainingState(model, Ema(model, half_life_samples=1), optim.build_optimizer(model, RUN.optim))
    saver = Saver(tmp_path, saved, Distributed(), keep=1)
    saver.begin(state)
    saver.finish()
    (directory,) = tmp_path.glob("step-*")
    other = {"path": "moved", "cache_mb": 1, "max_bad_fraction": 0.5, "isolate": False, "seed": 0}
    state.load(directory, {**saved, "sample": {"head_steps": 9}, "watch_clips": 0, "data": {"folder": other}})
    with pytest.raises(CheckpointError, match=r"data\.folder\.seed: saved 0, now 1\. "):
        state.load(directory, {**saved, "sample": {}, "data": {"folder": {**other, "seed": 1}}})


def test_the_length_may_change_until_the_rate_falls(tmp_path: Path) -> None:
    """A rate that falls at the end depends on the length, so from there on the length belongs to the recipe."""
    short = replace(RUN, total_samples=24, optim=replace(RUN.optim, decay="tail", decay_samples=8))
    long = replace(short, total_samples=40)
    with pytest.raises(Crash):
        run(tmp_path / "extended", config=short, at=16, event=crash)  # saved at 12, before the fall
    expected = everything(run(tmp_path / "long", config=long))
    assert_same_bits(everything(run(tmp_path / "extended", config=long)), expected)
    with pytest.raises(CheckpointError, match=r"train\.total_samples: saved 40"):
        run(tmp_path / "extended", config=replace(long, total_samples=80))


def test_a_length_is_refused_whose_fall_should_have_begun(tmp_path: Path) -> None:
    """Shortened so far that the rate should be falling already, the run would be none of that length: at 12 samples one
    of 16 with a tail of 8 has fallen since 8."""
    long = replace(RUN, total_samples=40, optim=replace(RUN.optim, decay="tail", decay_samples=8))
    with pytest.raises(Crash):
        run(tmp_path, config=long, at=16, event=crash)  # saved at 12
    with pytest.raises(CheckpointError, match=r"train\.total_samples: saved 40, now 16"):
        run(tmp_path, config=replace(long, total_samples=16))


def test_a_refused_length_is_given_with_both_values(tmp_path: Path) -> None:
    """The user must read what the run was and what was asked for, not that the field is absent."""
    tail = replace(RUN, total_samples=12, optim=replace(RUN.optim, decay="tail", decay_samples=8))
    run(tmp_path, config=tail)
    with pytest.raises(CheckpointError, match=r"train\.total_samples: saved 12, now 40"):
        run(tmp_path, config=replace(tail, total_samples=40))


def test_unfit_lengths_are_refused() -> None:
    """A run of part of a batch, or one that keeps no checkpoint, is refused where it is described."""
    with pytest.raises(ValueError, match="total_samples 10 is not a multiple of batch_size 4"):
        TrainConfig(total_samples=10, batch_size=4)
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1, got 0"):
        replace(RUN, keep_checkpoints=0)


def test_a_tokenizer_is_known_by_what_it_is(tmp_path: Path) -> None:
    """A run with its own tokenizer may be moved, or resumed from another directory: the latents are the same. Another
    tokenizer at the same place makes other latents, with which the model must not go on."""
    for seed, name in ((0, "first"), (0, "moved"), (1, "other")):
        torch.manual_seed(seed)
        model = Autoencoder(AutoencoderConfig(channels=(8, 8, 8), latent_channels=4, norm_groups=4)).eval()
        save_autoencoder(tmp_path / name, model, "", run={})
    small = replace(
        SHORT, data=DataConfig(world=WorldConfig(size=32, num_frames=3, max_interval=1)),
        model=replace(SHORT.model, latent_channels=4),
    )  # fmt: skip

    def extended(tokenizer: str, samples: int) -> None:
        settings = replace(small, tokenizer=str(tmp_path / tokenizer), train=replace(RUN, total_samples=samples))
        train_video(settings, run_dir=tmp_path / "run", distributed=Distributed())

    extended("first", 8)
    extended("moved", 12)
    with pytest.raises(CheckpointError, match=r"tokenizer: saved '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        extended("other", 16)


def test_videos_are_known_by_what_they_are(tmp_path: Path) -> None:
    """A folder of videos may be moved with a run. One more video would shift the order of all, so that clips would be
    seen twice and others never, without a word: the run must not go on with it."""
    write_world(tmp_path / "videos", WorldConfig(size=32, num_frames=8, max_interval=1), samples=range(3))

    def extended(folder: str, samples: int) -> None:
        data = FolderConfig(path=str(tmp_path / folder), num_frames=3, size=32, max_interval=1, isolate=False)
        settings = replace(SHORT, data=DataConfig("folder", folder=data), train=replace(RUN, total_samples=samples))
        train_video(settings, run_dir=tmp_path / "run", distributed=Distributed())

    extended("videos", 8)
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    extended("elsewhere", 12)
    shutil.copy(tmp_path / "elsewhere" / "world-000000.mp4", tmp_path / "elsewhere" / "another.mp4")
    with pytest.raises(CheckpointError, match=r"videos: saved '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        extended("elsewhere", 16)


# --- what a run leaves behind ---

SHORT = VideoRun(
    data=DataConfig(world=WorldConfig(size=32, num_frames=3, max_interval=1)),
    tokenizer="pixel:8",
    model=tiny(latent_channels=192, latent_height=4, latent_width=4, num_frames=3, depth=1),
    train=replace(RUN, total_samples=8),
)


def released(folder: Path) -> dict[str, bytes]:
    """Every file of the run's release."""
    return {path.name: path.read_bytes() for path in (folder / "release").iterdir()}


def extend(folder: Path, samples: int) -> dict[str, bytes]:
    """Train up to so many samples and return the release."""
    train_video(replace(SHORT, train=replace(RUN, total_samples=samples)), run_dir=folder, distributed=Distributed())
    return released(folder)


def test_the_release_is_of_the_newest_end(tmp_path: Path) -> None:
    """A run that is extended would otherwise hand out its old weights for ever. The new release is the one of a run of
    that length from the start, and says how long it was; nothing is left over beside it."""
    short = extend(tmp_path / "extended", 8)
    before = (tmp_path / "extended" / "release").stat().st_ino
    assert extend(tmp_path / "extended", 8) == short
    assert (tmp_path / "extended" / "release").stat().st_ino == before, "an identical release is left alone"
    long = extend(tmp_path / "extended", 16)
    assert long == extend(tmp_path / "long", 16) and long["model.safetensors"] != short["model.safetensors"]
    assert [json.loads(files["config.json"])["run"] for files in (short, long)] == [{"samples": 8}, {"samples": 16}]
    left = {path.name for path in (tmp_path / "extended").iterdir()}
    assert left == {".writer", "release", "metrics.jsonl", *checkpoints(tmp_path / "extended")}


def test_a_release_changed_by_hand_is_kept(tmp_path: Path) -> None:
    """What the user wrote into a release cannot be made again, so it is moved aside instead of deleted."""
    extend(tmp_path, 8)
    (tmp_path / "release" / "README.md").write_text("my notes")
    assert extend(tmp_path, 16)["README.md"] != b"my notes"
    (kept,) = tmp_path.glob("release-changed-*")
    assert (kept / "README.md").read_text() == "my notes"
