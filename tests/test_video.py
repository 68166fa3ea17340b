"""Video files: what is read is what was written, and what is not a video is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from magi.video import (
    BadVideo,
    VideoWriter,
    clip_indices,
    decode_video,
    find_videos,
    fit,
    nominal_period,
    open_video,
    probe,
    read_video,
    reading,
    resize,
    ticks,
    tile,
    write_gif,
    write_video,
)
from magi.video.timing import believable_times
from tests.videos import encode, moving, stamped, stamps

CONTAINERS: dict[str, tuple[str, str, dict[str, str], float]] = {  # codec, pixel format, options, largest mean error
    "x264.mp4": ("libx264", "yuv444p", {"crf": "4"}, 2),
    "faststart.mp4": ("libx264", "yuv444p", {"crf": "4"}, 2),
    "rgb.mov": ("libx264rgb", "rgb24", {"crf": "0"}, 0),
    "xvid.avi": ("mpeg4", "yuv420p", {"qmin": "1", "qmax": "2", "bf": "2"}, 4),
    "jpeg.avi": ("mjpeg", "yuvj444p", {"qmin": "1", "qmax": "2"}, 4),
    "ffv1.avi": ("ffv1", "bgr0", {}, 0),
    "vp9.webm": ("libvpx-vp9", "yuv444p", {"crf": "4", "b:v": "0", "cpu-used": "8"}, 2),
    "ffv1.mkv": ("ffv1", "bgr0", {}, 0),
    "plain.gif": ("gif", "rgb8", {}, 30),
}


@pytest.fixture(scope="module", params=CONTAINERS)
def container(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 50 stamped frames in each container."""
    codec, pixel_format, options, _ = CONTAINERS[request.param]
    path = tmp_path_factory.mktemp("containers") / request.param
    return encode(path, stamped(50), codec, pixel_format, options=options)


# Reading


@pytest.mark.parametrize("name", CONTAINERS)
def test_values_survive_every_container(tmp_path: Path, name: str) -> None:
    """Shape, order and colours come back, also for odd sides; the error is the codec's."""
    codec, pixel_format, options, tolerance = CONTAINERS[name]
    height, width = (62, 46) if "420" in pixel_format else (63, 47)
    frames = moving(12, height, width)
    if "420" in pixel_format:  # halved chroma is the larger error: compare without colour
        frames = frames[..., :1].repeat(3, axis=-1)
    video = read_video(encode(tmp_path / name, frames, codec, pixel_format, options=options))
    assert video.frames.shape == frames.shape and video.frames.dtype == np.uint8
    assert video.problem is None
    assert np.abs(video.frames.astype(int) - frames).mean() <= tolerance
    np.testing.assert_allclose(video.times, np.arange(12) / 25, atol=1e-3)


def test_frames_are_counted_as_decoded(container: Path) -> None:
    """The index burnt into each frame says which one it is, whether all are read, some, or the first few."""
    assert stamps(read_video(container).frames) == list(range(50))
    assert stamps(read_video(container, max_frames=7).frames) == list(range(7))
    assert stamps(decode_video(container).rgb([31, 4, 49])) == [31, 4, 49]
    video = read_video(container)
    assert stamps(video.frames[clip_indices(video.times, start=3, interval=9, count=6)]) == [3, 12, 21, 30, 39, 48]


def test_a_huge_video_is_read_up_to_a_limit(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone's video of a minute takes gigabytes when decoded. What is held is bounded, in bytes that are really
    allocated; the beginning is used, and the problem says where it ends."""
    one = decode_video(container, max_frames=1).num_bytes
    monkeypatch.setattr(reading, "MAX_BYTES", 10 * one)
    video = decode_video(container)
    assert len(video.times) == 11 and video.num_bytes == 11 * one
    assert video.problem is not None and video.problem.startswith("is read no further than its first 11 frames")
    assert stamps(video.rgb()) == list(range(11))


def test_time_stamps_of_avi_lie_and_are_not_believed(tmp_path: Path) -> None:
    """H.264 with B-frames in AVI: the decoder's order is right although its time stamps go back and forth."""
    path = encode(tmp_path / "b.avi", stamped(30), options={"bf": "3", "b-pyramid": "normal", "b-adapt": "0"})
    with av.open(str(path)) as reader:
        raw = [frame.pts for frame in reader.decode(video=0)]
    assert raw != sorted(raw), "the fixture must have the fault"
    video = read_video(path)
    assert stamps(video.frames) == list(range(30))
    np.testing.assert_allclose(video.times, np.arange(30) / 25)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_pictures_come_out_upright(tmp_path: Path, rotation: int) -> None:
    """The stored picture is turned counterclockwise as its metadata say: the mark at the top left follows."""
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :8, :8] = 255
    path = encode(tmp_path / "phone.mp4", frames, rotation=rotation)
    upright = read_video(path).frames
    info = probe(path)
    assert upright.shape[1:3] == (info.height, info.width) == ((32, 64) if rotation == 180 else (64, 32))
    assert info.rotation == rotation % 360
    row, column = np.argwhere(upright[0, ..., 0] > 128).mean(axis=0) / upright.shape[1:3]
    assert (row > 0.5, column > 0.5) == {90: (True, False), -90: (False, True), 180: (True, True)}[rotation]


def test_probe_tells_what_reading_finds(container: Path) -> None:
    """The header agrees with the frames, and where it does not count them (matroska) the answer is None."""
    info = probe(container)
    assert (info.height, info.width, info.rotation) == (32, 48, 0)
    assert info.num_frames == (None if container.suffix in (".webm", ".mkv") else 50)
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(2, abs=0.02)


def test_a_folder_of_images_is_a_video_in_natural_order(tmp_path: Path) -> None:
    """frame_10 comes after frame_9; a lone cover picture is no frame, and 16-bit or unequal images are refused."""
    for index, frame in enumerate(stamped(12)):
        Image.fromarray(frame).save(tmp_path / f"frame_{index}.png")
    (tmp_path / "cover.jpg").write_bytes(b"not a frame")
    assert stamps(read_video(tmp_path).frames) == list(range(12))
    info = probe(tmp_path)
    assert (info.num_frames, info.height, info.width, info.codec) == (12, 32, 48, "png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "frame_12.png")
    with pytest.raises(BadVideo, match="several sizes"):
        read_video(tmp_path)
    (tmp_path / "frame_12.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(BadVideo, match=r"frame_12\.png"):
        read_video(tmp_path)
    assert stamps(read_video(tmp_path, max_frames=3).frames) == [0, 1, 2]


def test_videos_are_found_everywhere_below(tmp_path: Path) -> None:
    """Files by suffix and folders of images, sorted, through links but not in circles; nothing hidden, no sidecars."""
    names = [
        "b/2.MP4",
        "b/2.json",
        "a/1.gif",
        "a/.hidden.mp4",
        ".cache/3.mp4",
        "c/frames/0001.png",
        "c/frames/0002.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos(tmp_path)]
    assert found == ["a/1.gif", "b/2.MP4", "c/frames"]


# Time


def test_variable_rate_is_resampled_to_the_nearest_frame(tmp_path: Path) -> None:
    """Gaps of 40 ms with holes of 280 and 120: at each tick of 40 ms the frame nearest in time is shown."""
    times = [0, 40, 80, 360, 400, 440, 560, 600, 640, 680]
    video = read_video(encode(tmp_path / "phone.mkv", stamped(10), times=times))
    np.testing.assert_allclose(video.times * 1000, times, atol=1.5)
    assert nominal_period(video.times) == pytest.approx(0.04, rel=0.02)
    nearest = [int(np.abs(np.array(times) - 40 * tick).argmin()) for tick in range(18)]
    assert stamps(video.frames[ticks(video.times)]) == nearest
    assert stamps(video.frames[clip_indices(video.times, start=1, interval=4, count=5)]) == nearest[1::4][:5]


@given(
    num_frames=st.integers(2, 400),
    fps=st.sampled_from([8, 12.5, 23.976, 25, 29.97, 30, 50, 59.94]),
    resolution=st.sampled_from([1e-2, 1e-3, 1e-5]),
)
def test_constant_rate_is_left_alone(num_frames: int, fps: float, resolution: float) -> None:
    """However coarsely the container rounds its time stamps (GIF to 10 ms, webm to 1 ms), tick i is frame i."""
    assume(fps * resolution < 0.4)  # below that, GIF cannot keep frames apart
    times = np.round(np.arange(num_frames) / fps / resolution) * resolution
    assert ticks(times).tolist() == list(range(num_frames))


@given(st.lists(st.floats(1e-3, 5), min_size=1, max_size=40))
def test_every_tick_shows_the_nearest_frame(gaps: list[float]) -> None:
    """For any gaps at all, the resampled video is what a search through all frames finds."""
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    shown = ticks(times)
    distances = np.abs(times[None] - nominal_period(times) * np.arange(len(shown))[:, None])
    np.testing.assert_allclose(distances[np.arange(len(shown)), shown], distances.min(axis=1), atol=1e-9)


def test_absurd_time_stamps_mean_a_constant_rate() -> None:
    """None, backwards, repeated or hours away: the order of decoding counts; otherwise times start from 0."""
    constant = [0, 0.1, 0.2, 0.3]
    for bad in ([0, 1, None, 3], [0, 2, 1, 3], [0, 1, 1, 2], [0, 0.1, 0.2, 3600.0]):
        np.testing.assert_allclose(believable_times(bad, 10), constant)
    np.testing.assert_allclose(believable_times([5, 6, 8, 9], 10), [0, 1, 3, 4])


def test_a_clip_that_does_not_fit_is_refused() -> None:
    """16 frames at interval 3 span 46 frames: from frame 0 of 46 they fit, from frame 1 they do not."""
    times = np.arange(46) / 25
    assert clip_indices(times, start=0, interval=3, count=16).tolist() == list(range(0, 46, 3))
    with pytest.raises(ValueError, match="16 frames at interval 3 from frame 1 do not fit into 46"):
        clip_indices(times, start=1, interval=3, count=16)


# Files nobody vouches for


KINDS = ("missing", "empty", "text", "zeros", "sound", "bomb", "concat", "playlist", "codec", "folder", "pipe", "half")


def gif_bomb() -> bytes:
    """35 bytes that ask for 16000 x 16000 pixels, a gigabyte."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 16000, 16000, 0xF0, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, 16000, 16000, 0) + b"\x02\x02\x44\x01\x00\x3b"


def sound(path: Path) -> None:
    """Write silence with a cover picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(stamped(1, 32, 32)[0], format="rgb24")))
        container.mux(cover.encode(None))
        for _ in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_video_is_refused_quickly_in_one_line(tmp_path: Path, kind: str) -> None:
    """Each is a BadVideo naming the file, within a second and 100 MB; playlists do not open the good file they name."""
    good = encode(tmp_path / "good.mp4", stamped(20))
    path = tmp_path / "bad.mp4"
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("no video at all\n" * 100)
        case "zeros":
            path.write_bytes(bytes(10_000))
        case "sound":
            sound(path)
        case "bomb":
            path.write_bytes(gif_bomb())
        case "concat":
            path.write_text("ffconcat version 1.0\nfile good.mp4\n")
        case "playlist":
            path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n")
        case "codec":
            path = encode(tmp_path / "bad.avi", stamped(5), "cinepak", "rgb24")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "half":
            path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for function in (read_video, open_video, probe):
        with pytest.raises(BadVideo) as caught:
            function(path)
        assert caught.value.path == str(path) and str(path) in str(caught.value)
        assert "\n" not in str(caught.value) and caught.value.reason
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # kilobytes


def test_what_may_not_be_looked_at_is_refused() -> None:
    """Without the right to read a file, to look into its folder or to list a folder of images, and with a name that no
    file can have: a BadVideo. The superuser may read everything, so somebody else tries."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o711)
        hidden, images = root / "hidden", root / "images"
        hidden.mkdir()
        images.mkdir()
        encode(hidden / "a.mp4", stamped(3))
        closed = encode(root / "closed.mp4", stamped(3))
        Image.fromarray(stamped(1)[0]).save(images / "0.png")
        for path in (hidden, images, closed):
            path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            for path in (hidden / "a.mp4", closed, images, root / ("a" * 300 + ".mp4"), root / "a\0.mp4"):
                for function in (decode_video, open_video, probe):
                    with pytest.raises(BadVideo):
                        function(path)
        finally:
            os.seteuid(user)
            hidden.chmod(0o700)
            images.chmod(0o700)


@pytest.mark.parametrize(
    ("height", "width", "fps", "num_frames"),
    [(2, 2, 25, 5), (64, 2, 25, 5), (32, 48, 25, 1), (32, 48, 1, 4), (32, 48, 1000, 4)],
)
def test_odd_videos_are_read_all_the_same(tmp_path: Path, height: int, width: int, fps: int, num_frames: int) -> None:
    """Pictures of two pixels, a single frame, one frame a second and a thousand: frames and times as they are."""
    frames = moving(num_frames, height, width)
    write_video(tmp_path / "a.mp4", frames, fps=fps, quality="lossless")
    for video in (decode_video(tmp_path / "a.mp4"), open_video(tmp_path / "a.mp4")):
        np.testing.assert_array_equal(video.rgb(), frames)
        np.testing.assert_allclose(video.times, np.arange(num_frames) / fps, atol=1e-4)
        assert video.problem is None and video.rgb([0], size=4).shape == (1, 4, 4, 3)


def test_a_bad_video_travels_between_processes() -> None:
    """Loader workers send it to the main process, so pickling keeps both of its parts."""
    error = pickle.loads(pickle.dumps(BadVideo("a.mp4", "is empty")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "is empty", "a.mp4: is empty")


def test_a_torn_file_keeps_its_beginning_and_says_so(container: Path, tmp_path: Path) -> None:
    """Cut at 60 %, a file gives a prefix of its frames and a problem, or a BadVideo if its index was at the end."""
    torn = tmp_path / container.name
    torn.write_bytes(container.read_bytes()[: container.stat().st_size * 6 // 10])
    if container.name in ("x264.mp4", "rgb.mov"):
        with pytest.raises(BadVideo):
            read_video(torn)
        return
    video = read_video(torn)
    assert 0 < len(video.frames) < 50
    assert len(video.times) == len(video.frames)
    assert video.problem is not None and "ends after" in video.problem
    np.testing.assert_array_equal(video.frames, read_video(container).frames[: len(video.frames)])  # none half drawn


def test_nothing_after_a_damaged_frame_is_kept(tmp_path: Path) -> None:
    """The decoder guesses what zeroed bytes held; its guesses, and what is predicted from them, are not delivered."""
    whole = encode(tmp_path / "whole.mp4", moving(50, 64, 96), options={"crf": "4"})
    content = bytearray(whole.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 30] = bytes(30)
    (tmp_path / "damaged.mp4").write_bytes(content)
    video = read_video(tmp_path / "damaged.mp4")
    assert video.problem is not None and 10 < len(video.frames) < 40
    np.testing.assert_array_equal(video.frames, read_video(whole).frames[: len(video.frames)])


def test_frames_that_change_size_end_the_video(tmp_path: Path) -> None:
    """Motion JPEG may do it; what comes before is a video of one size."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for index, size in enumerate((32, 32, 32, 64, 64)):
            picture = io.BytesIO()
            Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(picture, "jpeg")
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.pts, packet.dts = stream, index, index
            container.mux(packet)
    video = read_video(tmp_path / "a.avi")
    assert video.frames.shape == (3, 32, 32, 3) and video.problem == "ends after 3 frames (the size changes)"


def test_a_title_in_another_encoding_does_no_harm(tmp_path: Path) -> None:
    """Only pictures matter: metadata that are not UTF-8 are not a reason to refuse a video."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A name"
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stamped(1, 32, 32)[0], format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"A name", b"\xff name"))
    assert read_video(path).frames.shape == (1, 32, 32, 3)


def test_damaged_files_never_raise_anything_else(container: Path, tmp_path: Path) -> None:
    """Random bytes, cuts and repeats anywhere: frames of one shape or BadVideo, nothing else, and no hang."""
    whole = container.read_bytes()
    random = np.random.default_rng(0)
    damaged = tmp_path / container.name
    for trial in range(20):
        content = bytearray(whole)
        for place in random.integers(0, len(content), 1 + trial % 8):
            content[place] = random.integers(256)
        if trial % 4 == 3:
            first, second = sorted(random.integers(0, len(content), 2))
            content = content[:second] + content[first:]
        damaged.write_bytes(content)
        start = time.monotonic()
        try:
            video = read_video(damaged)
        except BadVideo:
            pass
        else:
            assert video.frames.ndim == 4 and len(video.frames) == len(video.times) > 0
            assert (np.diff(video.times) > 0).all()
        assert time.monotonic() - start < 5


# Writing


def test_written_videos_come_back(tmp_path: Path) -> None:
    """Lossless to the bit, near-lossless and fast to about a level; odd sides stay odd except for browsers."""
    frames = moving(20, 63, 47)
    for quality, worst, average in (("lossless", 0, 0), ("near-lossless", 16, 1.5), ("fast", 16, 1.5)):
        write_video(tmp_path / "new" / "a.mp4", frames, fps=30000 / 1001, quality=quality)
        video = read_video(tmp_path / "new" / "a.mp4")
        error = np.abs(video.frames.astype(int) - frames)
        assert error.max() <= worst and error.mean() <= average
        np.testing.assert_allclose(video.times, np.arange(20) * 1001 / 30000, atol=1e-4)
    write_video(tmp_path / "web.mp4", frames, fps=25, quality="web")
    assert read_video(tmp_path / "web.mp4").frames.shape == (20, 64, 48, 3)
    with av.open(str(tmp_path / "web.mp4")) as reader:
        codec = reader.streams.video[0].codec_context
        assert codec.pix_fmt == "yuv420p" and codec.colorspace == 1  # BT.709, said so
    content = (tmp_path / "web.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "a browser can start before it has the whole file"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.mp4", "new", "web.mp4"]


def test_scaled_videos_have_square_blocks(tmp_path: Path) -> None:
    """scale = 4 repeats every pixel 4 x 4 times: no filter, so taking every fourth gives the original."""
    frames = moving(3, 10, 14)
    write_video(tmp_path / "a.mp4", frames, fps=8, quality="lossless", scale=4)
    big = read_video(tmp_path / "a.mp4").frames
    assert big.shape == (3, 40, 56, 3)
    for offset in range(4):
        np.testing.assert_array_equal(big[:, offset::4, offset::4], frames)


def test_gif_has_its_own_colours_and_timing(tmp_path: Path) -> None:
    """With at most 256 colours nothing is lost; 30 frames a second come back as frames 3 or 4 hundredths apart."""
    frames = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None] * 5, (40, 16, 16, 3)).copy()
    frames[:, 4:8, 4:8] = (200, 30, 60)
    write_gif(tmp_path / "a.gif", frames, fps=30, scale=2)
    video = read_video(tmp_path / "a.gif")
    assert np.abs(video.frames[:, ::2, ::2].astype(int) - frames).max() <= 2
    assert set(np.round(np.diff(video.times), 4)) == {0.03, 0.04}
    assert nominal_period(video.times) == pytest.approx(1 / 30, rel=0.02)


def test_a_killed_writer_leaves_what_it_had(tmp_path: Path) -> None:
    """A kill leaves the file as it is on disk: at every moment it can be read, and only the last frame is missing."""
    frames = stamped(30)
    with VideoWriter(tmp_path / "live.mp4", fps=25) as writer:
        for index, frame in enumerate(frames):
            writer.append(frame)
            if index in (1, 2, 17, 29):
                (tmp_path / "killed.mp4").write_bytes((tmp_path / "live.mp4").read_bytes())
                assert stamps(read_video(tmp_path / "killed.mp4").frames) == list(range(index))
    assert stamps(read_video(tmp_path / "live.mp4").frames) == list(range(30))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """The new video replaces the old one only when it is whole, and nothing else is left lying about."""
    path = tmp_path / "a.mp4"
    write_video(path, stamped(5), fps=25)
    before = path.read_bytes()

    def failing() -> Any:
        yield from stamped(3)
        raise RuntimeError("the model stopped")

    with pytest.raises(RuntimeError, match="the model stopped"):
        write_video(path, failing(), fps=25)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """One line with the value, and no file."""
    frames = stamped(2)
    for path, video, fps, message in (
        ("a.avi", frames, 25, r"\.mp4, got '\.avi'"),
        ("a.mp4", frames[:0], 25, "no frames"),
        ("a.mp4", frames / 255, 25, "uint8 .* got float64"),
        ("a.mp4", frames[..., :1], 25, r"\(H, W, 3\), got uint8 \(32, 48, 1\)"),
        ("a.mp4", [frames[0], frames[0, 1:]], 25, "one size"),
        ("a.mp4", frames, 0, "fps must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / path, video, fps=fps)
    with pytest.raises(ValueError, match="scale must be at least 1"):
        write_video(tmp_path / "a.mp4", frames, fps=25, scale=0)
    with pytest.raises(ValueError, match=r"\.gif"):
        write_gif(tmp_path / "a.png", frames, fps=25)
    assert not list(tmp_path.iterdir())


# Pictures


def test_fit_keeps_the_centre_and_does_not_alias() -> None:
    """A wide picture loses its sides evenly; a chequerboard of single pixels shrinks to its mean, not to a moiré."""
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = 200
    assert (fit(frames, 20) >= 180).mean() > 0.9
    wide, tall = fit(moving(2, 40, 90), 20), fit(moving(2, 40, 90).transpose(0, 2, 1, 3), 20)
    assert wide.shape == (2, 20, 20, 3)
    assert np.abs(wide.astype(int) - tall.transpose(0, 2, 1, 3)).max() <= 1
    np.testing.assert_array_equal(fit(frames[:, :, :40], 40), frames[:, :, :40])
    chequers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None].repeat(3, -1)
    assert np.abs(resize(chequers, 21, 21).astype(int)[:, 2:-2, 2:-2] - 127).max() < 20


def test_frames_that_must_not_be_written_are_resized_in_silence() -> None:
    """Frames of another process or of a picture are read-only; they are copied, and the same comes out."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), dtype=np.uint8)
    expected = fit(frames, 5)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.set_warn_always(True)  # torch warns once in a process, which may have been before
        try:
            assert np.array_equal(fit(frames, 5), expected)
        finally:
            torch.set_warn_always(False)


def test_fit_cuts_where_it_is_told() -> None:
    """From one end of the long side to the other, alike for both sides; the centre is the default, and of two middles
    the upper or left one; along the short side there is nothing to choose."""
    wide = np.broadcast_to(np.arange(0, 41, dtype=np.uint8)[:, None] * 6, (1, 10, 41, 3))
    for left, column in ((0, 0), (1, 31), (0.5, 15), (0.25, 8), (0.999, 31)):
        for top in (0, 0.3, 1):
            cut = fit(wide, 10, top=top, left=left)
            np.testing.assert_array_equal(cut, wide[:, :, column : column + 10])
            np.testing.assert_array_equal(fit(wide.swapaxes(1, 2), 10, top=left, left=top), cut.swapaxes(1, 2))
    np.testing.assert_array_equal(fit(wide, 10), fit(wide, 10, left=0.5))
    for bad in ({"top": -0.1}, {"left": 1.01}, {"left": float("nan")}):
        with pytest.raises(ValueError, match="top and left must be between 0 and 1"):
            fit(wide, 10, **bad)


def test_a_crop_follows_the_upright_picture(tmp_path: Path) -> None:
    """A phone's video is turned before it is cut: left means the viewer's left, and equals cutting the whole frames."""
    path = encode(tmp_path / "a.mp4", moving(4, 32, 64), rotation=180)
    video = decode_video(path)
    for place in (0.0, 0.3, 1.0):
        np.testing.assert_array_equal(video.rgb([2], size=16, left=place), fit(video.rgb([2]), 16, left=place))
    assert (video.rgb([2], size=16, left=0.0) != video.rgb([2], size=16, left=1.0)).any()


def test_reading_can_fit(container: Path) -> None:
    """Fitting while reading equals fitting afterwards."""
    np.testing.assert_array_equal(read_video(container, size=16).frames, fit(read_video(container).frames, 16))


def test_tiles_stand_where_they_should() -> None:
    """Five videos in three columns: video i stands at row i // 3, column i % 3; the sixth place and gaps are white."""
    videos = [np.full((2, 4, 5, 3), 10 * index, np.uint8) for index in range(5)]
    grid = tile(videos, columns=3, gap=2)
    assert grid.shape == (2, 4 + 2 + 4, 5 + 2 + 5 + 2 + 5, 3)
    for index, video in enumerate(videos):
        top, left = index // 3 * 6, index % 3 * 7
        np.testing.assert_array_equal(grid[:, top : top + 4, left : left + 5], video)
    assert (grid[:, 6:, 14:] == 255).all() and (grid[:, 4:6] == 255).all()
    with pytest.raises(ValueError, match="one shape"):
        tile([videos[0], videos[1][:1]])
