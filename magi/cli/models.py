"""Models as a user names them: a folder, a run that has one, or a model that ships with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magi.checkpoint import STEP_NAME, read_config
from magi.model.head import SOLVERS
from magi.pretrained import SHELF, names
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release


def find_release(name: str | None) -> Path:
    """The folder of the released model that a user means.

    Raises:
        ValueError: no name was given, or there is no model of that name; with what to do.
    """
    if name is None:
        raise ValueError("name a model first: the folder of a run or of a release, or world64")
    directory = Path(name)
    if STEP_NAME.fullmatch(directory.resolve().name):
        raise ValueError(f"{name} is a checkpoint to resume from; the model of a finished run is in RUN/release")
    for candidate in (SHELF / name, directory, directory / "release"):
        if (candidate / "config.json").is_file():
            return candidate
    if directory.is_dir() or (directory.name == "release" and directory.parent.is_dir()):
        where = f"{name} holds no released model" if directory.is_dir() else f"there is no {name} yet"
        raise ValueError(f"{where}; a run writes one to RUN/release when it is finished: the same command goes on")
    if len(directory.parts) > 1:
        raise ValueError(f"{name} does not exist; give the folder of a run or of a release, or world64")
    raise ValueError(f"there is no model {name!r}; models that ship are: {', '.join(names()) or 'none'}")


def describe(directory: Path) -> dict[str, Any]:
    """The configuration of a released model, without its weights.

    Raises:
        ValueError: the folder holds something else.
    """
    described: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not {"model", "sample", "tokenizer"} <= described.keys():
        raise ValueError(f"{directory} holds no model; its config.json describes {', '.join(described)}")
    return described


def sample_settings(directory: Path | None) -> SampleConfig:
    """How a released model samples unless told otherwise; the paper's way if there is no model."""
    return SampleConfig() if directory is None else read_config(SampleConfig, describe(directory)["sample"])


def picture_size(release: Release) -> int:
    """Side of the pictures a model makes, in pixels.

    Raises:
        ValueError: they are not square.
    """
    config, stride = release.model.config, release.tokenizer.spatial_stride
    if config.latent_height != config.latent_width:
        height, width = stride * config.latent_height, stride * config.latent_width
        raise ValueError(f"the model makes pictures of {height} x {width} pixels; videos are fitted to squares only")
    return stride * config.latent_height


def check_interval(release: Release, interval: int) -> None:
    """Refuse an interval that the model has no embedding for, before any work is done.

    Raises:
        ValueError: naming the intervals it has.
    """
    largest = release.model.config.max_interval
    if not 1 <= interval <= largest:
        raise ValueError(f"--interval {interval} is outside the 1..{largest} that the model knows")


def in_force(release: Release, settings: SampleConfig) -> str:
    """A line that says how a model samples, with what is really done where that is less than asked for."""
    config = release.model.config
    steps = min(settings.mask_steps, config.tokens)
    fewer = f" (not {settings.mask_steps}: one per token)" if steps < settings.mask_steps else ""
    solver = settings.solver or SOLVERS[config.head.kind][0]
    rest = f"temperature {settings.temperature:g}, time {settings.time_mode}, window {settings.window or 'all'}"
    alone = ", deterministic: one video at a time" if settings.deterministic else ""
    if not release.tokenizer.is_causal:
        alone += ", a tokenizer that looks ahead: contexts are encoded alone, and frames appear when all are made"
    device = release.model.head_position.device
    if release.model.head_position.dtype != release.model.token_dtype:
        alone += f", all but the head in {str(release.model.head_position.dtype).removeprefix('torch.')}"
    last = "" if settings.head_steps_last is None else f" to {settings.head_steps_last}"
    return f"{steps} mask steps{fewer}, {settings.head_steps}{last} {solver} steps, {rest}, on {device}{alone}"
