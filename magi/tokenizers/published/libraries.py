"""diffusers and the hub's client, imported only when a published tokenizer is built or looked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def diffusers() -> ModuleType:
    """Return the module ``diffusers``."""
    try:
        return import_module("diffusers")
    except ImportError as error:
        raise ImportError("published tokenizers need diffusers: pip install 'diffusers>=0.35,<0.50'") from error


def hub() -> ModuleType:
    """Return the module ``huggingface_hub``."""
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError("the hub's cache needs its client: pip install 'huggingface-hub>=0.34'") from error
