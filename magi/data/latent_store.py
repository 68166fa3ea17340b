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
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.choices import check_choices
from magi.data.datasets.listing import Entry, Listing
from magi.data.order import ClipShape, Draws, IntervalRule
from magi.seeds import generator

FORMAT = 1
Crop = Literal["centre", "random"]
Precision = Literal["float16", "bfloat16", "float32"]
ComputedIn = Literal["fp32", "bf16"]
NOWHERE = -1
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class DrawnClips:
    """Clips drawn beforehand, for a tokenizer that sees several frames at once: the interval comes before it.

    What is random about a clip follows from the seed, the name of its video and its number, so that it stays the same
    when the source grows.
    """

    per_video: int
    num_frames: int
    min_interval: int
    max_interval: int
    interval_rule: IntervalRule
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_video < 1:
            raise ValueError(f"clips_per_video must be at least 1, got {self.per_video}")
        if self.interval_rule == "reject":
            raise ValueError(
                "interval_rule reject keeps all intervals equally frequent by taking another video, which clips that "
                "are drawn of each video beforehand cannot: take clamp, or train from the videos"
            )
        _ = self.shape

    @property
    def shape(self) -> ClipShape:
        """How the clips lie in a video."""
        return ClipShape(self.num_frames, self.min_interval, self.max_interval, self.interval_rule)

    def draws(self, name: str, clip: int) -> Draws:
        """What is random about clip 0..M - 1 of the video of this name."""
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        return Draws(*generator(self.seed, "cached clip", key, clip).random(5).tolist())


@dataclass(frozen=True)
class Recipe:
    """All that decides the latents of a video.

    In float16 a latent v is off by at most 2^-11 |v| (or 2^-25, below 6e-5): of those within 4 deviations, by 0.002 of
    one; bfloat16 is off by 2^-9 |v|.
    """

    tokenizer: str
    """Fingerprint: what the tokenizer is, not where it lies."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of a latent frame."""
    temporal_stride: int
    size: int
    """Pixels on a side of the frames that were encoded."""
    crop: Crop
    flip: bool
    """Per frame, the latents of the mirror image are stored too: an encoder does not commute with mirroring. In drawn
    clips, half of them are mirrored."""
    max_frames: int
    """Of a video that are decoded."""
    deviation: bool
    """Whether the deviations of the posterior are stored beside its means."""
    dtype: Precision = "float16"
    precision: ComputedIn = "fp32"
    """Of the tokenizer while it encoded."""
    drawn: DrawnClips | None = None
    """None where each frame is encoded alone, whose latents serve every interval and start."""

    def __post_init__(self) -> None:
        check_choices(self)
        if (self.temporal_stride > 1) != (self.drawn is not None):
            raise ValueError(
                f"clips are drawn beforehand if and only if the temporal stride {self.temporal_stride} > 1"
            )
        if self.drawn is None and self.crop == "random":
            raise ValueError(
                "crop must be 'centre' in a cache of single frames, which serve every clip of a video; got 'random'"
            )

    @property
    def sides(self) -> tuple[str, ...]:
        """Whether frames are there as they are alone, or mirrored too; in drawn clips it is a matter of the draws."""
        return ("", "mirrored/") if self.flip and self.drawn is None else ("",)

    @property
    def moments(self) -> tuple[str, ...]:
        """The numbers stored of each latent."""
        return ("mean", "deviation") if self.deviation else ("mean",)

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one latent frame, of one side: its moments."""
        return torch.Size(self.latent_shape).numel() * DTYPES[self.dtype].itemsize * len(self.moments)


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
        raise ValueError(f"{root} was made otherwise: {'; '.join(differences)}. Encode into another folder")
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
    """Return latents (n, ...) as they will be stored: finite, of the shape that the recipe says.

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
    wrong = ~stored.isfinite() | (stored < 0 if what == "deviation" else torch.zeros_like(stored, dtype=torch.bool))
    if bool(wrong.any()):
        values = values.detach().cpu().double()
        finite = values[values.isfinite()]
        extent = f"the others from {finite.min():.4g} to {finite.max():.4g}" if len(finite) else "none is finite"
        raise ValueError(
            f"{video}: {int(wrong.sum())} of {wrong.numel()} values of the {what} are not finite"
            f"{' or negative' if what == 'deviation' else ''} in {str(dtype)[6:]}, {extent}: latents like these would "
            "ruin a training; look at the tokenizer, or store float32"
        )
    return stored


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
