"""Checkpoints of a fit: tensors by name in a safetensors file that is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["load_checkpoint", "save_checkpoint"]


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
