"""Checkpoints of a fit: tensors by name in a safetensors file that is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import InvalidSettings

__all__ = ["checkpoint_folder", "load_checkpoint", "save_checkpoint"]


def checkpoint_folder(checkpoint: str, digest: bytes) -> Path:
    """Return the folder of a fit in the folder `checkpoint`, made if need be; `digest` is of all that decides its outcome.

    Raises `InvalidSettings` where it can't be made.
    """
    folder = Path(checkpoint) / digest.hex()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSettings(f"the checkpoint's folder {checkpoint} cannot be made: {error.strerror}") from error
    return folder


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, on any device and in any layout; a kill at any moment leaves the file before or this one."""
    partial = path.with_name(path.name + ".part")
    save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, on the CPU; none where it does not open."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}
