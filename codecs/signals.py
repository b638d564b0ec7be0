"""Decoded media in memory: plain dataclasses that codecs take and return."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Image", "Signal"]

Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, upright.

    `array` is uint8 or uint16 of shape (H, W, C), H and W at least 1: C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
    (alpha is straight, not premultiplied). `metadata` holds raw payloads by name: "icc", "exif", "xmp".
    """

    array: Samples
    metadata: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.shape[2] not in (1, 2, 3, 4) or 0 in self.array.shape:
            raise ValueError(f"a picture is H x W x C with 1 to 4 channels, not {self.array.shape}")
        if self.array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"a picture's samples are uint8 or uint16, not {self.array.dtype}")

    @property
    def kind(self) -> str:
        """The kind of signal: "image"."""
        return "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.array.shape

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 or 16."""
        return 8 * self.array.dtype.itemsize

    @property
    def pixels(self) -> int:
        """Number of pixels: the unit that bits per pixel divide by."""
        return int(self.array.shape[0] * self.array.shape[1])

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.array.shape[2] in (2, 4)

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> None:
        """Write the picture, whole or not at all, in the format of the extension: .png, .webp, .jpg, .avif, .jxl, .npy, .ppm.

        Lossless where the format can be, unless a `quality` (0..100) is given. Raises `UnsupportedMedia` for other
        extensions and for formats that cannot hold the picture.
        """
        from .saving import save  # reads and writes signals itself

        save(self, path, quality)


Signal = Image
