"""Which clips to train on: the procedural world, a folder of videos or their latents, by one switch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

from magi.choices import check_choices
from magi.data.clips import ClipSource
from magi.data.folder import FolderConfig, FolderSource
from magi.data.latents import LatentConfig, LatentSource
from magi.data.loader import Source, batches
from magi.data.world import World, WorldConfig
from magi.distributed import Distributed
from magi.training.loop import TrainConfig

NO_FOLDER = FolderConfig(path="")
NO_LATENTS = LatentConfig(path="")


@dataclass(frozen=True)
class DataConfig:
    """The data of a run."""

    kind: Literal["world", "folder", "latents"] = "world"
    world: WorldConfig = field(default_factory=WorldConfig)
    folder: FolderConfig = field(default_factory=lambda: NO_FOLDER)
    latents: LatentConfig = field(default_factory=lambda: NO_LATENTS)

    def __post_init__(self) -> None:
        check_choices(self)
        for idle, default in (("world", WorldConfig()), ("folder", NO_FOLDER), ("latents", NO_LATENTS)):
            if idle != self.kind and getattr(self, idle) != default:
                raise ValueError(
                    f"--data.{idle}.* has no effect with --data.kind {self.kind}; give --data.kind {idle}, or drop it"
                )

    @property
    def chosen(self) -> WorldConfig | FolderConfig | LatentConfig:
        """The settings in force."""
        if self.kind == "latents":
            return self.latents
        return self.world if self.kind == "world" else self.folder

    def source(self) -> ClipSource:
        """Open the data, for who needs pixels.

        Raises:
            ValueError: they are latents.
        """
        if self.kind == "latents":
            raise ValueError(f"{self.latents.path} holds latents, and here pixels are needed: give the videos")
        return World(self.world) if self.kind == "world" else FolderSource(self.folder)

    def training_source(self) -> Source:
        """Open the data, pixels or latents."""
        return LatentSource(self.latents) if self.kind == "latents" else self.source()


def identity(source: Source) -> dict[str, str]:
    """What the clips of a source are made of, wherever it lies: a run must not go on with other videos or latents, nor
    with more of them, which would come in another order."""
    if isinstance(source, FolderSource):
        return {"videos": source.fingerprint}
    return {"cache": source.store.identity} if isinstance(source, LatentSource) else {}


def stream(source: Source, train: TrainConfig, distributed: Distributed) -> Callable[[int], Generator[Any, None, None]]:
    """From a position in samples to this process's parts of the batches from there on, as the training loop asks."""
    return lambda start: batches(
        source,
        batch_size=train.batch_size,
        start=start,
        rank=distributed.rank,
        world_size=distributed.world_size,
        parts=train.parts,
        workers=train.workers,
    )
