"""The files of a latent cache: how its latents are made, of which videos, and what was found of each.

    CACHE/recipe/recipe.json     tokenizer, pixels, precision: what decides a latent
    CACHE/source-000/            the videos there were, in order; a source that has changed since adds source-001
    CACHE/shard-000-00000/       latents of the first few videos that were new in source-000, and a record of each

All are folders that are whole or not there, with size and SHA-256 of their files (`magi.checkpoint`), and none is ever
changed. Which videos a shard holds follows from the sources alone: what is missing can be made by anyone, in any order.
Knows no tokenizer, no video file and no order of training.

``F`` frames of a video, ``M`` clips drawn from it, ``t`` latent frames of a clip; ``C`` channels, ``h`` x ``w`` cells.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.data.datasets.listing import Entry, Listing
from magi.data.latent_recipe import DrawnClips, Recipe

FORMAT = 1
NOWHERE = -1
LARGEST = 2.0**63  # whose square, in a loss, is still a number in float32


@dataclass(frozen=True)
class Slot:
    """A clip that was drawn and encoded; all numbers as they were used."""

    start: int
    interval: int
    flip: bool = False
    top: float = 0.5
    left: float = 0.5


@dataclass(frozen=True)
class Record:
    """What was found of a video. Its latents, if any, are under its row in the shard."""

    name: str
    num_frames: int = 0
    """At the nominal rate; 0 for a video that cannot be read."""
    slots: tuple[Slot | None, ...] = ()
    """Of the M drawn clips; None for one that did not fit into the video."""
    uneven: bool = False
    """Whether its rate varies, or damage has left gaps: then `shown` tells which stored frame each tick shows, or
    `NOWHERE`."""
    bad: str | None = None
    """Why it cannot be used."""
    problem: str | None = None
    """Why only some of it is used."""


@dataclass(frozen=True)
class Shard:
    """Videos whose latents belong into one folder."""

    name: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class LatentStore:
    """The folder of a latent cache."""

    root: Path
    recipe: Recipe
    tokenizer: str
    """The tokenizer by name or folder, as it was given when the cache was begun."""
    videos_per_shard: int
    sources: tuple[Listing, ...] = field(repr=False)
    """All lists of videos there were; the last is the one in force."""

    @property
    def listing(self) -> Listing:
        """The videos, in the order of their numbers."""
        return self.sources[-1]

    @property
    def identity(self) -> str:
        """SHA-256 of the recipe and the videos: what a run is trained on."""
        told = json.dumps({"recipe": asdict(self.recipe), "source": self.listing.fingerprint()}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def shards(self) -> Iterator[Shard]:
        """All that the cache is to hold, made or not."""
        known: set[tuple[str, int | None]] = set()
        for number, listing in enumerate(self.sources):
            fresh = [entry for entry in listing.entries if (entry.name, entry.num_bytes) not in known]
            known.update((entry.name, entry.num_bytes) for entry in fresh)
            for part, first in enumerate(range(0, len(fresh), self.videos_per_shard)):
                yield Shard(f"shard-{number:03d}-{part:05d}", tuple(fresh[first : first + self.videos_per_shard]))

    @cached_property
    def _listed(self) -> frozenset[tuple[str, int | None]]:
        return frozenset((entry.name, entry.num_bytes) for entry in self.listing.entries)

    def listed(self, shard: Shard) -> list[Record]:
        """Its records of videos that are still in the listing, as they were encoded; the others serve no training."""
        both = zip(shard.entries, self.records(shard), strict=True)
        return [record for entry, record in both if (entry.name, entry.num_bytes) in self._listed]

    def has(self, shard: Shard) -> bool:
        """Whether the shard is there."""
        return (self.root / shard.name).is_dir()

    def write(self, shard: Shard, tensors: Mapping[str, Tensor], records: Sequence[Record]) -> None:
        """Put a whole shard into its place.

        Raises:
            ValueError: another process did so meanwhile.
            CheckpointError: the disk has no room.
        """
        if self.has(shard):
            raise ValueError(
                f"{self.root / shard.name} was written by another process meanwhile: two runs do the same share of "
                "this cache. Let one of them end, or give each its RANK and WORLD_SIZE"
            )
        assert [record.name for record in records] == [entry.name for entry in shard.entries]
        plain = [{name: value for name, value in asdict(record).items() if value} for record in records]
        checkpoint.save(self.root / shard.name, {"latents": tensors}, {"videos.json": {"videos": plain}})

    def records(self, shard: Shard) -> list[Record]:
        """What was found of its videos, names and sizes of the shard's files having been checked.

        Raises:
            CheckpointError: the shard is missing, or is not what was written.
        """
        folder = self.root / shard.name
        checkpoint.verify(folder, sizes_only=True)
        try:
            plain = json.loads((folder / "videos.json").read_text(encoding="utf-8"))["videos"]
            records = [_record(one) for one in plain]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / 'videos.json'} cannot be read: {error}") from error
        if [record.name for record in records] != [entry.name for entry in shard.entries]:
            raise CheckpointError(f"{folder} holds other videos than its place in the source says")
        return records

    def sweep(self, *names: str) -> None:
        """Delete what interrupted writers left of folders whose names begin so; only for who would now write them."""
        for name in names:
            for path in self.root.glob(f"{checkpoint.TEMPORARY}{name}-*"):
                shutil.rmtree(path)

    def verify(self) -> list[str]:
        """Read every byte; returns a line for everything that is damaged or missing, naming the shard."""
        problems = []
        folders = ["recipe", *(f"source-{number:03d}" for number in range(len(self.sources)))]
        for name in [*folders, *(shard.name for shard in self.shards())]:
            if not (self.root / name).is_dir():
                problems.append(f"{name} is missing")
                continue
            try:
                checkpoint.verify(self.root / name)
            except CheckpointError as error:
                problems.append(str(error))
        return problems


def is_store(place: str | Path) -> bool:
    """Whether this is the folder of a latent cache."""
    return (Path(place) / "recipe" / "recipe.json").is_file()


def read_store(root: str | Path) -> LatentStore:
    """Open a cache: recipe and sources, whose bytes are checked; no shard.

    Raises:
        ValueError: there is no cache, or one of another format.
        CheckpointError: recipe or source are damaged.
    """
    root = Path(root)
    if not is_store(root):
        raise ValueError(f"{root} is no latent cache (no recipe/recipe.json); magi encode makes one")
    saved = _document(root / "recipe", "recipe.json")
    if saved.get("format") != FORMAT:
        raise ValueError(f"{root}: the cache has format {saved.get('format')!r}; this version reads format {FORMAT}")
    sources: list[Listing] = []
    while (root / f"source-{len(sources):03d}").is_dir():
        sources.append(_listing(root, _document(root / f"source-{len(sources):03d}", "source.json")))
    if not sources:
        raise CheckpointError(f"{root}: source-000 is missing; run magi encode again")
    return LatentStore(root, _recipe(saved["recipe"]), saved["tokenizer"], saved["videos_per_shard"], tuple(sources))


def begin_store(
    root: str | Path, recipe: Recipe, listing: Listing, *, tokenizer: str, videos_per_shard: int
) -> LatentStore:
    """Open a cache to write into, made if there is none; a source that is not the last one is added.

    Any number of processes may do this at once, with the same result.

    Raises:
        ValueError: what is there was made by another recipe; with every difference, both values.
    """
    root = Path(root)
    # In this order: a process that begins the cache meanwhile puts the recipe before anything else that is seen.
    if root.exists() and any(not path.name.startswith(".") for path in root.iterdir()) and not is_store(root):
        raise ValueError(f"{root} is neither empty nor a latent cache; give another --out")
    if videos_per_shard < 1:
        raise ValueError(f"videos_per_shard must be at least 1, got {videos_per_shard}")
    wanted = {"format": FORMAT, "recipe": asdict(recipe), "tokenizer": tokenizer, "videos_per_shard": videos_per_shard}
    _put(root / "recipe", "recipe.json", wanted)
    saved = _document(root / "recipe", "recipe.json")
    kept = {**saved, "tokenizer": wanted["tokenizer"]}  # where it lies may change, what it is may not
    differences = checkpoint.compare_configs(kept, json.loads(json.dumps(wanted)))
    if differences:
        raise ValueError(
            f"{root} was made otherwise: {'; '.join(differences)}. Give what was saved, or encode into another folder"
        )
    number = 0
    while (root / f"source-{number:03d}").is_dir():
        number += 1
    if not number or read_store(root).listing.fingerprint() != listing.fingerprint():
        entries = [[entry.name, entry.label, entry.num_bytes] for entry in listing.entries]
        document = {"entries": entries, "classes": list(listing.classes)}
        _put(root / f"source-{number:03d}", "source.json", document)
        if _document(root / f"source-{number:03d}", "source.json") != document:
            raise ValueError(f"{root}: another process encodes another list of videos into it; wait for it to end")
    return replace(read_store(root), tokenizer=saved["tokenizer"])


def ingest(values: Tensor, *, video: str, what: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return latents (n, ...) as they will be stored: sound, of the shape that the recipe says.

    Args:
        values: as the tokenizer made them.
        video: whose.
        what: mean or deviation.
        shape: to expect.
        dtype: to store.

    Raises:
        ValueError: naming the video, and what is wrong with how many of how many values.
    """
    if tuple(values.shape) != shape or not values.is_floating_point():
        raise ValueError(
            f"{video}: the tokenizer gives a {what} of {values.dtype} {tuple(values.shape)}; "
            f"its latents are floating point {shape}"
        )
    stored = values.detach().to(dtype).cpu()
    wrong = unsound(stored, what)
    if bool(wrong.any()):
        values = values.detach().cpu().double()
        finite = values[values.isfinite()]
        extent = f"the others from {finite.min():.4g} to {finite.max():.4g}" if len(finite) else "none is finite"
        raise ValueError(
            f"{video}: {int(wrong.sum())} of {wrong.numel()} values of the {what} are {UNSOUND[what]}, in "
            f"{str(dtype)[6:]}, {extent}: latents like these would ruin a training; look at the tokenizer, or store "
            "float32"
        )
    return stored


UNSOUND = {"mean": "not finite, or huge", "deviation": "not finite, huge, or negative"}


def unsound(values: Tensor, what: str) -> Tensor:
    """Which of these means or deviations no training could bear."""
    wrong = ~values.isfinite() | (values.abs() > LARGEST)  # which in float16 is infinite itself
    return wrong | (values < 0) if what == "deviation" else wrong


def open_shard(path: Path) -> Any:
    """The latents of a shard, mapped into memory.

    Raises:
        CheckpointError: the file is missing or malformed.
    """
    try:
        return safe_open(path / "latents.safetensors", framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path / 'latents.safetensors'} cannot be opened: {error}") from error


def _put(directory: Path, name: str, document: dict[str, Any]) -> None:
    """Write a document unless it is there: processes that begin together all try, and one is the first."""
    if directory.is_dir():
        return
    try:
        checkpoint.save(directory, {}, {name: document})
    except (CheckpointError, OSError):
        if not directory.is_dir():
            raise


def _document(directory: Path, name: str) -> dict[str, Any]:
    checkpoint.verify(directory)
    content = json.loads((directory / name).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CheckpointError(f"{directory / name} holds a {type(content).__name__}")
    return content


def _recipe(plain: Mapping[str, Any]) -> Recipe:
    drawn = plain["drawn"] and checkpoint.read_config(DrawnClips, plain["drawn"])
    return checkpoint.read_config(Recipe, {**plain, "drawn": drawn})


def _listing(root: Path, document: Mapping[str, Any]) -> Listing:
    """Where the videos lie is not recorded: a cache is read without them."""
    return Listing(root, tuple(Entry(*entry) for entry in document["entries"]), tuple(document["classes"]))


def _record(plain: Mapping[str, Any]) -> Record:
    slots = tuple(None if slot is None else Slot(**slot) for slot in plain.get("slots", ()))
    return Record(**{**plain, "slots": slots})
