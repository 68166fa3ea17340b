"""Tokenizers by name or folder: the one place that lists them, describes them in a file, and loads them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from magi import checkpoint
from magi.pretrained import find
from magi.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from magi.tokenizers.causal_autoencoder import CausalAutoencoder
from magi.tokenizers.kl import KlAutoencoder
from magi.tokenizers.pixel import PixelTokenizer
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.published.cosmos import CosmosConfig, CosmosTokenizer, CosmosTorchScript
from magi.tokenizers.published.facts import PUBLISHED, Published
from magi.tokenizers.published.fitting import check_statistics
from magi.tokenizers.published.omnitokenizer import OmniTokenizer, OmniTokenizerConfig
from magi.tokenizers.published.placed import PAIR, find_folder, load_published, torchscript_pair
from magi.tokenizers.published.stable_diffusion import StableDiffusionAutoencoder, StableDiffusionConfig
from magi.tokenizers.published.trust import Trust

STEM = "tokenizer"  # of the file that holds a tokenizer's weights, alone or beside a model's
PINS = "@sha256:"  # in a name, before the hashes of files that are trusted


@dataclass(frozen=True)
class Kind:
    """How a kind of tokenizer is kept: as a description that is plain data, and perhaps weights."""

    made: type
    describe: Callable[[Any], Any]
    build: Callable[[Any, Trust], Tokenizer]
    """From the description; the weights are loaded afterwards."""
    has_weights: bool = True
    whereabouts: tuple[str, ...] = ()
    """What of the description says where the tokenizer is, not what it is."""


def _by_config(made: Callable[..., Tokenizer], config: Callable[..., Any]) -> Kind:
    """A network that its `config`, a frozen dataclass, and its state dict are all of."""
    assert isinstance(made, type)
    return Kind(
        made,
        lambda tokenizer: asdict(tokenizer.config),
        lambda described, _: made(checkpoint.read_config(config, described)),
    )


def _describe_pair(pair: CosmosTorchScript) -> dict[str, Any]:
    return {
        "temporal_stride": pair.temporal_stride,
        "place": pair.place,
        "sha256": pair.sha256,
        "shift": pair.shift.tolist(),
        "scale": pair.scale.tolist(),
    }


def _find_pair(described: Mapping[str, Any], trust: Trust) -> CosmosTorchScript:
    """The files that a release refers to, since it must not hold code; refused if they are others by now."""
    strides = {entry.temporal_stride for entry in PUBLISHED.values() if entry.family == "cosmos"}
    if described["temporal_stride"] not in strides or described["sha256"].keys() != set(PAIR):
        raise checkpoint.CheckpointError(
            f"config.json describes a Cosmos pair of temporal stride {described['temporal_stride']}, with hashes of "
            f"{', '.join(described['sha256']) or 'nothing'}; expected one of {sorted(strides)}, and hashes of "
            f"{' and '.join(PAIR)}"
        )
    pair = torchscript_pair(
        Path(described["place"]),
        temporal_stride=described["temporal_stride"],
        trust=trust,
        expected=described["sha256"],
    )
    shift, scale = torch.tensor(described["shift"]), torch.tensor(described["scale"])
    check_statistics(shift, scale, pair.latent_channels, "config.json")
    pair.shift.copy_(shift)
    pair.scale.copy_(scale)
    return pair


KINDS: dict[str, Kind] = {
    "pixel": Kind(PixelTokenizer, lambda made: made.spatial_stride, lambda told, _: PixelTokenizer(told), False),
    "autoencoder": _by_config(Autoencoder, AutoencoderConfig),
    "causal_autoencoder": _by_config(CausalAutoencoder, AutoencoderConfig),
    "stable-diffusion": _by_config(StableDiffusionAutoencoder, StableDiffusionConfig),
    "cosmos": _by_config(CosmosTokenizer, CosmosConfig),
    "omnitokenizer": _by_config(OmniTokenizer, OmniTokenizerConfig),
    "cosmos-torchscript": Kind(CosmosTorchScript, _describe_pair, _find_pair, False, ("place",)),
}
"""By the word under which a description is kept."""


def _kind_of(tokenizer: Tokenizer) -> str:
    for name, kind in KINDS.items():
        if isinstance(tokenizer, kind.made):
            return name
    raise ValueError(f"a {type(tokenizer).__name__} cannot be released; use one of the kinds {', '.join(KINDS)}")


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """Plain data from which `restore` builds the tokenizer again, its weights aside.

    Raises:
        ValueError: a tokenizer of a kind that cannot be released.
    """
    name = _kind_of(tokenizer)
    return {name: KINDS[name].describe(tokenizer)}


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of what decides its latents: its description and weights. The same wherever its folder lies."""
    ((name, described),) = describe(tokenizer).items()
    if KINDS[name].whereabouts:
        described = {key: value for key, value in described.items() if key not in KINDS[name].whereabouts}
    digest = hashlib.sha256(json.dumps({name: described}, sort_keys=True).encode())
    for tensors in weights(tokenizer).values():
        for key, tensor in sorted(tensors.items()):
            content = tensor.detach().cpu().flatten().view(torch.uint8)  # as bytes: NumPy has no bfloat16
            digest.update(key.encode() + content.numpy().tobytes())
    return digest.hexdigest()


def weights(tokenizer: Tokenizer) -> dict[str, dict[str, Tensor]]:
    """The tensors to save with the description, by file stem."""
    if not KINDS[_kind_of(tokenizer)].has_weights:
        return {}
    assert isinstance(tokenizer, nn.Module)
    return {STEM: tokenizer.state_dict()}


def restore(directory: Path, description: object, *, trust: Trust | None = None) -> Tokenizer:
    """The tokenizer a verified folder describes, ready to encode and decode.

    Args:
        directory: the folder.
        description: as `describe` gave it.
        trust: what may run of files that are code and that the folder refers to; by default what is pinned.

    Raises:
        CheckpointError: its weights are missing or do not fit the description.
        Untrusted: it refers to files that are code, and nobody vouches for them.
        ValueError: it refers to files that are not there, or are others by now.
    """
    if not isinstance(description, Mapping) or len(description) != 1:
        raise checkpoint.CheckpointError(
            f"{directory}: its config.json describes no tokenizer; name the folder of a release, or one that magi "
            "tokenizer train, stats or convert wrote"
        )
    ((name, described),) = description.items()
    if name not in KINDS:
        raise checkpoint.CheckpointError(
            f"{directory}: its tokenizer is of the kind {name!r}; this version knows {', '.join(KINDS)}"
        )
    kind, trust = KINDS[name], trust or Trust()
    with as_described(directory):
        if not kind.has_weights:
            tokenizer = kind.build(described, trust)
            return tokenizer.eval().requires_grad_(False) if isinstance(tokenizer, nn.Module) else tokenizer
        with no_more_than(directory, STEM), torch.device("meta"):
            blank = kind.build(described, trust)
    assert isinstance(blank, nn.Module)
    tensors = checkpoint.load_tensors(directory, STEM, blank.state_dict())  # it fits: now it may take memory
    tokenizer = kind.build(described, trust)
    assert isinstance(tokenizer, nn.Module)
    tokenizer.load_state_dict(tensors)
    return tokenizer.eval().requires_grad_(False)


def read_description(directory: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        CheckpointError: it is no mapping in JSON.
    """
    path = directory / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of the JSON, of the UTF-8, of lists in lists in lists
        raise checkpoint.CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(described, dict):
        raise checkpoint.CheckpointError(f"{path} holds a {type(described).__name__}, expected a mapping")
    return described


@contextmanager
def as_described(directory: Path) -> Iterator[None]:
    """While something is built from the config.json of a folder, which may say anything.

    Raises:
        CheckpointError: it says nothing that can be built.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise checkpoint.CheckpointError(f"{directory}: its config.json describes nothing to build: {told}") from error


@contextmanager
def no_more_than(directory: Path, stem: str) -> Iterator[None]:
    """While a network is built that has no memory yet: refuse it at the first parameter that the file of its weights
    has no tensor for. A description of a few bytes may ask for any number of layers.

    Raises:
        CheckpointError: the file is missing, malformed, or has fewer tensors than the network.
    """
    path = directory / f"{stem}.safetensors"
    if not path.is_file():
        raise checkpoint.CheckpointError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = len(file.keys())
    except SafetensorError as error:
        raise checkpoint.CheckpointError(f"{path} is not a valid safetensors file: {error}") from error
    parameters = count(1)

    def counted(_module: nn.Module, name: str, _parameter: nn.Parameter | None) -> None:
        if next(parameters) > tensors:
            raise checkpoint.CheckpointError(
                f"{path} has {tensors} tensors, and config.json describes a network with more, {name} among them"
            )

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def save_autoencoder(directory: Path, model: KlAutoencoder, card: str, *, run: Mapping[str, Any]) -> None:
    """Write a released autoencoder: weights with their latent statistics, configuration with facts about its training,
    and a card that says where it comes from."""
    described = {"tokenizer": describe(model), "run": dict(run)}
    checkpoint.save(directory, weights(model), {"config.json": described, "README.md": card})


def load_tokenizer(name: str, *, trust: Trust | None = None) -> Tokenizer:
    """A tokenizer by name.

    Args:
        name: ``pixel:4`` cuts pixels into 4 x 4 squares; a folder written by `magi tokenizer train`, `magi tokenizer
            convert` or `magi train` gives the tokenizer in it; the name of a pretrained model gives that model's.
            ``sd14:PLACE`` and the other names of `PUBLISHED` give that tokenizer from a folder of its files as they are
            published or of `magi tokenizer convert`, or from the hub if PLACE is the repository's id; for those that
            hold no code, without PLACE, from the hub's cache. ``NAME:PLACE@sha256:HEX,HEX`` trusts these files.
        trust: what may run of files that are code; by default what is pinned.

    Raises:
        ValueError: the name is none of these, or the files are not there or not what they should be.
        Untrusted: the files are code, and nobody vouches for them.
        CheckpointError: the folder is damaged.
    """
    kind, _, argument = name.partition(":")
    if kind == "pixel":
        if argument and not argument.isdigit():
            raise ValueError(f"tokenizer {name!r}: the stride after 'pixel:' must be a whole number, as in pixel:4")
        return PixelTokenizer(int(argument)) if argument else PixelTokenizer()
    if kind in PUBLISHED:
        return _load_published(PUBLISHED[kind], argument, trust or Trust())
    directory = find(name)
    if not (directory / "config.json").is_file() and (directory / "release" / "config.json").is_file():
        directory = directory / "release"  # of a run, as models are named by their run's folder
    if not (directory / "config.json").is_file():
        raise ValueError(
            f"tokenizer {name!r} is neither pixel[:STRIDE], nor a pretrained model, nor a folder with config.json, nor "
            f"one of {', '.join(PUBLISHED)} with :FOLDER; train one with magi tokenizer train"
        )
    if not (directory / checkpoint.MANIFEST).is_file() and any(directory.glob("diffusion_pytorch_model.*")):
        raise ValueError(
            f"{directory} holds weights as diffusers writes them; say whose they are: NAME:{directory}, NAME being one "
            f"of {', '.join(PUBLISHED)}"
        )
    checkpoint.verify(directory)
    return restore(directory, read_description(directory).get("tokenizer"), trust=trust)


def unpinned(name: str) -> str:
    """The name without the hashes that it trusts: for names out of files, since only the user says what may run."""
    return name.partition(PINS)[0]


def origin(name: str) -> dict[str, Any]:
    """Which published tokenizer `name` is, who publishes it and under which licence, as far as is known; or nothing."""
    kind, _, place = unpinned(name).partition(":")
    document = (Path(place) if kind in PUBLISHED else find(name)) / "config.json"
    if document.is_file() and (document.parent / checkpoint.MANIFEST).is_file():
        return dict(json.loads(document.read_text()).get("source", {}))
    if kind not in PUBLISHED:
        return {}
    entry = PUBLISHED[kind]
    return {"name": entry.name, "repository": entry.repository, "licence": entry.licence}


def _load_published(entry: Published, argument: str, trust: Trust) -> Tokenizer:
    place, _, pins = argument.partition(PINS)
    if pins:
        trust = Trust(trust.code, trust.sha256 | set(pins.split(",")))
    folder = find_folder(entry, place)
    is_converted = (folder / checkpoint.MANIFEST).is_file()
    tokenizer = _load_converted(entry, folder, trust) if is_converted else load_published(entry, folder, trust)
    if pins and not isinstance(tokenizer, CosmosTorchScript):
        raise ValueError(f"{PINS}{pins} has no effect: nothing that {folder} is read from is code; leave it out")
    return tokenizer


def _load_converted(entry: Published, folder: Path, trust: Trust) -> Tokenizer:
    """The tokenizer of a folder that `magi tokenizer convert` wrote, if it is the one that is named."""
    checkpoint.verify(folder)
    told = read_description(folder)
    converted = told.get("source", {}).get("name")
    if converted != entry.name:
        raise ValueError(
            f"{folder} holds {converted or 'a tokenizer that was not converted'}, not {entry.name}; name it as it is, "
            "or by its folder alone"
        )
    return restore(folder, told.get("tokenizer"), trust=trust)
