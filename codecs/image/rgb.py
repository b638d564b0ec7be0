"""Pictures as red, green and blue planes and back: what codecs share that code three channels, whatever a picture has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..codec import Stream
from ..errors import CorruptStream, UnsupportedMedia
from ..signals import Image
from .alpha import decode_alpha

__all__ = ["check_shape", "restore", "rgb_planes"]


def rgb_planes(signal: Image, codec: str) -> NDArray[np.uint8]:
    """Return (3, H, W) uint8 planes of a picture's colour channels, grey three times; raises `UnsupportedMedia` for 16 bits."""
    if signal.array.dtype != np.uint8:
        raise UnsupportedMedia(f"{codec} takes 8 bits per sample; use jxl with lossless for 16")
    colour = signal.array[:, :, : signal.shape[2] - signal.has_alpha]
    return np.ascontiguousarray(np.broadcast_to(colour.transpose(2, 0, 1), (3, *signal.shape[:2])), np.uint8)


def check_shape(stream: Stream) -> None:
    """Raise `CorruptStream` where a stream is not of a picture of 8 bits and of one weights file."""
    if len(stream.shape) != 3 or stream.shape[2] not in (1, 2, 3, 4) or stream.bit_depth != 8 or len(stream.weights) != 1:
        raise CorruptStream(f"{stream.codec} has no pictures of shape {stream.shape}")


def restore(stream: Stream, planes: NDArray[np.uint8]) -> Image:
    """Return the picture of decoded RGB planes (3, H or more, W or more): cropped, grey where it was, alpha put back."""
    height, width, channels = stream.shape
    colour = planes[:, :height, :width].transpose(1, 2, 0)
    if channels < 3:
        colour = np.rint(colour.mean(2, keepdims=True, dtype=np.float32)).astype(np.uint8)
    if channels in (2, 4):
        colour = np.concatenate([colour, decode_alpha(stream.chunks[-1], height, width)[:, :, None]], 2)
    return Image(np.ascontiguousarray(colour), dict(stream.metadata))
