"""The process in which files that are code are read: out come tensors as safetensors, and plain values as JSON.

Run by `trust.py`, never imported by it; knows torch's formats and nothing of MAGI. The words it takes are the format,
the file, the folder to write to, the file's SHA-256, whether it is trusted, and seconds of processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

NEEDS_TRUST, FAILED = 3, 4  # exit codes: why is the last line that is written
# Lightning stores classes of its own beside the weights: as names of callbacks, and of what they watched.
LIGHTNING = re.compile(r"(pytorch_lightning|lightning|lightning_fabric)\.[\w.]+")
SETTINGS = ("hyper_parameters", "hparams", "args")  # where training programs keep their arguments
SPARE = 2 << 30  # bytes of address space beside the file's own


class NeedsTrust(Exception):
    """The file would have to run; the message says what of it."""


class Failed(Exception):
    """The file is not what it should be; the message says why."""


def limit(size: int, seconds: int) -> None:
    """Bound memory to what a file of `size` bytes may need, processor time, and what may be written."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    used = 16 << 30
    statistics = Path("/proc/self/statm")
    if statistics.is_file():
        used = int(statistics.read_text().split()[0]) * resource.getpagesize()
    bounds = {
        resource.RLIMIT_AS: used + 4 * size + SPARE,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 4 * size + SPARE,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, hard))


def unpickle(content: bytes, *, trusted: bool) -> Any:
    """Read a pickle as plain tensors, numbers and `argparse.Namespace`; in full only if it is trusted and needs it."""
    inert: list[Any] = [argparse.Namespace]
    while True:
        try:
            with torch.serialization.safe_globals(inert):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            told = str(error)
        named = re.search(r"GLOBAL ([\w.]+)", told)
        known = {name for _, name in inert[1:]}
        if named and LIGHTNING.fullmatch(named[1]) and named[1] not in known:
            inert.append((_placeholder(named[1]), named[1]))
            continue
        if trusted:
            return _in_full(content)
        what = f"it names {named[1]}, which is code" if named else f"it is more than tensors: {_first_sentence(told)}"
        raise NeedsTrust(what)


def _placeholder(name: str) -> type:
    """A class that does nothing, in the place of one that is only a name to us."""
    return type(name.rpartition(".")[2], (), {"__init__": lambda self, *_args, **_options: None})


def _in_full(content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise Failed(f"it needs the package {error.name} to be read in full") from error


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0]


def state_of(loaded: Any) -> dict[str, torch.Tensor]:
    """The state dict: under that name, as in Lightning's checkpoints, or the whole."""
    if not isinstance(loaded, Mapping):
        raise Failed(f"it holds a {type(loaded).__name__}, expected a state dict")
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, Mapping):
        raise Failed(f"its state_dict is a {type(state).__name__}")
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise Failed(f"it holds no tensors by name, but {', '.join(map(str, list(state)[:8])) or 'nothing'}")
    return tensors


def settings_of(loaded: Any) -> tuple[dict[str, Any], list[str]]:
    """The stored arguments that are plain values, and the names of the others."""
    found: dict[str, Any] = {}
    for name in SETTINGS if isinstance(loaded, Mapping) else ():
        values = loaded.get(name)
        values = vars(values) if isinstance(values, argparse.Namespace) else values
        if isinstance(values, Mapping):
            inner = values.get("args")
            found.update(values)
            if isinstance(inner, argparse.Namespace):
                del found["args"]
                found.update(vars(inner))
    plain = {str(name): value for name, value in found.items() if is_plain(value)}
    return plain, sorted(str(name) for name in found if str(name) not in plain)


def is_plain(value: Any) -> bool:
    """Whether JSON says the same."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and is_plain(inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(inner) for inner in value)
    return value is None or type(value) in (bool, int, float, str)


def from_torchscript(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a TorchScript module; if there is a `probe` to give it, what it makes of that goes to `probed`."""
    module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}  # in the type it was published in
    probe = folder / "probe.safetensors"
    if probe.is_file():
        made = _run(module, load_file(probe)["probe"])
        if made is not None:
            save_file({"probed": made.float().contiguous().clone()}, folder / "probed.safetensors")
    return state


def _run(module: torch.jit.ScriptModule, given: torch.Tensor) -> torch.Tensor | None:
    """The first that the module makes of a tensor, in its own type or, since CPUs cannot do all in bfloat16, in
    float32; None if it was traced for other devices or types."""
    own = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
    for dtype in dict.fromkeys((own, torch.float32)):
        try:
            with torch.no_grad(), torch.jit.optimized_execution(False):  # it runs once
                made = module.to(dtype)(given.to(dtype))
        except RuntimeError:
            continue
        return made if isinstance(made, torch.Tensor) else made[0]
    return None


def main(words: list[str]) -> int:
    """Read one file; returns the exit code."""
    code_format, source, folder, digest, trusted, seconds = words
    limit(Path(source).stat().st_size, int(seconds))
    content = Path(source).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:  # the bytes that are read are those that were vouched for
        raise Failed("it changed while it was looked at")
    if code_format == "torchscript":
        assert trusted == "trusted"
        tensors = from_torchscript(content, Path(folder))
        settings, omitted = settings_of(None)
    else:
        loaded = unpickle(content, trusted=trusted == "trusted")
        tensors = state_of(loaded)
        settings, omitted = settings_of(loaded)
    # cloned: two names for one tensor are two tensors in the file
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, Path(folder) / "tensors.safetensors")
    (Path(folder) / "contents.json").write_text(json.dumps({"arguments": settings, "omitted": omitted}))
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except NeedsTrust as error:
        print(error, file=sys.stderr)
        code = NEEDS_TRUST
    except (Failed, RuntimeError, MemoryError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        print(" ".join(f"{error}".split()) or type(error).__name__, file=sys.stderr)
        code = FAILED
    sys.exit(code)
