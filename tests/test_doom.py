"""Gameplay as a source of videos: the same bits for a seed, actions beside the frames they lead from, levels and seeds
of training kept out of the test, and an engine that may crash or hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from magi import cli
from magi.data.doom import engine as doom
from magi.data.doom.engine import Doom, DoomConfig, Episode, play, watch
from magi.data.doom.files import RecordConfig, Take, open_folder, takes, write_episode
from magi.data.doom.maps import MAPS, TEST_MAPS, TRAIN_MAPS, episode_seed, split_of, spots
from magi.data.doom.player import BUTTONS, Action, Explorer, View, clearance, pressing
from magi.data.doom.workers import record
from magi.data.folder import FolderConfig, FolderSource
from magi.video import fit, read_video

pytest.importorskip("vizdoom", reason="ViZDoom is not installed: pip install 'magi-video[sim]'", exc_type=ImportError)

NATIVE = DoomConfig(width=160, height=120, num_frames=24)
OPEN = 13  # a seed with which MAP01 begins where there is room ahead and to the right


class Script:
    """A player who presses what is written down."""

    def __init__(self, *actions: Action) -> None:
        self._actions = iter(actions)

    def act(self, view: View) -> Action:
        return next(self._actions)


@pytest.fixture(scope="module")
def game() -> Iterator[Doom]:
    """An engine that renders 160 x 120."""
    with Doom(NATIVE) as running:
        yield running


def played(game: Doom, *held: tuple[str, int]) -> Episode:
    """An episode in an open place of MAP01 in which each of these buttons is held for so many frames."""
    actions = [pressing(*name.split()) for name, count in held for _ in range(count)]
    assert len(actions) == game.config.num_frames
    game.begin("MAP01", seed=OPEN)
    episode = watch(game, Script(*actions), seed=OPEN)
    assert episode is not None
    return episode


# Levels and seeds


def test_training_and_test_share_no_level_and_no_seed() -> None:
    """Whatever seeds the users of the two sets take: a model can have seen nothing of the test."""
    assert set(TRAIN_MAPS) | set(TEST_MAPS) == set(MAPS) and not set(TRAIN_MAPS) & set(TEST_MAPS)
    assert all(split_of(name) == "test" for name in TEST_MAPS) and all(split_of(name) == "train" for name in TRAIN_MAPS)
    seeds = {
        split: {episode_seed(seed, split, number) for seed in range(5) for number in (0, 1, 499_999)}
        for split in ("train", "test")
    }
    assert len(seeds["train"]) == len(seeds["test"]) == 15 and not seeds["train"] & seeds["test"]
    with pytest.raises(ValueError, match=r"0 to 499,999 of a split, got 500,000"):
        episode_seed(0, "train", 500_000)
    train, test = takes("train", 200, seed=1), takes("test", 60, seed=1)
    assert {take.map_name for take in train} == set(TRAIN_MAPS) and {take.map_name for take in test} == set(TEST_MAPS)
    assert takes("train", 300, seed=1)[:200] == train  # more episodes leave the first ones as they were
    with pytest.raises(ValueError, match="MAP06 is a level of the test set"):
        takes("train", 1, seed=0, maps=("MAP01", "MAP06"))


def test_every_level_has_places_to_begin() -> None:
    """All 68 levels are where their names say, and none begins in one place only."""
    assert len(MAPS) == 68
    assert all(len(set(spots(name))) >= 8 for name in MAPS)
    with pytest.raises(ValueError, match="MAP33"):
        spots("MAP33")


# What is played


def test_a_level_and_a_seed_give_the_same_bits(game: Doom) -> None:
    """Whatever the engine played before, and in another process: else no split and no result could be repeated."""
    other_seed, other_map = play(game, "MAP01", seed=5), play(game, "E1M1", seed=3)
    first, again = play(game, "MAP01", seed=3), play(game, "MAP01", seed=3)
    with Doom(NATIVE) as fresh:
        afar = play(fresh, "MAP01", seed=3)
    for same in (again, afar):
        for field in ("frames", "actions", "position", "angle", "health"):
            np.testing.assert_array_equal(getattr(same, field), getattr(first, field))
    for other in (other_seed, other_map):
        assert np.abs(other.frames.astype(int) - first.frames).mean() > 5
    assert not np.array_equal(other_seed.actions, first.actions)


def test_an_action_leads_from_its_frame_to_the_next(game: Doom) -> None:
    """Left is pressed at frames 8 to 15: the angle of frame 8 is still the old one, that of frame 9 is larger, and what
    is seen moves to the right; the other way round for right."""
    episode = played(game, ("", 8), ("TURN_LEFT", 8), ("TURN_RIGHT", 8))
    turn = (np.diff(episode.angle) + 180) % 360 - 180
    assert (turn[:8] == 0).all() and (turn[8:16] > 0.5).all() and (turn[16:] < -0.5).all()
    assert (episode.actions[8:16, BUTTONS.index("TURN_LEFT")] == 1).all() and episode.actions[:8].sum() == 0
    above = episode.frames[:, :60].astype(int)  # without the weapon, which stays where it is
    for frame, sign in ((12, 1), (20, -1)):
        change = {
            shift: np.abs(np.roll(above[frame], shift, axis=1) - above[frame + 1])[:, 30:-30].mean()
            for shift in range(-30, 31)
        }
        assert sign * min(change, key=change.__getitem__) > 3


def test_walking_goes_where_the_player_looks(game: Doom) -> None:
    """Position and angle are those of the frame: the step from a frame to the next is along its angle."""
    episode = played(game, ("MOVE_FORWARD", 12), ("MOVE_RIGHT", 12))
    steps, heading = np.diff(episode.position[:, :2], axis=0), np.deg2rad(episode.angle[0])
    ahead, right = np.array([np.cos(heading), np.sin(heading)]), np.array([np.sin(heading), -np.cos(heading)])
    assert (steps[2:11] @ ahead > 5).all() and (steps[20:] @ right > 5).all()
    assert episode.walking()[2:].all() and not episode.turning().any()


def test_pictures_are_rgb_and_bare(game: Doom) -> None:
    """The hand that holds the pistol is brown, not blue. While the player spins, nothing at the foot of the picture
    stays as it is but that hand; a status bar would be a fifth of the picture, for all its width."""
    episode = played(game, ("TURN_LEFT", 24))
    red, _, blue = episode.frames[:, 110:, 74:86].mean(axis=(0, 1, 2))
    assert red > blue + 25
    still = (episode.frames[8:] == episode.frames[8]).all(axis=(0, 3))
    assert still[100:].mean() < 0.3 and still[:80].mean() < 0.05


def test_squares_are_cut_from_the_picture(game: Doom) -> None:
    """A square is the middle of what the engine renders, shrunk; and any other size is its own, or is refused."""
    whole = played(game, ("MOVE_FORWARD", 24)).frames
    with Doom(replace(NATIVE, width=64, height=64)) as small:
        np.testing.assert_array_equal(played(small, ("MOVE_FORWARD", 24)).frames, fit(whole, 64))
    assert DoomConfig(width=128, height=128).rendered == (200, 150)
    for width, height, told in ((100, 77, "100x77"), (4, 4, "8 to 768"), (2000, 2000, "8 to 768")):
        with pytest.raises(ValueError, match=told):
            Doom(DoomConfig(width=width, height=height))
    for field, value in (("num_frames", 0), ("tics", 0), ("tics", 36), ("skill", 6)):
        with pytest.raises(ValueError, match=f"got {value}"):
            DoomConfig(**{field: value})


def test_the_explorer_walks_and_keeps_off_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over three levels the view moves in nearly all frames, a wall stands before the player in few, and it comes
    further than a room is wide. Who only turned, or walked straight on into a wall, would not."""
    ahead: list[float] = []

    class Watched(Explorer):
        def act(self, view: View) -> Action:
            ahead.append(clearance(view.depth)[1])
            return super().act(view)

    monkeypatch.setattr(doom, "Explorer", Watched)
    with Doom(replace(NATIVE, num_frames=90)) as game:
        episodes = [play(game, name, seed=2) for name in ("MAP01", "MAP07", "MAP20")]
    moving = [(episode.walking() | episode.turning()).mean() for episode in episodes]
    reach = [np.linalg.norm(each.position[:, :2] - each.position[0, :2], axis=1).max() for each in episodes]
    assert min(moving) > 0.9 and np.mean(reach) > 300 and np.mean(np.array(ahead) < 6) < 0.25


def test_clearance_is_told_from_the_depth() -> None:
    """A wall to the left is near on the left, and a far lamp in front of no wall does not count."""
    depth = np.full((120, 160), 60, dtype=np.uint8)
    depth[:, :50] = 5
    depth[62:64, 78:79] = 200
    left, ahead, right = clearance(depth)
    assert left == 5 and ahead == right == 60


def test_an_episode_that_ends_is_not_filled_up(game: Doom) -> None:
    """Who dies has no further frames: none are invented, and the next attempt begins elsewhere."""
    game.begin("MAP01", seed=OPEN)
    game._game.send_game_command("kill")
    assert watch(game, Script(*[pressing()] * 24), seed=OPEN) is None
    game.begin("MAP01", seed=OPEN)
    standing = Script(*[pressing()] * 24)
    assert watch(game, standing, seed=OPEN, min_walking=0.3) is None, "and who stands still is given up"


# Engines that crash or hang


def test_a_crash_of_the_engine_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of a child process; after it a new engine can play. None leaves files in the working directory."""
    monkeypatch.chdir(tmp_path)
    with Doom(NATIVE) as game:
        game.begin("MAP01", seed=0)
        children = subprocess.run(["pgrep", "-P", str(os.getpid()), "-n", "vizdoom"], capture_output=True, check=True)
        os.kill(int(children.stdout), signal.SIGKILL)
        with pytest.raises(ChildProcessError, match="the ViZDoom engine stopped while") as told:
            for _ in range(2):
                game.act(pressing())
                game.view()
        assert "\n" not in str(told.value)
        game.close()
        assert play(game, "MAP01", seed=3).frames.shape == (24, 120, 160, 3)
    assert not list(tmp_path.iterdir())


ANSWERING = """
import json, pathlib, sys, time
for line in sys.stdin:
    if "seed" in line:
        {deed}
        print(json.dumps({{"checks": {{"seed": json.loads(line)["seed"]}}}}), flush=True)
"""


def fake(deed: str) -> tuple[str, ...]:
    """A worker that does this before it answers."""
    return sys.executable, "-S", "-c", ANSWERING.format(deed=deed)


def test_workers_that_stop_or_hang_are_replaced(tmp_path: Path) -> None:
    """One failure costs a warning, and all episodes come; a second at the same episode ends the recording in a line."""
    wanted = [Take("MAP01", seed) for seed in range(5)]
    once = "flag = pathlib.Path('{}'); first = not flag.exists(); flag.touch(); {}"
    dying = fake(once.format(tmp_path / "died", "first and sys.exit()"))
    hanging = fake(once.format(tmp_path / "hung", "time.sleep(60 * first)"))
    for command, told, limit in (
        (dying, "the worker process stopped", None),
        (hanging, "no answer within 1 s", 1),
    ):
        with pytest.warns(UserWarning, match=f"{told}; trying once more"):
            done = list(record(tmp_path, RecordConfig(), wanted, workers=2, command=command, time_limit=limit))
        assert sorted(each.checks["seed"] for each in done) == list(range(5))
        assert all(each.take.seed == each.checks["seed"] for each in done)
    with pytest.warns(UserWarning), pytest.raises(ChildProcessError, match="stopped, 2 times"):
        list(record(tmp_path, RecordConfig(), wanted, command=fake("sys.exit()")))
    refusing = fake("""print(json.dumps({"refused": "too dark"}), flush=True)""")
    with pytest.raises(ValueError, match="too dark"):
        list(record(tmp_path, RecordConfig(), wanted, command=refusing))


# magi record


def magi(*words: str | Path) -> int:
    """Run `magi record`; the exit code."""
    return cli.main(["record", *map(str, words)])


WORDS = "--frames 12 --size 32 --maps MAP01 E1M6".split()
SMALL = RecordConfig(DoomConfig(width=32, height=32, num_frames=12))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of each set, of 12 frames of 32 pixels. The first was recorded in a run that was killed when it had
    written the video of the second, and not yet its JSON file."""
    out = tmp_path_factory.mktemp("recorded") / "doom"
    open_folder(out, SMALL)
    with Doom(SMALL.doom) as game:
        write_episode(out, play(game, "MAP01", 0), SMALL)
    first = out / "train/MAP01/MAP01-000000.mp4"
    os.utime(first, ns=(0, 0))
    first.with_name("MAP01-000001.mp4").write_bytes(b"of another kind")
    assert magi("--out", out, "--episodes", "2", *WORDS) == 0
    return out


def test_recorded_files_hold_what_was_played(recorded: Path) -> None:
    """The video is the episode to about a level, the JSON beside it the rest of it exactly, in both sets."""
    names = [path.relative_to(recorded).as_posix() for path in sorted(recorded.rglob("*")) if path.is_file()]
    assert names == [
        "README.md",
        "record.json",
        *(f"test/E1M6/E1M6-{500_000 + n}.{suffix}" for n in range(2) for suffix in ("json", "mp4")),
        *(f"train/MAP01/MAP01-00000{n}.{suffix}" for n in range(2) for suffix in ("json", "mp4")),
    ]
    assert "Freedoom" in (recorded / "README.md").read_text()
    with Doom(SMALL.doom) as game:
        for video in sorted(recorded.rglob("*.mp4")):
            told = json.loads(video.with_suffix(".json").read_text())
            episode = play(game, told["map"], told["seed"])
            read = read_video(video)
            assert np.abs(read.frames.astype(int) - episode.frames).mean() < 1.5
            np.testing.assert_allclose(np.diff(read.times), 2 / 35, atol=1e-3)
            assert told["buttons"] == list(BUTTONS) and told["actions"] == episode.actions.tolist()
            np.testing.assert_allclose(told["position"], episode.position, atol=1e-3)
            assert told["split"] == split_of(told["map"]) == video.relative_to(recorded).parts[0]
            assert told["checks"]["video_bytes"] == video.stat().st_size


def test_a_recording_goes_on_where_it_stopped(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished episode is left alone, an unfinished one is recorded again; when all are there nothing is done."""
    first, second = sorted(recorded.glob("train/MAP01/*.mp4"))
    assert first.stat().st_mtime_ns == 0 and len(read_video(second).frames) == 12
    times = {path: path.stat().st_mtime_ns for path in recorded.rglob("*")}
    assert magi("--out", recorded, "--episodes", "2", *WORDS) == 0
    assert capsys.readouterr().out == "4 of 4 episodes are there\n"
    assert {path: path.stat().st_mtime_ns for path in recorded.rglob("*")} == times


def test_a_recording_is_a_folder_to_train_on(recorded: Path) -> None:
    """The source of training clips takes it as it is."""
    config = FolderConfig(str(recorded / "train"), num_frames=4, size=32, max_interval=2)
    assert FolderSource(config).clips([0, 1, 2]).video.shape == (3, 4, 3, 32, 32)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--episodes 2 --frames 13 --size 32", "num_frames: saved 12, now 13"),
        ("--episodes 2 --frames 12 --size 32 --quality web", "quality: saved 'fast', now 'web'"),
        ("--episodes 0", "--episodes must be at least 1, got 0"),
        ("--episodes 2 --size big", "--size must be one number, or two as in 160x120, got 'big'"),
        ("--episodes 2 --maps MAP77", "unknown map 'MAP77'"),
        ("--episodes 2 --split train --maps E1M6", "E1M6 is a level of the test set"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    words: str, told: str, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before an engine starts, and without a change to the folder."""
    before = sorted(recorded.rglob("*"))
    assert magi("--out", recorded, *words.split()) == cli.MISUSE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("magi record: ") and told in line
    assert sorted(recorded.rglob("*")) == before


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    """Where something lies that is no recording, nothing is written."""
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="neither empty nor a folder of episodes"):
        open_folder(tmp_path, RecordConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_engine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has not installed the extra is told how."""
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    assert magi("--out", tmp_path / "new", "--episodes", "1") == cli.MISUSE
    assert "pip install 'magi-video[sim]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
