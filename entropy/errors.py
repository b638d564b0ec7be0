"""Errors of the entropy layer; codecs turn them into those of `laconic.codecs.errors`.

EntropyError (ValueError)
├── SymbolsCorrupt      coded bytes that no encoder writes
├── TablesInvalid       arrays that are no set of probability tables
├── NetworkInvalid      arrays that are no integer network, or one that would not run exactly
└── InexactDevice       a device whose arithmetic fails the self-test
"""

from __future__ import annotations

__all__ = ["EntropyError", "InexactDevice", "NetworkInvalid", "SymbolsCorrupt", "TablesInvalid"]


class EntropyError(ValueError):
    """Root of the tree."""


class SymbolsCorrupt(EntropyError):
    """Coded bytes do not decode to symbols that an encoder could have coded."""


class TablesInvalid(EntropyError):
    """Arrays are no valid set of integer probability tables."""


class NetworkInvalid(EntropyError):
    """Arrays are no valid integer layer, or its sums could exceed what floating point holds exactly."""


class InexactDevice(EntropyError):
    """A device does not compute integer convolutions exactly."""
