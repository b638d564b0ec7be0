"""What circuits are trained on: small grey pictures from an IDX file, or windows of residuals of photographs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from laconic.codecs.image.circuit_blocks import BLOCK, CHANNELS, WINDOW, windows
from laconic.codecs.image.circuit_residual import best_transform, split_colours, to_residuals
from laconic.codecs.image.idx import read_idx

from .archives import read_archives

__all__ = ["HELD_OUT_PHOTOS", "Source", "read_photos", "read_small"]

HELD_OUT_PHOTOS = 64  # the last names in sorted order are never trained on
CROP = 320  # pixels
HALVED_FROM = 600  # pixels on the shorter side from which a photograph is halved, which hides traces of lossy compression


@dataclass
class Source:
    """`x` (pictures, variables) uint8, the last of them to be held out; `places` (variables, 3) says where variables lie."""

    x: Tensor
    places: Tensor
    residual: bool


def read_small(path: Path) -> Source:
    """Return the pictures of an IDX file."""
    pictures = read_idx(path)
    count, height, width = pictures.shape
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    places = np.column_stack([rows, columns, np.zeros_like(rows)])
    return Source(torch.from_numpy(pictures.reshape(count, -1)), torch.from_numpy(places), False)


def read_photos(folder: Path, blocks: int) -> Source:
    """Return `blocks` random windows of residuals of the photographs in the folder's .tar files, in random order.

    Those of the photographs held out come last: as many as `image_circuit.VALIDATION` asks for come from there.
    """
    generator = np.random.default_rng(0)
    members = read_archives(folder)
    names = list(members)
    kept, held_out = names[:-HELD_OUT_PHOTOS], names[-HELD_OUT_PHOTOS:]
    training = [_windows(members[name], max(1, blocks // len(kept)), generator) for name in kept]
    x = np.concatenate(training)
    generator.shuffle(x)
    last = np.concatenate([_windows(members[name], 64, generator) for name in held_out])
    generator.shuffle(last)
    channel = np.repeat(np.arange(CHANNELS), len(WINDOW))
    places = np.column_stack([np.tile(WINDOW, (CHANNELS, 1)), 2 * channel])
    return Source(torch.from_numpy(np.concatenate([x, last])), torch.from_numpy(places), True)


def _windows(file: bytes, count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return random windows (count, variables) of the residuals of a picture's file."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    if min(picture.size) >= HALVED_FROM:
        picture = picture.reduce(2)
    pixels = np.asarray(picture)
    height, width = min(pixels.shape[0], CROP), min(pixels.shape[1], CROP)
    top, left = (int(generator.integers(0, n - m + 1)) for n, m in zip(pixels.shape, (height, width), strict=False))
    rgb = np.ascontiguousarray(pixels[top : top + height, left : left + width].transpose(2, 0, 1))
    residuals = to_residuals(split_colours(rgb, best_transform(rgb)))
    rows, columns = generator.integers(1, height - BLOCK, count), generator.integers(1, width - BLOCK - 1, count)
    return windows(np.pad(residuals, ((0, 0), (1, 0), (1, 1))), rows, columns)
