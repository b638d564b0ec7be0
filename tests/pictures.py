"""Pictures and picture files for tests: odd sizes, every kind of channels, smooth, noisy and real. The same ones every time."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from laconic.codecs import media
from laconic.codecs.image import exif
from laconic.codecs.signals import Image, Samples

__all__ = ["FOLDER", "SIZES", "exif_payload", "noisy", "odd_pictures", "photograph", "saved", "smooth", "tiff16", "two_tiles"]

FOLDER = Path(__file__).parent / "media"
SIZES = ((1, 1), (1, 17), (33, 7))  # (H, W)


def smooth(height: int, width: int, channels: int = 3, bits: Literal[8, 16] = 8) -> Image:
    """Gentle waves, different in every channel; alpha too is a wave, and never opaque everywhere."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 2 * c) + c) + np.cos(y / (7 + 3 * c) - c) for c in range(channels)]
    return Image(_samples(0.5 + 0.24 * np.stack(waves, axis=2), bits))


def noisy(height: int, width: int, channels: int = 3, bits: Literal[8, 16] = 8) -> Image:
    """Independent uniform noise in every sample: what no codec can make small."""
    generator = np.random.default_rng(1000 * height + 10 * width + channels)
    return Image(_samples(generator.random((height, width, channels)), bits))


def photograph(height: int = 112, width: int = 160) -> Image:
    """The upper left `height` x `width` pixels of a real photograph of 112 x 160 pixels."""
    image = media.read((FOLDER / "photograph.png").read_bytes())
    return Image(image.array[:height, :width].copy())


def odd_pictures(bits: Literal[8, 16] = 8) -> dict[str, Image]:
    """Smooth and noisy pictures of every odd size and number of channels, by name."""
    makers = {"smooth": smooth, "noisy": noisy}
    return {
        f"{name}-{height}x{width}x{channels}": make(height, width, channels, bits)
        for name, make in makers.items()
        for height, width in SIZES
        for channels in (1, 2, 3, 4)
    }


def saved(image: PIL.Image.Image, form: str, **options: Any) -> bytes:
    """Return the file that Pillow makes of its image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif_payload(orientation: int, order: str = "<") -> bytes:
    """A TIFF structure with a make and an orientation."""
    mark = b"II" if order == "<" else b"MM"
    entries = struct.pack(order + "HHI4s", 0x010F, 2, 3, b"ab\0\0")
    entries += struct.pack(order + "HHIHH", exif.ORIENTATION_TAG, 3, 1, orientation, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 2) + entries + bytes(4)


def tiff16(image: Image, more: Mapping[int, int] = MappingProxyType({})) -> bytes:
    """An uncompressed little-endian TIFF of 16 bits, with more tags."""
    height, width, channels = image.shape
    samples = image.array.astype("<u2").tobytes()
    tags = {256: width, 257: height, 259: 1, 262: 1 if channels == 1 else 2, 277: channels, 278: height, 279: len(samples)}
    tags |= {273: 8, 258: 16} | ({338: 2} if channels == 4 else {}) | dict(more)
    directory = 8 + len(samples)
    bits_at = directory + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, value in sorted(tags.items()):
        if tag == 258 and channels > 1:
            entries += struct.pack("<HHII", tag, 3, channels, bits_at)
        else:
            entries += struct.pack("<HHII", tag, 4 if value > 65_535 or tag in (273, 278, 279) else 3, 1, value)
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    return b"II*\0" + struct.pack("<I", directory) + samples + struct.pack("<H", len(tags)) + entries + bytes(4) + bits


def _samples(unit: NDArray[np.float64], bits: Literal[8, 16]) -> Samples:
    """Return values 0..1 as samples."""
    scaled = np.clip(np.round(unit * (2**bits - 1)), 0, 2**bits - 1)
    return np.asarray(scaled, np.uint8) if bits == 8 else np.asarray(scaled, np.uint16)


def two_tiles() -> Image:
    """A photograph repeated, mirrored, over 1100 x 40 pixels: 64 and 5 rows of latents of `image-transform`."""
    photo = photograph().array[:, -40:].astype(np.uint8)
    return Image(np.pad(photo, ((0, 1100 - 112), (0, 0), (0, 0)), mode="symmetric"))
