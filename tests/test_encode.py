"""Making a latent cache: killed anywhere, started again, or shared among processes, it ends as the same files; nothing
unreadable is passed over in silence, and nothing that cannot be trained on is stored."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from magi import checkpoint, cli
from magi.checkpoint import CheckpointError, load_tensors
from magi.cli.encode import summary
from magi.data import latent_store
from magi.data.clips import Clips, LatentClips
from magi.data.datasets.listing import Entry, Listing
from magi.data.folder import FolderSource, list_videos
from magi.data.latent_store import LatentStore, Record, begin_store, is_store, read_store
from magi.data.latents import LatentSource, diversity
from magi.experiments.data import DataConfig
from magi.experiments.encode import EncodeRun, encode, recipe_of, share_of_environment
from magi.experiments.footage import Decoded, ahead
from magi.experiments.video import pictures, preparation
from magi.sampling.release import load
from magi.tokenizers.autoencoder import Autoencoder
from magi.tokenizers.protocol import Posterior, to_pixels
from magi.tokenizers.store import fingerprint, save_autoencoder
from tests.test_seeking import hurt
from tests.toy_cache import Causal, autoencoder, encoded, folder_config, latent_config, make_videos
from tests.toys import tiny
from tests.videos import encode as video_file
from tests.videos import moving

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a cache that one process made undisturbed."""
    return files(encoded(videos, tmp_path_factory.mktemp("whole") / "cache", autoencoder()).root)


def files(root: Path) -> Files:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def forked(run: Callable[[], object]) -> Any:
    """Run in a process of its own, which may be killed."""

    def alone() -> None:
        torch.set_num_threads(1)  # the threads of the parent are not here
        run()

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


# Killed, shared, grown


def test_a_kill_anywhere_leaves_a_cache_that_can_be_finished(videos: Path, tmp_path: Path) -> None:
    """SIGKILL before every single wait for the disk, of recipe, source and shards: what is visible is whole, what was
    finished is not touched again, and the next run ends with the same files and no litter."""
    left_out = ("two/b.mp4", "two/d.mp4", "one/e.mp4", "one/varying.gif")
    few: Any = {"data": {"exclude": left_out}, "videos_per_shard": 2, "workers": 0}
    whole = files(encoded(videos, tmp_path / "whole", autoencoder(), **few).root)

    def killed_at(out: Path, at: int, right: Callable[[Path], None] = checkpoint._flush) -> None:
        count = 0

        def flush(path: Path) -> None:
            nonlocal count
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            right(path)

        checkpoint._flush = flush
        encoded(videos, out, autoencoder(), **few)

    points = 0
    for points in range(100):
        out = tmp_path / str(points)
        process = forked(lambda: killed_at(out, points))
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        found = files(out) if out.exists() else {}
        seen = {name: content for name, content in found.items() if not name.startswith(".")}
        assert seen.items() <= whole.items()
        times = {name: (out / name).stat().st_mtime_ns for name in seen if name.startswith("shard")}
        encoded(videos, out, autoencoder(), **few)
        assert files(out) == whole
        assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert points == 4 + 4 + 2 * 5, "every file, its folder and the folder above, of recipe, source and two shards"


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], "at once"], ids=str)
def test_any_number_of_processes_make_the_same_files(videos: Path, whole: Files, tmp_path: Path, order: Any) -> None:
    """Each does the shards of its rank and waits for nobody: one after another in any order, or all at once. A part is
    no cache to train on yet, and all parts are that of one process."""

    def share(rank: int) -> None:
        encoded(videos, tmp_path / "cache", autoencoder(), rank=rank, world_size=3)

    if order == "at once":
        processes = [forked(lambda rank=rank: share(rank)) for rank in range(3)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
    else:
        for done, rank in enumerate(order, start=1):
            share(rank)
            assert sum(name.endswith("videos.json") for name in files(tmp_path / "cache")) == done
    assert files(tmp_path / "cache") == whole


def test_the_batch_size_and_the_threads_change_nothing(videos: Path, tmp_path: Path) -> None:
    """Only the layout of the work: which frames are together in a batch does not show up in their latents, beyond the
    rounding of sums."""
    one, two = (
        encoded(videos, tmp_path / str(size), autoencoder(), batch_frames=size, workers=size % 4, dtype="float32")
        for size in (64, 7)
    )
    for shard in one.shards():
        first, second = (load_tensors(store.root / shard.name, "latents", None) for store in (one, two))
        assert first.keys() == second.keys()
        for key, values in first.items():
            torch.testing.assert_close(values, second[key], rtol=1e-5, atol=1e-5)


def test_new_videos_make_new_shards(videos: Path, tmp_path: Path) -> None:
    """The old ones stay byte for byte. A video that was replaced is new; one that is gone stays encoded, unused, and
    is not encoded again when it is back."""
    shutil.copytree(videos, tmp_path / "videos")
    root = tmp_path / "videos" / "one"
    store = encoded(tmp_path / "videos", tmp_path / "cache", autoencoder())
    before = files(store.root)
    shutil.copy(root / "a.mp4", root / "0.mp4")
    shutil.copy(root / "e.mp4", root / "c.mp4")
    (root / "a.mp4").rename(tmp_path / "a.mp4")
    store = encoded(tmp_path / "videos", tmp_path / "cache", autoencoder())
    after = files(store.root)
    assert before.items() <= after.items()
    new = [shard for shard in store.shards() if shard.name.startswith("shard-001")]
    assert [[entry.name for entry in shard.entries] for shard in new] == [["one/0.mp4", "one/c.mp4"]]
    assert "one/a.mp4" not in {entry.name for entry in store.listing.entries}
    (tmp_path / "a.mp4").rename(root / "a.mp4")
    store = encoded(tmp_path / "videos", tmp_path / "cache", autoencoder())
    assert len(store.sources) == 3 and not any(shard.name.startswith("shard-002") for shard in store.shards())
    assert {name for name in files(store.root).keys() - after.keys()} == {
        "source-002/source.json", "source-002/MANIFEST.json"
    }  # fmt: skip
    identities = {LatentStore(store.root, store.recipe, "", 3, store.sources[:count]).identity for count in (1, 2, 3)}
    assert len(identities) == 3


def test_a_video_that_was_repaired_is_told_of_no_more(videos: Path, tmp_path: Path) -> None:
    """Neither what was found of the broken file nor that it was encoded speaks of the videos that are there now."""
    shutil.copytree(videos, tmp_path / "videos")
    config = folder_config(tmp_path / "videos")
    run = EncodeRun(DataConfig("folder", folder=config), tokenizer="toy", videos_per_shard=3, workers=0)

    def again() -> LatentStore:
        return encode(run, list_videos(config), autoencoder(), fingerprint="toy", out=tmp_path / "cache")

    for _ in range(2):  # it is told of as long as it is there
        with pytest.warns(UserWarning, match=r"not used: two/junk\.mp4"):
            again()
    shutil.copy(tmp_path / "videos" / "one" / "e.mp4", tmp_path / "videos" / "two" / "junk.mp4")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="not used")
        told = summary(again(), run.data)
    assert "7 of 7" in told and "0 unreadable; 1 more that have gone or changed since" in told


def test_a_shard_that_was_deleted_is_made_again(videos: Path, whole: Files, tmp_path: Path) -> None:
    """It is the same, and the only one that is made."""
    encoded(videos, tmp_path / "cache", autoencoder())
    shutil.rmtree(tmp_path / "cache" / "shard-000-00001")
    told: list[tuple[int, int]] = []
    config = folder_config(videos)
    run = EncodeRun(DataConfig("folder", folder=config), tokenizer="toy", videos_per_shard=3)
    out, listing = tmp_path / "cache", list_videos(config)
    encode(run, listing, autoencoder(), fingerprint="toy", out=out, tell=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert files(tmp_path / "cache") == whole


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "another"}, "recipe.tokenizer: saved 'toy', now 'another'"),
        ({"data": {"size": 32}}, r"recipe.size: saved 16, now 32"),
        ({"data": {"flip": False}}, "recipe.flip: saved True, now False"),
        ({"data": {"max_frames": 30}}, "recipe.max_frames: saved 1000, now 30"),
        ({"dtype": "float32"}, "recipe.dtype: saved 'float16', now 'float32'"),
        ({"deviation": False}, "recipe.deviation: saved True, now False"),
        ({"videos_per_shard": 4}, "videos_per_shard: saved 3, now 4"),
    ],
)
def test_another_recipe_is_not_added_to_a_cache(videos: Path, tmp_path: Path, changes: Any, message: str) -> None:
    """One line with both values, and the cache stays as it is."""
    store = encoded(videos, tmp_path / "cache", autoencoder())
    before = files(store.root)
    with pytest.raises(ValueError, match=message):
        encoded(videos, tmp_path / "cache", autoencoder(), **changes)
    assert files(store.root) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips_per_video": 5}, "recipe.drawn.per_video: saved 4, now 5"),
        ({"data": {"num_frames": 5, "max_interval": 3, "crop": "random"}}, "recipe.crop: saved 'centre', now 'random'"),
        ({"data": {"num_frames": 5, "max_interval": 2}}, "recipe.drawn.max_interval: saved 3, now 2"),
        ({"data": {"num_frames": 9, "max_interval": 3}}, "recipe.drawn.num_frames: saved 5, now 9"),
        ({"data": {"num_frames": 5, "max_interval": 3, "seed": 8}}, "recipe.drawn.seed: saved 3, now 8"),
        ({"data": {"num_frames": 6, "max_interval": 3}}, "6 frames do not make whole latent frames.* take 5 or 9"),
    ],
)
def test_clips_drawn_otherwise_are_not_added(videos: Path, tmp_path: Path, changes: Any, message: str) -> None:
    """What was drawn is part of the recipe."""
    same = {"data": {"num_frames": 5, "max_interval": 3}, "clips_per_video": 4}
    encoded(videos, tmp_path / "cache", Causal(), **same)
    with pytest.raises(ValueError, match=message):
        encoded(videos, tmp_path / "cache", Causal(), **{**same, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips_per_video": 5}, "no effect with a tokenizer that encodes each frame alone"),
        ({"data": {"crop": "random"}}, "crop must be 'centre'"),
        ({"data": {"size": 18}}, "not divisible by the tokenizer's stride 4"),
        ({"videos_per_shard": 0}, "videos_per_shard must be at least 1"),
        ({"batch_frames": 0}, "batch_frames must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"rank": 1}, "need 0 <= rank < world_size, got 1 and 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(videos: Path, tmp_path: Path, changes: Any, message: str) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match=message):
        encoded(videos, tmp_path / "cache", autoencoder(), **changes)
    assert not (tmp_path / "cache").exists()


class Wrong(Autoencoder):
    """An encoder that has gone wrong from some frame on."""

    def __init__(self, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__(autoencoder().config)
        self.change = change

    def posterior(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Posterior:
        right = super().posterior(pixels)
        assert right.deviation is not None
        return Posterior(*self.change(right.mean.clone(), right.deviation.clone()))


def with_value(value: float, *, in_mean: bool = True) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def change(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        (mean if in_mean else deviation)[-1, 0, 1, 2, 3] = value
        return mean, deviation

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(torch.nan), "1 of 432 values of the mean are not finite, or huge, in float16, the others from -"),
        (with_value(-torch.inf), "1 of 432 values of the mean are not finite, or huge, in float16"),
        (
            with_value(7e4),
            "1 of 432 values of the mean are not finite, or huge, in float16, the others from .* to 7e\\+04",
        ),
        (with_value(-1.0, in_mean=False), "1 of 432 values of the deviation are not finite, huge, or negative"),
        (
            lambda m, d: (m * torch.nan, d),
            "432 of 432 values of the mean are not finite, or huge, in float16, none is finite",
        ),
        (lambda m, d: (m.flatten(-2), d), r"gives a mean of torch.float32 \(9, 1, 3, 16\); .* \(9, 1, 3, 4, 4\)"),
        (lambda m, d: (m.to(torch.int8), d), r"gives a mean of torch.int8"),
        (lambda m, d: (m, d[..., :2]), r"gives a deviation of torch.float32 \(9, 1, 3, 4, 2\)"),
    ],
    ids=["nan", "inf", "overflow", "negative", "all nan", "shape", "integers", "deviation"],
)
def test_latents_that_would_ruin_a_training_are_refused(
    videos: Path, tmp_path: Path, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    """At the first video that has them, by name, with what is wrong with how many values; no shard is written."""
    with pytest.raises(ValueError, match=f"^one/a.mp4: .*{message}"):
        encoded(videos, tmp_path / "cache", Wrong(change))
    assert not [name for name in files(tmp_path / "cache") if name.startswith("shard")]


def test_unreadable_videos_keep_their_place_and_their_reason(videos: Path, tmp_path: Path) -> None:
    """They are told about, written down, and end the work when they are too many."""
    config = folder_config(videos)
    run = EncodeRun(DataConfig("folder", folder=config), tokenizer="toy")
    with pytest.warns(UserWarning, match="not used: two/junk.mp4: is not a readable"):
        store = encode(run, list_videos(config), autoencoder(), fingerprint="toy", out=tmp_path / "cache")
    (shard,) = store.shards()
    records = store.records(shard)
    assert [record.name for record in records] == [entry.name for entry in store.listing.entries]
    assert [bool(record.bad) for record in records] == [name.name == "two/junk.mp4" for name in store.listing.entries]
    more = shutil.copytree(videos, tmp_path / "videos")
    for name in "xyz":
        (more / f"{name}.mp4").write_text("no video either")
    listing = Listing(more, (*store.listing.entries, *(Entry(f"{name}.mp4") for name in "xyz")))
    with pytest.raises(ValueError, match=r"4 of the 10 videos opened so far cannot be read; .*The last: z\.mp4"):
        encode(run, listing, autoencoder(), fingerprint="toy", out=tmp_path / "other")
    store = encoded(more, tmp_path / "third", autoencoder(), data={"max_bad_fraction": 0.5})
    assert sum(record.bad is not None for shard in store.shards() for record in store.records(shard)) == 4


def test_videos_that_the_source_has_no_more_do_not_stop_the_work(videos: Path, tmp_path: Path) -> None:
    """The bad ones of a cache count only while they are asked for: to exclude them helps, as the error says it does,
    and a video that was deleted before it was encoded is missed by nobody."""
    more = shutil.copytree(videos, tmp_path / "videos")
    (more / "two" / "junk.mp4").unlink()
    names = tuple(f"{name}.mp4" for name in "abcd")
    for name in names:
        (more / name).write_text("no video")
    with pytest.raises(ValueError, match="exclude them or raise max_bad_fraction"):
        encoded(more, tmp_path / "cache", autoencoder(), videos_per_shard=4)
    try:
        store = encoded(more, tmp_path / "cache", autoencoder(), videos_per_shard=4, data={"exclude": names})
    except ValueError as error:
        pytest.fail(f"excluding them did not help: {error}")
    assert all(store.has(shard) for shard in store.shards())
    assert [entry.name for entry in store.listing.entries if entry.name in names] == []
    begun = EncodeRun(DataConfig("folder", folder=folder_config(videos)), videos_per_shard=3, workers=0)
    listing = Listing(more, tuple(Entry(f"gone-{number}.mp4") for number in range(6)))
    recipe = recipe_of(begun, autoencoder(), fingerprint="toy", deviation=True)
    begin_store(tmp_path / "begun", recipe, listing, tokenizer="toy", videos_per_shard=3)
    store = encoded(videos, tmp_path / "begun", autoencoder())
    assert all(store.has(shard) for shard in store.shards()) and len(store.sources) == 2


def test_a_damaged_video_gives_the_clips_that_the_folder_gives(tmp_path: Path) -> None:
    """Damage between key frames 20 and 40 is found only while decoding. Clips that need what it spoilt are passed over,
    those before and behind it are taken, and the cache does the same, sample by sample."""
    options = {"g": "20", "crf": "4", "bf": "0", "x264-params": "scenecut=0"}
    (tmp_path / "videos").mkdir()
    for name in ("a", "b", "c"):
        video_file(tmp_path / "videos" / f"{name}.mp4", moving(60, 32, 32), options=options)
    hurt(tmp_path / "videos" / "b.mp4", 30, tmp_path / "videos" / "b.mp4")
    config = replace(folder_config(tmp_path / "videos"), max_interval=20, max_bad_fraction=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = encoded(tmp_path / "videos", tmp_path / "cache", autoencoder(), data={"max_interval": 20})
        folder = FolderSource(config).clips(range(60))
        cached = LatentSource(latent_config(tmp_path / "cache", config)).clips(range(60))
    (record,) = [record for shard in store.shards() for record in store.records(shard) if record.name == "b.mp4"]
    assert record.num_frames == 60 and record.bad is None and record.problem is not None
    assert "ends after 30 frames" in record.problem
    assert torch.equal(cached.interval, folder.interval)
    latents = autoencoder().encode(to_pixels(folder.video))
    torch.testing.assert_close(cached.mean, latents, rtol=2e-3, atol=2e-3)


def test_verify_names_what_is_damaged(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit changes no size: only reading every byte finds it, in any file of the cache."""
    store = encoded(videos, tmp_path / "cache", autoencoder())
    assert cli.main(["encode", "--verify", str(store.root)]) == 0
    assert "all 3 shards are as they were written" in capsys.readouterr().out
    for name in ("shard-000-00000/latents.safetensors", "shard-000-00002/videos.json"):
        content = bytearray((store.root / name).read_bytes())
        content[len(content) // 2] ^= 1
        (store.root / name).write_bytes(content)
    shutil.rmtree(store.root / "shard-000-00001")
    assert cli.main(["encode", "--verify", str(store.root)]) == cli.MISUSE
    line = capsys.readouterr().err
    assert "3 parts are damaged or missing" in line and "shard-000-00001 is missing" in line
    assert "shard-000-00000: latents.safetensors has the right size and another SHA-256" in line
    assert "shard-000-00002: videos.json has the right size and another SHA-256" in line
    source = store.root / "source-000" / "source.json"
    source.write_bytes(source.read_bytes().replace(b"two/b", b"two/x"))
    with pytest.raises(CheckpointError, match=r"source\.json has the right size and another SHA-256"):
        read_store(store.root)


def test_processes_that_begin_a_cache_together_do_not_refuse_each_other(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process puts the recipe between any two looks of this one: then the folder is the cache it looks for."""
    out, begun = tmp_path / "cache", []
    out.mkdir()
    right, look = latent_store.is_store, Path.iterdir

    def others() -> None:
        if not begun:
            begun.append(True)
            encoded(videos, out, autoencoder())

    def is_store(place: Path) -> bool:
        before = right(place)
        others()
        return before

    def iterdir(place: Path) -> Any:
        before = list(look(place))
        if place == out:
            others()
        return iter(before)

    monkeypatch.setattr(latent_store, "is_store", is_store)
    encoded(videos, out, autoencoder())
    shutil.rmtree(out)
    out.mkdir()
    begun.clear()
    monkeypatch.setattr(latent_store, "is_store", right)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    encoded(videos, out, autoencoder())
    assert begun


def test_two_runs_of_one_share_are_told_so(videos: Path, tmp_path: Path) -> None:
    """The later one to finish a shard leaves that of the other alone, and says what to do."""
    store = encoded(videos, tmp_path / "cache", autoencoder())
    shard = next(store.shards())
    before = files(store.root)
    with pytest.raises(ValueError, match=r"shard-000-00000 was written by another process .* its RANK and WORLD_SIZE"):
        store.write(shard, {}, store.records(shard))
    assert files(store.root) == before


def test_a_folder_of_something_else_is_not_written_into(videos: Path) -> None:
    with pytest.raises(ValueError, match="neither empty nor a latent cache"):
        encoded(videos, videos, autoencoder())
    assert not is_store(videos)


def test_the_summary_tells_what_is_there(videos: Path, tmp_path: Path) -> None:
    """Sizes, what is missing, and of drawn clips how many differ."""
    data = {"num_frames": 5, "max_interval": 3}
    store = encoded(videos, tmp_path / "cache", Causal(), data=data, clips_per_video=6)
    told = summary(store, DataConfig("folder", folder=folder_config(videos, **data)))
    readable = [record for shard in store.shards() for record in store.records(shard) if record.bad is None]
    distinct = sum(diversity(record.slots) for record in readable) / len(readable)
    (line,) = [line for line in told.splitlines() if line.startswith("different clips per video")]
    assert f" {distinct:.1f} " in line
    assert "7 of 7" in told and "1 unreadable" in told and "96 B" in told, (
        "2 x 3 x 2 x 2 numbers of 2 bytes, each mean and deviation"
    )
    shutil.rmtree(store.root / "shard-000-00001")
    assert "the others are still to come" in summary(store, DataConfig("folder", folder=folder_config(videos, **data)))


# The pipeline


def test_decoding_stays_ahead_and_in_order() -> None:
    """While the caller is busy with a video, as many as there are workers are being prepared, and no more; they come in
    the order of the source, and an error comes at its place."""
    entries = [Entry(str(number)) for number in range(12)]
    begun: list[int] = []
    gate = threading.Event()

    def prepare(entry: Entry) -> Decoded:
        begun.append(int(entry.name))
        if entry.name == "2":
            assert gate.wait(10), "3 is prepared while 2 is not done"
        if entry.name == "3":
            gate.set()
        if entry.name == "9":
            raise ValueError("nine")
        return Decoded(Record(entry.name))

    taken: list[str] = []
    with pytest.raises(ValueError, match="nine"):
        for video in ahead(entries, prepare, workers=2):
            taken.append(video.record.name)
            assert max(begun) <= len(taken) + 2
    assert taken == [str(number) for number in range(9)]


def test_the_share_is_what_the_environment_says() -> None:
    """torchrun's variables, or a job script's; nobody's is the whole."""
    assert share_of_environment({}) == (0, 1, 0)
    assert share_of_environment({"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}) == (5, 16, 1)


# From latents to a model


def latent_clips(samples: list[int], *, deviation: bool = True) -> LatentClips:
    mean = torch.zeros(len(samples), 4, 2, 4, 6)
    positions = torch.tensor(samples)
    return LatentClips(mean, torch.full_like(mean, 0.5) if deviation else None, torch.ones_like(positions), positions)


def test_sampled_latents_are_drawn_by_position() -> None:
    """Mean plus deviation times a normal number that belongs to the sample: the same whatever else is in the batch,
    another in the next epoch, and what is drawn for masks and noise is not touched."""
    prepare, plain = (
        preparation(tiny(), Causal(), seed=7, device=torch.device("cpu"), sample_latents=flag) for flag in (True, False)
    )
    latents, _, draws = prepare(latent_clips([0, 1, 2]), 0)
    again, _, _ = prepare(latent_clips([2]), 5)
    means, _, plain_draws = plain(latent_clips([0, 1, 2]), 0)
    assert torch.equal(again[0], latents[2]) and not torch.equal(latents[0], latents[1])
    assert not means.any() and torch.equal(draws.masked_tokens, plain_draws.masked_tokens)
    many = prepare(latent_clips(list(range(60))), 0)[0]
    assert abs(float(many.mean())) < 0.02 and float(many.std()) == pytest.approx(0.5, rel=0.03)
    with pytest.raises(ValueError, match="--sample-latents has no effect"):
        prepare(latent_clips([0], deviation=False), 0)


def test_online_latents_are_sampled_alike() -> None:
    """Pixels go through the tokenizer's posterior to the same draws."""
    prepare = preparation(tiny(), autoencoder(), seed=7, device=torch.device("cpu"), sample_latents=True)
    video = torch.randint(0, 256, (2, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    clips = Clips(video, torch.ones(2, dtype=torch.int64), torch.arange(2))
    posterior = autoencoder().posterior(to_pixels(video))
    cached = LatentClips(posterior.mean, posterior.deviation, clips.interval, clips.sample)
    assert torch.equal(prepare(clips, 0)[0], prepare(cached, 0)[0])


def test_the_truth_of_latents_is_what_the_tokenizer_makes_of_them() -> None:
    """Decoded, as many frames as were encoded."""
    pixels = torch.rand(3, 9, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = Causal().encode(pixels)
    shown = pictures(LatentClips(mean, None, torch.ones(3), torch.arange(3)), 2, Causal(), torch.device("cpu"))
    assert shown.video.shape == (2, 9, 3, 16, 16) and shown.video.dtype == torch.uint8
    assert torch.equal(shown.sample, torch.arange(2))


TRAIN = (
    "--model.num-frames 5 --model.latent-channels 3 --model.latent-height 4 --model.latent-width 4 --model.depth 1 "
    "--model.width 16 --model.mlp-width 16 --model.heads 2 --model.head.width 16 --model.head.depth 1 "
    "--model.head-repeats 1 --train.total-samples 8 --train.batch-size 4 --train.log-every 4 --train.evaluate-every 8 "
    "--train.optim.decay none --train.optim.decay-samples 0 "
    "--train.checkpoint-every 4 --train.precision fp32 --sample.mask-steps 2 --sample.head-steps 2 --watch-clips 1 "
    "--device cpu"
).split()


def test_encode_train_resume_by_command(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two commands from videos to a released model, with the tokenizer of the cache; which may move, and not be
    another."""
    for seed in (0, 1):
        save_autoencoder(tmp_path / f"tokenizer{seed}", autoencoder(seed), "", run={})
    cache, run = tmp_path / "cache", tmp_path / "run"
    made = ("--tokenizer", tmp_path / "tokenizer0", "--out", cache, "--data.folder.size", "16", "--device", "cpu")
    assert magi("encode", "tiny", "--data", videos, *made) == 0
    assert "7 of 7" in capsys.readouterr().out
    train = ["train", "tiny", "--data", cache, "--out", run, *TRAIN, "--data.latents.num-frames", "5"]
    assert magi(*train) == cli.MISUSE
    assert "size of the cache is 16, of the run 64" in capsys.readouterr().err
    train += ["--data.latents.size", "16"]
    assert magi(*train, "--tokenizer", tmp_path / "tokenizer1") == cli.MISUSE
    assert f"were made by tokenizer '{tmp_path / 'tokenizer0'}'" in capsys.readouterr().err
    assert not run.exists()
    assert magi(*train) == 0
    assert fingerprint(load(run / "release").tokenizer) == read_store(cache).recipe.tokenizer
    assert list((run / "samples").glob("*.gif"))
    (tmp_path / "tokenizer0").rename(tmp_path / "moved")
    cache = train[3] = cache.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    resumed = [*train, "--tokenizer", tmp_path / "moved", "--train.total-samples", "12", "--train.workers", "1"]
    assert magi(*resumed) == 0
    assert "resuming from" in capsys.readouterr().out
    grown = shutil.copytree(videos, tmp_path / "grown")
    shutil.copy(grown / "one" / "a.mp4", grown / "one" / "z.mp4")
    assert magi("encode", "tiny", "--data", grown, *made, "--tokenizer", tmp_path / "moved", "--out", cache) == 0
    assert magi(*resumed, "--train.total-samples", "16") == cli.MISUSE
    assert "cache: saved" in capsys.readouterr().err


FITTING = "--data.latents.size 16 --data.latents.num-frames 5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encode tiny --out x", "which videos"),
        ("encode world64 --out x", "the world is drawn as fast as latents are read"),
        ("encode tiny --data VIDEOS --out x", "with which tokenizer"),
        ("encode tiny --data CACHE --tokenizer pixel --out x", "is a latent cache already"),
        ("encode tiny --data VIDEOS --tokenizer pixel --data.folder.bad-files x --out x", "bad-files has no effect"),
        ("encode --verify VIDEOS", "is no latent cache"),
        ("tokenizer train tiny --data CACHE --out x", "holds latents, and here pixels are needed"),
        (f"train tiny --data CACHE --tokenizer own --out x {FITTING}", "latents have a tokenizer already"),
        ("train --config EMPTY --data.kind latents --out x", "which latents"),
    ],
)
def test_commands_that_cannot_be_meant(
    videos: Path, whole: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    """One line that says what to give instead; nothing is written."""
    for name, content in whole.items():
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "empty.yaml").write_text("{watch_clips: 0}")
    places = {"VIDEOS": videos, "CACHE": tmp_path / "cache", "EMPTY": tmp_path / "empty.yaml", "x": tmp_path / "x"}
    assert magi(*(places.get(word, word) for word in words.split())) == cli.MISUSE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_bench_of_the_cache_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that it measures is a positive number, and latents are read faster than videos are decoded and encoded."""
    few = "--quick --device cpu --threads 1 --json".split()
    assert magi("bench", "cache", *few, tmp_path / "b.json") == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["training"]["ratio"]["batch"]["median"] > 1
    assert all(stage["frames_per_second"]["median"] > 0 for stage in report["encoding"].values())
    assert report["bytes"]["video of latents, both sides"] == 20 * 2 * 2 * 2 * 4 * 8 * 8
    shares = {name: found["share"]["all"] for name, found in report["waiting"].items()}
    assert 0 < shares["latents, 0 workers"] < shares["videos, 0 workers"] < 1
    assert "times faster from latents" in capsys.readouterr().out
    assert magi("bench", "cache", "--quick", "--videos", "2") == cli.MISUSE
    assert "--videos has no effect with --quick" in capsys.readouterr().err


def magi(*words: str | Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cli.main([str(word) for word in words])


@pytest.mark.parametrize(("gain", "told"), [(1.0, False), (0.05, True), (20.0, True)])
def test_latents_of_another_scale_are_told(videos: Path, tmp_path: Path, gain: float, told: bool) -> None:
    """A tokenizer whose statistics nobody measured makes latents that drown in the injected noise, or are not touched
    by it; training would go on for days without a word. The first shard shows it."""
    tokenizer = autoencoder()
    tokenizer.measure_statistics([to_pixels(FolderSource(folder_config(videos)).clips(range(6)).video)])
    tokenizer.scale.div_(gain)
    config = folder_config(videos)
    run = EncodeRun(DataConfig("folder", folder=config), tokenizer="toy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode(run, list_videos(config), tokenizer, fingerprint="toy", out=tmp_path / "cache")
    assert any("magi tokenizer stats measures them" in str(warning.message) for warning in caught) == told
