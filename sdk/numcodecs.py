"""The numcodecs codec `laconic`: chunks of Zarr 2 arrays, and any other array of uint8 or uint16, without loss.

numcodecs finds it by itself (entry point), so that `numcodecs.get_codec({"id": "laconic"})` and opening an array that was
written with it need no import of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.abc import Codec  # type: ignore[import-untyped]
from numcodecs.compat import ensure_bytes, ensure_ndarray, ndarray_copy  # type: ignore[import-untyped]

from .arrays import DEFAULT_CODEC, array_settings, decode_array, encode_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Laconic"]


class Laconic(Codec):  # type: ignore[misc]
    """Codes arrays of uint8 or uint16 and at least 2 axes; a chunk is an .lcn file.

    `codec` is "image-lossless", "jxl" or "webp" (8 bits only), `effort` 1 (fast) to 9 (small), None for the codec's default.
    Raises `InvalidSettings` for others.
    """

    codec_id = "laconic"

    def __init__(self, codec: str = DEFAULT_CODEC, effort: int | None = None) -> None:
        array_settings(codec, effort)
        self.codec, self.effort = codec, effort

    def encode(self, buf: Any) -> bytes:
        """Compress an array; raises `UnsupportedMedia` for one that is not coded."""
        return encode_array(np.asanyarray(ensure_ndarray(buf)), self.codec, self.effort)

    def decode(self, buf: Any, out: Any = None) -> NDArray[Any]:
        """Restore an array with its shape, byte order and memory order, or copy it to `out`; raises `CorruptStream`."""
        restored: NDArray[Any] = ndarray_copy(decode_array(ensure_bytes(buf)), out)
        return restored
