"""Files that are code: pickled and TorchScript ones, which may do anything to whoever reads them.

They are read in a process of their own, with limits. There a pickle is first read as plain tensors and numbers, which
runs nothing; only a file that is trusted may do more: one whose SHA-256 is pinned, or any with ``--trust-code``. A
process of its own is no prison: a trusted file has the user's rights. Knows files and hashes, no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from magi import checkpoint
from magi.tokenizers.published.facts import PUBLISHED

CodeFormat = Literal["pickle", "torchscript"]

READER = Path(__file__).with_name("untrusted.py")
TRUST_CODE = "MAGI_TRUST_CODE"  # set to 1 by --trust-code, for all that is loaded in this process
NEEDS_TRUST, FAILED = 3, 4  # exit codes of the reader, which says in its last line why it did not read
SECONDS = 900  # of the reader's processor time, and of waiting for it
SHA256 = re.compile(r"[0-9a-f]{64}")
PIN_FILE = "MAGI_TRUSTED_SHA256"  # names the user's list of trusted files, instead of the usual place


class Untrusted(ValueError):
    """A file is code, and nobody vouches for it; the message names its SHA-256 and says how to."""


@dataclass(frozen=True)
class Trust:
    """Which files that are code the user lets run, beside those of the pin file and those known to be published."""

    code: bool = False
    """Any: the user knows where the file comes from."""
    sha256: frozenset[str] = field(default_factory=frozenset)
    """Those with these hashes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", frozenset(checked_sha256(text) for text in self.sha256))

    def allows(self, digest: str) -> bool:
        """Whether the file with this SHA-256 may run what is in it."""
        if self.code or os.environ.get(TRUST_CODE) == "1":
            return True
        published = {pin for entry in PUBLISHED.values() for pin in entry.pins}
        return digest in self.sha256 or digest in published or digest in user_pins()

    def require(self, path: Path, digest: str) -> None:
        """Refuse to run a file that nobody vouches for.

        Raises:
            Untrusted: with what to do.
        """
        if not self.allows(digest):
            raise Untrusted(
                f"{path} is code, which would run with your rights, and its sha256 {digest} is not pinned; if you "
                f"trust who published it, give magi tokenizer convert --sha256 {digest} or --trust-code, other verbs "
                f"--trust-code, or add the line '{digest}  {path.name}' to {pin_file()}"
            )


def checked_sha256(text: str) -> str:
    """The 64 hexadecimal digits, in lower case; ValueError if they are none."""
    if not SHA256.fullmatch(text.lower()):
        raise ValueError(f"a sha256 is 64 hexadecimal digits, got {text!r}")
    return text.lower()


def pin_file() -> Path:
    """Where the user lists trusted files, as ``sha256sum`` writes them: one line each, the hash first."""
    if named := os.environ.get(PIN_FILE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "magi" / "trusted-sha256"


def user_pins() -> frozenset[str]:
    """The hashes in the user's list; none if there is no such file.

    Raises:
        ValueError: a line does not begin with a SHA-256.
    """
    path = pin_file()
    if not path.is_file():
        return frozenset()
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    try:
        return frozenset(checked_sha256(line.split()[0]) for line in lines)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Contents:
    """What was found in a file that is code, as plain tensors and values."""

    tensors: Mapping[str, Tensor]
    arguments: Mapping[str, Any]
    """Settings that the file's author stored: plain values."""
    omitted: Collection[str]
    """Names of settings that are no plain values."""
    probed: Tensor | None = None
    """What a TorchScript module made of the probe; None if it cannot be run on this machine."""


def read_code(
    path: Path, code_format: CodeFormat, *, digest: str, trust: Trust, probe: Tensor | None = None
) -> Contents:
    """Read tensors and settings out of a pickled or TorchScript file, in a process of its own.

    Args:
        path: the file.
        code_format: a pickle is first read without running anything; TorchScript has to run.
        digest: the file's SHA-256.
        trust: decides whether the file may run what is in it.
        probe: what to give to a TorchScript module, in its own floating type; the first that it returns is kept.

    Raises:
        Untrusted: the file would have to run, and must not.
        ValueError: it is something else, or went beyond the limits.
    """
    if code_format == "torchscript":
        trust.require(path, digest)
    word = "trusted" if trust.allows(digest) else "untrusted"
    with tempfile.TemporaryDirectory(prefix="magi-convert-") as folder:
        if probe is not None:
            save_file({"probe": probe.contiguous()}, Path(folder) / "probe.safetensors")
        _run([code_format, str(path.absolute()), folder, digest, word, str(SECONDS)], path)
        told = json.loads((Path(folder) / "contents.json").read_text(encoding="utf-8"))
        tensors = checkpoint.load_tensors(Path(folder), "tensors", None)
        has_run = (Path(folder) / "probed.safetensors").is_file()
        probed = checkpoint.load_tensors(Path(folder), "probed", None)["probed"] if has_run else None
    return Contents(tensors, dict(told["arguments"]), tuple(told["omitted"]), probed)


def _run(words: list[str], path: Path) -> None:
    """Run the reader, whose words these are."""
    # -P: its own folder is full of modules of ours, and is not where it should find its libraries
    command = [sys.executable, "-P", str(READER), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603, our own program; what it reads is the matter of this module
            command, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{path} was not read within {SECONDS} seconds") from None
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    if done.returncode == NEEDS_TRUST:
        raise Untrusted(
            f"{path} is code: {last}; if you trust who published it, give --sha256 {words[3]} or --trust-code, and it "
            "runs with your rights"
        )
    if done.returncode == FAILED:
        raise ValueError(f"{path} was not read: {last}")
    if done.returncode != 0:
        raise ValueError(f"reading {path} ended with code {done.returncode}, perhaps at a limit of memory: {last}")
