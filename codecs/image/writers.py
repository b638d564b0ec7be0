"""Pixels to picture files, one function per format; the conventional codecs and `media.write` both call these.

Every function takes `array`, the samples (H, W, C) of an `Image`, and returns a whole file. The same input gives the same
bytes: encoders run on one thread where their output depends on the number. `metadata` holds "icc", "exif" and "xmp" payloads.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import cast

import imagecodecs
import numpy as np
from PIL import Image as Pillow

from ..errors import LaconicError, UnsupportedMedia
from ..signals import Samples
from . import exif, jxl_header

__all__ = ["avif", "avif_lossless", "jpeg", "jxl", "jxl_lossless", "npy", "png", "ppm", "webp", "webp_lossless"]

Metadata = Mapping[str, bytes]
NOTHING: Metadata = MappingProxyType({})
SEGMENT_BYTES = 65_500  # of EXIF or XMP in one JPEG segment, with room for their prefixes
TAKES_ALPHA = "avif, jxl, png and webp take it"
TAKES_16_BITS = "npy, png and ppm files and lossless jxl take them"


def png(array: Samples, metadata: Metadata = NOTHING) -> bytes:
    """Return a PNG of 8 or 16 bits with its ICC profile (iCCP), EXIF (eXIf) and XMP (iTXt)."""
    with _failure_is_unsupported("png"):
        file = bytes(imagecodecs.png_encode(_squeezed(array), level=6))
    chunks = b""
    if "icc" in metadata:
        chunks += _png_chunk(b"iCCP", b"ICC profile\x00\x00" + zlib.compress(metadata["icc"]))
    if "exif" in metadata:
        chunks += _png_chunk(b"eXIf", metadata["exif"])
    if "xmp" in metadata:
        chunks += _png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + metadata["xmp"])
    return file[:33] + chunks + file[33:]  # after the signature and IHDR


def jpeg(array: Samples, quality: int, chroma: str = "420", metadata: Metadata = NOTHING) -> bytes:
    """Return a progressive JPEG; `quality` 0..100 (0 is coded as 1), `chroma` "420" or "444". No alpha, 8 bits."""
    _refuse_alpha("jpeg", array)
    _refuse_16_bits("jpeg", array)
    short = {name: payload for name, payload in metadata.items() if name == "icc" or len(payload) <= SEGMENT_BYTES}
    if "exif" in short:
        short["exif"] = exif.PREFIX + short["exif"]
    subsampling = "4:4:4" if chroma == "444" else "4:2:0"
    with _failure_is_unsupported("jpeg"):
        for optimise in (True, False):
            # Pillow gives an optimised file at most one byte per pixel; noise takes more and must do without.
            try:
                return _pillow(
                    array,
                    "JPEG",
                    short,
                    quality=max(1, quality),
                    subsampling=subsampling,
                    optimize=optimise,
                    progressive=optimise,
                )
            except OSError:
                if not optimise:
                    raise
    raise AssertionError("unreachable")


def webp(array: Samples, quality: int, method: int = 6, metadata: Metadata = NOTHING) -> bytes:
    """Return a lossy WebP with lossless alpha; `quality` 0..100, `method` 0 (fast) to 6 (small). 8 bits."""
    _refuse_16_bits("webp", array)
    with _failure_is_unsupported("webp"):
        return _pillow(array, "WEBP", metadata, quality=quality, method=method, exact=True)


def webp_lossless(array: Samples, method: int = 6, metadata: Metadata = NOTHING) -> bytes:
    """Return a lossless WebP that also keeps the colours of transparent pixels; `method` as of `webp`. 8 bits."""
    _refuse_16_bits("webp", array)
    with _failure_is_unsupported("webp"):
        return _pillow(array, "WEBP", metadata, lossless=True, quality=80, method=method, exact=True)


def avif(array: Samples, quality: int, chroma: str = "420", speed: int = 6, metadata: Metadata = NOTHING) -> bytes:
    """Return a lossy AVIF, alpha at the same quality; `quality` 0..100, `speed` 0 (small) to 10 (fast). 8 bits."""
    _refuse_16_bits("avif", array)
    subsampling = "4:0:0" if array.shape[2] < 3 else "4:4:4" if chroma == "444" else "4:2:0"
    options = {"quality": quality, "subsampling": subsampling, "speed": speed, "max_threads": 1, "autotiling": False}
    with _failure_is_unsupported("avif"):
        return _pillow(array, "AVIF", metadata, **options)


def avif_lossless(array: Samples, speed: int = 6) -> bytes:
    """Return a lossless AVIF: RGB planes as they are, without metadata; `speed` as of `avif`. 8 bits."""
    _refuse_16_bits("avif", array)
    with _failure_is_unsupported("avif"):
        return bytes(imagecodecs.avif_encode(_squeezed(array), speed=speed, numthreads=1))


def jxl(array: Samples, quality: int, effort: int = 7, metadata: Metadata = NOTHING) -> bytes:
    """Return a lossy JPEG XL with lossless alpha; `quality` 0..100 as of cjxl, `effort` 1..9. 8 bits. EXIF and XMP only."""
    _refuse_16_bits("lossy jxl", array)
    with _failure_is_unsupported("jxl"):
        distance = _jxl_distance(quality)
        coded = imagecodecs.jpegxl_encode(_squeezed(array), distance=distance, effort=effort, lossless=False, numthreads=1)
        return _jxl_file(bytes(coded), metadata)


def jxl_lossless(array: Samples, effort: int = 7, metadata: Metadata = NOTHING) -> bytes:
    """Return a lossless JPEG XL of 8 or 16 bits; `effort` 1..9. EXIF and XMP only."""
    with _failure_is_unsupported("jxl"):
        coded = bytes(imagecodecs.jpegxl_encode(_squeezed(array), effort=effort, lossless=True, numthreads=1))
        return _jxl_file(coded, metadata)


def npy(array: Samples) -> bytes:
    """Return the raw samples in NumPy's format, H x W for grey and H x W x C otherwise."""
    file = io.BytesIO()
    np.lib.format.write_array(file, _squeezed(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def ppm(array: Samples) -> bytes:
    """Return a binary PGM (grey) or PPM (RGB) of 8 or 16 bits. No alpha."""
    _refuse_alpha("ppm", array)
    height, width, channels = array.shape
    maximum = np.iinfo(array.dtype).max
    head = f"P{5 if channels == 1 else 6}\n{width} {height}\n{maximum}\n".encode()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _refuse_alpha(name: str, array: Samples) -> None:
    if array.shape[2] in (2, 4):
        raise UnsupportedMedia(f"{name} cannot hold an alpha channel; {TAKES_ALPHA}")


def _refuse_16_bits(name: str, array: Samples) -> None:
    if array.dtype == np.uint16:
        raise UnsupportedMedia(f"{name} cannot hold 16-bit samples; {TAKES_16_BITS}")


@contextmanager
def _failure_is_unsupported(name: str) -> Iterator[None]:
    """Turn what an encoder raises into `UnsupportedMedia`: the picture is sound, so the format cannot hold it."""
    try:
        yield
    except LaconicError:
        raise
    except Exception as error:
        raise UnsupportedMedia(f"{name} cannot hold this picture: {error or type(error).__name__}") from error


def _squeezed(array: Samples) -> Samples:
    """Return (H, W) for one channel: what encoders expect of grey pictures."""
    return cast(Samples, np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def _pillow(array: Samples, name: str, metadata: Metadata, **options: object) -> bytes:
    keys = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}
    file = io.BytesIO()
    Pillow.fromarray(_squeezed(array)).save(file, name, **options, **{keys[key]: value for key, value in metadata.items()})
    return file.getvalue()


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _jxl_distance(quality: int) -> float:
    """Return libjxl's Butteraugli distance for cjxl's quality; 0.1 at 100, so that lossy never means lossless."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _jxl_file(codestream: bytes, metadata: Metadata) -> bytes:
    """Return the codestream as it is, or boxed with EXIF and XMP (ISO/IEC 18181-2) where there are any."""
    boxes = [(b"jxlc", codestream)]
    if "exif" in metadata:
        boxes.insert(0, (b"Exif", bytes(4) + metadata["exif"]))
    if "xmp" in metadata:
        boxes.insert(0, (b"xml ", metadata["xmp"]))
    if len(boxes) == 1:
        return codestream
    file_type = (b"ftyp", b"jxl \x00\x00\x00\x00jxl ")
    return jxl_header.CONTAINER_SIGNATURE + b"".join(_box(*box) for box in (file_type, *boxes))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content
