"""Checkpoints that are whole or not there: directories of safetensors and small documents, checked by content.

A checkpoint is written to a hidden sibling, flushed to the disk and renamed into place, so that a crash at any moment
leaves the old state or the new one. Its manifest holds the size and SHA-256 of every file, because no tensor format
notices a flipped bit. Nothing here is ever unpickled. Knows files, names and shapes; not what the tensors mean, nor
when to save them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Config = TypeVar("Config")

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
TEMPORARY, TRASH = ".tmp-", ".trash-"
PART = ".part-{}.json"  # in a checkpoint that is being written: the files of a part, with size and SHA-256

STEP_NAME = re.compile(r"step-(\d{8,})")
# One or more plain names: nothing hidden, absolute or climbing out of the directory, whoever wrote the manifest.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

# The codes of the safetensors format for what a network or an optimizer holds.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class CheckpointError(ValueError):
    """A checkpoint is damaged, incomplete, or does not fit; the message names the file and what differs."""


def save(directory: Path, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> None:
    """Write a checkpoint whole: `directory` appears complete and on the disk, or not at all.

    Args:
        directory: must not exist yet; a checkpoint is never overwritten. Parents are made.
        tensors: file stem to state dict, written as `<stem>.safetensors`. A stem may hold a folder: `tokenizer/model`.
        documents: file name to content: `.json` and `.yaml` take plain data, `.md` and `.txt` take a string.

    Raises:
        CheckpointError: `directory` exists, or the disk has no room.
        ValueError: a name is not a plain relative path, or its ending is unknown.
    """
    directory = Path(directory)
    refuse_existing(directory)
    temporary = directory.parent / f"{TEMPORARY}{directory.name}-{uuid.uuid4().hex[:12]}"
    try:
        write_part(temporary, tensors, documents)
        commit(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # does nothing after the rename; frees the disk after an error


def refuse_existing(directory: Path) -> None:
    """Raises:
    CheckpointError: there is something of this name, which is never overwritten.
    """
    if directory.exists():
        raise CheckpointError(f"{directory} already exists and is never overwritten; delete it or save elsewhere")


def write_part(
    temporary: Path, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any], *, part: int = 0
) -> None:
    """Write some of the files of a checkpoint, onto the disk; several processes may each write a part at once.

    Args:
        temporary: where the checkpoint is put together, beside where it will be; made if it is not there.
        tensors: as for `save`.
        documents: as for `save`.
        part: its number. What it consists of is noted in the folder, for `commit`.

    Raises:
        CheckpointError: the disk has no room.
        ValueError: as `save`.
    """
    texts = {_checked_name(name): _document_text(name, content) for name, content in documents.items()}
    stems = {stem: _checked_name(f"{stem}.safetensors") for stem in tensors}
    temporary.mkdir(parents=True, exist_ok=True)
    needed = sum(tensor.nbytes for state in tensors.values() for tensor in state.values())
    free = shutil.disk_usage(temporary).free
    if free < needed:
        raise CheckpointError(f"{temporary}: the checkpoint needs {needed:,} bytes and the disk has {free:,} free")
    for stem, state in tensors.items():
        _write_tensors(temporary / stems[stem], state)
    for name, text in texts.items():
        _write_text(temporary / name, text)
    files = {name: _fingerprint(temporary / name) for name in (*stems.values(), *texts)}
    note = temporary / PART.format(part)
    draft = note.with_suffix(".draft")
    draft.write_text(json.dumps(files), encoding="utf-8")
    os.replace(draft, note)  # whole or not there; not flushed, for it is gone before the checkpoint has its name


def commit(temporary: Path, directory: Path, *, parts: int = 1) -> None:
    """Make a checkpoint of the parts that were written: the manifest, and the name that says that it is whole.

    Raises:
        CheckpointError: `directory` exists, or a part is missing.
    """
    refuse_existing(directory)
    notes = [temporary / PART.format(part) for part in range(parts)]
    missing = [part for part, note in enumerate(notes) if not note.is_file()]
    if missing:
        raise CheckpointError(f"{directory}: parts {missing} of {parts} were not written to {temporary}")
    files = {name: entry for note in notes for name, entry in json.loads(note.read_text(encoding="utf-8")).items()}
    manifest = {"format": FORMAT_VERSION, "files": dict(sorted(files.items()))}
    _write_text(temporary / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True))
    for note in notes:
        note.unlink()
    for folder in [path for path in temporary.rglob("*") if path.is_dir()]:
        _flush(folder)
    _flush(temporary)
    os.rename(temporary, directory)
    _flush(directory.parent)


def _checked_name(name: str) -> str:
    if not FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise ValueError(f"a file of a checkpoint must have a plain relative name other than {MANIFEST}, got {name!r}")
    return name


def _document_text(name: str, content: Any) -> str:
    suffix = Path(name).suffix
    if suffix == ".json":
        return json.dumps(content, indent=2) + "\n"
    if suffix == ".yaml":
        import yaml  # not needed by those who only load

        return yaml.safe_dump(content, sort_keys=False)
    if suffix in (".md", ".txt") and isinstance(content, str):
        return content
    raise ValueError(
        f"a document is .json, .yaml, or text in .md or .txt; got {name!r} with a {type(content).__name__}"
    )


def _write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, tensor in state.items():
        if tensor.dtype not in DTYPES.values():
            raise ValueError(f"{path.name}: {name} has type {tensor.dtype}, which a checkpoint cannot hold")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        save_file(contiguous, path, {"format": "pt"})
    except SafetensorError as error:
        needed, free = sum(tensor.nbytes for tensor in contiguous.values()), shutil.disk_usage(path.parent).free
        said = f"{path.name} could not be written: {error}; it needs {needed:,} bytes and the disk has {free:,} free"
        raise CheckpointError(said) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # save_file leaves it private; the folder obeyed the umask
    _flush(path)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    _flush(path)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that its name never stands for half of it: after a crash it is the old one or the new one.

    Args:
        path: replaced if it is there; its folder is made.
        text: in UTF-8, with its own line ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        partial.write_bytes(text.encode())
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until the file, or the list of names of the directory, is on the disk."""
    is_directory = path.is_dir()
    if is_directory and os.name == "nt":
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDONLY if is_directory else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(directory: Path, *, sizes_only: bool = False) -> None:
    """Check that a checkpoint holds exactly the files of its manifest, byte for byte.

    Hidden files are not looked at: they belong to file browsers and download tools.

    Args:
        directory: the checkpoint.
        sizes_only: compare names and sizes, and read nothing.

    Raises:
        CheckpointError: naming every file that is missing, unexpected or changed, and how.
    """
    directory = Path(directory)
    expected = _manifest_files(directory)
    present = set(_file_names(directory)) - {MANIFEST}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - present)]
    problems += [f"{name} is not in the manifest" for name in sorted(present - expected.keys())]
    for name in sorted(expected.keys() & present):
        wanted = expected[name]
        try:
            size = (directory / name).stat().st_size
            if size != wanted["size"]:
                problems.append(f"{name} has {size:,} bytes instead of {wanted['size']:,}")
            elif not sizes_only and _fingerprint(directory / name) != wanted:
                problems.append(f"{name} has the right size and another SHA-256")
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
    if problems:
        raise CheckpointError(f"{directory}: {'; '.join(problems)}")


def step_directory(run_dir: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run_dir / f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """The number in the name of a checkpoint.

    Raises:
        ValueError: it is not named as one.
    """
    match = STEP_NAME.fullmatch(directory.name)
    if match is None:
        raise ValueError(f"{directory} is not named as a checkpoint (step-XXXXXXXX)")
    return int(match[1])


def steps(run_dir: Path) -> list[Path]:
    """The directories of a run that are named as checkpoints, `step-XXXXXXXX`, newest first; whole or not."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in run_dir.iterdir() if (match := STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def newest_valid(run_dir: Path) -> Path | None:
    """Return the newest `step-XXXXXXXX` in `run_dir` that verifies, or None if there is none at all.

    Warns about every newer one that does not verify, with the reason.

    Raises:
        CheckpointError: there are checkpoints and none verifies. To start from nothing would hide the loss of a run.
    """
    reasons = []
    for directory in steps(run_dir):
        try:
            verify(directory)
        except CheckpointError as error:
            reasons.append(str(error))
            more = f"a disk error or a partial copy; magi checkpoint verify {run_dir}"
            warnings.warn(f"passing over a damaged checkpoint: {error} ({more})", stacklevel=2)
        else:
            return directory
    if reasons:
        raise CheckpointError(
            f"{run_dir}: none of its checkpoints is intact ({' | '.join(reasons)}); restore one or use another folder"
        )
    return None


def prune(run_dir: Path, keep: int, *, known: Collection[str] = ()) -> list[Path]:
    """Delete all but the newest `keep` valid checkpoints of `run_dir`; return what was deleted. Those whose names are
    `known` are taken to be valid without being read again.

    A damaged checkpoint neither counts nor goes: it is evidence, and may be all that is left of a step.
    """
    if keep < 1:
        raise ValueError(f"prune must keep at least 1 checkpoint, got {keep}")
    found = steps(run_dir)
    if len(found) <= keep:
        return []  # nothing can go: spare the reading
    deleted = [directory for directory in found if directory.name in known or _is_valid(directory)][keep:]
    for directory in deleted:
        trash = directory.with_name(f"{TRASH}{directory.name}-{uuid.uuid4().hex[:12]}")
        os.rename(directory, trash)  # at once: half a deleted checkpoint must not look like a damaged one
        shutil.rmtree(trash, ignore_errors=True)  # what somebody is still reading goes with the next sweep
    return deleted


def sweep(run_dir: Path) -> None:
    """Delete what interrupted saves and prunes left in `run_dir`. Only for a run's single writer, before it writes."""
    for pattern in (f"{TEMPORARY}*", f"{TRASH}*"):
        for path in Path(run_dir).glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def load_tensors(
    directory: Path,
    stem: str,
    expected: Mapping[str, Tensor] | None,
    *,
    rows: Mapping[str, slice] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of `<stem>.safetensors`, or of all its parts, on the CPU. The bytes are not hashed here: that
    is `verify`.

    Args:
        directory: the checkpoint.
        stem: as given to `save`; of parts, what they have in common (`part_stem`).
        expected: what names, shapes and types to accept, such as a `state_dict()`; its values are not read. They are
            compared with the file's header before any tensor is read. None accepts whatever is there.
        rows: of these tensors only these rows are read.

    Raises:
        CheckpointError: the file is missing or malformed, or does not fit; all differences are listed.
    """
    path = Path(directory) / f"{stem}.safetensors"
    paths = [path] if path.is_file() else sorted(path.parent.glob(f"{path.stem}-?????-of-?????.safetensors"))
    if not paths:
        raise CheckpointError(f"{path} is missing")
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(safe_open(each, framework="pt", device="cpu")) for each in paths]
            parts = {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118, no dict
            saved = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
            if expected is not None:
                differences = _schema_differences(saved, expected)
                if differences:
                    raise CheckpointError(
                        f"{path} does not fit, {len(differences)} differences: {'; '.join(differences)}. Nothing was "
                        "loaded: it is of another model, or of other settings than its config.json says"
                    )
            some, whole = rows or {}, slice(None)
            return {name: part[some.get(name, whole)] if saved[name][1] else part[...] for name, part in parts.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {error}") from error


def part_stem(stem: str, part: int, parts: int) -> str:
    """What a part of the tensors of a stem is called."""
    return f"{stem}-{part:05d}-of-{parts:05d}"


def read_config(kind: Callable[..., Config], data: Mapping[str, Any]) -> Config:
    """Make a frozen configuration from plain data, in which tuples are lists and nested configurations are mappings.

    Raises:
        CheckpointError: a name that the configuration does not have: nothing is silently dropped.
        ValueError: a value that the configuration refuses.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise CheckpointError(
            f"unknown {kind.__name__} settings {', '.join(unknown)}: made by a newer version of magi?"
        )
    values: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            value = read_config(hints[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def compare_configs(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return a line for every value that differs between two nested configurations: its dotted path and both values."""
    before, now = _flatten(saved), _flatten(current)
    differences = [f"{path}: saved {before[path]!r}, now absent" for path in before if path not in now]
    differences += [f"{path}: saved absent, now {now[path]!r}" for path in now if path not in before]
    common = [path for path in before if path in now and before[path] != now[path]]
    return differences + [f"{path}: saved {before[path]!r}, now {now[path]!r}" for path in common]


def _is_valid(directory: Path) -> bool:
    try:
        verify(directory)
    except CheckpointError:
        return False
    return True


def _file_names(directory: Path) -> list[str]:
    """Relative names, with forward slashes, of the visible files at any depth."""
    names = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _manifest_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the manifest and check its form, since it may be as damaged as what it describes."""
    path = directory / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{directory}: {MANIFEST} is missing")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # JSON, UTF-8, lists in lists without end, the disk
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version!r}; this version reads format {FORMAT_VERSION}: take the magi that wrote it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        FILE_NAME.fullmatch(name) and isinstance(entry, dict) and isinstance(entry.get("size"), int)
        for name, entry in files.items()
    ):
        raise CheckpointError(f"{path} does not list files with their size and sha256")
    return files


def _schema_differences(saved: Mapping[str, tuple[str, tuple[int, ...]]], expected: Mapping[str, Tensor]) -> list[str]:
    """Say how the tensors of a header, name to (type code, shape), differ from the expected ones."""
    differences = [f"{name} is missing" for name in expected if name not in saved]
    differences += [f"{name} is unexpected" for name in saved if name not in expected]
    for name, tensor in expected.items():
        if name not in saved:
            continue
        code, shape = saved[name]
        if shape != tuple(tensor.shape):
            differences.append(f"{name} is saved with shape {shape}, expected {tuple(tensor.shape)}")
        if DTYPES.get(code) != tensor.dtype:
            differences.append(f"{name} is saved as {DTYPES.get(code, code)}, expected {tensor.dtype}")
    return differences


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path to value. Tuples become lists, as they do in a JSON file; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{path}."))
        else:
            flat[path] = list(value) if isinstance(value, tuple) else value
    return flat
