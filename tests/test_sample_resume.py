"""Whatever ends `magi sample`, every finished frame can be watched, and `--resume` makes the files that would have been
made, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor

from magi import cli
from magi.cli import sample as verb
from magi.locks import only_writer
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.report.films import GrowingFilm
from magi.sampling import journal as journal_module
from magi.sampling import rollout, video
from magi.sampling.config import SampleConfig
from magi.sampling.journal import Journal
from magi.sampling.release import Release, load, save_release
from magi.seeds import generator
from magi.selftest import toy
from magi.tokenizers.pixel import PixelTokenizer
from magi.video import BadVideo, read_video, write_video
from tests.temporal import Groups, StreamedGroups
from tests.toys import FLOW, random_latents, tiny, trained_looking

SETTINGS = SampleConfig(mask_steps=3, head_steps=3, solver="ddim")
PLAIN = ("--plain",)
OF = {"seeds": [3, 4], "frames": 9}


# --- latents: what was made is not made again, and what follows does not notice ---

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes of the model and of the settings
    "all frames in sight": ({}, {}),
    "window": ({}, {"window": 4}),
    "observation noise": ({}, {"observation_noise": 0.3}),
    "both, one by one": ({"noise_mix": "vp"}, {"window": 3, "observation_noise": 0.3, "deterministic": True}),
    "ddpm, NumPy's noise": ({}, {"solver": "ddpm", "noise_source": "cpu", "window": 5}),
    "flow, positions counted on": ({"head": FLOW}, {"solver": "euler", "time_mode": "extrapolate"}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("given", [0, 3])
def test_a_rollout_goes_on_where_it_was_interrupted(name: str, given: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, after some number of frames, the rest are the same bits: the frames that were made are read in passes
    of the shapes they were read in, under the noise and at the places of their numbers. None of them is made again."""
    changes, settings = CASES[name]
    model = trained_looking(tiny(**changes), dtype=torch.float32)
    context = random_latents(model.config, frames=given).float() if given else None
    call = {"num_frames": 6, "seeds": [3, 4], "interval": [1, 5]}
    options = SampleConfig(**{**vars(SETTINGS), **settings})
    whole = list(rollout.generate(model, context, settings=options, **call))
    made = count_calls(monkeypatch, rollout, "sample_frame")
    for kept in (1, 3, 4, 6):
        made.clear()
        again = list(rollout.generate(model, context, settings=options, made=whole[:kept], **call))
        assert len(made) == (6 - kept) * (2 if options.deterministic else 1)
        assert torch.equal(torch.stack(again), torch.stack(whole)), kept


def test_other_frames_are_continued_otherwise() -> None:
    """The test above could fail: what was made is looked at."""
    model = trained_looking(tiny(), dtype=torch.float32)
    call: dict[str, Any] = {"num_frames": 3, "seeds": [3, 4], "settings": SETTINGS}
    whole = list(rollout.generate(model, None, **call))
    other = list(rollout.generate(model, None, made=[whole[0] + 1e-3, whole[1]], **call))
    assert torch.equal(other[1], whole[1]) and not torch.equal(other[2], whole[2])


def test_frames_that_cannot_have_been_made_are_refused() -> None:
    """Too many, or of another size: with both numbers."""
    model = trained_looking(tiny(), dtype=torch.float32)
    frame = torch.zeros(1, 2, 4, 6)
    with pytest.raises(ValueError, match="2 frames are made already, but num_frames is 1"):
        rollout.generate(model, None, num_frames=1, seeds=[0], made=[frame, frame])
    with pytest.raises(ValueError, match=r"is \(1, 2, 4, 6\); expected \(2, 2, 4, 6\)"):
        rollout.generate(model, None, num_frames=1, seeds=[0, 1], made=[frame])


@pytest.mark.parametrize("tokenizer", [Groups(), StreamedGroups(), Groups(leak=0.3)], ids=["causal", "stream", "leaky"])
def test_pixels_of_latents_that_stand_for_several_frames(tokenizer: Groups, tmp_path: Path) -> None:
    """A latent frame is kept before the first of its four frames comes out, so wherever it was interrupted all frames
    come out again, and the same."""
    config = tiny(latent_channels=48, latent_height=2, latent_width=2, head=FLOW)
    release = Release(trained_looking(config, dtype=torch.float32), tokenizer, SampleConfig(mask_steps=2, head_steps=2))
    context = torch.randint(256, (2, 5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"num_frames": 10, "seeds": [3, 4]}
    whole = torch.stack(list(video.generate(release, context, **call)))
    for shown in (0, 1, 4, 5, 9, 10):
        path = tmp_path / str(shown)
        begun = video.generate(release, context, journal=Journal(path, OF), **call)
        for _ in range(shown):
            next(begun)
        journal = Journal(path, OF)
        again = video.generate(release, context, journal=journal, **call)
        found = 0 if not shown else -(-shown // 4) if tokenizer.is_causal else 3
        assert len(journal.frames) == found and torch.equal(torch.stack(list(again)), whole)


def count_calls(patch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Note every call of a function of a module."""
    called, right = list[str](), getattr(module, name)

    def noted(*arguments: Any, **options: Any) -> Any:
        called.append(name)
        return right(*arguments, **options)

    patch.setattr(module, name, noted)
    return called


# --- the journal ---


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Tensor]]:
    """A journal of four frames, and the frames."""
    frames = list(torch.randn(4, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0))
    journal = Journal(tmp_path / "journal", OF)
    assert list(journal.keep(frames)) == frames and journal.added == 4
    journal.close()
    return tmp_path / "journal", frames


def ends_of(path: Path) -> list[int]:
    """Where the records end."""
    ends, data = [0], path.read_bytes()
    while ends[-1] < len(data):
        ends.append(ends[-1] + journal_module.HEAD + int(data[ends[-1] :][:16]))
    return ends


def test_a_frame_is_in_the_file_before_it_is_shown(tmp_path: Path) -> None:
    """Another process, reading the file at the moment a frame comes out, finds that frame."""
    frames = torch.arange(3.0).split(1)
    for number, frame in enumerate(Journal(tmp_path / "journal", OF).keep(frames), start=1):
        shutil.copy(tmp_path / "journal", tmp_path / "seen")
        found = Journal(tmp_path / "seen", OF).frames
        assert len(found) == number and torch.equal(found[-1], frame)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_come_back_in_their_own_type(tmp_path: Path, dtype: torch.dtype) -> None:
    """Every bit of every type a model may compute in."""
    frame = torch.randn(2, 3, 2, 2, dtype=dtype)
    list(Journal(tmp_path / "journal", OF).keep([frame.transpose(2, 3)]))
    (found,) = Journal(tmp_path / "journal", OF).frames
    assert found.dtype == dtype and torch.equal(found, frame.transpose(2, 3))


def test_a_torn_record_is_made_again(written: tuple[Path, list[Tensor]]) -> None:
    """Wherever the file was cut, the frames before are found, the loss is told, and new ones follow on the last whole
    one."""
    path, frames = written
    data, ends = path.read_bytes(), ends_of(path)
    for cut in (*range(ends[1], ends[2], 7), *range(ends[3], ends[4], 7), *ends[1:]):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends) - 2
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            journal = Journal(path, OF)
        assert len(journal.frames) == whole and len(told) == (cut not in ends)
        assert all(torch.equal(*pair) for pair in zip(journal.frames, frames, strict=False))
        list(journal.keep(frames))
        journal.close()
        assert path.read_bytes() == data


def taken_of_damaged(path: Path) -> dict[str, int]:
    """How many of four frames are taken when a journal is damaged in each of many ways; the loss must be told."""
    data, ends = path.read_bytes(), ends_of(path)
    head, *parts = [data[start:end] for start, end in pairwise(ends)]
    other = path.with_name("other")
    list(Journal(other, {**OF, "frames": 8}).keep(torch.zeros(1, 1)))
    damaged = {
        "changed places": [parts[1], parts[0], *parts[2:]],
        "missing": [parts[0], *parts[2:]],
        "twice": [*parts[:2], *parts[1:]],
        "a stranger": [*parts[:2], other.read_bytes()[ends_of(other)[1] :]],
    }
    for number, part in enumerate(parts):
        for place in (0, 20, 81, 82, 120, len(part) - 1):
            flipped = part[:place] + bytes([part[place] ^ 4]) + part[place + 1 :]
            damaged[f"{number} flipped at {place}"] = [*parts[:number], flipped, *parts[number + 1 :]]
    taken = {}
    for name, what in damaged.items():
        path.write_bytes(b"".join([head, *what]))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            taken[name] = len(Journal(path, OF).frames)
        assert len(told) == (path.stat().st_size < sum(map(len, [head, *what])))
    return taken


def test_damage_ends_the_list(written: tuple[Path, list[Tensor]]) -> None:
    """A flipped bit, frames that changed places, one that is missing, twice there or another journal's: from there on
    nothing is taken, since every checksum covers all that precedes it."""
    taken = taken_of_damaged(written[0])
    assert all(taken.pop(name) == whole for name, whole in
               {"changed places": 0, "missing": 1, "twice": 2, "a stranger": 2}.items())  # fmt: skip
    assert len(taken) == 24 and all(whole == int(name[0]) for name, whole in taken.items())


def test_a_damaged_beginning_is_refused(written: tuple[Path, list[Tensor]]) -> None:
    """Without its first record nobody knows what the frames are of."""
    path, _ = written
    data = path.read_bytes()
    for broken in (b"", data[:50], b"x" + data[1:], data[:100] + b"x" + data[101:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="journal is damaged at its beginning"):
            Journal(path, OF)


def test_checksums_of_single_frames_are_not_enough(
    written: tuple[Path, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With that bug planted, frames are taken at wrong places, and the claim on damage is seen to be broken."""
    path, frames = written
    head = journal_module._head
    monkeypatch.setattr(journal_module, "_head", lambda before, body: head("", body))
    path.unlink()
    list(Journal(path, OF).keep(frames))
    taken = taken_of_damaged(path)
    assert (taken["changed places"], taken["missing"], taken["a stranger"]) == (4, 3, 3)


def test_a_journal_of_something_else_is_refused(written: tuple[Path, list[Tensor]]) -> None:
    """Every difference, with both values; and the file stays as it is."""
    path, _ = written
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"seeds: saved \[3, 4\], now \[3, 5\]; frames: saved 9, now 10; resume with"):
        Journal(path, {"seeds": (3, 5), "frames": 10})
    assert path.read_bytes() == before


# --- the command, killed ---


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released model of 32-pixel videos with random weights, and three videos, of which one has no sequel."""
    folder = tmp_path_factory.mktemp("resume")
    config = MagiConfig(
        latent_channels=192, latent_height=4, latent_width=4, num_frames=6, depth=1, width=16, mlp_width=16, heads=2,
        head=HeadConfig(width=16, depth=1), max_interval=3,
    )  # fmt: skip
    settings = SampleConfig(mask_steps=2, head_steps=2, window=4, observation_noise=0.2)
    network = trained_looking(config, dtype=torch.float32)
    save_release(folder / "model", Release(network, PixelTokenizer(8), settings), card="")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 4, 4, 3), dtype=np.uint8)
    for name, frames, length in zip("abc", pixels, (12, 12, 4), strict=True):
        write_video(folder / "clips" / f"{name}.mp4", frames[:length], fps=8, scale=8)
    return folder


@dataclass
class Interrupted:
    """`magi sample` into a folder: run it, kill it, look at what is there."""

    place: Path
    out: Path
    more: tuple[str, ...] = ()
    shown: dict[str, int] = field(default_factory=dict)  # frames of each film that can be watched from now on

    def words(self, *more: str) -> list[str]:
        """The command."""
        settings = "--context-frames 3 --frames 6 --batch 2 --threads 1 --device cpu --out".split()
        clips = self.place / "clips"
        return [
            "sample",
            f"{self.place / 'model'}",
            "--context",
            f"{clips}",
            *settings,
            f"{self.out}",
            *self.more,
            *more,
        ]

    def complete(self, *more: str) -> int:
        """Run it to the end in a child; its exit code."""
        return toy.ended(toy.fork(lambda: cli.main(self.words(*more))))

    def killed(self, numbers: Generator) -> bool:
        """Start or resume it and kill it: at once, or when it has added some frames to films, and then a moment later.
        Whether that hit it."""
        heard, told = os.pipe()
        child = toy.fork(lambda: self._telling(told))
        os.close(told)
        with os.fdopen(heard) as lines:
            for _ in range(numbers.integers(0, 36)):
                if not self._note(lines.readline()):
                    break
            time.sleep(numbers.random() * 0.01)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            hit = toy.ended(child) == -signal.SIGKILL
            while self._note(lines.readline()):
                pass
        return hit

    def _telling(self, told: int) -> int:
        """The command, with a line when a frame has been added to a film, and one when it can be watched, which new
        ones can at once, and those from before an interruption as many as then: how many can be."""
        append, reveal = GrowingFilm.append, GrowingFilm.reveal

        def appending(film: GrowingFilm, frame: Tensor) -> None:
            append(film, frame)
            os.write(told, f"{film.stem.name} 0\n".encode())

        def revealing(film: GrowingFilm) -> None:
            reveal(film)
            shown = 3 + film.made - 1  # of those that were added, the last one is still to be flushed
            os.write(told, f"{film.stem.name} {shown}\n".encode())

        GrowingFilm.append, GrowingFilm.reveal = appending, revealing  # type: ignore[method-assign]
        return cli.main(self.words("--resume"))

    def _note(self, line: str) -> bool:
        if line:
            name, shown = line.rsplit(" ", 1)
            self.shown[name] = max(self.shown.get(name, 0), int(shown))
        return bool(line)

    def problems(self, whole: dict[str, np.ndarray]) -> list[str]:
        """What is wrong with the films as they lie there, of which the whole ones are known."""
        found = []
        for name, least in self.shown.items():
            frames = frames_in(self.out / f"{name}.mp4")
            if len(frames) < least:
                found.append(f"{name}: {len(frames)} frames can be read of {least} that were flushed")
            if len(frames) and not np.array_equal(frames, whole[name][: len(frames)]):
                found.append(f"{name}: other frames than undisturbed")
        return found


def frames_in(path: Path) -> np.ndarray:
    """The frames that can be read, perhaps none."""
    with suppress(BadVideo, FileNotFoundError):
        return read_video(path).frames
    return np.zeros((0, 1, 1, 3), dtype=np.uint8)


def files_in(out: Path) -> dict[str, Any]:
    """Every file, hidden or not, below a folder; of the record all but what measures time."""
    files = contents(out)
    record = json.loads(files["sample.json"])
    assert record.pop("seconds_per_frame") != 0
    return {**files, "sample.json": record}


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes when nothing disturbs it, in this process, which imports for its children."""
    run = Interrupted(place, tmp_path_factory.mktemp("whole") / "out", PLAIN)
    assert cli.main(run.words()) == 0
    return run.out


def disturb(place: Path, whole: Path, folder: Path, *more: str, kills: int, seed: int) -> list[str]:
    """Kill so many commands, each folder's until it ends by itself; what was wrong."""
    expected, numbers, failures, hits, runs = files_in(whole), generator(seed, "kills"), list[str](), 0, 0
    films = {path.stem: read_video(path).frames for path in whole.glob("*.mp4")}
    while hits < kills and not failures:
        run = Interrupted(place, folder / f"run-{runs}", more)
        runs += 1
        while hits < kills and run.killed(numbers):
            hits += 1
            failures += [f"kill {hits}: {problem}" for problem in run.problems(films)]
        if code := run.complete("--resume"):
            failures.append(f"run {runs}: resumed after kills it ended with code {code}")
        elif files_in(run.out) != expected:
            failures.append(f"run {runs}: other files than undisturbed")
    return failures


def test_killed_at_any_moment_nothing_finished_is_lost(place: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL at random frames and moments, of first and of resumed runs, in replay and at work, with a window and
    observation noise: at every moment all frames flushed so far can be read, and are those of the undisturbed run; in
    the end every file is the same to the byte, and no other is left."""
    assert disturb(place, whole, tmp_path, *PLAIN, kills=14, seed=0) == []


def test_framed_films_and_gifs_come_back_too(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of what is made to be watched, of which more is written, and some of it only at the end."""
    monkeypatch.setattr("magi.report.films.WATCHABLE", 64)  # for the children too, and quicker
    run = Interrupted(place, tmp_path / "whole")
    assert cli.main(run.words()) == 0 and len(list(run.out.glob("*.gif"))) == 3
    assert disturb(place, run.out, tmp_path, kills=6, seed=0) == []


def shifted(load: Callable[[bytes], dict[str, Tensor]]) -> Callable[[bytes], dict[str, Tensor]]:
    """Each frame of a journal under the number of the one after it."""
    before: list[dict[str, Tensor]] = []

    def wrong(body: bytes) -> dict[str, Tensor]:
        before.append(load(body))
        return before[max(0, len(before) - 2)]

    return wrong


def miscounting(pass_over: Callable[..., None]) -> Callable[..., None]:
    """After a replay, the order of a frame is that of the one before."""

    def wrong(model: Any, predict: Any, **rest: Any) -> None:
        pass_over(model, predict, **rest)
        noise = predict.__self__.noise
        noise.order = lambda frame: type(noise).order(noise, frame - 1)

    return wrong


def late(reveal: Callable[[GrowingFilm], None]) -> Callable[[GrowingFilm], None]:
    """A film takes its name only when it is whole."""
    return lambda film: reveal(film) if film.made == 6 else None


@pytest.mark.parametrize(
    "plant",
    [
        lambda patch: patch.setattr(journal_module, "load", shifted(journal_module.load)),
        lambda patch: patch.setattr(rollout, "pass_over", miscounting(rollout.pass_over)),
        lambda patch: patch.setattr(GrowingFilm, "reveal", late(GrowingFilm.reveal)),
    ],
    ids=["frames at wrong places", "orders of other frames", "only whole films"],
)
def test_a_broken_resume_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], place: Path, whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With a bug planted, the claim on kills is seen to be broken."""
    plant(monkeypatch)
    failures = disturb(place, whole, tmp_path, *PLAIN, kills=6, seed=1)
    assert any("other f" in failure or "can be read" in failure for failure in failures), failures


# --- the command, told something else ---


def interrupted(place: Path, out: Path, patch: pytest.MonkeyPatch, *, at: int) -> Interrupted:
    """A command that Ctrl-C ended when it had added so many frames to films."""
    run, append, added = Interrupted(place, out, PLAIN), GrowingFilm.append, list[GrowingFilm]()

    def interrupting(film: GrowingFilm, frame: Tensor) -> None:
        if len(added) == at:
            raise KeyboardInterrupt
        added.append(film)
        append(film, frame)

    with patch.context() as until:
        until.setattr(GrowingFilm, "append", interrupting)
        assert cli.main(run.words()) == cli.INTERRUPTED
    return run


def test_ctrl_c_says_how_to_go_on(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was finished is closed and left, whatever was interrupted; resumed, only what is missing is made, and when
    all is there, nothing."""
    made = count_calls(monkeypatch, rollout, "sample_frame")
    for at, left in ((0, 11), (5, 9), (14, 3)):
        run = interrupted(place, tmp_path / str(at), monkeypatch, at=at)
        assert "the same command with --resume goes on" in capsys.readouterr().out
        if at == 5:
            assert len(read_video(run.out / "000-a.mp4").frames) == 3 + 3
        made.clear()
        assert cli.main(run.words("--resume")) == 0 and len(made) == left
        assert files_in(run.out) == files_in(whole)
    before = contents(run.out)
    assert cli.main(run.words("--resume")) == 0 and len(made) == left
    assert "is finished: there is nothing to resume" in capsys.readouterr().out and contents(run.out) == before


def test_other_commands_do_not_resume(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with both values, for every setting that differs, whether the videos are finished or not; nothing is
    touched."""
    run = interrupted(place, tmp_path / "out", monkeypatch, at=5)
    for state in ("interrupted", "finished"):
        before = contents(run.out)
        for more, told in (
            ("--frames 9", "frames: saved 6, now 9"),
            ("--seed 1", "seeds: saved [0, 1, 2], now [1, 2, 3]"),
            ("--batch 1", "batch: saved 2, now 1"),
            ("--fps 9", "fps: saved 8.0, now 9.0"),
            ("--context-frames 4", "context_frames: saved 3, now 4"),
            ("--sample.window 5 --sample.mask-steps 3", "steps: saved 2, now 3; sample.window: saved 4, now 5"),
        ):
            assert told in refusal(run, capsys, "--resume", *more.split())
        assert contents(run.out) == before, state
        assert cli.main(run.words("--resume")) == 0


def test_other_contents_do_not_resume(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of the same names and settings, with other pixels or weights in them, are other ones."""
    here = tmp_path / "here"
    shutil.copytree(place, here)
    run = interrupted(here, tmp_path / "out", monkeypatch, at=5)
    shutil.copy(here / "clips" / "b.mp4", here / "clips" / "a.mp4")
    config = load(here / "model").model.config
    shutil.rmtree(here / "model")
    network = trained_looking(config, seed=1, dtype=torch.float32)
    save_release(here / "model", Release(network, PixelTokenizer(8), load(place / "model").sample), card="")
    assert cli.main(run.words("--resume")) == cli.MISUSE
    told = capsys.readouterr().err
    assert "model_sha256: saved '" in told and "context_sha256: saved '" in told and told.count("; ") == 2


def test_nothing_is_written_over(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --resume an interrupted command is not repeated, nor a finished one, nor one that another process is at;
    with it, a folder of something else is left alone, and an empty one is begun."""
    run = interrupted(place, tmp_path / "out", monkeypatch, at=5)
    before = contents(run.out)
    assert (
        refusal(run, capsys)
        == f"{run.out} holds videos that were interrupted; --resume completes them, or give another --out"
    )
    heard, told = os.pipe()
    holding = toy.fork(lambda: hold(run.out / verb.UNFINISHED, told))
    assert os.read(heard, 1)
    assert f"is being written by process {holding} on" in refusal(run, capsys, "--resume")
    os.kill(holding, signal.SIGKILL)
    toy.ended(holding)
    assert {**contents(run.out), "unfinished/.writer": b""} == {**before, "unfinished/.writer": b""}
    finished = Interrupted(place, whole, PLAIN)
    assert "is not an empty folder" in refusal(finished, capsys)
    other = Interrupted(place, tmp_path / "other", PLAIN)
    other.out.mkdir()
    (other.out / "letter").touch()
    assert "is not an empty folder" in refusal(other, capsys, "--resume")
    (other.out / "letter").unlink()
    assert cli.main(other.words("--resume")) == 0 and files_in(other.out) == files_in(whole)


def test_a_mistake_leaves_nothing_to_resume(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that do not fit the model are found before there is a journal: the folder is as empty as before."""
    run = Interrupted(place, tmp_path / "out", ("--sample.solver", "euler"))
    assert "does not fit a head" in refusal(run, capsys)
    assert contents(run.out) == {}


def refusal(run: Interrupted, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What a command that must fail says."""
    capsys.readouterr()
    assert cli.main(run.words(*more)) == cli.MISUSE
    return capsys.readouterr().err.removeprefix("magi sample: ").strip()


def hold(folder: Path, told: int) -> int:
    """Be the writer of a folder, and say so."""
    with only_writer(folder):
        os.write(told, b"!")
        time.sleep(60)
    return 0
