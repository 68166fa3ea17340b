"""A folder as a source of clips: what a sample shows, that only its position decides it, and what bad videos do.

Every video of the fixtures is a grey ramp: the level of a frame tells its index, and its tint tells the video.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from magi.data.clips import Clips
from magi.data.folder import FolderConfig, FolderSource
from magi.video import BadVideo, Frames, IsolatedVideo, reading, seeking, write_video
from magi.video.seeking import SoughtVideo
from magi.video.untrusted import open_stream

LENGTHS = [4, 9, 10, 17, 30, 61, 62, 80]  # frames of the videos 0, 1, ...


def ramp(num_frames: int, tint: int, size: int = 16) -> Frames:
    """Frames (T, H, W, 3): red is 3 times the index, green is 10 times the video, blue is bright on the left only."""
    frames = np.zeros((num_frames, size, size, 3), np.uint8)
    frames[..., 0] = 3 * np.arange(num_frames)[:, None, None]
    frames[..., 1] = 10 * tint
    frames[:, :, : size // 2, 2] = 200
    return frames


def shown(clip: Tensor) -> tuple[int, list[int], bool]:
    """Read video, frame indices and mirroring off one clip (T, 3, H, W)."""
    means = clip.float().mean(dim=(2, 3))
    mirrored = bool(clip[0, 2, 8, 0] < 100)
    return round(means[0, 1].item() / 10), [round(level / 3) for level in means[:, 0].tolist()], mirrored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of the `LENGTHS`, lossless, in two folders and with sidecars."""
    root = tmp_path_factory.mktemp("videos")
    for index, length in enumerate(LENGTHS):
        path = root / ("ab"[index % 2]) / f"{index:05}.mp4"
        write_video(path, ramp(length, index), fps=25, quality="lossless")
        path.with_suffix(".json").write_text("{}")
    return root


def config(folder: Path, **changes: Any) -> FolderConfig:
    return FolderConfig(**({"path": str(folder), "num_frames": 4, "size": 16, "max_interval": 20} | changes))


def assert_same(one: Clips, two: Clips) -> None:
    assert torch.equal(one.video, two.video)
    assert torch.equal(one.interval, two.interval)
    assert torch.equal(one.sample, two.sample)


# What a clip shows


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_the_interval_told_is_the_interval_shown(folder: Path, cache_mb: int) -> None:
    """The indices burnt into the frames are evenly spaced by exactly `interval` and inside the video."""
    clips = FolderSource(config(folder, size=24, cache_mb=cache_mb)).clips(range(80))
    assert clips.video.shape == (80, 4, 3, 24, 24) and clips.video.dtype == torch.uint8
    assert clips.interval.dtype == clips.sample.dtype == torch.int64
    assert clips.sample.tolist() == list(range(80))
    for clip, interval in zip(clips.video, clips.interval.tolist(), strict=True):
        video, indices, _ = shown(clip)
        assert np.diff(indices).tolist() == [interval] * 3
        assert indices[0] >= 0 and indices[-1] < LENGTHS[video]


def test_intervals_are_uniform_up_to_what_fits(folder: Path) -> None:
    """Clamp: each video has U{min..min(max, (n - 1) // (T - 1))}, no more and no less; starts reach both ends."""
    source = FolderSource(config(folder, min_interval=1, max_interval=20))
    intervals: dict[int, Counter[int]] = {index: Counter() for index in range(8)}
    edges: dict[int, set[str]] = {index: set() for index in range(8)}
    clips = source.clips(range(8 * 250))
    for clip, interval in zip(clips.video, clips.interval.tolist(), strict=True):
        video, indices, _ = shown(clip)
        intervals[video][interval] += 1
        edges[video] |= {"first"} if indices[0] == 0 else set()
        edges[video] |= {"last"} if indices[-1] == LENGTHS[video] - 1 else set()
    for video, length in enumerate(LENGTHS):
        largest = min(20, (length - 1) // 3)
        assert set(intervals[video]) == set(range(1, largest + 1))
        expected = 250 / largest
        chi_square = sum((count - expected) ** 2 / expected for count in intervals[video].values())
        assert chi_square < largest + 4 * np.sqrt(2 * largest), f"video {video}: {intervals[video]}"
        assert edges[video] == {"first", "last"}


def test_rejection_makes_all_intervals_alike(folder: Path) -> None:
    """Reject: the draw comes before the video, so U{1..19} in every video long enough, chi-square with 18 degrees of
    freedom; a video with too few frames for interval 1 is named, one that only lacks frames for the draw is not."""
    settings = config(folder, interval_rule="reject", num_frames=5, max_interval=19)
    with pytest.warns(UserWarning, match=r"00000\.mp4: is too short: it has 4 frames, 5 at interval 1 need 5"):
        source = FolderSource(settings)
        clips = source.clips(range(950))
    counts = Counter(clips.interval.tolist())
    assert sum((counts[k] - 50) ** 2 / 50 for k in range(1, 20)) < 18 + 4 * np.sqrt(36), counts
    assert sorted(path.stem for path in source.bad) == ["00000"]
    for clip, interval in zip(clips.video, clips.interval.tolist(), strict=True):
        video, indices, _ = shown(clip)
        assert np.diff(indices).tolist() == [interval] * 4 and indices[-1] < LENGTHS[video]
    assert {shown(clip)[0] for clip in clips.video[clips.interval == 19]} == {7}, "77 frames are needed"


def test_a_video_that_was_too_short_is_not_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is remembered, so that passing it over costs nothing: one opening per clip, and one per video."""
    import magi.data.folder as module

    opened: list[Path] = []
    open_one = module.open_video
    monkeypatch.setattr(module, "open_video", lambda path, **o: opened.append(path) or open_one(path, **o))
    settings = config(folder, interval_rule="reject", cache_mb=0, isolate=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = FolderSource(settings)
        opened.clear()  # the first look
        source.clips(range(100))
    assert 100 <= len(opened) <= 108


def test_rejection_needs_a_video_for_every_interval(folder: Path) -> None:
    """4 frames at interval 27 need 82, and the longest has 80: said when it is drawn, since no video may stand in."""
    settings = config(folder, interval_rule="reject", min_interval=1, max_interval=27)
    with pytest.raises(ValueError, match=r"for interval 27: 4 frames need 82, the longest has 80; lower max"):
        FolderSource(settings).clips(range(200))


def test_fixed_intervals_use_no_video_that_is_too_short(folder: Path) -> None:
    """Under the fixed rule interval 20 needs 61 frames: videos 5, 6 and 7 have them, the other five are named. They are
    no sign of a damaged folder, so that most are too short stops nothing; all of them do."""
    source = FolderSource(config(folder, interval_rule="fixed", min_interval=20))
    with pytest.warns(UserWarning, match=r"too short: it has \d+ frames, 4 at interval 20 need 61"):
        clips = source.clips(range(100))
    assert {shown(clip)[0] for clip in clips.video} == {5, 6, 7}
    assert set(clips.interval.tolist()) == {20}
    assert sorted(path.stem for path in source.bad) == [f"{index:05}" for index in range(5)]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"none of its 8 videos can be used.*too short"):
        FolderSource(config(folder, interval_rule="fixed", min_interval=90, max_interval=90)).clips([0])


def test_random_crops_move_and_stay_within_a_clip(tmp_path: Path) -> None:
    """In a wide video whose columns are told by their level, the centre crop shows the middle, a random one begins
    anywhere, at one place for all frames of a clip, and leaves interval, start and mirroring as they were."""
    frames = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, None, :, None] * 2, (12, 32, 96, 3))
    write_video(tmp_path / "a.mp4", np.ascontiguousarray(frames), fps=25, quality="lossless")
    settings = {"path": str(tmp_path), "num_frames": 3, "size": 32, "flip": False}
    centre = FolderSource(FolderConfig(**settings)).clips(range(60))
    random_ = FolderSource(FolderConfig(**settings, crop="random")).clips(range(60))
    left = random_.video[:, :, 0, 16, 0].int() / 2
    assert (centre.video[:, :, 0, 16, 0] // 2 == 32).all()
    assert (left == left[:, :1]).all() and left.min() < 8 and left.max() > 56
    assert left[:, 0].unique().numel() > 25
    assert torch.equal(random_.interval, centre.interval)


def test_half_of_the_clips_are_mirrored(folder: Path) -> None:
    """Whole clips, never single frames, and none without `flip`."""
    clips = FolderSource(config(folder)).clips(range(400))
    assert 150 < sum(shown(clip)[2] for clip in clips.video) < 250
    assert (clips.video[:, 1:, 2] == clips.video[:, :1, 2]).all()
    plain = FolderSource(config(folder, flip=False)).clips(range(400))
    assert not any(shown(clip)[2] for clip in plain.video)
    mirrored = [shown(clip)[2] for clip in clips.video[clips.interval > 9]]
    assert 0.2 < np.mean(mirrored) < 0.8, "mirroring has nothing to do with the interval"
    assert torch.equal(plain.interval, clips.interval), "an option changes nothing but its own draw"


def test_variable_rate_counts_nominal_periods(tmp_path: Path) -> None:
    """Through the folder, too, a video with a hole in its time stamps moves by equal times, not by equal indices."""
    import av

    times = [0, 40, 80, 360, 400, 440, 480, 600]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for frame, milliseconds in zip(ramp(8, 0), times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = milliseconds // 40
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    nearest = [int(np.abs(np.array(times) - 40 * tick).argmin()) for tick in range(16)]
    clips = FolderSource(config(tmp_path)).clips(range(60))
    for clip, interval in zip(clips.video, clips.interval.tolist(), strict=True):
        indices = shown(clip)[1]
        assert any(indices == nearest[start::interval][:4] for start in range(16)), (indices, interval)
    assert set(clips.interval.tolist()) == {1, 2, 3, 4, 5}, "16 ticks, not 8 frames, are what an interval must fit into"


def test_frame_folders_are_videos_too(tmp_path: Path) -> None:
    """A folder of numbered images gives the clips that the same frames in a file give."""
    (tmp_path / "images" / "v").mkdir(parents=True)
    for index, frame in enumerate(ramp(30, 3)):
        Image.fromarray(frame).save(tmp_path / "images" / "v" / f"{index}.png")
    write_video(tmp_path / "files" / "v.mp4", ramp(30, 3), fps=25, quality="lossless")
    images, files = (FolderSource(config(tmp_path / kind)) for kind in ("images", "files"))
    assert_same(images.clips(range(20)), files.clips(range(20)))


# Position is the only key


def test_a_clip_does_not_depend_on_its_batch_or_on_the_past(folder: Path) -> None:
    """Alone, in any batch, in any order, with or without a cache, from a copy: the same clip to the bit."""
    together = FolderSource(config(folder)).clips(range(40))
    order = random.Random(0).sample(range(40), 40)
    for cache_mb in (0, 1, 64):
        source = FolderSource(config(folder, cache_mb=cache_mb))
        for sample in order[:20]:
            assert_same(source.clips([sample]), pick(together, [sample]))
        copy = pickle.loads(pickle.dumps(source))  # as loader workers receive it
        assert_same(copy.clips(order[20:]), pick(together, order[20:]))


def pick(clips: Clips, rows: list[int]) -> Clips:
    return Clips(clips.video[rows], clips.interval[rows], clips.sample[rows])


def test_each_epoch_is_another_permutation(folder: Path) -> None:
    """Every video once per epoch, in an order that the epoch and the seed decide."""
    epochs = FolderSource(config(folder)).clips(range(8 * 6)).video.unflatten(0, (6, 8))
    orders = [tuple(shown(clip)[0] for clip in epoch) for epoch in epochs]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == 6
    other = FolderSource(config(folder, seed=1)).clips(range(8)).video
    assert tuple(shown(clip)[0] for clip in other) != orders[0]


def test_the_order_does_not_depend_on_where_the_folder_is(folder: Path, tmp_path: Path) -> None:
    """Through a link, hence under other names and another listing order, the clips are the same."""
    (tmp_path / "link").symlink_to(folder)
    assert_same(FolderSource(config(folder)).clips(range(16)), FolderSource(config(tmp_path / "link")).clips(range(16)))


@pytest.mark.parametrize("isolate", [False, True])
def test_frames_are_kept_as_far_as_there_is_room(folder: Path, monkeypatch: pytest.MonkeyPatch, isolate: bool) -> None:
    """With room for all, each video is read once; without, again and again, the frames of a clip alone; what is kept
    never exceeds the bound; and no clip depends on it."""
    wanted: list[int] = []

    def counted(video: Any, indices: Any = None, **options: Any) -> Any:
        if len(video.times) > 1:  # not the first frame of each, which is looked at when the source is made
            wanted.append(len(video.times) if indices is None else len(indices))
        return read(video, indices, **options)

    kind = IsolatedVideo if isolate else SoughtVideo
    read = kind.rgb
    monkeypatch.setattr(kind, "rgb", counted)
    kept = FolderSource(config(folder, cache_mb=64, isolate=isolate)).clips(range(24))
    assert sorted(wanted) == LENGTHS  # no frame twice
    wanted.clear()
    assert_same(FolderSource(config(folder, cache_mb=0, isolate=isolate)).clips(range(24)), kept)
    assert wanted == [4] * 24
    source = FolderSource(config(folder, isolate=isolate))
    source._free_bytes = 100_000
    assert_same(source.clips(range(24)), kept)
    assert 0 < sum(frames.nbytes for frames in source._frames.values()) <= 100_000 and source._free_bytes >= 0


def test_a_video_that_cannot_be_kept_whole_is_tried_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clips are read alone from then on, and the room it would have taken is for others: no clip depends on it."""
    expected = FolderSource(config(folder, isolate=False)).clips(range(24))
    read, whole = SoughtVideo.rgb, Counter[Path]()

    def torn(video: SoughtVideo, indices: Any = None, **options: Any) -> Frames:
        if indices is None:
            whole[video.path] += 1
            raise BadVideo(video.path, "takes too long")
        return read(video, indices, **options)

    monkeypatch.setattr(SoughtVideo, "rgb", torn)
    source = FolderSource(config(folder, isolate=False))
    assert_same(source.clips(range(24)), expected)
    assert set(whole.values()) == {1} and len(whole) == len(LENGTHS)
    packets = sum(video.num_bytes for video in source._videos.values())
    assert source._free_bytes + packets == source.config.cache_mb * 2**20 and not source.bad


# Bad videos


def test_an_isolated_source_opens_no_video_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when it is made: a file that crashes the decoder is only a bad video."""
    here = os.getpid()

    def opened(path: Path) -> Any:
        assert os.getpid() != here, f"{path} is opened in the process that trains"
        return open_stream(path)

    for module in (reading, seeking):
        monkeypatch.setattr(module, "open_stream", opened)
    assert len(FolderSource(config(folder, isolate=True)).clips(range(8)).sample) == 8


@pytest.fixture
def spoilt(tmp_path: Path) -> Iterator[Path]:
    """Twelve good videos and four bad ones of different kinds."""
    for index in range(12):
        write_video(tmp_path / f"{index:02}.mp4", ramp(20, index), fps=25, quality="lossless")
    (tmp_path / "02x.mp4").write_bytes(b"")
    (tmp_path / "05x.mp4").write_text("ffconcat version 1.0\nfile 05.mp4\n")
    (tmp_path / "08x.avi").write_bytes(random.Random(0).randbytes(5000))
    write_video(tmp_path / "09x.mp4", ramp(2, 20), fps=25)
    yield tmp_path


BAD = {"02x.mp4": "is empty", "05x.mp4": "is not a readable", "08x.avi": "is not a readable", "09x.mp4": "is too short"}


def test_bad_videos_are_named_once_and_replaced(spoilt: Path) -> None:
    """A run over a folder that is a quarter bad finishes, names exactly the bad ones, and shows all the others."""
    listing = spoilt / "logs" / "bad.jsonl"
    settings = config(spoilt, max_bad_fraction=0.5, bad_files=str(listing), max_interval=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = FolderSource(settings)
        clips = source.clips(range(16 * 5))
        assert_same(FolderSource(settings).clips(range(80)), clips)  # appends nothing
    assert {shown(clip)[0] for clip in clips.video} == set(range(12))
    records = [json.loads(line) for line in listing.read_text().splitlines()]
    assert {Path(record["path"]).name for record in records} == set(BAD) and len(records) == 4
    assert all(record["reason"].startswith(BAD[Path(record["path"]).name]) for record in records)
    assert {path.name for path in source.bad} == set(BAD)
    assert len(caught) == 8, "each of the two sources names each file once"


def test_the_replacement_is_a_function_of_the_position(spoilt: Path) -> None:
    """Which bad files were met before makes no difference, so a resumed run sees the same clips."""
    settings = config(spoilt, max_bad_fraction=0.5, max_interval=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = FolderSource(settings).clips(range(48))
        for sample in range(47, -1, -3):
            assert_same(FolderSource(settings).clips([sample]), pick(together, [sample]))


def test_too_many_bad_videos_stop_the_run_in_one_line(spoilt: Path) -> None:
    """3 unreadable of 16 exceed 1 %: the third is one too many, at the first look or later; excluding them helps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            ValueError, match=r"3 of the \d+ videos opened so far cannot be read; exclude them"
        ) as caught:
            FolderSource(config(spoilt)).clips(range(64))
    assert "\n" not in str(caught.value) and any(name in str(caught.value) for name in BAD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = FolderSource(config(spoilt, exclude=tuple(BAD)))
        source.clips(range(24))
    assert len(source.listing.entries) == 12 and not source.bad


def test_one_bad_file_in_a_small_folder_stops_nothing(tmp_path: Path) -> None:
    """1 of 3 is more than 1 %, but no sign of a wrong folder."""
    for index in range(2):
        write_video(tmp_path / f"{index}.mp4", ramp(20, index), fps=25)
    (tmp_path / "2.mp4").touch()
    with pytest.warns(UserWarning, match=r"not used: .*2\.mp4: is empty"):
        assert FolderSource(config(tmp_path)).clips(range(6)).video.shape[0] == 6


def test_a_folder_of_the_wrong_kind_fails_at_once(tmp_path: Path) -> None:
    """Nothing usable, nothing there, a file, or an exclusion of nothing: one line each, before any training."""
    for index in range(2):
        (tmp_path / f"{index}.mp4").touch()
    with (
        pytest.warns(UserWarning, match="is empty"),
        pytest.raises(ValueError, match="none of its 2 videos can be used"),
    ):
        FolderSource(config(tmp_path))
    (tmp_path / "nothing").mkdir()
    for path, message in ((tmp_path / "nothing", "holds no video"), (tmp_path / "missing", "does not exist")):
        with pytest.raises(ValueError, match=message):
            FolderSource(config(path))
    with pytest.raises(ValueError, match="is a file, not a folder"):
        FolderSource(config(tmp_path / "0.mp4"))
    with pytest.raises(ValueError, match=r"exclude names what is not in .*: 7\.mp4"):
        FolderSource(config(tmp_path, exclude=("0.mp4", "7.mp4")))
    with pytest.raises(ValueError, match="leaves none of the 2 videos"):
        FolderSource(config(tmp_path, exclude=("0.mp4", "1.mp4")))


def test_a_torn_video_is_used_up_to_the_tear(tmp_path: Path) -> None:
    """Its beginning is as good as any other video, and the loss is told once."""
    import av

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for frame in ramp(60, 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    path = tmp_path / "a.avi"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    source = FolderSource(config(tmp_path, cache_mb=0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clips = source.clips(range(20))
    assert len(caught) == 1 and "only the beginning is used" in str(caught[0].message)
    assert not source.bad
    assert all(max(shown(clip)[1]) < 59 for clip in clips.video)


def test_long_videos_are_used_up_to_the_limit(folder: Path) -> None:
    """With max_frames = 12 no clip shows a later frame, and frame 11 is still shown."""
    clips = FolderSource(config(folder, max_frames=12)).clips(range(160))
    assert max(max(shown(clip)[1]) for clip in clips.video) == 11


def test_folders_are_excluded_whole(folder: Path) -> None:
    """Excluding a folder leaves out what is below it."""
    listing = FolderSource(config(folder, exclude=("a",))).listing
    assert {entry.name.partition("/")[0] for entry in listing.entries} == {"b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"min_interval": 0}, "got 0 and 20"),
        ({"min_interval": 5, "max_interval": 4}, "got 5 and 4"),
        ({"interval_rule": "any"}, "interval_rule must be one of 'clamp', 'reject', 'fixed'; got 'any'"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"max_frames": 60, "interval_rule": "reject"}, "4 frames at interval 20 exceed max_frames = 60"),
        ({"interval_rule": "fixed"}, "min_interval = max_interval, got 1 and 20; reject draws from all of them"),
        ({"crop": "left"}, "crop must be one of 'centre', 'random'; got 'left'"),
        ({"split": "train01"}, "split has no effect with dataset folder"),
        ({"annotations": "lists"}, "annotations has no effect with dataset folder"),
        ({"dataset": "ucf101", "split": "val"}, "ucf101 has the splits all, train01, .*; got val"),
        ({"dataset": "kinetics600", "split": "all"}, "kinetics600 has the splits train, val, test; got all"),
        ({"dataset": "kinetics"}, "dataset must be one of 'folder', 'ucf101', 'kinetics600'; got 'kinetics'"),
        ({"max_bad_fraction": 2}, "between 0 and 1, got 2"),
        ({"cache_mb": -1}, "got -1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """With the value and what was expected, before a folder is looked at."""
    with pytest.raises(ValueError, match=message):
        config(Path("nowhere"), **changes)
