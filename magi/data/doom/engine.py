"""Gameplay by ViZDoom: pictures that nobody here drew, and the action of every frame.

Knows the engine, which is a child process, and how a picture becomes a frame; nothing of files. A level and a seed give
the same bits every time. The art is Freedoom's.

``T`` frames, ``H`` x ``W`` pixels, ``K`` buttons.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from magi.data.doom.maps import MAPS, check_map, spots, vizdoom, wad_of
from magi.data.doom.player import BUTTONS, Action, Explorer, Player, View, pressing
from magi.seeds import generator
from magi.video import Frames, fit

TICS_PER_SECOND = 35
"""The engine's clock."""

# The engine's picture formats of 4:3 from which squares are cut: the smallest that covers one is rendered.
HEIGHTS = {120: 160, 150: 200, 192: 256, 240: 320, 300: 400, 384: 512, 480: 640, 600: 800, 768: 1024}
ARRIVAL_TICS = 20  # before the first frame: the weapon is raised
MAX_TURN_TICS = 64  # before that, a turn to a random side, at most about once around
ATTEMPTS = 100  # episodes that end early or stay in one place are played anew from elsewhere
MIN_WALKING = 0.3  # share of the frames; below it the player stands in a niche, or finds no way out of a corner
PATIENCE = 32  # frames after which that is looked at, again and again
STEP, TURN = 1.0, 0.25  # units and degrees per tic that count as walking and turning; a step makes about 8, a turn 3.5


@dataclass(frozen=True)
class DoomConfig:
    """How episodes are played and seen.

    Raises:
        ValueError: a size that is not square and not one of the engine's, or a number out of its range.
    """

    width: int = 128
    height: int = 128
    num_frames: int = 200
    tics: int = 2  # of the engine from a frame to the next, which the action is held for; it makes 35 a second
    skill: int = 2  # 1 to 5: how many monsters, and how they are

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"an episode must have at least 1 frame, got {self.num_frames}")
        if not 1 <= self.tics <= TICS_PER_SECOND:
            raise ValueError(f"tics per frame must be between 1 and {TICS_PER_SECOND}, got {self.tics}")
        if not 1 <= self.skill <= 5:
            raise ValueError(f"skill must be between 1 and 5, got {self.skill}")
        if self.width == self.height and not 8 <= self.height <= max(HEIGHTS):
            raise ValueError(f"a square must have 8 to {max(HEIGHTS)} pixels on a side, got {self.height}")

    @property
    def rendered(self) -> tuple[int, int]:
        """Width and height of the engine's picture."""
        if self.width != self.height:
            return self.width, self.height
        height = next(height for height in HEIGHTS if height >= self.height)
        return HEIGHTS[height], height


@dataclass(frozen=True)
class Episode:
    """A piece of gameplay. Action t is held from frame t to frame t + 1, and the last one from the last frame on."""

    config: DoomConfig
    map_name: str
    seed: int
    attempt: int  # how many beginnings were given up before this one
    frames: Frames  # (T, H, W, 3) RGB
    actions: NDArray[np.uint8]  # (T, K) 0 or 1, in the order of `BUTTONS`
    position: NDArray[np.float64]  # (T, 3) x, y and height, in the level's units
    angle: NDArray[np.float64]  # (T,) degrees, against the clock
    health: NDArray[np.float64]  # (T,) at least 1: the player cannot die

    def walking(self) -> NDArray[np.bool_]:
        """Whether the player moved from frame t to frame t + 1: (T - 1,)."""
        return _walking(self.position, self.config)

    def turning(self) -> NDArray[np.bool_]:
        """Whether the player turned from frame t to frame t + 1: (T - 1,)."""
        return np.abs((np.diff(self.angle) + 180) % 360 - 180) > TURN * self.config.tics


class Doom:
    """The engine, in a ``with`` statement: `begin`, then `view` and `act` in turn.

    It has no time limit of its own: `magi.data.doom.workers` runs it where it can be stopped. Starting it changes the
    working directory for a moment, since it leaves files there.
    """

    def __init__(self, config: DoomConfig) -> None:
        """Prepare to play; the engine starts with the first episode.

        Raises:
            ImportError: ViZDoom is not installed.
            ValueError: the engine does not render this size.
        """
        self.config = config
        self._library = vizdoom()
        width, height = config.rendered
        self._resolution = getattr(self._library.ScreenResolution, f"RES_{width}X{height}", None)
        if self._resolution is None:
            raise ValueError(f"ViZDoom renders no {width}x{height}; give one number for a square, or e.g. 160x120")
        self._game: Any = None
        self._wad: Path | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.map_name = ""  # of the episode at hand

    def begin(self, map_name: str, seed: int, *, attempt: int = 0) -> None:
        """Start an episode at a place and with a heading that the seed and the attempt choose."""
        check_map(map_name)
        random = generator(seed, "doom episode", MAPS.index(map_name), attempt)
        engine_seed = int(random.integers(1, 2**31))  # 0 would mean none
        places = spots(map_name)
        place = places[int(random.integers(len(places)))]
        heading, tics = random.choice(["TURN_LEFT", "TURN_RIGHT"]), int(random.integers(MAX_TURN_TICS))
        with self._guarded(f"beginning {map_name}"):
            if self._wad != wad_of(map_name):
                self.close()
                self._start(map_name, engine_seed)
            else:
                if map_name != self.map_name:
                    self._game.set_doom_map(map_name)  # which loads it, and so does the new episode
                self._game.set_seed(engine_seed)
                self._game.new_episode()
            self.map_name = map_name
            self._game.send_game_command("buddha")  # wounds, but no death
            self._game.send_game_command(f"warp {place.x} {place.y}")
            for action, length in ((_held(heading), tics), (_held(), ARRIVAL_TICS)):
                if length:
                    self._game.make_action(action, length)

    @property
    def is_over(self) -> bool:
        """Whether the level was left, or the player died after all; there is no further view."""
        return bool(self._game.is_episode_finished())

    def view(self) -> View:
        """What is seen now."""
        with self._guarded("looking"):
            state = self._game.get_state()
        x, y, z, angle, health = state.game_variables.tolist()
        return View(state.screen_buffer, state.depth_buffer, (x, y, z), angle, health)

    def act(self, action: Action) -> None:
        """Hold the buttons (K,) until the next frame."""
        with self._guarded("playing"):
            self._game.make_action(action.tolist(), self.config.tics)

    def close(self) -> None:
        """Stop the engine."""
        if self._game is not None:
            self._game.close()
            self._game = self._wad = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _start(self, map_name: str, engine_seed: int) -> None:
        library = self._library
        game = library.DoomGame()
        game.set_doom_game_path(str(wad_of(map_name)))
        game.set_doom_map(map_name)
        game.set_seed(engine_seed)
        game.set_doom_skill(self.config.skill)
        game.set_mode(library.Mode.PLAYER)  # waits for each action
        game.set_episode_timeout(0)
        game.set_screen_resolution(self._resolution)
        game.set_screen_format(library.ScreenFormat.RGB24)
        game.set_depth_buffer_enabled(True)
        game.set_window_visible(False)
        game.set_sound_enabled(False)  # with sound it needs a device, or aborts
        game.set_audio_buffer_enabled(False)
        for part in ("hud", "crosshair", "messages", "screen_flashes"):
            getattr(game, f"set_render_{part}")(False)
        game.set_available_buttons([getattr(library.Button, name) for name in BUTTONS])
        names = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "HEALTH")
        game.set_available_game_variables([getattr(library.GameVariable, name) for name in names])
        self._game, self._wad = game, wad_of(map_name)
        self._scratch = tempfile.TemporaryDirectory(prefix="magi-doom-")  # the engine writes there when it ends, too
        game.set_doom_config_path(str(Path(self._scratch.name, "engine.ini")))
        with contextlib.chdir(self._scratch.name):
            game.init()

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Tell the end of the engine as an error of a child process, in one line."""
        library = self._library
        try:
            yield
        except (
            library.ViZDoomUnexpectedExitException,
            library.ViZDoomErrorException,
            library.ViZDoomIsNotRunningException,
        ) as error:
            raise ChildProcessError(f"the ViZDoom engine stopped while {what}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def play(game: Doom, map_name: str, seed: int) -> Episode:
    """Let the explorer play an episode: the same for a level and a seed, whatever the engine played before.

    Raises:
        ValueError: no attempt gave an episode that lasts and moves.
        ChildProcessError: the engine stopped.
    """
    for attempt in range(ATTEMPTS):
        game.begin(map_name, seed, attempt=attempt)
        player = Explorer(generator(seed, "doom player", MAPS.index(map_name), attempt), tics=game.config.tics)
        episode = watch(game, player, seed=seed, attempt=attempt, min_walking=MIN_WALKING)
        if episode is not None:
            return episode
    raise ValueError(
        f"{map_name} with seed {seed}: in {ATTEMPTS} attempts no {game.config.num_frames} frames came about in which "
        "the player walks; ask for fewer frames, or for another map or seed"
    )


def watch(game: Doom, player: Player, *, seed: int, attempt: int = 0, min_walking: float = 0.0) -> Episode | None:
    """Record what `player` does in an episode that has begun.

    Returns None if it ends before its frames are full, or if the player walks in less than `min_walking` of those so
    far, which is looked at every `PATIENCE` frames and at the end.
    """
    config, (width, height) = game.config, game.config.rendered
    pictures = np.empty((config.num_frames, height, width, 3), dtype=np.uint8)
    actions = np.empty((config.num_frames, len(BUTTONS)), dtype=np.uint8)
    states = np.empty((config.num_frames, 5))
    for frame in range(config.num_frames):
        if game.is_over or (frame % PATIENCE == 0 and _walked(states[:frame], config) < min_walking):
            return None
        view = game.view()
        pictures[frame] = view.picture
        states[frame] = (*view.position, view.angle, view.health)
        actions[frame] = player.act(view)
        game.act(actions[frame])
    if _walked(states, config) < min_walking:
        return None
    frames = fit(pictures, config.height) if config.width == config.height else pictures
    return Episode(config, game.map_name, seed, attempt, frames, actions, states[:, :3], states[:, 3], states[:, 4])


def _walked(states: NDArray[np.float64], config: DoomConfig) -> float:
    """The share of steps between frames (T, 5), of which the first two columns are x and y, that are walking."""
    return float(_walking(states, config).mean()) if len(states) > 1 else 1.0


def _walking(states: NDArray[np.float64], config: DoomConfig) -> NDArray[np.bool_]:
    return np.linalg.norm(np.diff(states[:, :2], axis=0), axis=1) > STEP * config.tics


def _held(*names: str) -> list[int]:
    return pressing(*names).tolist()
