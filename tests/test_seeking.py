"""Reading by key frame: the same times and the same pixels as decoding from the start, with much less decoding."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from magi.seeds import generator
from magi.selftest.clips import CLIPS, make_clips
from magi.selftest.mutation import damaged
from magi.selftest.reading import FAILURES, judge
from magi.video import BadVideo, DecodedVideo, SoughtVideo, decode_video, open_video, seeking
from magi.video.damage import is_whole
from tests.videos import encode, moving, stamped, stamps

# Codec, pixel format, options of each kind of file, and whether frames are sought in it or decoded from the start.
KINDS: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "12", "qmax": "4"}, True),
    "mpeg4-b.avi": ("mpeg4", "yuv420p", {"g": "12", "qmax": "4", "bf": "2"}, True),
    "mpeg4-b.mp4": ("mpeg4", "yuv420p", {"g": "12", "qmax": "4", "bf": "2"}, True),
    "mpeg4-tiny.avi": ("mpeg4", "yuv420p", {"g": "12", "qmin": "31", "qmax": "31"}, False),
    "h264-b.mp4": ("libx264", "yuv420p", {"g": "20", "bf": "3", "b-pyramid": "normal"}, True),
    "h264-long.mp4": ("libx264", "yuv444p", {"g": "250"}, True),
    "h264-open.mp4": ("libx264", "yuv420p", {"g": "15", "bf": "3", "x264-params": "open-gop=1:b-adapt=0"}, True),
    "h264-refresh.mp4": ("libx264", "yuv420p", {"g": "15", "x264-params": "intra-refresh=1:scenecut=0"}, True),
    "h264.mkv": ("libx264", "yuv420p", {"g": "15"}, True),
    "h264-b.avi": ("libx264", "yuv420p", {"g": "15", "bf": "3", "b-pyramid": "normal"}, False),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": "keyint=15:log-level=none"}, True),
    "av1.mp4": ("libsvtav1", "yuv420p", {"g": "15", "preset": "12"}, True),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "15", "cpu-used": "8"}, False),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "15", "cpu-used": "8", "lag-in-frames": "16"}, True),
    "mpeg2.mkv": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}, True),
    "jpeg.avi": ("mjpeg", "yuvj420p", {}, True),
    "ffv1.mkv": ("ffv1", "bgr0", {"g": "10"}, True),
    "raw.avi": ("rawvideo", "bgr24", {}, True),
    "png.mov": ("png", "rgb24", {}, True),
    "prores.mov": ("prores", "yuv422p10le", {}, True),
    "plain.gif": ("gif", "rgb8", {}, False),
}
NUM_FRAMES = 50


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of moving pictures of each kind."""
    codec, pixels, options, _ = KINDS[request.param]
    path = tmp_path_factory.mktemp("kinds") / request.param
    return encode(path, moving(NUM_FRAMES, 48, 64), codec, pixels, options=options)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one word with every frame that is decoded for seeking and every file decoded from the start."""
    done: list[str] = []
    pictures, from_the_start = seeking._pictures, seeking.decode_video

    def counted(*arguments: Any) -> Iterator[Any]:
        for picture in pictures(*arguments):
            done.append("frame")
            yield picture

    def whole(*arguments: Any, **options: Any) -> DecodedVideo:
        done.append("file")
        return from_the_start(*arguments, **options)

    monkeypatch.setattr(seeking, "_pictures", counted)
    monkeypatch.setattr(seeking, "decode_video", whole)
    return done


def test_the_same_times_and_pixels_as_decoding_from_the_start(file: Path, decoded: list[str]) -> None:
    """To the bit, for all frames, random ones and repeated ones in any order; and where seeking is meant to work, it
    does: no file is decoded from the start."""
    expected, video = decode_video(file), open_video(file)
    sought = KINDS[file.name][-1]
    assert isinstance(video, SoughtVideo) == sought
    np.testing.assert_array_equal(video.times, expected.times)
    assert len(video.times) == NUM_FRAMES and video.problem is None is expected.problem
    pictures = expected.rgb()
    np.testing.assert_array_equal(video.rgb(), pictures)
    random = np.random.default_rng(0)
    for count in (1, 1, 1, 2, 3, 5, 16):
        indices = random.integers(0, NUM_FRAMES, count)
        np.testing.assert_array_equal(video.rgb(indices), pictures[indices])
    np.testing.assert_array_equal(video.rgb([7, 30], size=20, left=0.9), expected.rgb([7, 30], size=20, left=0.9))
    assert ("file" in decoded) != sought


def test_a_limit_cuts_both_alike(file: Path) -> None:
    """The first frames are the first in time, although with B-frames they are not the first in the file."""
    for limit in (1, 2, 9, 23, NUM_FRAMES, 80):
        expected, video = decode_video(file, max_frames=limit), open_video(file, max_frames=limit)
        np.testing.assert_array_equal(video.times, expected.times)
        assert video.problem == expected.problem
        np.testing.assert_array_equal(video.rgb([-1 + len(video.times)]), expected.rgb([-1 + len(video.times)]))


def test_only_what_is_needed_is_decoded(tmp_path: Path, decoded: list[str]) -> None:
    """With key frames 12 apart, frame 95 costs 12 frames and the one that tells the size; a clip at interval 40 costs
    that for each of its frames and nothing between; and opening costs nothing."""
    path = encode(tmp_path / "a.avi", moving(120, 48, 64), "mpeg4", "yuv420p", options={"g": "12", "qmax": "4"})
    video = open_video(path)
    assert not decoded
    video.rgb([95])
    assert decoded == ["frame"] * 13
    decoded.clear()
    video.rgb([0, 40, 80, 119])
    assert decoded == ["frame"] * (1 + 5 + 9 + 12)
    decoded.clear()
    video.rgb(range(3, 51))
    assert decoded == ["frame"] * 51, "within a stretch of frames nothing is decoded twice"


def test_key_frames_that_are_none_are_not_believed(tmp_path: Path, decoded: list[str]) -> None:
    """x264's intra refresh marks frames without a whole picture; only IDR pictures count in H.264. Elsewhere the first
    picture must be one that stands for itself: MPEG-4 goes on from any other without a word."""
    options = {"g": "15", "bf": "0", "x264-params": "intra-refresh=1:scenecut=0"}
    path = encode(tmp_path / "a.mp4", moving(50, 48, 64), pixel_format="yuv420p", options=options)
    video = open_video(path)
    assert isinstance(video, SoughtVideo)
    assert sum(packet.is_keyframe for packet in video.packets.packets) > 2, "the fixture must have the fault"
    assert video.packets.keys.tolist() == [0]

    path = encode(tmp_path / "a.avi", moving(50, 48, 64), "mpeg4", "yuv420p", options={"g": "50", "qmax": "4"})
    video = open_video(path)
    assert isinstance(video, SoughtVideo)
    lying = replace(video, packets=replace(video.packets, keys=np.array([0, 31])))
    assert "file" not in decoded
    np.testing.assert_array_equal(lying.rgb([40]), decode_video(path).rgb([40]))
    assert "file" in decoded, "the lie was found out"


def test_stamps_that_lie_are_found_out(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamps that FFmpeg makes up for H.264 in AVI look sound in the packets. If they were believed, the frames
    that come out would still not bear the ones expected, and the file would be decoded from the start."""
    options = {"g": "20", "bf": "3", "b-pyramid": "normal", "b-adapt": "0"}
    path = encode(tmp_path / "a.avi", moving(50, 48, 64), pixel_format="yuv420p", options=options)
    assert isinstance(open_video(path), DecodedVideo)
    monkeypatch.setattr(seeking, "GUESSED_IN_AVI", frozenset())
    video, expected = open_video(path), decode_video(path).rgb()
    assert isinstance(video, SoughtVideo)
    decoded.clear()
    for index in range(50):
        np.testing.assert_array_equal(video.rgb([index])[0], expected[index])
    assert "file" in decoded


def test_variable_rate_and_rotation(tmp_path: Path) -> None:
    """Times and turns come from where decoding takes them."""
    times = [0, 40, 80, 360, 400, 440, 560, 600, 640, 680]
    path = encode(tmp_path / "phone.mkv", stamped(10), times=times)
    assert isinstance(open_video(path), SoughtVideo)
    np.testing.assert_allclose(open_video(path).times * 1000, times, atol=1.5)
    assert stamps(open_video(path).rgb([8, 3])) == [8, 3]
    path = encode(tmp_path / "upright.mp4", moving(30, 32, 64), rotation=90, options={"g": "10"})
    assert isinstance(open_video(path), SoughtVideo)
    assert open_video(path).rgb([25]).shape == (1, 64, 32, 3)
    np.testing.assert_array_equal(open_video(path).rgb([25]), decode_video(path).rgb([25]))


def test_folders_of_images_are_opened_too(tmp_path: Path) -> None:
    """By the reader that knows them."""
    from PIL import Image

    for index, frame in enumerate(stamped(3)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    assert stamps(open_video(tmp_path).rgb([2, 0])) == [2, 0]


@pytest.mark.parametrize("opened", [open_video, decode_video])
def test_what_is_not_there_cannot_be_asked_for(tmp_path: Path, opened: Any) -> None:
    """One line for indices outside, for nothing, for crops without a size and outside the picture, and for more frames
    than memory holds."""
    video = opened(encode(tmp_path / "a.mp4", stamped(5)))
    for indices, options, message in (
        ([5], {}, "among 0 to 4, got 5 to 5"),
        ([-1], {}, "among 0 to 4, got -1 to -1"),
        ([], {}, "got none"),
        ([0], {"left": 0.2}, "without size they must be 0.5"),
        ([0], {"left": 1.2, "size": 8}, "between 0 and 1, got 0.5 and 1.2"),
        ([0] * 10**6, {}, "1000000 frames take more than 4 GiB"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            video.rgb(indices, **options)
        assert not isinstance(caught.value, BadVideo)


# Damage


def hurt(whole: Path, place: int, damaged: Path, *, zeros: int = 12) -> Path:
    """Write a copy with some zeros in the middle of the packet of the frame at this place."""
    video = open_video(whole)
    assert isinstance(video, SoughtVideo)
    packet = video.packets.packets[video.packets.packet_of[place]]
    content = bytearray(whole.read_bytes())
    middle = packet.pos + packet.size // 2
    content[middle : middle + zeros] = bytes(zeros)
    damaged.write_bytes(content)
    return damaged


def test_damage_found_while_decoding(tmp_path: Path) -> None:
    """Opening does not see a damaged picture. Frames before it come as from the start, frames that need it are a
    BadVideo with the reason, frames behind the next key frame are whole; whatever was asked before."""
    options = {"g": "20", "crf": "4", "bf": "0", "x264-params": "scenecut=0"}
    whole = encode(tmp_path / "whole.mp4", moving(60, 64, 96), options=options)
    path = hurt(whole, 30, tmp_path / "damaged.mp4")
    sound = open_video(whole)
    assert len(decode_video(path).times) == 30
    for _ in range(2):
        video = open_video(path)
        assert len(video.times) == 60 and video.problem is None
        for index in (29, 39, 50, 5, 30, 50, 29):
            if index in (30, 39):
                with pytest.raises(BadVideo, match=r"ends after 30 frames \(the next one is damaged\)"):
                    video.rgb([index])
            else:
                np.testing.assert_array_equal(video.rgb([index]), sound.rgb([index]))
        with pytest.raises(BadVideo):
            video.rgb([5, 39, 50])


def test_a_b_frame_before_the_damage_is_not_believed(tmp_path: Path) -> None:
    """It is shown first but predicted from what comes next, so the damage may be in it."""
    options = {"g": "30", "crf": "4", "bf": "3", "b-adapt": "0", "x264-params": "scenecut=0"}
    whole = encode(tmp_path / "whole.mp4", moving(30, 64, 96), options=options)
    path = hurt(whole, 16, tmp_path / "damaged.mp4")
    assert len(decode_video(path).times) == 13, "the fixture must have frames 13 to 15 predicted from 16"
    np.testing.assert_array_equal(open_video(path).rgb([12]), open_video(whole).rgb([12]))
    for index in (13, 14, 15):
        with pytest.raises(BadVideo, match="ends after 13 frames"):
            open_video(path).rgb([index])


def test_damage_that_a_decoder_does_not_mark(tmp_path: Path) -> None:
    """What Motion JPEG lacks is whatever was in memory, so its decoder must stop instead of going on."""
    whole = encode(tmp_path / "whole.avi", moving(12, 64, 96), "mjpeg", "yuvj420p", options={"qmax": "3"})
    path = hurt(whole, 7, tmp_path / "damaged.avi", zeros=300)
    assert len(decode_video(path).times) == 7
    np.testing.assert_array_equal(open_video(path).rgb([6]), open_video(whole).rgb([6]))
    with pytest.raises(BadVideo, match="ends after 7 frames"):
        open_video(path).rgb([7])


def test_checksums_of_ffv1_are_checked(tmp_path: Path) -> None:
    """FFmpeg shows something else in place of a damaged slice and tells only its log. One flipped bit anywhere in a
    packet is found, and what comes before it is delivered."""
    path = encode(tmp_path / "a.mkv", moving(12, 48, 64), "ffv1", "bgr0", options={"g": "1"})
    video = open_video(path)
    assert isinstance(video, SoughtVideo)
    packets = [bytes(packet) for packet in video.packets.packets]
    assert all(map(is_whole, packets))
    for place in np.random.default_rng(0).integers(0, len(packets[7]), 50):
        flipped = bytearray(packets[7])
        flipped[place] ^= 16
        assert not is_whole(bytes(flipped))
    content = bytearray(path.read_bytes())
    content[content.index(packets[7]) + 100] ^= 16
    path.write_bytes(content)
    damaged = open_video(path)
    assert damaged.problem is not None and len(damaged.times) == 7
    np.testing.assert_array_equal(damaged.rgb(), video.rgb(range(7)))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole files to be damaged."""
    return make_clips(tmp_path_factory.mktemp("clips"))


def test_300_damaged_files(clips: dict[str, Path], tmp_path: Path) -> None:
    """Frames or BadVideo, within seconds; and every frame that comes without a word is what decoding from the start
    delivers for its moment. Both kinds of outcome occur in number, or the damage would be too small or too large."""
    outcomes: Counter[str] = Counter()
    for trial in range(300):
        form = list(CLIPS)[trial % len(CLIPS)]
        random = generator(1, "damaged video", trial)
        path = tmp_path / f"{trial}.{form}"
        path.write_bytes(damaged(clips[form].read_bytes(), random))
        start = time.monotonic()
        verdict = judge(path, random)
        assert verdict not in FAILURES, f"{form} {trial}: {verdict}"
        assert time.monotonic() - start < 5, f"{form} {trial} took too long"
        outcomes[verdict] += 1
    assert min(outcomes["frames"], outcomes["BadVideo"], outcomes["times and then BadVideo"]) > 20, outcomes


def test_a_million_tiny_frames_are_cut_off(tmp_path: Path) -> None:
    """24 MB of GIF with a million pictures of one pixel: what is read of it is bounded, and so are time and memory."""
    picture = b"\x21\xf9\x04\0\x04\0\0\0\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a\1\0\1\0\xf0\0\0\0\0\0\xff\xff\xff" + picture * 10**6 + b";")
    start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    video = open_video(path)
    assert len(video.times) == 2**16
    assert video.problem is not None and "no further than its first 65536 frames" in video.problem
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 400_000  # kilobytes


def test_a_limit_on_packets_cuts_long_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan stops at the limit too, says so, and what is before it can be read."""
    path = encode(tmp_path / "a.mp4", stamped(40), options={"bf": "2"})
    monkeypatch.setattr(seeking, "MAX_FRAMES", 30)
    video = open_video(path)
    assert isinstance(video, SoughtVideo) and len(video.times) == 30 and len(video.packets.packets) < 36
    assert video.problem is not None and "first 30 frames" in video.problem
    assert stamps(video.rgb([29, 3])) == [29, 3]
    assert open_video(path, max_frames=30).problem is None, "no problem if no more was asked for"


def test_packets_with_a_hidden_past_are_not_trusted(tmp_path: Path) -> None:
    """A file trimmed without encoding again keeps frames that are not to be shown before its first one; they are part
    of its packets, so it is decoded from the start."""
    whole = encode(tmp_path / "whole.mp4", moving(60, 48, 64), options={"g": "20", "bf": "0"})
    path = tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        step = next(packet.duration for packet in source.demux(stream))
        source.seek(0)
        for packet in source.demux(stream):
            if packet.dts is None:
                continue
            packet.pts, packet.dts = packet.pts - 10 * step, packet.dts - 10 * step
            packet.stream = copy
            target.mux(packet)
    expected, video = decode_video(path), open_video(path)
    assert isinstance(video, DecodedVideo)
    np.testing.assert_array_equal(video.times, expected.times)
    np.testing.assert_array_equal(video.rgb([0, 30]), expected.rgb([0, 30]))
