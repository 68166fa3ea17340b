"""Training from a latent cache: the clips of the videos it was made of, in the same order; and no latent that is
damaged, of another tokenizer or of other pixels."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.data.clips import BEYOND, LatentClips
from magi.data.folder import FolderConfig, FolderSource
from magi.data.latent_recipe import DrawnClips, Recipe
from magi.data.latent_store import LatentStore, Slot, ingest, open_shard, read_store
from magi.data.latents import LatentConfig, LatentSource, cache_cost, diversity
from magi.data.loader import batches
from magi.data.order import ClipShape, TooFew, candidates
from magi.tokenizers.protocol import to_pixels
from magi.video import clip_indices, decode_video, fit, resize, ticks
from tests.toy_cache import Causal, autoencoder, encoded, folder_config, latent_config, make_videos
from tests.trees import UCF_CLASSES, ucf_tree

ROUNDING = 2.0**-11  # of float16, relative; below its normal numbers 2^-25 absolute
CAUSAL = {"num_frames": 5, "max_interval": 3}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def frames(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of single frames."""
    return encoded(videos, tmp_path_factory.mktemp("frames") / "cache", autoencoder()).root


@pytest.fixture(scope="module")
def drawn(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of six drawn clips per video."""
    out = tmp_path_factory.mktemp("drawn") / "cache"
    return encoded(videos, out, Causal(), data=CAUSAL, clips_per_video=6).root


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The junk among the videos is told about at every opening."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def opened(cache: Path, like: FolderConfig, **changes: Any) -> LatentSource:
    return LatentSource(latent_config(cache, like, **changes))


def assert_close(found: Tensor | None, expected: Tensor | None) -> None:
    """Equal up to the rounding of float16; and of convolutions, whose sums depend on the size of the batch."""
    assert found is not None and expected is not None and found.dtype == torch.float32
    assert found.shape == expected.shape
    bound = expected.abs() * ROUNDING + 2e-5
    assert bool(((found - expected).abs() <= bound).all()), float(((found - expected).abs() - bound).max())


def assert_same(one: LatentClips, two: LatentClips) -> None:
    for name in ("mean", "deviation", "interval", "sample"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


# The same clips as those of the videos


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("rule", ["clamp", "reject", "fixed"])
def test_latents_are_those_of_the_folders_clips(videos: Path, frames: Path, rule: Any, flip: bool) -> None:
    """Sample i of the cache is the posterior of sample i of the folder: same video, interval, start and mirroring, in
    every epoch; also in a video of varying rate, and where a bad or short video is replaced by the next."""
    intervals = {"min_interval": 3, "max_interval": 3} if rule == "fixed" else {}
    config = folder_config(videos, interval_rule=rule, flip=flip, **intervals)
    clips = FolderSource(config).clips(range(60))
    found = opened(frames, config).clips(range(60))
    expected = autoencoder().posterior(to_pixels(clips.video))
    assert torch.equal(found.interval, clips.interval) and torch.equal(found.sample, clips.sample)
    assert found.label is None
    assert_close(found.mean, expected.mean)
    assert_close(found.deviation, expected.deviation)
    store = read_store(frames)
    records = {record.name: record for shard in store.shards() for record in store.records(shard)}
    assert records["one/varying.gif"].uneven and records["one/varying.gif"].num_frames > 12
    unlike = autoencoder().posterior(to_pixels(clips.video.flip(-1))).mean
    assert float((found.mean - unlike).abs().mean()) > 0.1, "the mirror image is told from the picture"


@pytest.mark.parametrize("workers", [0, 2])
def test_order_is_the_folders_for_any_workers_ranks_and_start(videos: Path, frames: Path, workers: int) -> None:
    """Batches from the middle of an epoch on, as a resumed run asks for them, by two ranks: each is the folder's."""
    config, tokenizer = folder_config(videos), autoencoder()
    for rank in (0, 1):
        share = {"batch_size": 6, "start": 12, "rank": rank, "world_size": 2, "workers": workers}
        online = islice(batches(FolderSource(config), **share), 4)
        cached = islice(batches(opened(frames, config), **share), 4)
        for clips, found in zip(online, cached, strict=True):
            assert torch.equal(found.sample, clips.sample) and torch.equal(found.interval, clips.interval)
            assert_close(found.mean, tokenizer.posterior(to_pixels(clips.video)).mean)


def test_a_source_that_has_grown_keeps_the_folders_order(videos: Path, tmp_path: Path) -> None:
    """New videos change the numbers of the old ones, in the folder as in the cache."""
    shutil.copytree(videos, tmp_path / "videos")
    late = tmp_path / "videos" / "one" / "b2.mp4"
    shutil.copy(videos / "two" / "b.mp4", late)
    moved = late.rename(tmp_path / "late.mp4")
    encoded(tmp_path / "videos", tmp_path / "cache", autoencoder())
    moved.rename(late)
    (tmp_path / "videos" / "one" / "e.mp4").unlink()
    encoded(tmp_path / "videos", tmp_path / "cache", autoencoder())
    config = folder_config(tmp_path / "videos")
    clips, found = FolderSource(config).clips(range(40)), opened(tmp_path / "cache", config).clips(range(40))
    assert torch.equal(found.interval, clips.interval)
    assert_close(found.mean, autoencoder().posterior(to_pixels(clips.video)).mean)


def test_videos_that_were_taken_out_are_not_met(videos: Path, tmp_path: Path) -> None:
    """Their latents stay on the disk, in the place of no other video: not of the last one either."""
    encoded(videos, tmp_path / "cache", autoencoder())
    config = folder_config(videos, exclude=("two/d.mp4", "two/junk.mp4"))
    encoded(videos, tmp_path / "cache", autoencoder(), data={"exclude": config.exclude})
    clips, source = FolderSource(config).clips(range(40)), opened(tmp_path / "cache", config)
    assert not source.bad and len(source.store.listing.entries) == 5
    found = source.clips(range(40))
    assert torch.equal(found.interval, clips.interval)
    assert_close(found.mean, autoencoder().posterior(to_pixels(clips.video)).mean)


def test_clips_are_a_function_of_their_position(frames: Path, drawn: Path, videos: Path) -> None:
    """Asked one by one, backwards, by a pickled copy: the same bits."""
    for cache, config in ((frames, folder_config(videos)), (drawn, folder_config(videos, **CAUSAL))):
        source = opened(cache, config)
        whole = source.clips(range(30))
        copy = pickle.loads(pickle.dumps(source))
        for position in reversed(range(30)):
            one = copy.clips([position])
            for name in ("mean", "deviation", "interval", "sample"):
                assert torch.equal(getattr(one, name)[0], getattr(whole, name)[position])
        assert_same(source.clips([BEYOND]), copy.clips([BEYOND]))


def test_labels_come_with_the_clips(tmp_path: Path) -> None:
    """Of UCF-101 as of any data set: those of the source, which is what the cache keeps in order. They belong to the
    list of videos, so that one with other labels needs no new latents."""
    ucf_tree(tmp_path / "ucf", clips=1, real=True)
    data = {"dataset": "ucf101", "split": "train02"}
    store = encoded(tmp_path / "ucf", tmp_path / "cache", autoencoder(), data=data)
    config = folder_config(tmp_path / "ucf", **data)
    clips, found = FolderSource(config).clips(range(24)), opened(store.root, config).clips(range(24))
    assert clips.label is not None and found.label is not None and len(set(clips.label.tolist())) == 4
    assert torch.equal(found.label, clips.label) and torch.equal(found.interval, clips.interval)
    assert store.listing.classes == UCF_CLASSES
    document = json.loads((store.root / "source-000" / "source.json").read_text())
    document["entries"] = [[name, None, size] for name, _, size in document["entries"]]
    checkpoint.save(store.root / "source-001", {}, {"source.json": document})
    assert len(list(read_store(store.root).shards())) == len(list(store.shards()))
    assert opened(store.root, config).clips([0]).label is None


# Clips drawn beforehand


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_drawn_clips_are_encoded_from_pixels_at_their_interval(videos: Path, tmp_path: Path, crop: Any) -> None:
    """Epoch e takes clip e mod M of a video: frames at its interval from its start, cropped and mirrored as drawn, and
    encoded together. The interval told is the one used."""
    config = folder_config(videos, **CAUSAL)
    store = encoded(videos, tmp_path / "cache", Causal(), data={**CAUSAL, "crop": crop}, clips_per_video=4)
    found = opened(store.root, config, crop=crop).clips(range(70))
    recipe = store.recipe.drawn
    assert recipe is not None
    sides = Counter()
    for at in range(70):
        turn = at // 7
        for number in candidates(3, at, 7):
            name = store.listing.entries[number].name
            if name == "two/junk.mp4":
                continue
            decoded, draws = decode_video(videos / name), recipe.draws(name, turn % 4)
            try:
                start, interval = ClipShape(5, 1, 3).place(len(ticks(decoded.times)), draws)
            except TooFew:
                continue
            break
        indices = clip_indices(decoded.times, start=start, interval=interval, count=5)
        pictures = decoded.rgb(indices)
        if crop == "centre":
            pictures = fit(pictures, 16)
        else:
            left = math.ceil(draws.left * (round(24 * 16 / 20) - 16) - 0.5)
            pictures = resize(pictures, 16, round(24 * 16 / 20))[:, :, left : left + 16]
        pictures = pictures[:, :, ::-1] if draws.flip < 0.5 else pictures
        pixels = to_pixels(torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2)[None])
        expected = Causal().posterior(pixels)
        assert int(found.interval[at]) == interval
        assert_close(found.mean[at : at + 1], expected.mean)
        assert_close(found.deviation[at : at + 1], expected.deviation)
        sides[draws.flip < 0.5] += 1
    assert min(sides.values()) > 15


def test_drawn_clips_take_turns(videos: Path, tmp_path: Path) -> None:
    """In M epochs every drawn clip of every video comes once: none is forgotten, none twice as often as another."""
    data = {**CAUSAL, "exclude": ("one/c.mp4", "two/junk.mp4")}
    store = encoded(videos, tmp_path / "cache", Causal(), data=data, clips_per_video=6)
    found = opened(store.root, folder_config(videos, **CAUSAL)).clips(range(2 * 6 * 5))
    times = Counter(mean.numpy().tobytes() for mean in found.mean)
    distinct = [diversity(record.slots) for shard in store.shards() for record in store.records(shard)]
    assert len(times) >= sum(distinct) > 5 * 4 and set(times.values()) <= {2, 4}
    assert sum(times.values()) == 60 and Counter(times.values())[2] >= 20


def test_rejection_cannot_be_drawn_beforehand(videos: Path, tmp_path: Path) -> None:
    """Under "reject" all intervals are equally frequent because another video takes the place of one too short. Of
    clips drawn video by video the long ones would be rare, so this is refused instead of being something else."""
    data = {"num_frames": 5, "max_interval": 5, "interval_rule": "reject"}
    with pytest.raises(ValueError, match=r"interval_rule reject keeps all intervals equally frequent.*take clamp, or"):
        encoded(videos, tmp_path / "cache", Causal(), data=data, clips_per_video=6)
    assert not (tmp_path / "cache").exists()


# What a cache costs


def test_costs_are_those_of_the_files(videos: Path, frames: Path, drawn: Path) -> None:
    """Bytes by the plan are bytes in the shards, headers aside."""
    for cache in (frames, drawn):
        store = read_store(cache)
        records = [record for shard in store.shards() for record in store.records(shard)]
        shape = store.recipe.drawn.shape if store.recipe.drawn else ClipShape(5, 1, 6)
        planned = 0
        for record in records:
            if record.bad is None and (store.recipe.drawn is None or any(record.slots)):
                stored = 12 if record.uneven else record.num_frames  # a frame shown for long is stored once
                planned += cache_cost(store.recipe, shape, num_videos=1, frames_per_video=stored).total_bytes
        held = 0
        for shard in store.shards():
            part = open_shard(store.root / shard.name)
            held += sum(part.get_tensor(key).nbytes for key in part.keys() if not key.endswith("shown"))  # noqa: SIM118
        assert held == planned
        one = opened(cache, folder_config(videos, **(CAUSAL if store.recipe.drawn else {}))).clips([0])
        told = cache_cost(store.recipe, shape, num_videos=1, frames_per_video=30).bytes_per_clip
        assert told == (one.mean.numel() + one.deviation.numel()) * 2


@pytest.mark.parametrize("clips", [1, 8, 40])
def test_diversity_is_the_expected_number_of_different_draws(clips: int) -> None:
    """Against counting the draws of 150 videos; and possible are all that could be counted."""
    drawn = DrawnClips(per_video=clips, num_frames=5, min_interval=1, max_interval=7, interval_rule="clamp")
    recipe = replace(RECIPE, temporal_stride=4, drawn=drawn)
    cost = cache_cost(recipe, drawn.shape, num_videos=150, frames_per_video=23)
    counts = [
        len({drawn.shape.place(23, drawn.draws(f"{video}.mp4", clip)) for clip in range(clips)}) for video in range(150)
    ]
    assert np.mean(counts) == pytest.approx(cost.distinct, rel=0.03 if clips > 1 else 0.15)
    assert cost.possible == sum(23 - 4 * k for k in range(1, 6)) >= max(counts)
    assert cache_cost(replace(RECIPE, drawn=None), ClipShape(5, 1, 7), num_videos=1, frames_per_video=23).distinct == 55


def test_the_same_place_is_one_clip() -> None:
    """Mirrored or cropped elsewhere, a clip still shows the same frames."""
    assert diversity([Slot(0, 1), Slot(0, 1, flip=True), None, Slot(1, 1), Slot(0, 2)]) == 3


# What is refused

RECIPE = Recipe(
    tokenizer="toy", latent_shape=(3, 4, 4), temporal_stride=1, size=16, crop="centre", flip=True, max_frames=1000,
    deviation=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 32}, "size of the cache is 16, of the run 32"),
        ({"crop": "random"}, "crop of the cache is 'centre', of the run 'random'"),
        ({"max_interval": 200, "min_interval": 100}, "none of its 7 videos has 5 frames at interval 100"),
        ({"max_interval": 30, "interval_rule": "reject"}, "5 frames at interval 30"),
    ],
)
def test_a_cache_of_other_frames_is_refused(frames: Path, videos: Path, changes: Any, message: str) -> None:
    """In one line, with both values, when it is opened."""
    with pytest.raises(ValueError, match=message):
        opened(frames, folder_config(videos), **changes)


@pytest.mark.parametrize(
    "changes",
    [{"num_frames": 9}, {"min_interval": 2}, {"max_interval": 2}, {"interval_rule": "reject"}, {"flip": False}],
    ids=str,
)
def test_a_cache_of_other_drawn_clips_is_refused(drawn: Path, videos: Path, changes: Any) -> None:
    """What was drawn cannot be drawn otherwise afterwards; the order of the videos can."""
    config = folder_config(videos, **CAUSAL)
    (name,) = changes
    with pytest.raises(ValueError, match=f"holds other clips: {name} of the cache is"):
        opened(drawn, config, **changes)
    one, two = (opened(drawn, config, seed=seed).clips(range(9)) for seed in (3, 4))
    assert not torch.equal(one.mean, two.mean)


def test_mirror_images_that_are_not_there_are_refused(videos: Path, tmp_path: Path) -> None:
    """A cache without them serves a run without mirroring alone, and takes half the space; both ways are right."""
    store = encoded(videos, tmp_path / "cache", autoencoder(), data={"flip": False})
    with pytest.raises(ValueError, match="flip of the cache is False, of the run True"):
        opened(store.root, folder_config(videos))
    config = folder_config(videos, flip=False)
    clips = FolderSource(config).clips(range(10))
    found = opened(store.root, config).clips(range(10))
    assert_close(found.mean, autoencoder().posterior(to_pixels(clips.video)).mean)


def changed(store: LatentStore, change: Any) -> None:
    """Write a shard again with other latents; its manifest fits them, as after a mistake in the encoder."""
    (shard, *_) = store.shards()
    records, part = store.records(shard), open_shard(store.root / shard.name)
    tensors = {key: part.get_tensor(key).clone() for key in part.keys()}  # noqa: SIM118
    shutil.rmtree(store.root / shard.name)
    store.write(shard, change(tensors), records)


def with_values(value: float, moment: str = "mean") -> Any:
    """A quarter of a shard's means or deviations replaced."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for key in tensors:
            if key.endswith(moment):
                tensors[key][..., 0] = value
        return tensors

    return change


ROW = r"0000\d/(mirrored/)?"
SHARD = r"cache/shard-000-0000\d(/latents\.safetensors)?: "


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (with_values(math.inf), ValueError, rf"60 of 240 values of {ROW}mean, one/\w+.mp4, are not finite, or huge"),
        (with_values(math.nan), ValueError, rf"60 of 240 values of {ROW}mean, one/\w+.mp4, are not finite, or huge"),
        (with_values(math.nan, "deviation"), ValueError, rf"60 of 240 values of {ROW}deviation, one/\w+.mp4, are not"),
        (with_values(-1, "deviation"), ValueError, rf"60 of 240 values of {ROW}deviation, .*, huge, or negative"),
        (lambda t: {k: v.double() for k, v in t.items()}, CheckpointError, rf"{ROW}mean holds float64 .*says float16"),
        (lambda t: {k: v.to(torch.int8) for k, v in t.items()}, CheckpointError, rf"{ROW}mean holds int8 .*says float"),
        (lambda t: {k: v.flatten(-2) for k, v in t.items()}, CheckpointError, rf"{ROW}mean holds float16 \(\d+, 3, 16"),
        (
            lambda t: {k: v.movedim(-3, -1).contiguous() for k, v in t.items()},
            CheckpointError,
            rf"{ROW}mean holds float16 \(4, 4, 3\); the recipe says float16 \(3, 4, 4\)",
        ),
        (lambda t: {k: v[:2] for k, v in t.items()}, CheckpointError, rf"{ROW}mean has 2 rows; wanted are up to \d+"),
        (
            lambda t: {k: v for k, v in t.items() if not k.endswith("deviation")},
            CheckpointError,
            rf"{ROW}deviation cannot be read: .*does not contain",
        ),
        (lambda t: {}, CheckpointError, f"{ROW}mean cannot be read: .*does not contain"),
    ],
    ids=[
        "infinite", "nan", "nan deviation", "negative deviation", "double", "integers", "flat", "transposed", "short",
        "no deviations", "empty",
    ],
)  # fmt: skip
def test_wrong_latents_are_refused_when_read(
    videos: Path, tmp_path: Path, change: Any, kind: Any, message: str
) -> None:
    """Whatever wrote them: what reaches the model is of the type, shape and kind of number that the recipe says. Told
    are the shard and the place in it."""
    store = encoded(videos, tmp_path / "cache", autoencoder())
    changed(store, change)
    with pytest.raises(kind, match=SHARD + message) as caught:
        opened(store.root, folder_config(videos)).clips(range(7))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1e20, -3e38])
def test_huge_latents_are_refused_when_read(videos: Path, tmp_path: Path, value: float) -> None:
    """Float32 holds numbers whose squares it does not: a loss of them is infinite."""
    store = encoded(videos, tmp_path / "cache", autoencoder(), dtype="float32")
    changed(store, with_values(value))
    with pytest.raises(ValueError, match=rf"{SHARD}60 of 240 values of {ROW}mean, .*, are not finite, or huge"):
        opened(store.root, folder_config(videos)).clips(range(7))
    with pytest.raises(ValueError, match=r"a\.mp4: 1 of 2 values of the mean are not finite, or huge, in float32"):
        ingest(torch.tensor([1.0, value]), video="a.mp4", what="mean", shape=(2,), dtype=torch.float32)


@pytest.mark.parametrize("damage", ["cut", "gone", "unlisted", "swapped"])
def test_a_shard_that_is_not_what_was_written_is_refused(
    frames: Path, videos: Path, tmp_path: Path, damage: str
) -> None:
    """Sizes and names are compared when the cache is opened, before a run has begun."""
    shutil.copytree(frames, tmp_path / "cache")
    first, second = (tmp_path / "cache" / f"shard-000-0000{number}" for number in (0, 1))
    latents = first / "latents.safetensors"
    if damage == "cut":
        latents.write_bytes(latents.read_bytes()[:-1])
    elif damage == "gone":
        latents.unlink()
    elif damage == "unlisted":
        (first / "more.safetensors").write_bytes(b"")
    else:
        first.rename(tmp_path / "cache" / ".aside")
        second.rename(first)
        (tmp_path / "cache" / ".aside").rename(second)
    message = {"cut": "bytes instead of", "gone": "is missing", "unlisted": "not in the manifest"}
    with pytest.raises(CheckpointError, match=message.get(damage, "holds other videos than its place")):
        opened(tmp_path / "cache", folder_config(videos))


def test_an_unfinished_cache_is_not_trained_on(frames: Path, videos: Path, tmp_path: Path) -> None:
    """A part of the videos would be another order."""
    shutil.copytree(frames, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "shard-000-00001")
    with pytest.raises(ValueError, match="not finished: 1 of 3 shards are missing, shard-000-00001 first"):
        opened(tmp_path / "cache", folder_config(videos))


def test_videos_that_are_not_used_are_told(frames: Path, videos: Path) -> None:
    """How many, and why; once."""
    with pytest.warns(UserWarning, match="1 unreadable videos and 1 that are too short are not used, of 7"):
        source = opened(frames, folder_config(videos))
    ((number, reason),) = source.bad.items()
    assert source.store.listing.entries[number].name == "two/junk.mp4" and "not a readable" in reason


@pytest.mark.parametrize("path", ["", "videos", "missing"])
def test_what_is_no_cache_is_said(path: str, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="is no latent cache"):
        LatentSource(LatentConfig(path=str(tmp_path / path) if path else ""))
