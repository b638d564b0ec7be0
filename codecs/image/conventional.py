"""What the conventional codecs share: a native picture file is the one payload chunk of a stream.

The native file holds pixels only; ICC, EXIF and XMP travel in the stream's metadata, once. Before the native file is
decoded its header must agree with the stream's, so that a hostile payload cannot ask for a larger picture.
"""

from __future__ import annotations

from typing import Self, cast

import numpy as np
from pydantic import Field, model_validator

from .. import media
from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptMedia, CorruptStream, LimitExceeded, UnsupportedMedia
from ..limits import Limits
from ..signals import Image, Samples

__all__ = ["LossyOrLossless", "decode_native", "native_stream"]


class LossyOrLossless(CodecSettings):
    """Settings of a codec that codes lossily at a quality, or losslessly."""

    quality: int = Field(75, ge=0, le=100, description="0 (smallest file) to 100 (best picture); not with lossless")
    lossless: bool = Field(False, description="keep every sample exactly")

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.lossless and "quality" in self.model_fields_set:
            raise ValueError("lossless coding has no quality: give one of the two")
        return self


def native_stream(codec: str, image: Image, native: bytes, progress: Progress | None) -> Stream:
    """Return the stream that carries a native file."""
    if progress:
        progress(1.0, codec)
    return Stream(codec, image.shape, (native,), bit_depth=image.bit_depth, metadata=image.metadata)


def decode_native(stream: Stream, progress: Progress | None) -> Image:
    """Return the picture in a stream's native file, whose format has the codec's name; raises `CorruptStream`."""
    if len(stream.chunks) != 1 or len(stream.shape) != 3:
        raise CorruptStream(f"a {stream.codec} stream holds one picture in one chunk")
    native = stream.chunks[0]
    height, width, channels = stream.shape
    try:
        limits = Limits(max_input_bytes=len(native), max_pixels=height * width)
        header = media.read_header(native, limits)
        if (header.format, header.height, header.width) != (stream.codec, height, width):
            raise CorruptStream(f"the payload is a {header.format} picture of {header.width} x {header.height} pixels")
        decoded = media.read(native, limits)
    except (CorruptMedia, UnsupportedMedia, LimitExceeded) as error:
        raise CorruptStream(f"the {stream.codec} payload does not decode: {error}") from error
    if progress:
        progress(1.0, stream.codec)
    if not isinstance(decoded, Image) or decoded.bit_depth != stream.bit_depth:
        raise CorruptStream(f"the payload has {decoded.bit_depth} bits a sample, its header says {stream.bit_depth}")
    return Image(_with_channels(decoded.array, channels), dict(stream.metadata))


def _with_channels(array: Samples, channels: int) -> Samples:
    """Return samples (H, W, `channels`) of a native file that has grey as equal R, G and B, or no opaque alpha."""
    if array.shape[2] == channels:
        return array
    colours = 1 if channels < 3 else 3
    planes = array[..., :3] if array.shape[2] >= 3 else array[..., :1]
    if planes.shape[2] > colours:
        planes = planes[..., 1:2]
    parts = [np.broadcast_to(planes, (*planes.shape[:2], colours))]
    if channels > colours:
        opaque = np.full_like(array[..., :1], np.iinfo(array.dtype).max)
        parts.append(array[..., -1:] if array.shape[2] in (2, 4) else opaque)
    return cast(Samples, np.concatenate(parts, axis=2))
