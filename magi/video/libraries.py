"""PyAV and Pillow, imported only when a video is read or written."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def pyav() -> ModuleType:
    """Return the module ``av``; its errors are at ``av.error``, its filters at ``av.filter``."""
    try:
        return import_module("av")
    except ImportError as error:
        raise ImportError("video files need PyAV: pip install 'av>=18.1'") from error


def pillow() -> ModuleType:
    """Return the module ``PIL.Image``."""
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise ImportError("image files need Pillow: pip install 'pillow>=10.3'") from error
