"""Alpha planes beside lossy colour: lossless JPEG XL, the best of the standards for them."""

from __future__ import annotations

from typing import cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from .. import media
from ..errors import CorruptMedia, CorruptStream, LimitExceeded, UnsupportedMedia
from ..limits import Limits


def encode_alpha(plane: NDArray[np.uint8]) -> bytes:
    """Code a plane (H, W) losslessly."""
    return cast(bytes, imagecodecs.jpegxl_encode(np.ascontiguousarray(plane), lossless=True, effort=7, numthreads=1))


def decode_alpha(payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Restore a plane (H, W); raises `CorruptStream` where it does not open or is not 8-bit grey of that size.

    The size in the payload's header is compared before anything is decoded; of several frames only the first is.
    """
    limits = Limits(max_input_bytes=len(payload), max_pixels=height * width)
    try:
        header = media.read_header(payload, limits)
        if header != media.Header("jxl", height, width, 1):
            raise CorruptStream(f"the alpha plane is {tuple(header)}, not JPEG XL of {height} x {width} grey pixels")
        plane = media.read(payload, limits).array
    except (CorruptMedia, UnsupportedMedia, LimitExceeded) as error:
        raise CorruptStream(f"the alpha plane does not open: {error}") from error
    if plane.dtype != np.uint8:
        raise CorruptStream(f"the alpha plane has samples of {plane.dtype}")
    return cast(NDArray[np.uint8], plane[:, :, 0])
