"""The protocols of published numbers, stated to the last detail: which clips, how they are cut, what is compared.

A distance between sets of videos moves with every choice here, often by more than one model differs from the next, so
a number without its protocol says nothing. Where a paper is silent the record says "unstated; we take ...". Facts
about published code are from a reading of the code itself; `source` of a record names it.

Knows no file, no model and no detector: names and numbers alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from magi.choices import check_choices
from magi.data.datasets.catalogue import Split

ProtocolName = Literal["latte", "stylegan-v", "omnitokenizer", "magvit-k600", "magi-ucf", "magi-k600", "world"]
Task = Literal["unconditional", "prediction"]
DatasetKind = Literal["ucf101", "kinetics600", "world", "folder"]
Pick = Literal["random", "first"]
Offset = Literal["random", "first", "centre", "tiles"]
"""Where in a video a clip begins: anywhere it fits; at its first frame; so that it lies in the middle; or the video is
cut into clips that do not overlap, and each is one."""
ShortRule = Literal["drop", "refuse"]
Extent = Literal["whole video"]
Crop = Literal["centre", "squash", "none"]
Filter = Literal["lanczos", "bicubic", "bilinear", "none"]
Quantisation = Literal["tensor", "png", "jpeg75"]
DetectorName = Literal["i3d-torchscript", "i3d-tfhub", "i3d-videogpt", "videomae", "world"]
"""Of which "videomae" is no published protocol's; `Protocol.changed` takes it."""
Divisor = Literal["N", "N-1"]
"""What the scatter is divided by: N in StyleGAN-V's and Latte's code, N-1 in numpy's ``cov`` and so in FAR's."""

ANY = 0  # of `real_per_video`: as many as there are


@dataclass(frozen=True)
class Protocol:
    """Everything that moves a distance. Lengths are counted in frames, sizes in pixels."""

    name: str
    task: Task
    dataset: DatasetKind
    split: Split
    """Of the data set, by the name that magi gives it."""
    pool: str
    """Which videos there are to draw from, in words."""
    pick: Pick
    """Which of them: drawn with `seed`, or the first in order."""
    real_count: int
    generated_count: int
    real_per_video: int
    """Clips of one video, `ANY` for as many as there are."""
    real_set: str
    """In words: what the generated clips are compared with."""
    frames: int
    """Of a clip as the detector sees it, given ones included where `context_counts`."""
    real_interval: int
    """Frames of the video from one frame of a real clip to the next."""
    generated_stride: int
    """The same for generated clips: 1 takes every frame that was generated."""
    interval_id: int
    """The frame interval that the model is asked for."""
    offset: Offset
    """Of real clips; generated ones are taken from their first frame."""
    fewest_frames: int
    """A video with fewer is short."""
    short_videos: ShortRule
    extent: Extent
    """How much of a video clips are taken from: all of it, however long, whether an index has counted it or not."""
    crop: Crop
    """Of pictures that are not square: the middle is cut out before resizing, or they are squashed; "none" if all are
    square."""
    resize: Filter
    pre_resize: int | None
    """The side that all clips have before the detector sees them; None is the model's own."""
    quantisation: Quantisation
    """How pixels are rounded on their way to the detector. Ours is always "tensor": uint8, never a file that loses."""
    published_quantisation: str
    """How they were in the published numbers."""
    context: int
    """Frames that are given."""
    context_counts: bool
    """Whether the detector sees the given frames too, in front of the generated ones."""
    context_source: str
    detector: DetectorName
    published_detector: str
    divisor: Divisor
    """Of the covariance."""
    seed: int
    """Of the choice of real clips, and generated clip i has seed + i."""
    runs: int
    """Repetitions, each with other seeds, whose spread is to be told."""
    unstated: tuple[str, ...]
    """What the paper does not say, and what we take."""
    differs: tuple[str, ...]
    """Where we depart from the published code, and why."""
    source: str

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("real_count", "generated_count", "frames", "real_interval", "generated_stride", "interval_id"):
            if getattr(self, name) < 1:
                raise ValueError(f"protocol {self.name}: {name} is {getattr(self, name)}; state at least 1")
        if (self.task == "prediction") != (self.context > 0):
            raise ValueError(
                f"protocol {self.name}: task is {self.task!r} and context is {self.context} frames; state at least 1 "
                "for 'prediction' and 0 for 'unconditional'"
            )

    @property
    def clip_frames(self) -> int:
        """Frames of a clip from the first given one to the last generated one."""
        return self.frames if self.context_counts else self.context + self.frames

    @property
    def made_frames(self) -> int:
        """Frames to generate."""
        return self.clip_frames - self.context

    @property
    def span(self) -> int:
        """Frames of a video from the first to the last of a real clip."""
        return 1 + (self.clip_frames - 1) * self.real_interval

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the record as JSON, with sorted names and no spaces."""
        told = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Plain data for a results file, with the fingerprint."""
        return {**asdict(self), "fingerprint": self.fingerprint}

    def card(self) -> list[str]:
        """Lines to print beside each result: every field, and the fingerprint."""
        lines = [f"protocol {self.name}, {self.fingerprint}"]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            label = field.name.replace("_", " ")
            if isinstance(value, tuple):
                lines += [f"  {label}: {one}" for one in value]
            else:
                lines.append(f"  {label}: {value}")
        return lines

    def changed(
        self, *, clips: int | None = None, runs: int | None = None, detector: DetectorName | None = None
    ) -> Protocol:
        """The protocol changed, under another name: its numbers are not comparable with the protocol's own.

        Args:
            clips: on each side; None leaves both.
            runs: repetitions; None leaves them.
            detector: of clips; None leaves it.

        Raises:
            ValueError: fewer than 2 clips, which have no covariance, or no run.
        """
        if clips is not None and clips < 2:
            raise ValueError(f"protocol {self.name} with {clips} clips: state at least 2, for a covariance")
        if runs is not None and runs < 1:
            raise ValueError(f"protocol {self.name} with {runs} runs: state at least 1")
        given: dict[str, Any] = {"real_count": clips, "generated_count": clips, "runs": runs, "detector": detector}
        new = {name: value for name, value in given.items() if value not in (None, getattr(self, name))}
        told = [f"{clips} clips"] if new.keys() & {"real_count", "generated_count"} else []
        told += [f"{runs} runs"] if "runs" in new else []
        told += [f"detector {detector}"] if "detector" in new else []
        return replace(self, **new, name=f"{self.name} (changed: {', '.join(told)})") if told else self


_TENSOR = "clips go to the detector as uint8 tensors, never through JPEG or video files"
_OWN_SEED = "the published choice of clips is not seeded; ours is, and the manifest is kept"

LATTE = Protocol(
    name="latte",
    task="unconditional",
    dataset="ucf101",
    split="all",
    pool="all 13,320 videos of UCF-101, training and test alike",
    pick="random",
    real_count=2048,
    generated_count=2048,
    real_per_video=1,
    real_set="2,048 clips, one of each video drawn",
    frames=16,
    real_interval=3,
    generated_stride=1,
    interval_id=3,
    offset="random",
    fewest_frames=48,
    short_videos="drop",
    extent="whole video",
    crop="centre",
    resize="lanczos",
    pre_resize=None,
    quantisation="tensor",
    published_quantisation="JPEG of quality 75 on both sides, generated clips through mp4 before",
    context=0,
    context_counts=False,
    context_source="none",
    detector="i3d-torchscript",
    published_detector="i3d_torchscript.pt, 400 logits",
    divisor="N",
    seed=0,
    runs=4,
    unstated=(),
    differs=(
        f"{_TENSOR}: Latte asks for q=95, which Pillow ignores, so its frames are JPEG of quality 75",
        _OWN_SEED,
    ),
    source="Latte tools/metrics, evaluated with fvd2048_16f, real clips subsampled by 3",
)

STYLEGAN_V = replace(
    LATTE,
    name="stylegan-v",
    pick="first",
    real_set="2,048 clips, one of each of the first 2,048 videos",
    real_interval=1,
    interval_id=1,
    fewest_frames=16,
    resize="bicubic",
    published_quantisation="frames as the loader reads them",
    unstated=("crop and resize filter of the loader's frames: unstated; we take the centre and bicubic",),
    differs=("clips go to the detector as uint8 tensors", "the random offsets are seeded, and the manifest is kept"),
    source="StyleGAN-V src/metrics, fvd2048_16f",
)

OMNITOKENIZER = replace(
    LATTE,
    name="omnitokenizer",
    pool="the folder that is given; unstated; we take all 13,320 videos of UCF-101",
    frames=17,
    real_interval=1,
    interval_id=1,
    offset="centre",
    fewest_frames=17,
    short_videos="refuse",
    crop="squash",
    resize="bicubic",
    published_quantisation="frames as decord reads them at the model's size",
    detector="i3d-videogpt",
    published_detector="i3d_pretrained_400.pt, batch-norm epsilon 1e-5, 400 logits",
    divisor="N-1",
    unstated=(
        "pool: unstated; we take all 13,320 videos of UCF-101",
        "resize filter: unstated; we take bicubic with antialiasing, aspect not kept",
        "covariance divisor: unstated; we take N-1",
    ),
    differs=(_OWN_SEED, "clips go to the detector as uint8 tensors"),
    source="OmniTokenizer evaluation of UCF-101",
)

MAGI_UCF = replace(
    LATTE,
    name="magi-ucf",
    pool="all 13,320 videos of UCF-101 ('the dataset')",
    real_set="2,048 clips drawn at random, one of each video",
    published_quantisation="unstated; we take tensors",
    published_detector="unstated; we take i3d_torchscript.pt as Latte does",
    unstated=(
        "start of a real clip: unstated; we take a random one, as Latte does",
        "crop and resize filter: unstated; we take the centre and Lanczos, as Latte does",
        "which 16 of the frames of a tokenizer that makes 17: unstated; we take the first 16",
        "short videos: unstated; we take Latte's rule, fewer than 48 frames are dropped",
        "quantisation: unstated; we take tensors, no JPEG",
        "detector and covariance divisor: unstated; we take Latte's",
    ),
    differs=(),
    source="MAGI, Table 3, which follows Latte and OmniTokenizer though these disagree",
)

MAGVIT_K600 = Protocol(
    name="magvit-k600",
    task="prediction",
    dataset="kinetics600",
    split="test",
    pool="Kinetics-600, the test or validation set; we take test",
    pick="random",
    real_count=300_000,
    generated_count=50_000,
    real_per_video=6,
    real_set="about 300,000 clips, 6 crops of each video, those that the contexts come from among them",
    frames=16,
    real_interval=1,
    generated_stride=1,
    interval_id=1,
    offset="random",
    fewest_frames=16,
    short_videos="drop",
    extent="whole video",
    crop="centre",
    resize="bilinear",
    pre_resize=64,
    quantisation="tensor",
    published_quantisation="unstated; we take tensors",
    context=5,
    context_counts=True,
    context_source="the first 5 frames of the first clip of each video drawn, encoded alone",
    detector="i3d-tfhub",
    published_detector="TF-hub i3d-kinetics-400/1, output RGB/inception_i3d/Mean:0",
    divisor="N-1",
    seed=0,
    runs=4,
    unstated=(
        "crop: unstated; we take the centre",
        "which of the crops of a video: unstated; we take 6 random starts",
        "short videos: unstated; we take them out",
        "covariance divisor: unstated; we take N-1",
    ),
    differs=(
        "the detector is i3d_torchscript.pt, the same network traced anew (features differ by 2.6e-4)",
        "the choice of clips is seeded, and the manifest is kept",
    ),
    source="MAGVIT, K600 frame prediction at 64 x 64",
)

MAGI_K600 = replace(
    MAGVIT_K600,
    name="magi-k600",
    pool="Kinetics-600, the test set; its size depends on what is still to be had",
    real_count=50_000,
    real_per_video=ANY,
    real_set="50,000 clips, the same ones that the contexts come from, with what really came",
    frames=17,
    offset="tiles",
    fewest_frames=17,
    context_source="the first 5 frames of each real clip, encoded alone",
    detector="i3d-torchscript",
    published_detector="unstated; we take i3d_torchscript.pt",
    divisor="N",
    unstated=(
        "whether the given frames count: unstated; we take yes, as the compared works do",
        "detector and covariance divisor: unstated; we take i3d_torchscript.pt and N",
        "start of a clip, and how 50,000 come from fewer videos: unstated; we take clips that do not overlap, as LARP",
        "real clips: unstated; we take the same 50,000 that the contexts come from",
        "crop and resize filter: unstated; we take the centre and bilinear",
        "short videos: unstated; we take them out",
        "quantisation: unstated; we take tensors",
    ),
    differs=(),
    source="MAGI, Table 2: 5 frames given, 12 generated, 64 x 64",
)

WORLD = Protocol(
    name="world",
    task="prediction",
    dataset="world",
    split="test",
    pool="the procedural world of magi.evaluation.world: 3 to 5 bodies, another seed than any training",
    pick="first",
    real_count=1024,
    generated_count=1024,
    real_per_video=1,
    real_set="the same clips that the contexts come from, with what really came",
    frames=21,
    real_interval=1,
    generated_stride=1,
    interval_id=1,
    offset="first",
    fewest_frames=21,
    short_videos="refuse",
    extent="whole video",
    crop="none",
    resize="none",
    pre_resize=None,
    quantisation="tensor",
    published_quantisation="none published",
    context=5,
    context_counts=True,
    context_source="the first 5 frames of each real clip, encoded alone",
    detector="world",
    published_detector="none published",
    divisor="N",
    seed=0,
    runs=1,
    unstated=(),
    differs=(),
    source="ours; the distance is called world-FVD and is no FVD",
)

PROTOCOLS: Final[dict[str, Protocol]] = {
    protocol.name: protocol for protocol in (LATTE, STYLEGAN_V, OMNITOKENIZER, MAGVIT_K600, MAGI_UCF, MAGI_K600, WORLD)
}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ValueError: there is none; with the names there are.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
