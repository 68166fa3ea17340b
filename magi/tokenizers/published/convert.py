"""Published files, turned once into a folder that holds no code: safetensors, a configuration, and where it comes from.

Knows what each published tokenizer's files hold and how that becomes one of our tokenizers; how they are read is the
matter of `magi.tokenizers.published.trust`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magi import checkpoint
from magi.seeds import generator
from magi.tokenizers import store
from magi.tokenizers.protocol import Tokenizer, latent_frames
from magi.tokenizers.published import cosmos, omnitokenizer_names, stable_diffusion
from magi.tokenizers.published.cosmos_names import architecture, diffusers_names
from magi.tokenizers.published.facts import PUBLISHED, Published
from magi.tokenizers.published.fitting import fit
from magi.tokenizers.published.placed import set_statistics, warn_unmeasured
from magi.tokenizers.published.trust import Trust, read_code, sha256_of

PROBE = (17, 32, 32)  # frames and pixels of the video that shows whether weights were understood
# How far apart what the file makes of it and what we make of it may be, as a share: rounding, of two kinds.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def convert(name: str, files: Sequence[Path], out: Path, *, trust: Trust) -> Tokenizer:
    """Write a folder that `load_tokenizer` reads, from the files of a published tokenizer.

    Args:
        name: of `PUBLISHED`.
        files: for Stable Diffusion its one file of weights, beside config.json; for Cosmos encoder.jit and decoder.jit,
            or autoencoder.jit; for OmniTokenizer its checkpoint.
        out: a folder that does not exist yet.
        trust: which of the files may run; every hash it gives must be of one of the files, and each file's be given.

    Returns:
        what is in the folder.

    Raises:
        Untrusted: a file would have to run, and nobody vouches for it.
        ValueError: it is not what it is taken for; names the weights that differ.
        CheckpointError: `out` exists.
    """
    if name not in PUBLISHED:
        raise ValueError(f"there is no published tokenizer {name!r}; expected one of {', '.join(PUBLISHED)}")
    entry = PUBLISHED[name]
    if out.exists():
        raise checkpoint.CheckpointError(f"{out} already exists and is never overwritten; delete it or choose another")
    for path in files:
        if not path.is_file():
            raise ValueError(entry.missing(f"there is no file {path}"))
    digests = _checked(files, trust)
    if entry.family == "stable-diffusion":
        tokenizer, facts = _stable_diffusion(files, digests, trust)
    elif entry.family == "cosmos":
        tokenizer, facts = _cosmos(entry, files, digests, trust)
    else:
        tokenizer, facts = _omnitokenizer(files, digests, trust)
    source = {
        "name": name,
        "repository": entry.repository,
        "licence": entry.licence,
        "sha256": {path.name: digest for path, digest in digests.items()},
        **facts,
    }
    described = {"tokenizer": store.describe(tokenizer), "source": source}
    checkpoint.save(out, store.weights(tokenizer), {"config.json": described, "README.md": _card(entry, source)})
    return tokenizer


def _checked(files: Sequence[Path], trust: Trust) -> dict[Path, str]:
    """SHA-256 of each file; refused if hashes were given and these are others."""
    digests = {path: sha256_of(path) for path in files}
    if trust.sha256:
        for path, digest in digests.items():
            if digest not in trust.sha256:
                raise ValueError(f"{path} has sha256 {digest}, expected {' or '.join(sorted(trust.sha256))}")
        if unused := trust.sha256 - set(digests.values()):
            raise ValueError(f"no file has sha256 {', '.join(sorted(unused))}")
    return digests


def _one(files: Sequence[Path], what: str) -> Path:
    if len(files) != 1:
        raise ValueError(f"give one file, {what}; got {len(files)}")
    return files[0]


def _stable_diffusion(
    files: Sequence[Path], digests: dict[Path, str], trust: Trust
) -> tuple[Tokenizer, dict[str, Any]]:
    path = _one(files, "the weights, such as diffusion_pytorch_model.bin")
    if path.suffix == ".safetensors":
        if trust.code:
            raise ValueError(f"{path} is no code, so --trust-code has no effect; leave it out")
        state = checkpoint.load_tensors(path.parent, path.stem, None)
    else:
        state = dict(read_code(path, "pickle", digest=digests[path], trust=trust).tensors)
    described = path.with_name("config.json")
    config = stable_diffusion.StableDiffusionConfig()  # of all published ones
    if described.is_file():
        config = stable_diffusion.config_of(json.loads(described.read_text(encoding="utf-8")), str(described))
    tokenizer = stable_diffusion.StableDiffusionAutoencoder(config)
    fit(tokenizer.network, stable_diffusion.current_names(state), str(path))
    set_statistics(tokenizer, path.parent)
    return tokenizer.eval().requires_grad_(False), {}


def _cosmos(
    entry: Published, files: Sequence[Path], digests: dict[Path, str], trust: Trust
) -> tuple[Tokenizer, dict[str, Any]]:
    if len(files) not in (1, 2):
        raise ValueError(f"give encoder.jit and decoder.jit, in this order, or autoencoder.jit; got {len(files)} files")
    video, latents = _probes(entry.temporal_stride)
    state: dict[str, Tensor] = {}
    made: list[Tensor | None] = []
    for path, probe in zip(files, (video, latents), strict=False):
        contents = read_code(path, "torchscript", digest=digests[path], trust=trust, probe=probe)
        if not state and not any(name.startswith("encoder.") for name in contents.tensors):
            raise ValueError(f"{path} holds no encoder; give encoder.jit and decoder.jit in this order")
        if repeated := state.keys() & contents.tensors.keys():
            raise ValueError(f"{files[0]} and {path} both hold {min(repeated)}; give the encoder and the decoder")
        state.update(contents.tensors)
        made.append(contents.probed)
    config = architecture(state, entry.temporal_stride)
    tokenizer = cosmos.CosmosTokenizer(config)
    network, source = tokenizer.network, " and ".join(map(str, files))
    fit(network, diffusers_names(state, network.state_dict(), config), source)
    tokenizer.eval().requires_grad_(False)
    differences = _differences(network, (video, latents), made)
    tolerance = max(TOLERANCE.get(tensor.dtype, 0.0) for tensor in state.values())
    for path, difference in zip(files, differences, strict=True):
        if difference is None:
            warnings.warn(
                f"{path} cannot be run here, so whether its weights were understood is unchecked", stacklevel=3
            )
        elif not difference < tolerance:
            raise ValueError(
                f"{path} is not of {entry.name}: of a test input it makes something else than the network with its "
                f"weights, by a share of {difference:.2g} where rounding is at most {tolerance}"
            )
    if not set_statistics(tokenizer, files[0].parent):
        warn_unmeasured(entry.name)
    return tokenizer, {"difference_from_files": differences}


def _probes(temporal_stride: int) -> tuple[Tensor, Tensor]:
    """A test video (1, 3, T, H, W) and test latents (1, 16, t, h, w), of noise."""
    frames, *size = PROBE
    draw = generator(0, "probe of a converted tokenizer")
    video = draw.uniform(-1, 1, (1, 3, frames, *size))
    cells = [side // cosmos.STRIDE for side in size]
    latents = draw.normal(size=(1, cosmos.LATENT_CHANNELS, latent_frames(frames, temporal_stride), *cells))
    return torch.from_numpy(video).float(), torch.from_numpy(latents).float()


@torch.no_grad()
def _differences(network: Any, probes: tuple[Tensor, Tensor], made: Sequence[Tensor | None]) -> list[float | None]:
    """How far what the network makes of the probes is from what each file made of them; None if that could not run."""
    latents = network.encode(probes[0]).latent_dist.mode()
    ours = [network.decode(latents).sample] if len(made) == 1 else [latents, network.decode(probes[1]).sample]
    return [_share(mine, theirs) for mine, theirs in zip(ours, made, strict=True)]


def _share(ours: Tensor, theirs: Tensor | None) -> float | None:
    if theirs is None:
        return None
    return float((ours - theirs).norm() / theirs.norm()) if ours.shape == theirs.shape else float("inf")


def _omnitokenizer(files: Sequence[Path], digests: dict[Path, str], trust: Trust) -> tuple[Tokenizer, dict[str, Any]]:
    path = _one(files, "the checkpoint, such as imagenet_k600_vae.ckpt")
    contents = read_code(path, "pickle", digest=digests[path], trust=trust)
    try:
        tokenizer = omnitokenizer_names.from_published(contents.tensors, contents.arguments)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not set_statistics(tokenizer, path.parent):
        warn_unmeasured(str(path))
    return tokenizer, {"arguments": contents.arguments}


def _card(entry: Published, source: dict[str, Any]) -> str:
    files = "\n".join(f"- {name}, sha256 {digest}" for name, digest in source["sha256"].items())
    return (
        f"# {entry.name}\n\nA tokenizer published as {entry.repository} on the Hugging Face hub under the licence "
        f"{entry.licence}, which goes on to hold. Converted by `magi tokenizer convert` from\n\n{files}\n"
    )
