"""What a demo hands to its page: what was made and measured, and by which model. Knows nothing of how.

Shapes: B videos, F predicted frames, T frames of a clip, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from magi.evaluation.by_clip import ClipScores
from magi.model.config import MagiConfig
from magi.report.films import Film
from magi.sampling.config import SampleConfig


@dataclass(frozen=True)
class InForce:
    """The model, how it sampled, and on what."""

    name: str
    parameters: int
    config: MagiConfig
    sample: SampleConfig
    stride: int  # of the tokenizer: pixels to a latent
    device: str
    threads: int


@dataclass(frozen=True)
class Long:
    """Continuations far beyond the trained length."""

    films: list[Film]
    right: dict[str, Tensor]  # by the way it was done: (B, F), 1 where a frame shows every body once


@dataclass(frozen=True)
class Toy:
    """What a training run was like."""

    clips: int  # trained on
    seconds: float
    parameters: int
    losses: list[tuple[int, float]]  # (clips seen, loss)
    truth: Tensor  # (T, 3, H, W) uint8, a clip it never saw
    given: int  # frames of it that are given before each look
    looks: list[tuple[int, Tensor]]  # (clips seen, that clip continued)


@dataclass(frozen=True)
class Demo:
    """Everything that the page tells."""

    model: InForce
    files: list[Path]
    films: list[Film]
    scores: ClipScores
    long: Long
    toy: Toy
    commands: list[tuple[str, str]]  # what to type next, and why
    seconds: dict[str, float]  # by step
