"""Picture files to pixels: for every format how large the picture is, and the picture.

Pillow's plugins are opened by name, not through `Image.open`: the format is known by then, and the size is checked
against our limit, not Pillow's, before any pixel is decoded. imagecodecs reads what Pillow would cut to 8 bits.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import imagecodecs
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as Pillow

from ..errors import CorruptMedia, LaconicError, UnsupportedMedia
from ..limits import Limits
from ..signals import Image, Samples
from . import exif, jxl_header

__all__ = ["Header", "damage_is_corrupt_media", "from_pillow", "npy_facts", "npy_frames", "read_header", "read_image"]

PLUGINS: dict[str, type[Any]] = {
    "avif": AvifImagePlugin.AvifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}
GREY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
FOREIGN_SPACES = {"CMYK", "LAB"}  # their ICC profiles do not describe the RGB that we convert to
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_TILE_WIDTH, TIFF_TILE_LENGTH, TIFF_FORMAT = 258, 262, 322, 323, 339
TIFF_RGB, TIFF_UNSIGNED = 2, (1,)
TIFF_TILE_PIXELS = 4096**2  # a small picture may have a larger tile, but not one of any size
NPY_TYPES = (np.dtype(np.uint8), np.dtype("<u2"), np.dtype(">u2"))
NPY_HEADER_BYTES, PNM_HEADER_BYTES = 10_000, 4096
PNM = re.compile(rb"P([1-6])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 2 + rb"(?:(?:\s|#[^\n]*\n)+(\d{1,5})\s)?")


class Header(NamedTuple):
    """What a file says of its picture or video: the upright size in pixels, channels as `Image` counts them, and frames."""

    format: str
    height: int
    width: int
    channels: int
    frames: int = 1


@contextmanager
def damage_is_corrupt_media(name: str) -> Iterator[None]:
    """Turn whatever a third-party decoder raises into `CorruptMedia`: on damaged files they raise nearly anything."""
    try:
        yield
    except LaconicError:
        raise
    except Exception as error:
        raise CorruptMedia(f"the {name} file is damaged: {error or type(error).__name__}") from error


def read_header(data: bytes, name: str) -> Header:
    """Return the header of a file of the format `name` without decoding a pixel."""
    with damage_is_corrupt_media(name):
        if name == "jxl":
            jxl = jxl_header.parse(data)
            return Header(name, jxl.height, jxl.width, jxl.channels)
        if name == "npy":
            shape, _, _ = _npy_header(io.BytesIO(data))
            return Header(name, *shape)
        if name == "webp":
            return _webp_header(data)
        if name == "ppm":
            found = _pnm_match(data)
            return Header(name, int(found[3]), int(found[2]), 3 if found[1] in b"36" else 1)
        opened = _open(data, name)
        width, height = opened.size
        if exif.orientation(_payload(opened, "exif")) > 4:
            width, height = height, width
        channels = PNG_CHANNELS[data[25]] + ("transparency" in opened.info) if _is_deep_png(data, name) else _channels(opened)
        return Header(name, height, width, channels)


def read_image(data: bytes, name: str) -> Image:
    """Return the upright picture and its metadata; the caller has checked the size in the header."""
    with damage_is_corrupt_media(name):
        if name == "jxl":
            return _jxl_image(data)
        if name == "npy":
            return Image(_npy_array(data))
        if name == "ppm" and _pnm_maximum(data) > 255:
            return Image(_pnm16_array(data))
        opened = _open(data, name)
        if _is_deep_png(data, name):
            array = _with_channel_axis(imagecodecs.png_decode(data))
        elif name == "tiff" and _is_deep_rgb(opened):
            array = _tiff16_array(data, opened)
        else:
            return from_pillow(opened)
        return _turned(array, _metadata(opened))


def from_pillow(opened: Pillow.Image) -> Image:
    """Return the upright picture, with its metadata, that a Pillow image holds; raises `UnsupportedMedia` for odd modes."""
    if opened.mode not in GREY_MODES | COLOUR_MODES:
        raise UnsupportedMedia(f"samples of the kind {opened.mode!r} are not read; whole numbers of 8 and 16 bits are")
    return _turned(_pillow_array(opened), _metadata(opened))


def _open(data: bytes, name: str) -> Any:
    opened = PLUGINS[name](io.BytesIO(data))
    if name == "tiff":
        tile = opened.tag_v2.get(TIFF_TILE_LENGTH, 1) * opened.tag_v2.get(TIFF_TILE_WIDTH, 1)
        if tile > max(TIFF_TILE_PIXELS, opened.size[0] * opened.size[1]):
            raise CorruptMedia(f"a tile of {tile:,} pixels is larger than the whole TIFF picture")
    return opened


def _channels(opened: Any) -> int:
    palette_alpha = opened.mode == "P" and opened.palette is not None and opened.palette.mode.endswith("A")
    alpha = opened.mode[-1] in "Aa" or "transparency" in opened.info or palette_alpha
    return (1 if opened.mode in GREY_MODES else 3) + alpha


def _pillow_array(opened: Any) -> Samples:
    channels = _channels(opened)
    opened.load()
    if opened.mode.startswith("I;16"):
        return _with_channel_axis(np.asarray(opened).astype(np.uint16))
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return _with_channel_axis(np.array(opened if opened.mode == mode else opened.convert(mode)))


def _with_channel_axis(array: Any) -> Samples:
    return cast(Samples, array[..., None] if array.ndim == 2 else array)


def _payload(opened: Any, name: str) -> bytes:
    """Return one of Pillow's raw payloads, without JPEG's prefix; empty where there is none."""
    value = opened.info.get(name) or b""
    return (value.encode() if isinstance(value, str) else bytes(value)).removeprefix(exif.PREFIX)


def _metadata(opened: Any) -> dict[str, bytes]:
    names = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}
    if opened.mode in FOREIGN_SPACES:
        del names["icc"]
    return {name: payload for name, key in names.items() if (payload := _payload(opened, key))}


def _turned(array: Samples, metadata: dict[str, bytes]) -> Image:
    """Return the picture turned as its EXIF says, with payloads that no longer ask for it."""
    value = exif.orientation(metadata.get("exif", b""))
    if value == 1:
        return Image(array, metadata)
    metadata["exif"] = exif.reset_orientation(metadata["exif"])
    if "xmp" in metadata:
        metadata["xmp"] = exif.reset_xmp_orientation(metadata["xmp"])
    return Image(exif.upright(array, value), metadata)


def _webp_header(data: bytes) -> Header:
    """Read size and alpha: Pillow's WebP plugin takes the canvas's memory as soon as it opens a file."""
    chunks = dict(_riff_chunks(data))
    if "VP8X" in chunks:
        head = chunks["VP8X"]
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (4, 7))
        alpha = bool(head[0] & 16)
    elif "VP8L" in chunks:
        fields = int.from_bytes(chunks["VP8L"][1:5], "little")
        width, height, alpha = 1 + (fields & 16383), 1 + (fields >> 14 & 16383), bool(fields >> 28 & 1)
    else:
        head = chunks["VP8 "]
        width, height = (int.from_bytes(head[at : at + 2], "little") & 16383 for at in (6, 8))
        alpha = False
    if exif.orientation(chunks.get("EXIF", b"").removeprefix(exif.PREFIX)) > 4:
        width, height = height, width
    return Header("webp", height, width, 3 + alpha)


def _riff_chunks(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4].decode("latin-1"), data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _jxl_image(data: bytes) -> Image:
    header = jxl_header.parse(data)
    if header.is_float or header.bits > 16:
        raise UnsupportedMedia("JPEG XL pictures with floating-point samples or more than 16 bits are not read")
    array = _with_channel_axis(imagecodecs.jpegxl_decode(data, index=0, numthreads=1))
    if array.shape != (header.height, header.width, header.channels):
        raise UnsupportedMedia("JPEG XL pictures with channels other than grey, RGB and alpha are not read")
    depth = 8 * array.dtype.itemsize
    if header.bits != depth:  # the decoder leaves a 10-bit sample between 0 and 1023
        array = _stretched(array, (1 << header.bits) - 1)
    metadata = {}
    if data.startswith(jxl_header.CONTAINER_SIGNATURE):
        content = dict(jxl_header.boxes(data))
        if payload := content.get(b"Exif", b""):  # starts with the offset of the TIFF structure
            metadata["exif"] = exif.reset_orientation(payload[4 + int.from_bytes(payload[:4], "big") :])
        if payload := content.get(b"xml ", b""):
            metadata["xmp"] = exif.reset_xmp_orientation(payload)
    return Image(array, metadata)


def _stretched(array: Samples, maximum: int) -> Samples:
    """Return samples of 0..maximum over the full range of their type, rounded to nearest."""
    top = int(np.iinfo(array.dtype).max)
    return cast(Samples, ((array.astype(np.uint64) * top + maximum // 2) // maximum).clip(0, top).astype(array.dtype))


def _is_deep_png(data: bytes, name: str) -> bool:
    return name == "png" and data[24] == 16


def _is_deep_rgb(opened: Any) -> bool:
    return cast(bool, max(opened.tag_v2.get(TIFF_BITS, (1,))) == 16 and opened.mode.startswith("RGB"))


def _tiff16_array(data: bytes, opened: Any) -> Samples:
    tags = opened.tag_v2
    channels = len(tags[TIFF_BITS])
    array = imagecodecs.tiff_decode(data, index=0)
    plain = tags.get(TIFF_PHOTOMETRIC) == TIFF_RGB and set(tags.get(TIFF_FORMAT, TIFF_UNSIGNED)) == {1}
    if not plain or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] != channels or channels not in (3, 4):
        raise UnsupportedMedia("16-bit TIFF pictures are read if they are grey or interleaved unsigned RGB(A)")
    return exif.upright(array, tags.get(exif.ORIENTATION_TAG, 1))


def _pnm_match(data: bytes) -> re.Match[bytes]:
    found = PNM.match(data[:PNM_HEADER_BYTES])
    if found is None:
        raise CorruptMedia("the ppm file is damaged: its header is not that of a PNM picture")
    return found


def _pnm_maximum(data: bytes) -> int:
    found = _pnm_match(data)
    return int(found[4]) if found[4] and found[1] not in b"14" else 1


def _pnm16_array(data: bytes) -> Samples:
    found = _pnm_match(data)
    if found[1] not in b"56":
        raise UnsupportedMedia("plain-text PNM pictures with more than 8 bits are not read; binary ones are")
    width, height, maximum = (int(found[group]) for group in (2, 3, 4))
    shape = (height, width, 1 if found[1] == b"5" else 3)
    samples = np.frombuffer(data, ">u2", height * width * shape[2], found.end()).reshape(shape)
    return _stretched(samples.astype(np.uint16), maximum)


def npy_frames(data: bytes, limits: Limits) -> Samples | None:
    """Return the frames T x H x W x 3 in an .npy file, None if it holds a picture; as with pictures, limits come first."""
    with damage_is_corrupt_media("npy"):
        file = io.BytesIO(data)
        shape, columns_first, dtype = npy_facts(file)
        if len(shape) != 4:
            return None
        if dtype not in NPY_TYPES or shape[3] != 3 or min(shape) < 1:
            raise UnsupportedMedia(f"an .npy video is uint8 or uint16, T x H x W x 3, not {dtype} {shape}")
        limits.check("max_frames", shape[0], "the video's number of frames")
        limits.check("max_pixels", shape[1] * shape[2], "a frame's number of pixels")
        limits.check("max_video_pixels", shape[0] * shape[1] * shape[2], "the video's number of pixels, of all frames")
        return _npy_samples(data, file.tell(), shape, columns_first, dtype)


def npy_facts(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return (shape, whether in column order, type) and leave the file at the first sample."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise UnsupportedMedia(f"version {version[0]}.{version[1]} of .npy is not read; 1.0 and 2.0 are")
    facts: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file, max_header_size=NPY_HEADER_BYTES)
    return facts


def _npy_header(file: io.BytesIO) -> tuple[tuple[int, int, int], bool, np.dtype[Any]]:
    """Return (shape with channels, whether in column order, type) of a picture and leave the file at the first sample."""
    shape, columns_first, dtype = npy_facts(file)
    full = (*shape, 1) if len(shape) == 2 else shape
    if dtype not in NPY_TYPES or len(full) != 3 or full[2] not in (1, 2, 3, 4):
        raise UnsupportedMedia(f"an .npy picture is uint8 or uint16, H x W or H x W x C (C up to 4), not {dtype} {shape}")
    if min(full) < 1:
        raise UnsupportedMedia("an .npy picture has at least one pixel")
    return full, columns_first, dtype


def _npy_array(data: bytes) -> Samples:
    file = io.BytesIO(data)
    shape, columns_first, dtype = _npy_header(file)
    return _npy_samples(data, file.tell(), shape, columns_first, dtype)


def _npy_samples(data: bytes, at: int, shape: tuple[int, ...], columns_first: bool, dtype: np.dtype[Any]) -> Samples:
    count = math.prod(shape)
    if len(data) - at != count * dtype.itemsize:
        raise CorruptMedia("the npy file is damaged: it is longer or shorter than its header says")
    array = np.frombuffer(data, dtype, count, at)
    array = array.reshape(shape[::-1]).T if columns_first else array.reshape(shape)
    return cast(Samples, np.ascontiguousarray(array.astype(dtype.newbyteorder("="))))
