"""Arrays without loss, as .lcn files: what the numcodecs and the Zarr codec share.

An array's last two axes are a picture's height and width, or its last three height, width and at most 4 channels; axes before
them are laid one below the other. What the picture's own shape does not tell is in one parameter of the header.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .codecs import compress, container
from .codecs.errors import CorruptStream, InvalidSettings, UnsupportedMedia
from .codecs.limits import Limits
from .codecs.registry import codec_class
from .codecs.settings import make_settings
from .codecs.signals import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DEFAULT_CODEC", "LAYOUT", "array_settings", "check_array", "decode_array", "encode_array"]

DEFAULT_CODEC = "image-lossless"
LAYOUT = 1024  # header key (docs/format.md): [flags, *shape], left out where the picture's shape is the array's
BIG_ENDIAN, COLUMN_MAJOR = 1, 2  # flags
MAX_AXES = 32


def array_settings(codec: str, effort: int | None) -> dict[str, object]:
    """Return the settings of a codec without loss at an effort (1..9, None for its default); raises `InvalidSettings`."""
    if codec not in compress.LOSSLESS:
        raise InvalidSettings(f"arrays are coded without loss, by {', '.join(compress.LOSSLESS)}, not by {codec!r}")
    values: dict[str, object] = {"lossless": True} | ({} if effort is None else {"effort": effort})
    make_settings(codec_class(codec), values)
    return values


def check_array(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise `UnsupportedMedia` for an array that is not coded: other samples, fewer axes, none or too many of them."""
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnsupportedMedia(f"arrays of uint8 and uint16 are coded, not {dtype}: convert them, or take another codec")
    if not 2 <= len(shape) <= MAX_AXES or 0 in shape:
        raise UnsupportedMedia(f"arrays of 2 to {MAX_AXES} axes, none of them 0, are coded, not {shape}")
    if math.prod(shape) > Limits().max_pixels:
        raise UnsupportedMedia(
            f"an array of at most {Limits().max_pixels:,} samples is coded, not {shape}: take smaller chunks"
        )


def encode_array(array: NDArray[Any], codec: str = DEFAULT_CODEC, effort: int | None = None) -> bytes:
    """Compress an array of uint8 or uint16, of 2 axes or more, to an .lcn file that keeps shape, byte order and memory order.

    >>> import numpy
    >>> stack = numpy.arange(5 * 16 * 24, dtype=numpy.uint16).reshape(5, 16, 24)
    >>> bool((decode_array(encode_array(stack, "jxl")) == stack).all())
    True

    Raises `UnsupportedMedia` for other arrays, `InvalidSettings` for a codec that loses samples and an effort outside 1..9.
    """
    settings = array_settings(codec, effort)
    check_array(array.dtype, array.shape)
    big_endian = array.dtype.itemsize == 2 and array.dtype == np.dtype(">u2")
    column_major = array.flags.f_contiguous and not array.flags.c_contiguous
    plain = np.ascontiguousarray(array.T if column_major else array, "<u1" if array.dtype.itemsize == 1 else "<u2")
    channels = plain.shape[-1] if plain.ndim > 2 and plain.shape[-1] <= 4 else 1
    width = plain.shape[-2] if plain.ndim > 2 and plain.shape[-1] <= 4 else plain.shape[-1]
    pixels = plain.reshape(-1, width, channels)
    data = compress.encode(Image(pixels), codec, settings, device="cpu").data
    flags = BIG_ENDIAN * big_endian + COLUMN_MAJOR * column_major
    if flags == 0 and array.shape == _shape_of(pixels):
        return data
    stream = container.read(data, Limits(max_input_bytes=len(data)))
    return container.write(replace(stream, params={**stream.params, LAYOUT: [flags, *array.shape]}))


def decode_array(data: bytes, limits: Limits | None = None) -> NDArray[Any]:
    """Restore the array of an .lcn file that `encode_array` made; any other picture coded without loss is an array too.

    Raises `CorruptStream`, `LimitExceeded`, and `UnsupportedMedia` for files of codecs that may lose samples.
    """
    stream = container.read(data, limits or Limits())
    if stream.codec not in compress.LOSSLESS:
        raise UnsupportedMedia(f"the file is of {stream.codec}; arrays are coded by {', '.join(compress.LOSSLESS)}")
    pixels: NDArray[Any] = compress.finished(compress.codec_of(stream, "cpu").decode(stream), stream).array
    layout = stream.params.get(LAYOUT)
    if layout is None:
        return pixels.reshape(_shape_of(pixels))
    flags, shape = _layout(layout, pixels.size)
    array = pixels.reshape(shape[::-1]).T if flags & COLUMN_MAJOR else pixels.reshape(shape)
    return array.astype(array.dtype.newbyteorder(">"), order="K") if flags & BIG_ENDIAN else array


def _shape_of(pixels: NDArray[Any]) -> tuple[int, ...]:
    """Return the shape of the array that a picture is where its header has no layout."""
    return pixels.shape[:2] if pixels.shape[2] == 1 else pixels.shape


def _layout(value: object, samples: int) -> tuple[int, tuple[int, ...]]:
    """Return flags and shape, checked against the number of samples."""
    if not isinstance(value, list) or not 3 <= len(value) <= MAX_AXES + 1:
        raise CorruptStream("the array's layout is malformed")
    flags, shape = value[0], tuple(value[1:])
    if not 0 <= flags <= BIG_ENDIAN + COLUMN_MAJOR or min(shape) < 1 or math.prod(shape) != samples:
        raise CorruptStream(f"the array's layout {value} does not fit a picture of {samples:,} samples")
    return flags, shape
