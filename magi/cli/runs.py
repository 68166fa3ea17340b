"""Training commands: preset < settings files < flags, the record of it in the run's folder, and how a run is stopped.

Shared by `magi train` and `magi tokenizer train`.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from traceback import clear_frames
from typing import Any, Protocol, TypeVar

import tyro

from magi.cli.arguments import asks_for_help, parse, split_name
from magi.cli.settings import read_flags, write_settings
from magi.data.folder import FolderConfig
from magi.data.latent_store import is_store, read_store
from magi.data.latents import LatentConfig
from magi.data.world import WorldConfig
from magi.distributed import Device, Distributed, session
from magi.experiments.data import DataConfig
from magi.locks import writable
from magi.tokenizers.store import unpinned
from magi.training.loop import Interrupted


class Run(Protocol):
    """Settings of a training, whatever is trained."""

    @property
    def data(self) -> DataConfig:
        """What is trained on."""
        ...


class TrainingArguments(Protocol):
    """What a training command takes."""

    @property
    def out(self) -> Path:
        """The run's folder."""
        ...

    @property
    def run(self) -> Run:
        """The settings."""
        ...

    @property
    def device(self) -> Device:
        """Where to train."""
        ...


Kind = TypeVar("Kind", bound=TrainingArguments)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def resolve(
    kind: Callable[..., Kind], words: Sequence[str], *, verb: str, presets: Mapping[str, Any], fallback: Any
) -> Kind:
    """Read `[PRESET] [--config FILE ...] [--data DIR] [--name value ...]`.

    Args:
        kind: the verb's arguments, a dataclass with `out` and `run` among its fields.
        words: after the verb.
        verb: as it was typed.
        presets: runs by name.
        fallback: the run that a settings file changes where no preset is named.

    Raises:
        ValueError: an unknown preset or setting, a value that does not fit, or nothing to start from.
    """
    preset, words = split_name(words)
    shorthand = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    shorthand.add_argument("--config", nargs="+", type=Path, action="extend", default=[])
    shorthand.add_argument("--data")
    try:
        found, flags = shorthand.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    if preset is None and not found.config and not asks_for_help(flags):
        raise ValueError(f"name a preset ({', '.join(presets)}) or give settings with --config FILE")
    if preset is not None and preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; expected one of {', '.join(presets)}")
    run = presets[preset] if preset is not None else fallback
    if found.data is not None:
        run = replace(run, data=train_on(run.data, found.data))
    # a settings file may be a stranger's, who must not say which code runs here
    from_files = [unpinned(flag) for file in found.config for flag in read_flags(file, run)]
    on_data = data_flags(found.data, names_tokenizer=hasattr(run, "tokenizer")) if found.data is not None else []
    default = kind(out=tyro.MISSING, run=run)
    return parse(type(default), [*from_files, *on_data, *flags], usage=f"{verb} [PRESET]", default=default)


def train_on(data: DataConfig, place: str) -> DataConfig:
    """`--data` in a preset: the same clips as before, from a folder of videos, their latents, or the world."""
    kept = ("size", "num_frames", "min_interval", "max_interval")
    shape: dict[str, Any] = {name: getattr(data.chosen, name) for name in kept}
    if place == "world":
        return data if data.kind == "world" else DataConfig(kind="world", world=WorldConfig(**shape))
    if is_store(place):
        if data.kind == "latents":
            return DataConfig(kind="latents", latents=replace(data.latents, path=place))
        # what was done to the frames is the cache's business; which clips to make of them is the preset's
        recipe = read_store(place).recipe
        rules: dict[str, Any] = {"seed": data.chosen.seed}
        if data.kind == "folder":
            rules["interval_rule"] = data.folder.interval_rule
        return DataConfig(
            kind="latents", latents=LatentConfig(path=place, crop=recipe.crop, flip=recipe.flip, **shape, **rules)
        )
    folder = data.folder if data.kind == "folder" else FolderConfig(path=place, **shape)
    return DataConfig(kind="folder", folder=replace(folder, path=place))


def data_flags(place: str, *, names_tokenizer: bool) -> list[str]:
    """`--data` as flags, so that it overrules settings files; with latents comes the tokenizer that made them."""
    if place == "world":
        return ["--data.kind", "world"]
    if not is_store(place):
        return ["--data.kind", "folder", "--data.folder.path", place]
    # without hashes: who made the cache does not say what code may run here
    tokenizer = ["--tokenizer", unpinned(read_store(place).tokenizer)] if names_tokenizer else []
    return ["--data.kind", "latents", "--data.latents.path", place, *tokenizer]


def check_data(data: DataConfig, *, pixels: bool = False) -> None:
    """Refuse a folder without videos, or with none that is long enough, before anything is written.

    Args:
        data: settings.
        pixels: whether latents will not do.
    """
    if data.kind == "folder" and not data.folder.path:
        raise ValueError("which videos? Give --data FOLDER, or --data world for the procedural world")
    if data.kind == "latents" and not data.latents.path:
        raise ValueError("which latents? Give --data FOLDER, one that magi encode has made")
    source = data.source() if pixels else data.training_source()
    if data.kind != "world":
        source.clips([0])  # one that is long enough is there


def execute(
    arguments: TrainingArguments, train: Callable[[Distributed], Path], *, verb: str, words: Sequence[str]
) -> int:
    """Train with the settings recorded in `RUN/config.yaml`; returns the exit code, having said where the result is."""
    record = arguments.out / "config.yaml"
    note = f"The same run again: magi {verb} --config {record} --out ANOTHER_FOLDER"
    with session(arguments.device) as distributed, letting_go():
        if distributed.is_first and not record.exists():
            with writable(arguments.out):
                write_settings(record, arguments.run, note=note)
        try:
            release = train(distributed)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise no_room(error, arguments.out) from error
            raise
        except Interrupted as stop:
            if distributed.is_first:
                print(f"magi {verb}: {stop}: {shlex.join(['magi', verb, *words])}", file=sys.stderr)
            return 128 + (stop.number or signal.SIGTERM)
        if distributed.is_first:
            write_settings(record, arguments.run, note=note)  # a resumed run may have another length
            print(f"done: {release}")
    return 0


@contextmanager
def letting_go() -> Iterator[None]:
    """Let go of what an error's frames hold before the group of processes is left.

    A model that averages gradients with others would else be the last to hold the group, and end it where torch waits
    for a thread that waits for Python's lock: a process that has told its error, and stays.
    """
    try:
        yield
    except BaseException as error:
        clear_frames(error.__traceback__)
        raise


def no_room(error: OSError, out: Path) -> ValueError:
    """What stopped a run whose disk is full: where, what is left there, and what to do."""
    place = out if error.filename is None else error.filename
    free = f"{shutil.disk_usage(out).free:,} bytes are free" if out.is_dir() else "it has vanished"
    return ValueError(
        f"{place}: {error.strerror}, {free}. Checkpoints are whole: make room and run the same command again"
    )
