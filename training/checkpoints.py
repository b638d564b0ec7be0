"""Checkpoints of recipes whose tensors do not fit into one small file, so that they travel in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

LARGEST = 15 * 2**20  # bytes of tensors in a file


def save_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as NAME.0.safetensors, NAME.1.safetensors and so on, of at most 15 MiB (or one tensor) each.

    Files of that name from before, be they more or in one piece, go: `load_tensors` would take them for parts of these.
    """
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        if pieces[-1] and size + value.nbytes > LARGEST:
            pieces.append({})
            size = 0
        pieces[-1][key] = value.detach().cpu().contiguous().clone()
        size += value.nbytes
    written = {folder / f"{name}.{number}.safetensors": piece for number, piece in enumerate(pieces)}
    for path, piece in written.items():
        part = path.with_suffix(".part")
        save_file(piece, part)
        part.replace(path)
    for path in set(folder.glob(f"{name}.*safetensors")) - written.keys():
        path.unlink()


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Return what `save_tensors` wrote; raises FileNotFoundError where there is nothing."""
    paths = sorted(folder.glob(f"{name}.*safetensors"))
    if not paths:
        raise FileNotFoundError(f"no {name} in the checkpoint {folder}")
    return {key: value for path in paths for key, value in load_file(path).items()}
