"""The Zarr 3 codec `laconic`: chunks of uint8 or uint16 as .lcn files, without loss. Zarr finds it by its entry point."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from .arrays import DEFAULT_CODEC, array_settings, check_array, decode_array, encode_array
from .codecs.errors import CorruptStream, InvalidSettings

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

__all__ = ["LaconicCodec"]


@dataclass(frozen=True)
class LaconicCodec(ArrayBytesCodec):
    """Give it as `serializer`, with `compressors=None`: what it writes does not compress further.

    `codec` is "image-lossless", "jxl" or "webp" (8 bits only), `effort` 1 (fast) to 9 (small), None for the codec's default.
    Raises `InvalidSettings` for others.
    """

    is_fixed_size = False

    codec: str = DEFAULT_CODEC
    effort: int | None = None

    def __post_init__(self) -> None:
        array_settings(self.codec, self.effort)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the codec that array metadata name; raises `InvalidSettings`."""
        configuration = data.get("configuration", {})
        if unknown := sorted(set(configuration) - {"codec", "effort"}):
            raise InvalidSettings(f"the codec laconic has the settings codec and effort, not {', '.join(unknown)}")
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as array metadata name it."""
        effort = {} if self.effort is None else {"effort": self.effort}
        return {"name": "laconic", "configuration": {"codec": self.codec, **effort}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that are not coded when they are made, not when the first chunk is written."""
        check_array(dtype.to_native_dtype(), getattr(chunk_grid, "chunk_shape", shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        array = np.asarray(chunk_data.as_numpy_array())
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return chunk_spec.prototype.buffer.from_bytes(await asyncio.to_thread(encode_array, plain, self.codec, self.effort))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        array = await asyncio.to_thread(decode_array, chunk_data.to_bytes())
        dtype = chunk_spec.dtype.to_native_dtype()
        if array.shape != chunk_spec.shape or array.dtype != dtype.newbyteorder("="):
            wanted = f"{chunk_spec.shape} of {dtype}"
            raise CorruptStream(f"the chunk holds {array.shape} of {array.dtype}, not {wanted}")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(array.astype(dtype, copy=False))

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Raise what Zarr's own compressors raise: the size is not known before a chunk is coded."""
        raise NotImplementedError
