"""Where a published detector's weights are, and what is in them: found by path or environment variable, never fetched.

A state dict is read without running anything: safetensors here, pickles by the reader of untrusted files in a process
of its own. TorchScript is a program that runs in this process, so only a file that is trusted is loaded. Knows files,
hashes and names of tensors, no network.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from magi.tokenizers.published.trust import Trust, read_code

FileFormat = Literal["safetensors", "torchscript", "pickle"]
TOLD = 4  # names of tensors in an error, of those that do not fit


@dataclass(frozen=True)
class Weights:
    """One published file, or folder, of weights."""

    what: str
    """The network it holds, as an error says it."""
    file: str
    """What it is called where it is published."""
    published: str
    """Where that is."""
    variable: str
    """The environment variable that may name it."""


I3D_TORCHSCRIPT = Weights(
    "the I3D of StyleGAN-V as TorchScript",
    "i3d_torchscript.pt",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt",
    "MAGI_I3D_TORCHSCRIPT",
)
I3D = Weights(
    "the 400-class I3D as a state dict",
    "i3d_pretrained_400.pt",
    "https://github.com/songweige/TATS, in tats/fvd",
    "MAGI_I3D",
)
VIDEOMAE = Weights(
    "a VideoMAE",
    "a transformers folder with config.json and model.safetensors",
    "https://huggingface.co/MCG-NJU, for example videomae-base-finetuned-kinetics",
    "MAGI_VIDEOMAE",
)
INCEPTION = Weights(
    "the InceptionV3 of FID",
    "inception-2015-12-05.pt or pt_inception-2015-12-05-6726825d.pth",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics (TorchScript) and "
    "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights (state dict)",
    "MAGI_INCEPTION",
)
LPIPS = Weights(
    "the ImageNet network under LPIPS",
    "alexnet-owt-7be5be79.pth or vgg16-397923af.pth",
    "https://download.pytorch.org/models",
    "MAGI_LPIPS",
)
PUBLISHED = (I3D_TORCHSCRIPT, I3D, VIDEOMAE, INCEPTION, LPIPS)


def find(weights: Weights, path: Path | None, *, folder: bool = False) -> Path:
    """The file, or the folder, that the user named.

    Args:
        weights: which.
        path: as given; None looks at the environment variable.
        folder: whether it should be a folder.

    Raises:
        ValueError: nothing was named, or nothing is there; in one line, with where it is published and both ways to
            name it.
    """
    named = os.environ.get(weights.variable)
    if path is None and not named:
        where = f"{weights.what} was not given"
    else:
        found = Path(path if path is not None else str(named)).expanduser()
        if found.is_dir() if folder else found.is_file():
            return found
        kind = "folder" if folder else "file"
        origin = "" if path is not None else f" (from {weights.variable})"
        where = f"there is no {kind} {found}{origin}, which should be {weights.what}"
    raise ValueError(
        f"{where}: MAGI downloads nothing; get {weights.file} from {weights.published}, then give its path, or set the "
        f"environment variable {weights.variable} to it"
    )


def format_of(content: bytes) -> FileFormat:
    """What kind of file this is, by its bytes: names are no witness, since ``.pt`` is said of two kinds."""
    if content[8:9] == b"{":  # eight bytes for the length of the header, which is JSON
        return "safetensors"
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()):
                return "torchscript"
    return "pickle"


@dataclass(frozen=True)
class StateFile:
    """What a file of weights holds."""

    path: Path
    sha256: str
    """Of the file."""
    state: Mapping[str, Tensor]


def read_state(path: Path, *, trust: Trust) -> StateFile:
    """Read a state dict.

    Args:
        path: safetensors, or a pickle, which is read as plain tensors in another process.
        trust: whether a pickle that is more than tensors may run.

    Raises:
        Untrusted: it is more than tensors, and nobody vouches for it.
        ValueError: it is TorchScript, or damaged.
    """
    content = path.read_bytes()
    digest, kind = hashlib.sha256(content).hexdigest(), format_of(content)
    if kind == "torchscript":
        raise ValueError(f"{path} is a TorchScript program, expected a state dict")
    if kind == "pickle":
        return StateFile(path, digest, read_code(path, "pickle", digest=digest, trust=trust).tensors)
    try:
        return StateFile(path, digest, load_safetensors(content))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file: {error}") from error


def fit(file: StateFile, expected: Mapping[str, Tensor], *, ignored: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The state dict if it has exactly the expected names and shapes, in float32.

    Batch-norm's ``num_batches_tracked`` is no weight: older files lack it, and it may be there or not.

    Args:
        file: as read.
        expected: names to tensors, of which only the shapes are read.
        ignored: how names of tensors begin that are of no use here.

    Raises:
        ValueError: a name is missing, is not known, or has another shape; in one line.
    """
    counters = {name for name in (*expected, *file.state) if name.endswith(".num_batches_tracked")}
    wanted = expected.keys() - counters
    given = {name for name in file.state if not (ignored and name.startswith(ignored))} - counters
    differences = []
    for names, word in ((sorted(wanted - given), "missing"), (sorted(given - wanted), "unexpected")):
        if names:
            more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
            differences.append(f"{word} {', '.join(names[:TOLD])}{more}")
    for name in sorted(wanted & given):
        have, want = tuple(file.state[name].shape), tuple(expected[name].shape)
        if have != want:
            differences.append(f"{name} has shape {have}, expected {want}")
    if differences:
        raise ValueError(f"{file.path} does not fit the network: {'; '.join(differences[:TOLD])}")
    return {name: file.state[name].float() for name in wanted} | {
        name: torch.zeros((), dtype=torch.long) for name in counters & expected.keys()
    }


def load_program(path: Path, *, trust: Trust) -> tuple[torch.jit.ScriptModule, str]:
    """A TorchScript file, which from here on runs with the user's rights, and its SHA-256.

    The bytes that are hashed are those that are loaded.

    Raises:
        Untrusted: nobody vouches for it; nothing of it has run.
        ValueError: it is no TorchScript.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if format_of(content) != "torchscript":
        raise ValueError(f"{path} is a {format_of(content)} file, expected a TorchScript program")
    trust.require(path, digest)
    try:
        return torch.jit.load(io.BytesIO(content), map_location="cpu").eval(), digest
    except RuntimeError as error:
        raise ValueError(f"{path} is no valid TorchScript program: {str(error).strip().splitlines()[0]}") from error


def fingerprint(sha256: str, choices: Mapping[str, Any]) -> str:
    """SHA-256 of a file's hash and of every choice that moves a feature."""
    return hashlib.sha256(json.dumps({"weights": sha256, **choices}, sort_keys=True).encode()).hexdigest()
