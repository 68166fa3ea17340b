"""Model files that are damaged, or made to do harm, given to what reads them: is anything run, and does it end well?"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load, save_release
from magi.seeds import generator
from magi.selftest.children import attempts, bound_memory
from magi.selftest.mutation import damaged_json, damaged_safetensors
from magi.selftest.outcome import Outcome
from magi.selftest.small import TINY, trained_looking
from magi.selftest.traps import FOLDERS, MODULE, pickles, sign
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.published import trust

SECONDS, STARTING = 5.0, 60.0  # that a file may take; and where another interpreter is started for it
MEMORY = 50 * 2**20  # bytes beside the file's own
REFUSED = (trust.NEEDS_TRUST, trust.FAILED)  # how the reader of files that are code ends
WAYS = ("tensors",) * 27 + ("manifest",) * 8 + ("config",) * 2 + ("model",) * 2 + ("tokenizer",)
"""What is damaged in which share of the trials: what takes a whole model to read is rarer."""
HARMFUL = frozenset({
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "subprocess.Popen",
    "socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open", "ctypes.dlopen", "pickle.find_class",
    "os.remove", "shutil.rmtree",
})  # fmt: skip
"""Of Python's audit events those that no honest file leads to."""


def damage_files(
    folder: Path, *, trials: int, seed: int, say: Callable[[str], None], malicious: Collection[str] | None = None
) -> Outcome:
    """Read so many damaged files of a release, and all malicious ones.

    Args:
        folder: for the files.
        trials: damaged files.
        seed: of what, where and how.
        say: hears of the progress.
        malicious: names of some of these; None is all.
    """
    outcome = Outcome("damaged and malicious model files: no code run, no crash, memory bounded, a typed error", seed)
    start = time.perf_counter()
    made: Counter[str] = Counter()
    release = _release(folder / "release")
    largest = max(len(content) for content in release.whole.values())

    def damaged_file(trial: int) -> str:
        return release.damaged(trial, seed)

    for trial, verdict in attempts(range(trials), damaged_file, seconds=SECONDS, memory_bytes=largest + MEMORY):
        outcome.trials += 1
        made[verdict] += 1
        if verdict not in ("read", "refused"):
            outcome.failures.append(f"damaged file {trial}: {verdict}")
        if outcome.trials % 2000 == 0:
            say(f"{outcome.trials} damaged files, {len(outcome.failures)} failures")
    known = _malicious(folder / "malicious", release, largest + MEMORY)
    names = [name for name in known if malicious is None or name in malicious]
    for trial, verdict in attempts(range(len(names)), lambda i: known[names[i]](), seconds=STARTING, batch=1):
        outcome.trials += 1
        if verdict not in ("read", "refused"):
            outcome.failures.append(f"{names[trial]}: {verdict}")
    outcome.details = {"malicious": len(names), "refused": made["refused"]}
    outcome.seconds = time.perf_counter() - start
    return outcome


class _Signed:
    """A release and what its files should be; each is put back when it has been read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.state = checkpoint.load_tensors(folder, "tokenizer", None)

    def damaged(self, trial: int, seed: int) -> str:
        """Damage a file, sign it, read it and put it back; what came of it."""
        numbers, way = generator(seed, "damaged file", trial), WAYS[trial % len(WAYS)]
        name = {"manifest": checkpoint.MANIFEST, "config": "config.json", "tensors": "tokenizer.safetensors"}.get(
            way, f"{way}.safetensors"
        )
        damage = damaged_json if name.endswith(".json") else damaged_safetensors
        (self.folder / name).write_bytes(damage(self.whole[name], numbers))
        if way == "tensors":
            expected = self.state if numbers.integers(2) else None
            verdict = told(lambda: checkpoint.load_tensors(self.folder, "tokenizer", expected))
        elif way == "manifest":
            verdict = told(lambda: checkpoint.verify(self.folder))
        else:
            sign(self.folder)
            verdict = told(lambda: load(self.folder))
            (self.folder / checkpoint.MANIFEST).write_bytes(self.whole[checkpoint.MANIFEST])
        (self.folder / name).write_bytes(self.whole[name])
        return verdict


def _release(folder: Path) -> _Signed:
    """A small release of a model and a tokenizer, loaded once so that nothing is left to import."""
    config = replace(TINY, depth=1, head=replace(TINY.head, depth=1))
    small = AutoencoderConfig(
        latent_channels=TINY.latent_channels, channels=(8, 8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1, 1)
    )
    model = trained_looking(config, dtype=torch.float32)
    save_release(folder, Release(model, Autoencoder(small).eval(), SampleConfig()), card="")
    load(folder)
    return _Signed(folder)


def told(read: Callable[[], Any]) -> str:
    """What came of reading a file: "read", "refused", or what it must not do."""
    try:
        read()
    except CheckpointError as error:
        # a failed allocation is torch's RuntimeError, which a loader may have taken for one of the file's
        return "it asked for memory" if "allocate" in str(error) else "refused"
    except ValueError:
        return "refused"
    except Exception as error:  # what it may be is the question
        return f"{type(error).__name__}: {error}"[:200]
    return "read"


def watched(read: Callable[[], str], *, left: Path, own: Path) -> str:
    """What came of reading, in a process that then ends: a hook cannot be taken off.

    Args:
        read: reads, and says what came of it.
        left: the file that code would leave.
        own: the folder that may be written to.
    """
    events: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in HARMFUL or (event == "import" and arguments[0] == MODULE):
            events.append(event)
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and not str(arguments[0]).startswith(str(own)):
            events.append(f"writing {arguments[0]}")

    sys.addaudithook(hear)
    verdict = read()
    if left.exists():
        events.append(f"{left.name} is there")
    return f"code was run: {', '.join(events)}" if events else verdict


def _read_code(path: Path, out: Path) -> str:
    """Run the program that reads files that are code as `trust.read_code` runs it, but in this process."""
    out.mkdir(exist_ok=True)
    sys.argv = [str(trust.READER), "pickle", str(path), str(out), trust.sha256_of(path), "untrusted", "60"]
    try:
        runpy.run_path(str(trust.READER), run_name="__main__")
    except SystemExit as end:
        return "refused" if end.code in REFUSED else "read" if end.code == 0 else f"exit code {end.code}"
    return "it did not end"


def _malicious(folder: Path, release: _Signed, memory: int) -> dict[str, Callable[[], str]]:
    """Attempts by name, each for a process of its own."""
    folder.mkdir()
    left, out = folder / "left", folder / "out"

    def lying(name: str) -> str:
        twin = folder / name
        shutil.copytree(release.folder, twin)
        FOLDERS[name](twin, left)
        bound_memory(memory)
        return watched(lambda: told(lambda: load(twin)), left=left, own=twin)

    def pickled(path: Path) -> str:
        return watched(lambda: _read_code(path, out), left=left, own=out)

    def from_the_start(path: Path, code_format: trust.CodeFormat) -> str:
        verdict = told(lambda: trust.read_code(path, code_format, digest=trust.sha256_of(path), trust=trust.Trust()))
        return "code was run" if left.exists() else verdict

    files = pickles(folder, left)
    found: dict[str, Callable[[], str]] = {name: partial(lying, name) for name in FOLDERS}
    found |= {name: partial(pickled, path) for name, path in files.items()}
    for code_format in get_args(trust.CodeFormat):
        found[f"{code_format} from the start"] = partial(from_the_start, files["os.system"], code_format)
    return found
