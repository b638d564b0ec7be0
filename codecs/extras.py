"""Modules of the extras, imported only where a setting asks for them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import InvalidSettings

__all__ = ["extra_module"]


def extra_module(module: str, extra: str, purpose: str) -> Any:
    """Import a module; raises `InvalidSettings` that says how to install it, and what it is needed for."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InvalidSettings(f"{purpose}: pip install 'laconic[{extra}]' ({error})") from error
