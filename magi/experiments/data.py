"""Which clips to train on: the procedural world or a folder of videos, by one switch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Literal

from magi.choices import check_choices
from magi.data.clips import Clips, ClipSource
from magi.data.folder import FolderConfig, FolderSource
from magi.data.loader import batches
from magi.data.world import World, WorldConfig
from magi.distributed import Distributed
from magi.training.loop import TrainConfig

NO_FOLDER = FolderConfig(path="")


@dataclass(frozen=True)
class DataConfig:
    """The data of a run."""

    kind: Literal["world", "folder"] = "world"
    world: WorldConfig = field(default_factory=WorldConfig)
    folder: FolderConfig = field(default_factory=lambda: NO_FOLDER)

    def __post_init__(self) -> None:
        check_choices(self)
        idle = "folder" if self.kind == "world" else "world"
        default = NO_FOLDER if idle == "folder" else WorldConfig()
        if getattr(self, idle) != default:
            raise ValueError(
                f"--data.{idle}.* has no effect with --data.kind {self.kind}; give --data.kind {idle}, or drop it"
            )

    @property
    def chosen(self) -> WorldConfig | FolderConfig:
        """The settings in force."""
        return self.world if self.kind == "world" else self.folder

    def source(self) -> ClipSource:
        """Open the data."""
        return World(self.world) if self.kind == "world" else FolderSource(self.folder)


def stream(
    source: ClipSource, train: TrainConfig, distributed: Distributed
) -> Callable[[int], Generator[Clips, None, None]]:
    """From a position in samples to this process's share of the batches from there on, as the training loop asks."""
    return lambda start: batches(
        source,
        batch_size=train.batch_size,
        start=start,
        rank=distributed.rank,
        world_size=distributed.world_size,
        workers=train.workers,
    )
