"""Published tokenizers where the user placed them: diffusers' folders, TorchScript pairs, the hub's cache.

Nothing is fetched unless the place that is named is the very repository. Knows layouts; what a layout holds is the
business of the tokenizers' own modules.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from magi import checkpoint
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.published import cosmos, stable_diffusion
from magi.tokenizers.published.facts import PUBLISHED, Published
from magi.tokenizers.published.fitting import fit, read_statistics
from magi.tokenizers.published.libraries import hub
from magi.tokenizers.published.trust import Trust

STEM = "diffusion_pytorch_model"  # of diffusers' files of weights
PAIR = ("encoder", "decoder")  # stems of the TorchScript files


def load_published(entry: Published, folder: Path, trust: Trust) -> Tokenizer:
    """The tokenizer whose files are in ``folder``.

    Args:
        entry: which it is.
        folder: as `find_folder` says.
        trust: whether TorchScript may run.

    Raises:
        ValueError: the files are missing, or are something else.
        Untrusted: they are code, and nobody vouches for them.
    """
    if entry.family == "stable-diffusion":
        return _stable_diffusion(entry, folder)
    if entry.family == "cosmos":
        return _cosmos(entry, folder, trust)
    if any((folder / name).is_file() for name in entry.files):
        raise ValueError(f"{folder} holds a pickled checkpoint, which is converted once: {entry.converting}")
    raise ValueError(entry.missing(f"{folder} holds neither a converted tokenizer nor a published one"))


def find_folder(entry: Published, place: str) -> Path:
    """The folder that a user means: an existing one, or the hub's cache.

    Args:
        entry: what is looked for.
        place: a folder; the repository's id, to fetch it unless the cache holds it; or nothing, for the cache alone.

    Raises:
        ValueError: it is not there; says what is needed and how to place it.
    """
    if place == entry.repository:
        return _cached(entry) or _fetched(entry)
    if not place:
        folder = _cached(entry)
        if folder is None:
            raise ValueError(entry.missing("no folder is named, and the hub's cache does not hold the files"))
        return folder
    if Path(place).is_file():
        raise ValueError(f"{place} is a file; name the folder it is in, or convert it once: {entry.converting}")
    if not Path(place).is_dir():
        raise ValueError(entry.missing(f"there is no folder {place}"))
    return Path(place)


def _cached(entry: Published) -> Path | None:
    """The folder of the hub's cache that holds all the files, without a look at the network."""
    client, names = hub(), entry.files[:1] if entry.any_file else entry.files
    found = [client.try_to_load_from_cache(entry.repository, name) for name in names]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(found[0]).parents[entry.files[0].count("/")]


def _fetched(entry: Published) -> Path:
    """Ask the hub for the files, since the user named their repository."""
    client, names = hub(), entry.files[:1] if entry.any_file else entry.files
    level = client.logging.get_verbosity()
    client.logging.set_verbosity_error()  # it tells of each try; the error here tells once
    try:
        found = [client.hf_hub_download(entry.repository, name) for name in names]
    except OSError as error:  # no network, no such file, no permission: all of its errors are of this kind
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
        raise ValueError(entry.missing(f"{entry.repository} could not be fetched ({reason})")) from error
    finally:
        client.logging.set_verbosity(level)
    return Path(found[0]).parents[entry.files[0].count("/")]


def diffusers_folder(folder: Path, class_name: str) -> tuple[Path, dict[str, Any]] | None:
    """Where in a folder of diffusers, of one model or of a pipeline, the network of a class is, and its config.json."""
    for candidate in (folder, folder / "vae"):
        path = candidate / "config.json"
        if path.is_file():
            try:
                described = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
            if isinstance(described, dict) and described.get("_class_name") == class_name:
                return candidate, described
    return None


def _stable_diffusion(entry: Published, folder: Path) -> Tokenizer:
    found = diffusers_folder(folder, "AutoencoderKL")
    if found is None:
        raise ValueError(entry.missing(f"{folder} holds no config.json of an AutoencoderKL, nor does {folder / 'vae'}"))
    place, described = found
    weights, pickled = place / f"{STEM}.safetensors", place / f"{STEM}.bin"
    if not weights.is_file() and pickled.is_file():
        raise ValueError(
            f"{pickled} is pickled, which is code, and there is no {weights.name} beside it; convert it once: "
            f"magi tokenizer convert {entry.name} {pickled} --out CONVERTED"
        )
    if not weights.is_file():
        raise ValueError(entry.missing(f"{weights} is missing"))
    config = stable_diffusion.config_of(described, str(place / "config.json"))
    tokenizer = stable_diffusion.StableDiffusionAutoencoder(config)
    state = stable_diffusion.current_names(checkpoint.load_tensors(place, STEM, None))
    fit(tokenizer.network, state, str(weights))
    set_statistics(tokenizer, place)
    return tokenizer.eval().requires_grad_(False)


def _cosmos(entry: Published, folder: Path, trust: Trust) -> Tokenizer:
    tokenizer: cosmos.CosmosTokenizer | cosmos.CosmosTorchScript
    found = diffusers_folder(folder, "AutoencoderKLCosmos")
    if found is not None:
        place, described = found
        config = cosmos.config_of(described, str(place / "config.json"))
        tokenizer = cosmos.CosmosTokenizer(config)
        if tokenizer.temporal_stride != entry.temporal_stride:
            raise ValueError(
                f"{place} holds a Cosmos tokenizer of temporal stride {tokenizer.temporal_stride}; {entry.name} has "
                f"{entry.temporal_stride}"
            )
        fit(tokenizer.network, checkpoint.load_tensors(place, STEM, None), str(place / f"{STEM}.safetensors"))
        measured = cosmos.statistics_of(described, tokenizer.latent_channels)
        if measured is not None:
            tokenizer.shift.copy_(measured[0])
            tokenizer.scale.copy_(measured[1])
        known = set_statistics(tokenizer, place) or measured is not None
    elif all((folder / f"{part}.jit").is_file() for part in PAIR):
        tokenizer = torchscript_pair(folder, temporal_stride=entry.temporal_stride, trust=trust)
        known = set_statistics(tokenizer, folder)
    else:
        raise ValueError(entry.missing(f"{folder} holds neither encoder.jit and decoder.jit nor diffusers' weights"))
    if not known:
        warn_unmeasured(str(folder))
    return tokenizer.eval().requires_grad_(False)


def set_statistics(tokenizer: nn.Module, folder: Path) -> bool:
    """Take over the statistics that lie in ``folder``; whether there are any."""
    found = read_statistics(folder, int(tokenizer.latent_channels))  # type: ignore[arg-type]
    if found is not None:
        tokenizer.shift.copy_(found[0])  # type: ignore[operator]
        tokenizer.scale.copy_(found[1])  # type: ignore[operator]
    return found is not None


def warn_unmeasured(place: str) -> None:
    """Say that latents are not normalised."""
    warnings.warn(
        f"the latent statistics of {place} are unmeasured: its latents are used as they are, with mean 0 and deviation "
        "1 taken for granted; magi tokenizer stats measures them on your videos",
        stacklevel=3,
    )


def torchscript_pair(
    folder: Path, *, temporal_stride: int, trust: Trust, expected: Mapping[str, str] | None = None
) -> cosmos.CosmosTorchScript:
    """Load ``encoder.jit`` and ``decoder.jit``, which run as they are read.

    Args:
        folder: where they are.
        temporal_stride: 4 or 8.
        trust: whether they may run.
        expected: the SHA-256 of each, by name, that a release was made with.

    Raises:
        Untrusted: nobody vouches for one of them.
        ValueError: one is missing, is another than expected, or is no TorchScript.
    """
    contents: dict[str, bytes] = {}
    for part in PAIR:
        path = folder / f"{part}.jit"
        if not path.is_file():
            named = next(
                entry
                for entry in PUBLISHED.values()
                if entry.family == "cosmos" and entry.temporal_stride == temporal_stride
            )
            raise ValueError(named.missing(f"{path} is missing"))
        contents[part] = path.read_bytes()  # once: what is hashed is what runs
    digests = {part: hashlib.sha256(content).hexdigest() for part, content in contents.items()}
    for part, digest in digests.items():
        if expected is not None and digest != expected[part]:
            raise ValueError(f"{folder / f'{part}.jit'} has sha256 {digest}, but {expected[part]} was trained with")
        trust.require(folder / f"{part}.jit", digest)
    modules = {part: _run_torchscript(content, folder / f"{part}.jit") for part, content in contents.items()}
    return cosmos.CosmosTorchScript(
        modules["encoder"],
        modules["decoder"],
        temporal_stride=temporal_stride,
        place=str(folder.absolute()),
        sha256=digests,
    )


def _run_torchscript(content: bytes, path: Path) -> nn.Module:
    try:
        module: nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except RuntimeError as error:
        raise ValueError(f"{path} is no TorchScript: {str(error).splitlines()[0]}") from error
    return module
