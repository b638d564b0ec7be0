"""Trained weights: safetensors files pinned by SHA-256, looked up by name or by the digest that a stream carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from .errors import WeightsMismatch, WeightsMissing

__all__ = ["DIGEST_BYTES", "PinnedWeights", "Weights", "check_weights", "load_weights", "pinned_weights"]

DIGEST_BYTES = 8  # of the SHA-256 that streams carry


@dataclass(frozen=True)
class PinnedWeights:
    """An entry of `weights/pins.json`: a file that this release trusts."""

    file: str
    sha256: str

    @property
    def digest(self) -> bytes:
        """The first bytes of the SHA-256, as streams carry them."""
        return bytes.fromhex(self.sha256)[:DIGEST_BYTES]


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the JSON header of the file and its digest."""

    tensors: Mapping[str, NDArray]  # type: ignore[type-arg]
    metadata: Mapping[str, str]
    digest: bytes


@cache
def pinned_weights(codec: str) -> tuple[PinnedWeights, ...]:
    """Return the pinned files of a codec, the one that encodes first; empty for a codec without weights.

    Empty too where no weights are installed at all; raises `WeightsMismatch` where the list of pins is damaged.
    """
    raw = _installed("pins.json")
    try:
        pins = {} if raw is None else json.loads(raw)
        return tuple(PinnedWeights(**pin) for pin in pins.get(codec, []))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsMismatch("pins.json is damaged: install Laconic again") from error


@cache
def load_weights(codec: str, digest: bytes | None = None) -> Weights:
    """Load a codec's current weights, or those with the digest that a stream names.

    Raises `WeightsMissing` where no such file is pinned or installed, `WeightsMismatch` where the file is not the pinned one.
    """
    pins = pinned_weights(codec)
    found = next((pin for pin in pins if digest in (None, pin.digest)), None)
    if found is None:
        wanted = "" if digest is None else f" with digest {digest.hex()}"
        raise WeightsMissing(f"no weights{wanted} for {codec} are installed; a newer release may have them")
    raw = _pinned_bytes(found)
    try:
        tensors = load(raw)
    except SafetensorError as error:
        raise WeightsMismatch(f"{found.file} does not open: {error}") from error
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return Weights(tensors, header.get("__metadata__", {}), found.digest)


def check_weights(codec: str) -> None:
    """Compare every file of a codec, the older ones too, with its pinned SHA-256; raises as `load_weights` does."""
    for pin in pinned_weights(codec):
        _pinned_bytes(pin)


def _pinned_bytes(pin: PinnedWeights) -> bytes:
    raw = _installed(pin.file)
    if raw is None:
        raise WeightsMissing(f"{pin.file} is not installed")
    if hashlib.sha256(raw).hexdigest() != pin.sha256:
        raise WeightsMismatch(f"{pin.file} differs from the pinned file: install it again")
    return raw


def _installed(name: str) -> bytes | None:
    """Return a file of the folder of weights, or None where the file or the whole folder is not installed."""
    try:
        return files("laconic.weights").joinpath(name).read_bytes()
    except (FileNotFoundError, ModuleNotFoundError):
        return None
