"""Model files that are meant to do harm: pickles that call something when they are read, and folders that lie.

What each would do, were it believed, is to leave a file at a place that is told; or to take memory or time without end.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import io
import json
import marshal
import operator
import os
import pickle
import runpy
import shutil
import socket
import struct
import subprocess
import timeit
import urllib.request
import webbrowser
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from magi.checkpoint import FORMAT_VERSION, MANIFEST
from magi.tokenizers.published.placed import PAIR

MODULE = "magi_trap"
"""A module that lies beside the file, and that only a trap would import."""


class Call:
    """Pickled, it is a call: of anything that pickles, another call too."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Only what can be called may stand for a function in a pickle."""


def traps(left: Path) -> dict[str, Call]:
    """Calls by name, each of which leaves the file `left`, reaches out, or deletes what lies beside it."""
    shell, code, place = f"touch {left}", f"open({str(left)!r}, 'w')", str(left)
    module, beside = left.parent / f"{MODULE}.py", left.parent / "beside"
    compiled = marshal.dumps(compile(code, "trap", "exec"))
    system = Call(getattr, Call(importlib.import_module, "os"), "system")
    function = Call(getattr, Call(importlib.import_module, "types"), "FunctionType")
    return {
        "os.system": Call(os.system, shell),
        "os.execv": Call(os.execv, "/bin/sh", ["sh", "-c", shell]),
        "os.popen": Call(os.popen, shell),
        "os.remove": Call(os.remove, str(beside)),
        "shutil.rmtree": Call(shutil.rmtree, str(beside)),
        "subprocess.Popen": Call(subprocess.Popen, ["/bin/sh", "-c", shell]),
        "subprocess.getoutput": Call(subprocess.getoutput, shell),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "timeit": Call(timeit.timeit, code, "pass", timeit.default_timer, 1),
        "__import__": Call(__import__, MODULE),
        "import_module": Call(importlib.import_module, MODULE),
        "run_path": Call(runpy.run_path, str(module)),
        "getattr": Call(system, shell),
        "partial": Call(Call(functools.partial, os.system, shell)),
        "methodcaller": Call(operator.methodcaller("system", shell), Call(importlib.import_module, "os")),
        "code object": Call(Call(function, Call(marshal.loads, compiled), {})),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(os.system, shell))),
        "open": Call(open, place, "w"),
        "write_text": Call(Path.write_text, left, "x"),
        "webbrowser": Call(webbrowser.open, "http://127.0.0.1:9"),
        "urlopen": Call(urllib.request.urlopen, "http://127.0.0.1:9"),
        "socket": Call(socket.create_connection, ("127.0.0.1", 9)),
        "library": Call(ctypes.CDLL, "libc.so.6"),
    }


def pickles(folder: Path, left: Path) -> dict[str, Path]:
    """Write pickled files by name: each trap among honest weights, and other forms and lies."""
    (left.parent / f"{MODULE}.py").write_text(f"open({str(left)!r}, 'w')\n")
    (left.parent / "beside").write_text("x")
    files: dict[str, Path] = {}

    def put(name: str, content: bytes) -> None:
        files[name] = folder / f"{len(files)}.pt"
        files[name].write_bytes(content)

    for name, call in traps(left).items():
        put(name, _saved({"weight": torch.zeros(2), "extra": call}))
    call = traps(left)["os.system"]
    put("the whole file", _saved(call))
    put("the form before 2020", _saved({"weight": torch.zeros(2), "extra": call}, old=True))
    put("a bare pickle", pickle.dumps({"weight": call}))
    put("a pickle of the first protocol", f"cposix\nsystem\n(S'touch {left}'\ntR.".encode())
    put("a tensor of 64 GB in a small file", _saved({"weight": torch.zeros(1).expand(2**34)}))
    put("an archive that unpacks to 64 MB", _archive(bytes(2**26)))
    return files


def _saved(content: Any, *, old: bool = False) -> bytes:
    written = io.BytesIO()
    torch.save(content, written, _use_new_zipfile_serialization=not old)
    return written.getvalue()


def _archive(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    return written.getvalue()


def sign(folder: Path) -> None:
    """Write the manifest that fits the files of a folder, as whoever made them could."""
    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT_VERSION, "files": files}))


def _with_model(content: bytes) -> Callable[[Path, Path], None]:
    return lambda folder, _left: _signed(folder, "model.safetensors", content)


def _header(header: Any, *, length: int | None = None) -> bytes:
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told) if length is None else length) + told


def _with_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    def make(folder: Path, _left: Path) -> None:
        described = json.loads((folder / "config.json").read_text())
        change(described)
        _signed(folder, "config.json", json.dumps(described).encode())

    return make


def _signed(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    sign(folder)


def _manifest(text: str) -> Callable[[Path, Path], object]:
    return lambda folder, _left: (folder / MANIFEST).write_text(text)


def _pickled_weights(folder: Path, left: Path) -> None:
    _signed(folder, "model.safetensors", _saved(traps(left)["os.system"]))


def _pickled_metadata(folder: Path, left: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(traps(left)["os.system"]))
    (folder / "model.safetensors").unlink()
    sign(folder)


def _module_beside(folder: Path, left: Path) -> None:
    for name in ("magi.py", "sitecustomize.py", "model.py"):
        (folder / name).write_text(f"open({str(left)!r}, 'w')\n")
    sign(folder)


def _code_named(folder: Path, left: Path) -> None:
    """The tokenizer is somebody's TorchScript that lies beside the weights."""
    content = _saved(traps(left)["os.system"])
    hashes = dict.fromkeys(PAIR, hashlib.sha256(content).hexdigest())
    for half in PAIR:
        (folder / f"{half}.jit").write_bytes(content)
    pair = {"temporal_stride": 4, "place": str(folder), "sha256": hashes, "shift": [0.0] * 16, "scale": [1.0] * 16}
    _with_config(lambda described: described.update(tokenizer={"cosmos-torchscript": pair}))(folder, left)


def _endless_weights(folder: Path, _left: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def _pipe(folder: Path, _left: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _layers(described: dict[str, Any]) -> None:
    described["model"]["depth"] = 10**9


def _tokenizer_layers(described: dict[str, Any]) -> None:
    described["tokenizer"]["autoencoder"]["encoder_blocks"] = [10**9, 10**9]


def _tokenizer_width(described: dict[str, Any]) -> None:
    described["tokenizer"]["autoencoder"]["channels"] = [8, 8, 2**20]


def _schedule(described: dict[str, Any]) -> None:
    described["model"]["head"]["train_steps"] = 10**10


FOLDERS: dict[str, Callable[[Path, Path], object]] = {
    "weights that are a pickle": _pickled_weights,
    "a distributed checkpoint's pickle": _pickled_metadata,
    "modules beside the weights": _module_beside,
    "a tokenizer that is code": _code_named,
    "a header of 2^63 bytes": _with_model(struct.pack("<Q", 2**63) + b"{}"),
    "a header of lists in lists": _with_model(struct.pack("<Q", 2**20) + b"[" * 2**20),
    "a tensor of 2^50 columns of nothing": _with_model(
        _header({"w": {"dtype": "F32", "shape": [0, 2**50], "data_offsets": [0, 0]}})
    ),
    "a tensor beyond the file": _with_model(
        _header({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    ),
    "weights without an end": _endless_weights,
    "weights that are a pipe": _pipe,
    "a manifest of lists in lists": _manifest('{"format": 1, "files": ' + "[" * 10**5),
    "names that climb": _manifest('{"format": 1, "files": {"../../../../etc/passwd": {"size": 1, "sha256": ""}}}'),
    "a description of lists in lists": lambda folder, _left: _signed(folder, "config.json", b"[" * 10**5),
    "a billion layers": _with_config(_layers),
    "a tokenizer of a billion layers": _with_config(_tokenizer_layers),
    "a tokenizer of a million channels": _with_config(_tokenizer_width),
    "ten billion diffusion steps": _with_config(_schedule),
}
"""By name what makes a release malicious, given its folder and the file that code in it would leave."""
