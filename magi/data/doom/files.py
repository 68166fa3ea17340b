"""A folder of recorded episodes: what lies where, what is said beside each video, and what is not written over.

    README.md                    whose art it is
    record.json                  the settings, which all episodes of a folder share
    train/MAP01/MAP01-000000.mp4
    train/MAP01/MAP01-000000.json
    test/E1M6/...

Knows episodes and files; starts no engine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from magi.checkpoint import compare_configs
from magi.choices import check_choices
from magi.data.doom.engine import TICS_PER_SECOND, DoomConfig, Episode
from magi.data.doom.maps import TEST_MAPS, TRAIN_MAPS, Split, check_map, episode_seed, split_of, vizdoom, wad_of
from magi.data.doom.player import BUTTONS
from magi.seeds import generator
from magi.video import Quality, write_video

FORMAT = 1
SETTINGS = "record.json"
NOTICE = """# Recorded gameplay

Made by `magi record`. The levels, textures and figures in these videos are Freedoom's, (c) 2001-2026 contributors to
the Freedoom project (https://freedoom.github.io), under the modified (3-clause) BSD licence: whoever passes the videos
on passes this notice on. They were rendered by ViZDoom (https://vizdoom.farama.org), whose own code is under the MIT
licence and which is built on ZDoom; nothing of the engine is in this folder.

Beside each video lies a JSON file. `actions[t]` holds, in the order of `buttons`, what was held down from frame t to
frame t + 1, for `tics_per_frame` tics of 1/35 s; the last action reaches past the last frame. `position` is x, y and
height in the level's units, `angle` is in degrees against the clock.

`train` and `test` have no level and no seed in common.
"""


@dataclass(frozen=True)
class RecordConfig:
    """What all episodes of a folder have in common."""

    doom: DoomConfig = field(default_factory=DoomConfig)
    quality: Quality = "fast"
    fps: float | None = None  # of the files; None plays them as fast as they were played

    def __post_init__(self) -> None:
        check_choices(self)
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000, got {self.fps}")

    @property
    def rate(self) -> float:
        """Frames per second of the files."""
        return TICS_PER_SECOND / self.doom.tics if self.fps is None else self.fps


@dataclass(frozen=True)
class Take:
    """An episode by its name: a level and a seed."""

    map_name: str
    seed: int

    def video(self, folder: Path) -> Path:
        """Where it lies, or will lie."""
        return folder / split_of(self.map_name) / self.map_name / f"{self.map_name}-{self.seed:06d}.mp4"

    def is_recorded(self, folder: Path) -> bool:
        """Whether both of its files are there; each appears whole, and the JSON comes last."""
        video = self.video(folder)
        return video.exists() and video.with_suffix(".json").exists()


def takes(split: Split, num_episodes: int, *, seed: int, maps: Sequence[str] = ()) -> list[Take]:
    """The episodes 0 to `num_episodes` - 1 of a split: the levels in turn, each time with the seed of its number.

    Args:
        split: which levels, and which half of the seeds.
        num_episodes: how many.
        seed: the user's; another one shares no episode with it.
        maps: levels of this split; if empty all of them, in an order by the seed, so that a few are varied, too.

    Raises:
        ValueError: a level that does not exist or belongs to the other split; more episodes than seeds.
    """
    for name in maps:
        check_map(name)
        if split_of(name) != split:
            raise ValueError(f"{name} is a level of the {split_of(name)} set, and was asked for in {split}")
    chosen = tuple(maps)
    if not chosen:
        everything = TRAIN_MAPS if split == "train" else TEST_MAPS
        order = generator(seed, f"doom {split} maps").permutation(len(everything))
        chosen = tuple(everything[place] for place in order)
    return [Take(chosen[n % len(chosen)], episode_seed(seed, split, n)) for n in range(num_episodes)]


def open_folder(folder: Path, config: RecordConfig) -> None:
    """Make a folder for episodes, or look whether those in it were recorded in the same way.

    Raises:
        ValueError: it holds something else, or episodes with other settings.
    """
    settings = {"format": FORMAT, "engine": f"ViZDoom {vizdoom().__version__}", **asdict(config)}
    settings_file = folder / SETTINGS
    if settings_file.is_file():
        differences = compare_configs(json.loads(settings_file.read_text(encoding="utf-8")), settings)
        if differences:
            raise ValueError(f"{folder} holds episodes recorded in another way ({'; '.join(differences)}); repeat that")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is neither empty nor a folder of episodes; give another --out, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(NOTICE, encoding="utf-8")
    _write_whole(settings_file, json.dumps(settings, indent=1) + "\n")


def write_episode(folder: Path, episode: Episode, config: RecordConfig) -> dict[str, Any]:
    """Write the video and then its JSON file; returns the checks that the latter closes with."""
    video = Take(episode.map_name, episode.seed).video(folder)
    write_video(video, episode.frames, fps=config.rate, quality=config.quality)
    record = describe_episode(episode, config, video.read_bytes())
    _write_whole(video.with_suffix(".json"), _by_line(record))
    checks: dict[str, Any] = record["checks"]
    return checks


def describe_episode(episode: Episode, config: RecordConfig, video: bytes) -> dict[str, Any]:
    """An episode as plain data; `video` is the file that was made of it."""
    walking, turning = episode.walking(), episode.turning()
    steps = max(1, len(walking))
    return {
        "format": FORMAT,
        "map": episode.map_name,
        "split": split_of(episode.map_name),
        "seed": episode.seed,
        "attempt": episode.attempt,
        "wad": wad_of(episode.map_name).name,
        "engine": f"ViZDoom {vizdoom().__version__}",
        "skill": config.doom.skill,
        "frames": len(episode.frames),
        "height": episode.frames.shape[1],
        "width": episode.frames.shape[2],
        "tics_per_frame": config.doom.tics,
        "tics_per_second": TICS_PER_SECOND,
        "fps": config.rate,
        "alignment": "actions[t] is held from frame t to frame t + 1",
        "buttons": list(BUTTONS),
        "actions": episode.actions.tolist(),
        "position": episode.position.round(3).tolist(),
        "angle": episode.angle.round(3).tolist(),
        "health": episode.health.tolist(),
        "checks": {
            "walking": round(int(walking.sum()) / steps, 4),
            "moving": round(int((walking | turning).sum()) / steps, 4),
            "frames_sha256": hashlib.sha256(episode.frames.tobytes()).hexdigest(),
            "video_sha256": hashlib.sha256(video).hexdigest(),
            "video_bytes": len(video),
        },
    }


def _by_line(record: Mapping[str, Any]) -> str:
    """JSON with a line for each name: numbers in columns of one digit a line would be hard to read."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in record.items()) + "\n}\n"


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
