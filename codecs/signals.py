"""Decoded media in memory: plain dataclasses that codecs take and return."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Image", "Pictures", "Signal"]

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


@dataclass(frozen=True, eq=False)
class Pictures(Image):
    """Small grey pictures of one size, for codecs that code them together: to all others one picture too many.

    `array` is uint8 of shape (N, H, W), none of them 0, and `shape` that of all pictures, one below the other. `known`, where
    given, marks the samples that the receiver has already: bool of shape (H, W) or (N, H, W). `metadata` as of `Image`.
    """

    known: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape or self.array.dtype != np.uint8:
            raise ValueError(f"pictures are uint8 of N x H x W, not {self.array.dtype} of {self.array.shape}")
        if self.known is not None and (
            self.known.dtype != np.bool_ or self.known.shape not in (self.array.shape, self.array.shape[1:])
        ):
            raise ValueError(f"`known` marks samples: bool of {self.array.shape} or {self.array.shape[1:]}")

    @property
    def kind(self) -> str:
        """The kind of signal: "pictures"."""
        return "pictures"

    @property
    def shape(self) -> tuple[int, ...]:
        """(N * H, W, 1): of all pictures, one below the other."""
        count, height, width = self.array.shape
        return count * height, width, 1

    @property
    def pixels(self) -> int:
        """Number of pixels of all pictures."""
        return int(self.array.size)

    @property
    def has_alpha(self) -> bool:
        """False."""
        return False

    def strip(self) -> Image:
        """Return all pictures as one, one below the other."""
        return Image(self.array.reshape(self.shape), dict(self.metadata))


Signal = Image
