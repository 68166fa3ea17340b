"""Claims about checkpoints: whole or absent, checked by content, never overwritten, loaded only where they fit."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.selftest.crashes import watch, write_tree


def state(step: int) -> dict[str, Tensor]:
    """Tensors that tell which step they were saved at."""
    return {"layer.weight": torch.full((4, 3), float(step)), "layer.bias": torch.arange(3), "count": torch.tensor(step)}


def write(run_dir: Path, step: int) -> Path:
    """Save a small checkpoint of `step`."""
    directory = run_dir / f"step-{step:08d}"
    checkpoint.save(directory, {"model": state(step), "tokenizer/model": state(step)}, {"state.json": {"step": step}})
    return directory


def step_of(directory: Path) -> int:
    """The step that a checkpoint's tensors and documents agree on."""
    steps = {int(checkpoint.load_tensors(directory, stem, state(0))["count"]) for stem in ("model", "tokenizer/model")}
    steps.add(json.loads((directory / "state.json").read_text())["step"])
    (step,) = steps
    return step


def visible(run_dir: Path) -> list[str]:
    """Names in a run's folder that are not hidden."""
    return sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Every type, and layouts that are not contiguous, return with equal values; documents are plain files."""
    matrix = torch.arange(12.0).view(3, 4)
    tensors = {
        "transposed": matrix.T,
        "strided": matrix[:, ::2],
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 5),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        **{str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in checkpoint.DTYPES.values()},
    }
    documents = {"config.json": {"a": [1, 2]}, "world.yaml": {"b": 0.5}, "README.md": "A card.\n"}
    directory = tmp_path / "deep" / "model"
    checkpoint.save(directory, {"model": tensors}, documents)

    checkpoint.verify(directory)
    loaded = checkpoint.load_tensors(directory, "model", tensors)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name
    assert json.loads((directory / "config.json").read_text()) == {"a": [1, 2]}
    assert (directory / "world.yaml").read_text() == "b: 0.5\n"
    assert (directory / "README.md").read_text() == "A card.\n"
    modes = {path.stat().st_mode for path in directory.iterdir()}
    assert len(modes) == 1, "every file follows the umask, the tensors too"


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    """Saving a second time to one place is refused before anything is written, and the first checkpoint stays."""
    directory = write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="already exists"):
        checkpoint.save(directory, {"model": state(2)}, {})
    checkpoint.verify(directory)
    assert step_of(directory) == 1 and os.listdir(tmp_path) == [directory.name]


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", ".x.json", "a/../../x.json", "MANIFEST.json", "a\\x.json", ""]
)
def test_names_stay_inside_the_checkpoint(tmp_path: Path, name: str) -> None:
    """A name that is hidden, absolute, climbing, or the manifest's own is refused, and leaves nothing behind."""
    with pytest.raises(ValueError, match="plain relative name"):
        checkpoint.save(tmp_path / "model", {}, {name: {}})
    assert not list(tmp_path.iterdir())


def flip(path: Path, seed: int) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    position = random.Random(seed).randrange(8 * len(content))
    content[position // 8] ^= 1 << (position % 8)
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "missing": lambda path: path.unlink(),
    "swapped": lambda path: shutil.copy(str(path).replace("step-00000002", "step-00000001"), path),
    "renamed": lambda path: path.rename(path.with_name(f"other{path.suffix}")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/model.safetensors", "state.json", "MANIFEST.json"])
def test_damage_is_named_and_the_previous_checkpoint_used(tmp_path: Path, name: str, damage: str) -> None:
    """The manifest lists all files with size and SHA-256: no damage passes, and a run goes on from the step before."""
    previous, newest = write(tmp_path, 1), write(tmp_path, 2)
    DAMAGE[damage](newest / name)
    is_foreign_manifest = (name, damage) == ("MANIFEST.json", "swapped")  # valid by itself: it is the files that differ
    with pytest.raises(CheckpointError, match="model.safetensors" if is_foreign_manifest else re.escape(name)):
        checkpoint.verify(newest)
    with pytest.warns(UserWarning, match="step-00000002"):
        assert checkpoint.newest_valid(tmp_path) == previous


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """No format notices a flipped bit by itself; the hash does, and a flip in the manifest contradicts the files or the
    form. 400 bits over all files."""
    directory = write(tmp_path, 1)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    for seed in range(400):
        path = paths[seed % len(paths)]
        intact = path.read_bytes()
        flip(path, seed)
        with pytest.raises(CheckpointError):
            checkpoint.verify(directory)
        path.write_bytes(intact)
    checkpoint.verify(directory)


def test_a_file_the_manifest_does_not_know_is_refused(tmp_path: Path) -> None:
    """Nobody vouches for it. What file browsers and download tools hide in a folder is another matter."""
    directory = write(tmp_path, 1)
    (directory / ".DS_Store").write_text("x")
    checkpoint.verify(directory)
    (directory / "tokenizer" / "extra.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer/extra\.json is not in the manifest"):
        checkpoint.verify(directory)


def test_all_damage_is_listed_at_once(tmp_path: Path) -> None:
    """One look at the error tells what has to be restored."""
    directory = write(tmp_path, 1)
    (directory / "state.json").unlink()
    DAMAGE["truncated"](directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"state\.json is missing; model\.safetensors has \d+ bytes instead of"):
        checkpoint.verify(directory)


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {"format": 2, "files": {}},
        {"format": 1},
        {"format": 1, "files": {"../x": {"size": 1}}},
        {"format": 1, "files": {"x": 3}},
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, manifest: object) -> None:
    """The manifest is input like any other: another version or form gives the typed error, not a KeyError."""
    directory = write(tmp_path, 1)
    (directory / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        checkpoint.verify(directory)


def test_no_checkpoint_is_none_but_no_intact_checkpoint_is_an_error(tmp_path: Path) -> None:
    """A new run starts from nothing; a run whose every checkpoint is damaged must not do so silently."""
    assert checkpoint.newest_valid(tmp_path / "absent") is None
    (tmp_path / "metrics.jsonl").touch()
    assert checkpoint.newest_valid(tmp_path) is None
    for step in (1, 2):
        flip(write(tmp_path, step) / "model.safetensors", step)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(CheckpointError, match=r"none .* is intact"):
        warnings.simplefilter("always")
        checkpoint.newest_valid(tmp_path)
    assert len(caught) == 2


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    """Names sort as text only up to eight digits."""
    write(tmp_path, 99_999_999)
    newest = write(tmp_path, 100_000_000)
    assert checkpoint.newest_valid(tmp_path) == newest


class Crash(BaseException):
    """The machine stops here; a BaseException, so that no cleaning up is mistaken for an answer to it."""


def test_a_crash_at_any_moment_of_a_save_leaves_a_loadable_run(tmp_path: Path) -> None:
    """Whatever moment the save stops at, and whatever had reached the disk, the run holds the old checkpoint, or both;
    until the rename only the old one; the litter is hidden and swept at the next start, when the same save then
    succeeds."""
    run_dir, disk = tmp_path / "run", tmp_path / "disk"
    write(run_dir, 1)
    outcomes = []
    for moment in watch(run_dir, lambda: write(run_dir, 2)):
        for tree in moment.left:
            write_tree(disk, tree)
            newest = checkpoint.newest_valid(disk)
            assert newest is not None
            outcomes.append(step_of(newest))
            checkpoint.sweep(disk)
            assert all(name.startswith("step-") for name in os.listdir(disk))
            if "step-00000002" not in tree:
                assert outcomes[-1] == 1 and step_of(write(disk, 2)) == 2
            shutil.rmtree(disk)
    assert outcomes[0] == 1 and outcomes[-1] == 2 and len(outcomes) > 50


def test_everything_is_flushed_before_it_becomes_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power loss only what was flushed is sure to be there: every file and folder before the rename, and the
    parent, which holds the new name, after it."""
    events: list[str] = []
    opened: dict[int, str] = {}
    real_open, real_rename = os.open, os.rename

    def record_open(path: os.PathLike[str], *arguments: int, **options: int) -> int:
        descriptor = real_open(path, *arguments, **options)
        opened[descriptor] = str(path)
        return descriptor

    def record_rename(source: Path, target: Path) -> None:
        events.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "open", record_open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(opened[descriptor]))
    monkeypatch.setattr(os, "rename", record_rename)
    directory = write(tmp_path, 1)

    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    (root,) = {path for path in before if Path(path).parent == tmp_path}
    flushed = {Path(path).relative_to(root).as_posix() for path in before}
    assert flushed == {path.relative_to(directory).as_posix() for path in [directory, *directory.rglob("*")]}
    assert before[-1] == root and after == [str(tmp_path)]


def test_a_failed_save_gives_its_space_back(tmp_path: Path) -> None:
    """An error, unlike a crash, can clean up: on a full disk a retry would otherwise only make it worse."""
    with pytest.raises(ValueError, match="complex"):
        checkpoint.save(tmp_path / "model", {"good": state(1), "bad": {"x": torch.zeros(2, dtype=torch.complex64)}}, {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is known before the first byte is written; the error gives both numbers."""
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(CheckpointError, match=r"needs 160 bytes and the disk has 100 free"):
        write(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_prune_keeps_the_newest_valid_and_all_damaged(tmp_path: Path) -> None:
    """A damaged checkpoint does not count, or two bad saves would delete the last good one; and it is not deleted."""
    for step in range(1, 7):
        write(tmp_path, step)
    flip(tmp_path / "step-00000006" / "model.safetensors", 0)
    flip(tmp_path / "step-00000002" / "state.json", 0)
    deleted = checkpoint.prune(tmp_path, keep=2)
    assert [path.name for path in deleted] == ["step-00000003", "step-00000001"]
    assert visible(tmp_path) == [f"step-0000000{step}" for step in (2, 4, 5, 6)]
    with pytest.raises(ValueError, match="at least 1"):
        checkpoint.prune(tmp_path, keep=0)


def test_a_crash_in_prune_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name goes at once, by a rename, and the bytes after it."""
    write(tmp_path, 1), write(tmp_path, 2)

    def crash(_path: Path, **_: object) -> None:
        raise Crash

    monkeypatch.setattr(shutil, "rmtree", crash)
    with pytest.raises(Crash):
        checkpoint.prune(tmp_path, keep=1)
    monkeypatch.undo()
    assert visible(tmp_path) == ["step-00000002"]
    checkpoint.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["step-00000002"]


def test_schema_errors_list_every_difference(tmp_path: Path) -> None:
    """A wrong configuration shows as many differing tensors: one error names them all, with both sides."""
    directory = write(tmp_path, 1)
    expected = {"layer.weight": torch.zeros(4, 5), "layer.bias": torch.zeros(3), "new": torch.zeros(1)}
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_tensors(directory, "model", expected)
    for difference in (
        "new is missing",
        "count is unexpected",
        "layer.weight is saved with shape (4, 3), expected (4, 5)",
        "layer.bias is saved as torch.int64, expected torch.float32",
        "4 differences",
    ):
        assert difference in str(error.value)


def test_the_schema_is_checked_before_tensors_are_read(tmp_path: Path) -> None:
    """A header may claim more than memory holds: this file of a hundred bytes claims 2^50 columns of nothing, and is
    refused for its shape."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [0, 2**50], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"saved with shape \(0, 1125899906842624\), expected \(4, 3\)"):
        checkpoint.load_tensors(tmp_path, "model", {"weight": torch.zeros(4, 3)})


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 8, struct.pack("<Q", 2**60) + b"{}", b"\x80\x02}q\x00.", b"PK\x03\x04 pickle"]
)
def test_files_that_are_not_safetensors_give_the_typed_error(tmp_path: Path, content: bytes) -> None:
    """Nothing is guessed and nothing unpickled: whatever is not safetensors is refused by name."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a valid safetensors file"):
        checkpoint.load_tensors(tmp_path, "model", None)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is missing"):
        checkpoint.load_tensors(tmp_path, "ema", None)


def test_configs_are_compared_by_path() -> None:
    """Each differing leaf is one line with both values; a tuple equals the list that JSON made of it."""
    saved = {"model": {"width": 64, "channels": [1, 2], "old": 1}, "seed": 0, "sampler": {}}
    now = {"model": {"width": 96, "channels": (1, 2), "new": None}, "seed": 0, "sampler": {"steps": 8}}
    assert sorted(checkpoint.compare_configs(saved, now)) == [
        "model.new: saved absent, now None",
        "model.old: saved 1, now absent",
        "model.width: saved 64, now 96",
        "sampler.steps: saved absent, now 8",
        "sampler: saved {}, now absent",
    ]
    assert checkpoint.compare_configs(saved, saved) == []


def test_a_small_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk fails before the rename, the old file stays and no part of the new one does; flushed bytes are
    those that are renamed, so that the name never stands for half of them."""
    file = tmp_path / "new" / "results.json"
    checkpoint.write_whole(file, "old\n")
    flushed: list[bytes] = []
    flush = checkpoint._flush

    def fails(path: Path) -> None:
        flushed.append(path.read_bytes())
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "_flush", fails)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_whole(file, "\u00e9\n")
    assert flushed == ["\u00e9\n".encode()] and file.read_bytes() == b"old\n"
    assert [path.name for path in file.parent.iterdir()] == ["results.json"]
    monkeypatch.setattr(checkpoint, "_flush", flush)
    checkpoint.write_whole(file, "new\n")
    assert file.read_bytes() == b"new\n" and len(list(file.parent.iterdir())) == 1
