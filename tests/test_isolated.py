"""Reading in another process: the same answers, and whatever happens there is only a bad video here."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from magi.video import BadVideo, IsolatedReader, child, open_video
from tests.videos import encode, moving, stamped, stamps


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file of 40 frames."""
    return encode(tmp_path_factory.mktemp("sound") / "a.mp4", stamped(40), options={"g": "10"})


@pytest.fixture
def reader() -> Iterator[IsolatedReader]:
    """A reader whose process does not outlive the test."""
    with IsolatedReader(seconds=20) as reader:
        yield reader


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Let something happen in the other process, a copy of this one, when it opens a file named trouble."""

    def plant(happens: Callable[[], Any]) -> None:
        def opened(path: str, **options: Any) -> Any:
            if "trouble" in path:
                happens()
            return open_video(path, **options)

        monkeypatch.setattr(child, "open_video", opened)

    return plant


def is_alive(process: int) -> bool:
    """Whether a process runs: it is there, and not only as an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ends(process: int, *, within: float) -> bool:
    """Whether a process is gone after so many seconds at most."""
    limit = time.monotonic() + within
    while is_alive(process) and time.monotonic() < limit:
        time.sleep(0.02)
    return not is_alive(process)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_same_answers(file: Path, tmp_path: Path, start: Any) -> None:
    """Times, problem, pixels and errors are those of `open_video`, from one process for all."""
    torn = encode(tmp_path / "torn.mkv", moving(60, 48, 64))
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(stamped(1)[0]).save(images / "0.png")
    (images / "1.png").write_bytes(b"\x89PNG torn")
    with IsolatedReader(start=start) as reader:
        videos = [(reader.open(path), open_video(path)) for path in (file, torn)]
        for there, here in videos + videos[::-1]:
            assert (there.path, there.problem) == (here.path, here.problem)
            np.testing.assert_array_equal(there.times, here.times)
            for options in ({}, {"size": 16}, {"size": 16, "left": 0.0}):
                np.testing.assert_array_equal(there.rgb([9, 2, 9], **options), here.rgb([9, 2, 9], **options))
        first = reader.process
        with pytest.raises(BadVideo) as caught:
            reader.open(tmp_path / "none.mp4")
        assert (caught.value.path, caught.value.reason) == (
            str(tmp_path / "none.mp4"),
            "does not exist, or may not be looked at",
        )
        with pytest.raises(BadVideo, match="cannot be read as png") as caught:
            reader.open(images).rgb([0, 1])
        assert caught.value.path == str(images / "1.png")
        with pytest.raises(ValueError, match="between 0 and 1") as wrong:
            videos[0][0].rgb([0], size=8, top=-1)
        assert not isinstance(wrong.value, BadVideo)
        with pytest.raises(ValueError, match="among 0 to 39"):
            videos[0][0].rgb([40])
        assert reader.process == first


def test_relative_paths_and_odd_names(
    tmp_path: Path, file: Path, reader: IsolatedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is meant from where this process is now, and comes back as it was given, whatever bytes it is made of."""
    reader.open(file)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    odd = Path(os.fsdecode(b"\xff \xc3\xa9\n.mp4"))
    odd.write_bytes(file.read_bytes())
    assert stamps(reader.open(odd).rgb([3])) == [3]
    with pytest.raises(BadVideo) as caught:
        reader.open(Path("none.mp4"))
    assert caught.value.path == "none.mp4"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_a_bad_video(file: Path, reader: IsolatedReader, trouble: Any, number: int) -> None:
    """The video is named with the signal, and the next one is read by a new process."""
    trouble(lambda: os.kill(os.getpid(), number))
    assert stamps(reader.open(file).rgb([5])) == [5]
    first = reader.process
    with pytest.raises(BadVideo) as caught:
        reader.open("trouble.mp4")
    assert (caught.value.path, caught.value.reason) == (
        "trouble.mp4",
        f"crashed the decoder (signal {int(number)})",
    )
    assert stamps(reader.open(file).rgb([5])) == [5]
    assert reader.process not in (None, first) and first is not None and not is_alive(first)


def test_a_bug_there_is_not_hidden(reader: IsolatedReader, trouble: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """An error that nobody expected shows its traceback and counts as a crash."""

    def bug() -> None:
        raise RuntimeError("a bug")

    trouble(bug)
    with pytest.raises(BadVideo, match=r"crashed the decoder \(exit code 70\)"):
        reader.open("trouble.mp4")
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_a_hang_is_a_bad_video(file: Path, trouble: Any) -> None:
    """It is given its time and no more; its process is gone."""
    trouble(lambda: time.sleep(60))
    with IsolatedReader(seconds=0.4) as reader:
        reader.open(file)
        first, start = reader.process, time.monotonic()
        with pytest.raises(BadVideo, match=r"takes longer than 0\.4 s to decode"):
            reader.open("trouble.mp4")
        assert 0.4 <= time.monotonic() - start < 2
        assert first is not None and not is_alive(first)
        assert stamps(reader.open(file).rgb([1])) == [1]


def test_memory_is_limited(file: Path, trouble: Any) -> None:
    """Address space beyond the limit is refused to the decoder, and the process lives on."""
    trouble(lambda: np.zeros(2**30, np.uint8))
    with IsolatedReader(memory_bytes=2**29) as reader:
        reader.open(file)
        first = reader.process
        with pytest.raises(BadVideo, match=r"needs more than 0\.5 GiB"):
            reader.open("trouble.mp4")
        assert stamps(reader.open(file).rgb([1])) == [1] and reader.process == first


def test_nothing_inherited_is_kept_open(file: Path, reader: IsolatedReader, trouble: Any) -> None:
    """An end of a pipe held there would hide from others that this process died; only its own two are, and the three
    standard ones."""

    def tell() -> None:
        raise BadVideo("trouble", " ".join(sorted(os.listdir("/proc/self/fd"))))

    trouble(tell)
    with file.open() as other:
        with pytest.raises(BadVideo) as caught:
            reader.open("trouble.mp4")
        kept = set(map(int, caught.value.reason.split()))
        assert other.fileno() not in kept and len(kept - {0, 1, 2}) == 3, "its pipes, and the folder that it lists"


def test_signals_to_the_whole_group_are_for_the_parent(file: Path, reader: IsolatedReader) -> None:
    """A cluster that ends a job tells every process of it. The parent still wants to finish its step, so no sound video
    may become a bad one."""
    reader.open(file)
    assert reader.process is not None
    os.kill(reader.process, signal.SIGTERM)
    os.kill(reader.process, signal.SIGINT)
    first = reader.process
    assert stamps(reader.open(file).rgb([7])) == [7] and reader.process == first


def test_a_process_that_died_idle_costs_no_video(file: Path, reader: IsolatedReader) -> None:
    """Memory may run out elsewhere: a process killed between two requests is replaced, and no video is blamed."""
    video = reader.open(file)
    assert reader.process is not None
    os.kill(reader.process, signal.SIGKILL)
    assert ends(reader.process, within=2)
    assert stamps(video.rgb([7])) == [7]


@pytest.mark.parametrize(
    "answer",
    [
        ({"shape": [1, 32, 48, 3]}, b"too short"),
        ({"shape": [-1, 32, -48, 3]}, bytes(4608)),
        ({"shape": "abcd"}, b""),
        ({"shape": [1, 8, 192, 3]}, bytes(4608)),
        ({}, b"x" * 7),
    ],
)
def test_an_answer_without_sense_is_a_crash(
    file: Path, reader: IsolatedReader, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """What decoded a hostile file may say anything: nothing is believed whose shape is not the one asked for."""
    real = child._answer
    monkeypatch.setattr(child, "_answer", lambda request, *rest: answer if "size" in request else real(request, *rest))
    with pytest.raises(BadVideo, match="its answer makes no sense"):
        reader.open(file).rgb([0], size=16)
    assert reader.process is None


def test_a_message_that_is_too_long_is_not_waited_for() -> None:
    """Lengths are checked before memory is taken for them."""
    read, write = os.pipe()
    for lengths in ((2**40, 0), (2, 2**60)):
        os.write(write, child.LENGTHS.pack(*lengths))
        with pytest.raises(ValueError, match="a message of"):
            child.receive(read)
    child.send(write, {"a": 1}, b"body")
    assert child.receive(read) == ({"a": 1}, b"body")
    os.write(write, child.LENGTHS.pack(2, 0) + b"[]")
    with pytest.raises(ValueError, match="a list"):
        child.receive(read)
    with pytest.raises(TimeoutError):
        child.receive(read, deadline=time.monotonic() + 0.01)
    os.close(write)
    with pytest.raises(EOFError):
        child.receive(read)
    os.close(read)


def test_a_file_that_changed_is_noticed(tmp_path: Path, reader: IsolatedReader) -> None:
    """Frames chosen by the times of another file would be wrong ones."""
    path = encode(tmp_path / "a.mp4", stamped(20))
    video = reader.open(path)
    encode(path, stamped(30))
    reader.close()
    with pytest.raises(BadVideo, match="has changed since it was opened"):
        video.rgb([3])


class Frames(Dataset[tuple[int, list[int]]]):
    """One frame per item, and the process that read it."""

    def __init__(self, path: Path) -> None:
        self.path, self.reader = path, IsolatedReader(seconds=20)
        self.reader.open(path)  # the process of the main process is not the workers'

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, list[int]]:
        found = stamps(self.reader.open(self.path).rgb([index]))
        assert self.reader.process is not None
        return self.reader.process, found


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_it_works_in_loader_workers_and_ends_with_them(file: Path) -> None:
    """Workers may have no children by `multiprocessing`; each has one by this reader, which is gone soon after it."""
    data = Frames(file)
    items = list(DataLoader(data, batch_size=None, num_workers=2))
    assert [found for _, found in items] == [[index] for index in range(8)]
    processes = {process for process, _ in items}
    assert len(processes) == 2 and data.reader.process not in processes
    assert all(ends(process, within=4) for process in processes)
    assert stamps(data.reader.open(file).rgb([9])) == [9], "and the main process still has its own"
    data.reader.close()


def test_it_does_not_travel(file: Path, reader: IsolatedReader) -> None:
    """A reader that is sent to another process starts its own there."""
    reader.open(file)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.process is None
    assert stamps(copy.open(file).rgb([4])) == [4]
    assert copy.process != reader.process
    copy.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_it_does_not_outlive_a_parent_that_was_killed(
    file: Path, trouble: Any, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """SIGKILL leaves nobody time to clean up, and a third process may still hold the pipe. An idle process looks up now
    and then; one that hangs in a decoder is ended by the alarm that was set before."""
    monkeypatch.setattr(child, "GRACE", 0.2)
    monkeypatch.setattr(child, "LOOK_UP", 0.1)
    trouble(lambda: time.sleep(60))
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        reader = IsolatedReader(seconds=0.5)
        reader.open(file)
        assert reader._child is not None
        if os.fork() == 0:  # the third process
            time.sleep(5)
            os._exit(0)
        if state == "busy":
            child.send(reader._child.requests, {"path": "trouble", "max_frames": None})
            time.sleep(0.1)
        os.write(write, str(reader.process).encode())
        time.sleep(60)
    process = int(os.read(read, 100))
    assert is_alive(process)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert ends(process, within=3)
    os.close(read)
    os.close(write)


def test_limits_are_checked() -> None:
    """One line for what cannot be meant."""
    for options, message in (
        ({"seconds": 0}, "must be positive, got 0 s"),
        ({"memory_bytes": -1}, "must be positive"),
        ({"start": "thread"}, "fork or spawn, got 'thread'"),
    ):
        with pytest.raises(ValueError, match=message):
            IsolatedReader(**options)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="only Linux tells how much a process has")
def test_videos_that_stay_open_leave_room_for_the_next(tmp_path: Path) -> None:
    """Their decoders take more than is counted: without a look at what the process really has, some hundred small files
    would fill its limit, and every later video would be called bad."""
    whole = encode(tmp_path / "whole.mp4", moving(12, 48, 64), "libx264", "yuv420p", options={"bf": "2"})
    with IsolatedReader(memory_bytes=2**26) as reader:
        for number in range(600):
            twin = tmp_path / f"{number}.mp4"
            os.link(whole, twin)
            assert reader.open(twin).rgb([5]).shape == (1, 48, 64, 3)
