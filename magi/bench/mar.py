"""MAR's own code (Li et al., "Autoregressive Image Generation without Vector Quantization", 2024), to be measured.

It is imported from a checkout that the user has, on the CPU, and nothing of it is changed but where it would fail
without a GPU. Knows its interface and nothing of ours.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

SOURCES = ("models/mar.py", "models/diffloss.py", "diffusion/__init__.py")
PACKAGES = ("models", "diffusion")  # what it calls its parts: too common to stay importable beyond their import
NEEDS = "timm and scipy"


class FixedRatio:
    """Stands for MAR's distribution of mask ratios and always draws one value, so that all steps are the same work."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def rvs(self, size: int) -> np.ndarray:
        """That many draws."""
        return np.full(size, self.ratio)


def import_mar(checkout: Path) -> ModuleType:
    """The module with MAR's model, imported from a checkout of its repository.

    Raises:
        ValueError: the folder is no such checkout, or what its code needs is not installed.
    """
    missing = [name for name in SOURCES if not (checkout / name).is_file()]
    if missing:
        raise ValueError(
            f"{checkout} is no checkout of MAR, {missing[0]} is missing; git clone https://github.com/LTH14/mar"
        )
    with _importable(checkout):
        try:
            return importlib.import_module("models.mar")
        except ImportError as error:
            raise ValueError(
                f"MAR's code in {checkout} needs {NEEDS}: {error}; pip install {NEEDS.replace(' and', '')}"
            ) from error


@contextmanager
def _importable(checkout: Path) -> Iterator[None]:
    """The folder comes first among those searched for modules; afterwards both are as they were."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES}
    for name in before:
        del sys.modules[name]
    path, flag = str(checkout.resolve()), sys.dont_write_bytecode
    sys.path.insert(0, path)
    sys.dont_write_bytecode = True  # it is the user's folder
    try:
        yield
    finally:
        sys.dont_write_bytecode = flag
        sys.path.remove(path)
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def without_gpu() -> Iterator[None]:
    """Where MAR moves a tensor to a GPU, it stays where it is."""

    def stay(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor

    with patch.object(torch.Tensor, "cuda", stay):
        yield
