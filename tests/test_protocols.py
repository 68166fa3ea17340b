"""Protocol records against the facts of evaluation.md, transcribed here by hand with their sections; and the real clips
that they choose, against the rules written out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from magi.data.datasets.catalogue import SPLITS
from magi.data.datasets.index import count_listing
from magi.data.datasets.listing import Entry, Listing
from magi.data.folder import FolderConfig, list_videos
from magi.evaluation.manifest import Lengths, Manifest, draw, lengths_of, read, reuse_or_draw, write
from magi.evaluation.protocols import (
    LATTE,
    MAGI_K600,
    MAGI_UCF,
    MAGVIT_K600,
    OMNITOKENIZER,
    PROTOCOLS,
    STYLEGAN_V,
    WORLD,
    Protocol,
    ProtocolName,
    find_protocol,
)
from magi.evaluation.real import resized, squared, video_clips, world_clips
from magi.evaluation.world import world_test
from tests.trees import ucf_tree, video_bytes

FACTS: dict[str, dict[str, Any]] = {
    # 4.2, column StyleGAN-V: N 2048/2048; FIRST 2048 dirs; all 13,320; 16 frames; interval 1/1; random real, 0 gen;
    # dropped if < 16 k. 4.1: i3d_torchscript; covariance divided by N.
    "stylegan-v": {
        "task": "unconditional", "dataset": "ucf101", "split": "all", "pick": "first", "real_count": 2048,
        "generated_count": 2048, "frames": 16, "real_interval": 1, "generated_stride": 1, "interval_id": 1,
        "offset": "random", "fewest_frames": 16 * 1, "short_videos": "drop", "context": 0,
        "detector": "i3d-torchscript", "divisor": "N",
    },
    # 4.2, column Latte: N 2048/2048; random.sample; all; 16; real interval 3; gen interval 1, trained at 3; random
    # real, 0 gen; dropped if < 48; centre-crop then LANCZOS; JPEG 75. 4.1: identical to StyleGAN-V, N.
    "latte": {
        "task": "unconditional", "dataset": "ucf101", "split": "all", "pick": "random", "real_count": 2048,
        "generated_count": 2048, "frames": 16, "real_interval": 3, "generated_stride": 1, "interval_id": 3,
        "offset": "random", "fewest_frames": 48, "short_videos": "drop", "crop": "centre", "resize": "lanczos",
        "context": 0, "detector": "i3d-torchscript", "divisor": "N",
    },
    # 4.2, column OmniTokenizer: N 2048/2048; random.shuffle; 17; interval 1, centre 17; gen interval 1; assert;
    # decord W x H, no aspect. 4.1: i3d_pretrained_400 with BatchNorm epsilon 1e-5; 4.3: 'videogpt' i3d.
    "omnitokenizer": {
        "task": "unconditional", "dataset": "ucf101", "pick": "random", "real_count": 2048, "generated_count": 2048,
        "frames": 17, "real_interval": 1, "generated_stride": 1, "interval_id": 1, "offset": "centre",
        "fewest_frames": 17, "short_videos": "refuse", "crop": "squash", "context": 0, "detector": "i3d-videogpt",
    },
    # 4.2, column MAGI, and its last bullet: 2048/2048; random 2048; 16; real interval 3; gen interval 1 generated with
    # id 3; `magi` = latte pool with PNG/tensor path, no JPEG, and seed.
    "magi-ucf": {
        "task": "unconditional", "dataset": "ucf101", "split": "all", "pick": "random", "real_count": 2048,
        "generated_count": 2048, "frames": 16, "real_interval": 3, "generated_stride": 1, "interval_id": 3,
        "context": 0, "quantisation": "tensor",
    },
    # 4.3, column MAGVIT: 5 to 11; gen 50k, real about 300k, 6 crops/video; bilinear to 64; interval 1; context in FVD
    # yes; TF-hub Mean:0.
    "magvit-k600": {
        "task": "prediction", "dataset": "kinetics600", "real_count": 300_000, "generated_count": 50_000,
        "real_per_video": 6, "frames": 5 + 11, "context": 5, "context_counts": True, "real_interval": 1,
        "generated_stride": 1, "interval_id": 1, "resize": "bilinear", "pre_resize": 64, "detector": "i3d-tfhub",
    },
    # 4.3, column MAGI: 5 to 12 (17); test set; 50k/50k; 64; interval 1; context unstated, assume yes.
    "magi-k600": {
        "task": "prediction", "dataset": "kinetics600", "split": "test", "real_count": 50_000,
        "generated_count": 50_000, "frames": 5 + 12, "context": 5, "context_counts": True, "real_interval": 1,
        "generated_stride": 1, "interval_id": 1, "pre_resize": 64,
    },
    # Ours: the clips of the frozen test's world, 5 frames given and 16 asked for, and never called FVD.
    "world": {
        "task": "prediction", "dataset": "world", "frames": 5 + 16, "context": 5, "context_counts": True,
        "real_interval": 1, "interval_id": 1, "detector": "world",
    },
}  # fmt: skip
SAID = {  # words that a record must say of what was published or is unstated, from the same columns
    "latte": ("13,320", "JPEG", "75", "mp4", "i3d_torchscript"),
    "stylegan-v": ("13,320", "first 2,048 videos", "unstated; we take"),
    "omnitokenizer": ("i3d_pretrained_400", "1e-5", "decord", "unstated; we take all 13,320"),
    "magi-ucf": ("start of a real clip: unstated; we take", "crop and resize filter: unstated; we take", "which 16"),
    "magvit-k600": ("300,000", "6 crops", "TF-hub", "Mean:0", "test or validation"),
    "magi-k600": ("given frames count: unstated; we take yes", "detector and covariance divisor: unstated; we take"),
    "world": ("world-FVD", "no FVD"),
}  # fmt: skip


def listing(lengths: list[int | None]) -> Listing:
    """Videos v000, v001 ... of these lengths."""
    entries = (Entry(f"v{i:03d}.avi", i % 3, 100 + i, length) for i, length in enumerate(lengths))
    return Listing(Path("videos"), tuple(entries))


def counted(videos: Listing) -> Lengths:
    """The lengths that the entries have; whoever would open a video fails."""
    return lambda number: videos.entries[number].num_frames


def drawn(protocol: Protocol, lengths: list[int | None]) -> Manifest:
    videos = listing(lengths)
    return draw(protocol, videos, counted(videos))


def few(protocol: Protocol, count: int) -> Protocol:
    return replace(protocol, real_count=count)


def test_the_named_protocols_are_there() -> None:
    """By the names that the command takes; another name is told which there are."""
    assert set(PROTOCOLS) == set(FACTS) == set(get_args(ProtocolName))
    assert all(find_protocol(name).name == name for name in PROTOCOLS)
    with pytest.raises(ValueError, match="there is no protocol 'lattee'; there are latte, "):
        find_protocol("lattee")


@pytest.mark.parametrize("name", FACTS)
def test_records_are_the_facts(name: str) -> None:
    """Field by field, against what sections 4.1 to 4.3 say."""
    record = asdict(PROTOCOLS[name])
    assert {field: record[field] for field in FACTS[name]} == FACTS[name]
    said = "\n".join(PROTOCOLS[name].card())
    assert all(words in said for words in SAID[name]), [words for words in SAID[name] if words not in said]


@pytest.mark.parametrize("name", FACTS)
def test_what_is_unstated_says_what_we_take(name: str) -> None:
    """A gap in a paper is named as one, together with the choice that fills it."""
    assert all("unstated; we take" in line for line in PROTOCOLS[name].unstated)
    for field in fields(Protocol):
        value = getattr(PROTOCOLS[name], field.name)
        if isinstance(value, str) and "unstated" in value:
            assert "unstated; we take" in value, field.name


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_our_pixels_are_tensors_and_the_card_says_so(protocol: Protocol) -> None:
    """No protocol of ours goes through a file that loses; where the published one did, the difference is written."""
    assert protocol.quantisation == "tensor"
    if "JPEG" in protocol.published_quantisation or "decord" in protocol.published_quantisation:
        assert any("tensor" in line for line in protocol.differs)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_fingerprint_is_of_every_field(protocol: Protocol) -> None:
    """It is the SHA-256 of canonical JSON, and no field can change without it."""
    canonical = json.dumps(asdict(protocol), sort_keys=True, separators=(",", ":"))
    assert protocol.fingerprint == hashlib.sha256(canonical.encode("ascii")).hexdigest()
    for field in fields(Protocol):
        value = getattr(protocol, field.name)
        forged = replace(protocol)
        other: Any = (*value, "x") if isinstance(value, tuple) else not value if isinstance(value, bool) else (value, 1)
        object.__setattr__(forged, field.name, other)
        assert forged.fingerprint != protocol.fingerprint, field.name


def test_no_two_protocols_share_a_fingerprint() -> None:
    assert len({protocol.fingerprint for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_card_has_every_field(protocol: Protocol) -> None:
    """A value that is not printed could change unseen."""
    text = "\n".join(protocol.card())
    assert protocol.fingerprint in text
    for field in fields(Protocol):
        value = getattr(protocol, field.name)
        assert all(str(one) in text for one in (value if isinstance(value, tuple) else (value,))), field.name


def test_changed_counts_rename_the_protocol() -> None:
    """A number under fewer clips can never pass for the protocol's; the protocol's own counts change nothing."""
    fewer = LATTE.changed(clips=256, runs=1)
    assert fewer.name == "latte (changed: 256 clips, 1 runs)" and fewer.fingerprint != LATTE.fingerprint
    assert (fewer.real_count, fewer.generated_count, fewer.runs) == (256, 256, 1)
    assert LATTE.changed() == LATTE.changed(clips=2048, runs=LATTE.runs) == LATTE
    other = LATTE.changed(detector="videomae")
    assert other.name == "latte (changed: detector videomae)" and other == replace(
        LATTE, name=other.name, detector="videomae"
    )
    assert LATTE.changed(detector=LATTE.detector) == LATTE
    assert MAGVIT_K600.changed(clips=50_000).name == "magvit-k600 (changed: 50000 clips)"
    with pytest.raises(ValueError, match="protocol latte with 1 clips: state at least 2"):
        LATTE.changed(clips=1)
    with pytest.raises(ValueError, match="protocol latte with 0 runs: state at least 1"):
        LATTE.changed(runs=0)


def test_records_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="offset must be one of"):
        replace(LATTE, offset="middle")
    with pytest.raises(
        ValueError, match="task is 'unconditional' and context is 5 frames; state at least 1 for 'prediction'"
    ):
        replace(LATTE, context=5)


def test_frames_count_the_context_or_not() -> None:
    """MAGI's Kinetics clips are 5 + 12 and the detector sees 17; were the context not to count, 17 would be made."""
    assert (MAGI_K600.clip_frames, MAGI_K600.made_frames) == (17, 12)
    assert (MAGVIT_K600.clip_frames, MAGVIT_K600.made_frames) == (16, 11)
    other = replace(MAGI_K600, context_counts=False)
    assert (other.clip_frames, other.made_frames) == (22, 17)
    assert (LATTE.clip_frames, LATTE.made_frames, LATTE.span) == (16, 16, 46)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_splits_are_those_of_the_data_sets(protocol: Protocol) -> None:
    """The machine-readable split names videos that `magi data index` can list."""
    assert protocol.dataset == "world" or protocol.split in SPLITS[protocol.dataset]


def test_latte_drops_below_48_frames_and_starts_anywhere() -> None:
    """46 frames would hold 16 at interval 3, but Latte drops what has fewer than 48; of the others each is taken once,
    and over many videos the start reaches both ends of what fits."""
    lengths: list[int | None] = [46, 47, None, *[48] * 400]
    clips = drawn(few(LATTE, 400), lengths).clips
    assert {clip.video for clip in clips} == {f"v{i:03d}.avi" for i in range(3, 403)}
    assert {clip.interval for clip in clips} == {3}
    assert {clip.start for clip in clips} == {0, 1, 2}  # 48 - 46 = 2
    assert all(clip.label == int(clip.video[1:4]) % 3 for clip in clips)
    with pytest.raises(ValueError, match=r"latte needs 401 clips and the 403 videos give 400; --clips N takes fewer"):
        drawn(few(LATTE, 401), lengths)


def test_stylegan_takes_the_first_and_latte_any() -> None:
    """The first 5 in order, shorter ones left out; a random choice is another, the same for the same seed, and opens no
    more videos than it needs."""
    lengths: list[int | None] = [100, 15, *[100] * 98]
    first = [clip.video for clip in drawn(few(STYLEGAN_V, 5), lengths).clips]
    assert first == ["v000.avi", "v002.avi", "v003.avi", "v004.avi", "v005.avi"]
    some = drawn(few(LATTE, 5), lengths)
    assert {clip.video for clip in some.clips} != set(first) and len({clip.video for clip in some.clips}) == 5
    assert drawn(few(LATTE, 5), lengths) == some
    assert drawn(replace(few(LATTE, 5), seed=1), lengths).clips != some.clips
    opened: list[int] = []
    draw(few(LATTE, 5), listing(lengths), lambda number: (opened.append(number), 100)[1])
    assert len(opened) == 5


def test_omnitokenizer_takes_the_middle_and_refuses_short_videos() -> None:
    """17 of 40 frames begin at (40 - 17) // 2; where it would assert, the video is named."""
    assert {clip.start for clip in drawn(few(OMNITOKENIZER, 3), [40] * 3).clips} == {11}
    with pytest.raises(ValueError, match=r"v001.avi has 16 frames; protocol omnitokenizer needs 17 of every video"):
        drawn(few(OMNITOKENIZER, 3), [40, 16, 40])


def test_magi_s_kinetics_clips_do_not_overlap() -> None:
    """Of a video with 60 frames 0, 17 and 34 begin clips of 17; all of them are taken if as many are asked for, each
    once, and fewer are a choice from all videos."""
    clips = drawn(few(MAGI_K600, 9), [60, 60, 16, 60]).clips
    found = sorted((clip.video, clip.start) for clip in clips)
    assert found == [(f"v{i:03d}.avi", start) for i in (0, 1, 3) for start in (0, 17, 34)]
    assert len({clip.video for clip in drawn(few(MAGI_K600, 30), [1000] * 40).clips}) > 15
    assert all(clip.start % 17 == 0 for clip in drawn(few(MAGI_K600, 30), [1000] * 40).clips)


def test_magvit_takes_one_clip_of_each_video_before_a_second_of_any() -> None:
    """So that its 50,000 contexts, the first of 300,000 clips, come from as many videos; 6 of each in the end."""
    clips = drawn(few(MAGVIT_K600, 30), [200] * 5).clips
    names = [clip.video for clip in clips]
    assert all(sorted(names[turn : turn + 5]) == [f"v{i:03d}.avi" for i in range(5)] for turn in range(0, 30, 5))
    assert len(set(clips)) == 30
    with pytest.raises(ValueError, match="needs 31 clips and the 5 videos give 30"):
        drawn(few(MAGVIT_K600, 31), [200] * 5)


def test_always_first_begins_at_frame_0() -> None:
    """FAR's rule (4.2), for protocols that users state."""
    assert {clip.start for clip in drawn(replace(few(LATTE, 4), offset="first"), [90] * 4).clips} == {0}


def test_a_video_s_start_does_not_depend_on_the_others() -> None:
    """Where one video is missing from somebody's copy, the clips of the others stay where they are."""
    whole = {clip.video: clip.start for clip in drawn(few(LATTE, 50), [90] * 50).clips}
    without = {clip.video: clip.start for clip in drawn(few(LATTE, 49), [90] * 25 + [None] + [90] * 24).clips}
    assert whole.keys() - without.keys() == {"v025.avi"}
    assert all(whole[video] == start for video, start in without.items()) and len(set(whole.values())) > 10


def test_a_manifest_is_written_once_and_reused(tmp_path: Path) -> None:
    """The second time no length is asked for; the file has one line per clip, and its hash is the one of its lines."""
    file, videos, protocol = tmp_path / "work" / "real.jsonl", listing([90] * 9), few(LATTE, 5)
    first = reuse_or_draw(file, protocol, videos, counted(videos))

    def never(number: int) -> int | None:
        raise AssertionError("a video was opened")

    assert reuse_or_draw(file, protocol, videos, never) == first == read(file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 5 + 1 and json.loads(lines[1]) == [
        first.clips[0].video, first.clips[0].start, 3, first.clips[0].label,
    ]  # fmt: skip
    digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert json.loads(lines[-1]) == {"sha256": digest} and first.fingerprint == digest
    assert [path.name for path in file.parent.iterdir()] == ["real.jsonl"]


def test_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    """Another protocol, other files, or a changed line: each is told apart, and the file is left as it was."""
    file, videos, protocol = tmp_path / "real.jsonl", listing([90] * 9), few(LATTE, 5)
    write(draw(protocol, videos, counted(videos)), file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"is of protocol latte \(.*\), not of magi-ucf \("):
        reuse_or_draw(file, few(MAGI_UCF, 5), videos, counted(videos))
    grown = listing([90] * 10)
    with pytest.raises(ValueError, match="was drawn from other videos"):
        reuse_or_draw(file, protocol, grown, counted(grown))
    assert file.read_bytes() == before
    start = json.loads(before.splitlines()[1])[1]
    file.write_bytes(before.replace(f", {start}, 3".encode(), f", {start + 1}, 3".encode(), 1))
    with pytest.raises(ValueError, match="is damaged: its SHA-256 does not fit"):
        reuse_or_draw(file, protocol, videos, counted(videos))
    file.write_text("[]\n")
    with pytest.raises(ValueError, match="no manifest of real clips"):
        read(file)


def test_lengths_come_from_the_index_where_it_counted() -> None:
    """A video without a count is opened, and no other."""
    opened: list[str] = []
    lengths = lengths_of(listing([7, None]), lambda path: (opened.append(path.name), 9)[1])
    assert (lengths(0), lengths(1), opened) == (7, 9, ["v001.avi"])


def test_an_index_changes_no_clip(tmp_path: Path) -> None:
    """Of a video of 1,100 frames clips are taken from all of it, as its record says: the last of 64 tiles is
    among them and can be read, and an index that has counted the frames moves none."""
    for name, frames in (("long", 1100), ("short", 40)):
        (tmp_path / f"{name}.mp4").write_bytes(video_bytes(frames, "mp4"))
    protocol = replace(few(MAGI_K600, 64 + 2), dataset="folder", split="all")
    bare = list_videos(FolderConfig(path=str(tmp_path), num_frames=17))
    with_index, unreadable = count_listing(bare)
    assert [entry.num_frames for entry in with_index.entries] == [1100, 40] and not unreadable
    one, two = (video_clips(protocol, found, tmp_path / f"{i}.jsonl") for i, found in enumerate((bare, with_index)))
    assert one.manifest == two.manifest and protocol.record()["extent"] == "whole video"
    late = max(range(66), key=lambda number: one.manifest.clips[number].start)
    assert one.manifest.clips[late].start == 63 * 17
    red = one.clips(range(late, late + 1), size=24)[0, :, 0].double().mean(dim=(1, 2)).numpy()
    assert np.abs(red - (63 * 17 + np.arange(17)) % 80 * 3).max() < 8


def test_clips_of_a_manifest_are_read_from_videos(tmp_path: Path) -> None:
    """UCF-101 in small: each clip's frames are those of its video at start, start + 3, ..., whose grey tells them; a
    video of fewer than 48 frames is in no clip."""
    ucf_tree(tmp_path, classes=("Archery",), clips=2, real=True)  # 8 videos of 20, 25 ... 55 frames
    config = FolderConfig(path=str(tmp_path), dataset="ucf101", split="all", num_frames=16)
    found = video_clips(few(LATTE, 2), list_videos(config), tmp_path / "real.jsonl")
    clips = found.clips(range(2), size=16)
    assert clips.shape == (2, 16, 3, 16, 16) and clips.dtype == torch.uint8
    for number, clip in enumerate(found.manifest.clips):
        red = clips[number, :, 0].double().mean(dim=(1, 2)).numpy()
        expected = (clip.start + 3 * np.arange(16)) * 3
        assert np.abs(red - expected).max() < 8  # of a codec; the next frame is 3 away, the next of the clip 9
        assert abs(np.diff(red).mean() - 9) < 0.5  # interval 2 would be 6, 4 would be 12
    with pytest.raises(ValueError, match="needs 3 clips and the 8 videos give 2"):
        video_clips(few(LATTE, 3), list_videos(config), tmp_path / "more.jsonl")


def test_the_world_s_clips_are_those_of_its_test(tmp_path: Path) -> None:
    """By number, whatever the parts they are asked for in; their manifest is of this world and of no other."""
    found = world_clips(few(WORLD, 5), tmp_path / "real.jsonl")
    truth = world_test(1, clips=5).video
    assert torch.equal(found.clips(range(1, 4), size=64), truth[1:4])
    assert len(read(tmp_path / "real.jsonl").clips) == 5


def test_lanczos_is_pillow_s_of_the_cut_out_middle() -> None:
    """Latte's way: the largest square out of the middle, then Pillow's filter; a picture at a time."""
    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 33, 3), dtype=np.uint8)
    found = squared(frames, size=9, crop="centre", filter="lanczos")
    for frame, made in zip(frames, found, strict=True):
        picture = Image.fromarray(frame).crop((4, 0, 28, 24)).resize((9, 9), Image.Resampling.LANCZOS)
        assert np.array_equal(made.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_squashing_keeps_the_sides_and_cutting_does_not() -> None:
    """A picture whose left and right thirds are white: squashed they are seen, cut out of the middle they are gone."""
    frames = np.zeros((1, 20, 60, 3), dtype=np.uint8)
    frames[:, :, :20] = frames[:, :, 40:] = 255
    squashed = squared(frames, size=20, crop="squash", filter="bicubic")
    assert (squashed[..., 0] == 255).all() and (squashed[..., -1] == 255).all() and (squashed[..., 10] == 0).all()
    assert not squared(frames, size=20, crop="centre", filter="bicubic").any()
    with pytest.raises(ValueError, match="20 x 60, and the protocol neither crops nor squashes"):
        squared(frames, size=20, crop="none", filter="bicubic")


def test_bilinear_without_antialiasing_takes_the_two_nearest() -> None:
    """Of four pixels to one, the output's centre lies between pixels 1 and 2 of each side: their mean, and no other."""
    picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    picture[..., 1:3, 1:3] = 100
    found = resized(picture, 2, "bilinear")
    assert found[0, 0].tolist() == [[100, 0], [0, 0]]
    assert resized(picture, 8, "none") is picture
    with pytest.raises(ValueError, match="resizes nothing"):
        resized(picture, 4, "none")
