"""The tokenizers that others have published: what their files are called, who publishes them, and under which licence.

Facts alone, for names and for errors; nothing is read or fetched here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from magi.choices import check_choices

Family = Literal["stable-diffusion", "cosmos", "omnitokenizer"]


@dataclass(frozen=True)
class Published:
    """One published tokenizer."""

    name: str
    """What users call it."""
    family: Family
    repository: str
    """Where it is published: its id on the Hugging Face hub."""
    files: tuple[str, ...]
    """The files that make it, as they are called there."""
    licence: str
    """Of the weights."""
    temporal_stride: int = 1
    is_code: bool = False
    """Whether reading the files may run what is in them: they are pickled or TorchScript."""
    any_file: bool = False
    """Whether each of the files is a tokenizer of its own."""
    pins: frozenset[str] = frozenset()
    """SHA-256 of files that are known to be the published ones."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def placing(self) -> str:
        """The command that places the files in a folder."""
        names = self.files[:1] if self.any_file else self.files
        return f"hf download {self.repository} {' '.join(names)} --local-dir FOLDER"

    @property
    def converting(self) -> str:
        """The command that turns the files, once placed, into a folder that holds no code."""
        names = self.files[:1] if self.any_file else self.files
        return f"magi tokenizer convert {self.name} {' '.join(f'FOLDER/{name}' for name in names)} --out CONVERTED"

    def missing(self, where: str) -> str:
        """One line for a place without the files: which are needed, who publishes them, the licence, and what to do."""
        files = f" {'or' if self.any_file else 'and'} ".join(self.files)
        named = f"name it {self.name}:"
        then = f"{self.converting}, and {named}CONVERTED" if self.is_code else f"{named}FOLDER"
        return (
            f"{where}; the tokenizer {self.name} is {files} of {self.repository} on the Hugging Face hub, licence "
            f"{self.licence}: {self.placing}; then {then}"
        )


PUBLISHED: dict[str, Published] = {
    entry.name: entry
    for entry in (
        Published(
            "sd14",
            "stable-diffusion",
            "CompVis/stable-diffusion-v1-4",
            ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
            "CreativeML OpenRAIL-M",
        ),
        Published(
            "sd-vae-ft-ema",
            "stable-diffusion",
            "stabilityai/sd-vae-ft-ema",
            ("config.json", "diffusion_pytorch_model.safetensors"),
            "MIT",
        ),
        Published(
            "sd-vae-ft-mse",
            "stable-diffusion",
            "stabilityai/sd-vae-ft-mse",
            ("config.json", "diffusion_pytorch_model.safetensors"),
            "MIT",
        ),
        Published(
            "cosmos-cv4x8x8",
            "cosmos",
            "nvidia/Cosmos-0.1-Tokenizer-CV4x8x8",
            ("encoder.jit", "decoder.jit"),
            "NVIDIA Open Model License",
            temporal_stride=4,
            is_code=True,
        ),
        Published(
            "cosmos-cv8x8x8",
            "cosmos",
            "nvidia/Cosmos-0.1-Tokenizer-CV8x8x8",
            ("encoder.jit", "decoder.jit"),
            "NVIDIA Open Model License",
            temporal_stride=8,
            is_code=True,
        ),
        Published(
            "omnitokenizer",
            "omnitokenizer",
            "Daniel0724/OmniTokenizer",
            ("imagenet_k600_vae.ckpt", "imagenet_ucf_vae.ckpt"),
            "MIT",
            temporal_stride=4,
            is_code=True,
            any_file=True,
        ),
    )
}
"""By the name that users give."""
