"""What an .lcn file says of itself: what `container.describe` returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .codec import ParamValue

__all__ = ["Chunk", "Description"]


@dataclass(frozen=True)
class Chunk:
    """Where a chunk's payload lies: `offset` and `length` in bytes; `intact` says whether its checksum is right."""

    type: str
    offset: int
    length: int
    intact: bool


@dataclass(frozen=True)
class Description:
    """What a file says of itself, without decoding it.

    `shape` is (H, W, C), of a video (T, H, W, 3) with its frames per second in `rate`, of sound (C, N) with its samples per
    second; `seconds` is how long these last. `weights` are the digests in hexadecimal, `digest` the symbol checksum in
    hexadecimal or "". `payload_bytes` counts the payload chunks' payloads, `metadata` gives each kind's length in bytes,
    `chunks` are all chunks in file order, damaged ones included.
    """

    codec: str
    version: int
    shape: tuple[int, ...]
    rate: float | None
    seconds: float | None
    bit_depth: int
    params: Mapping[int, ParamValue]
    weights: tuple[str, ...]
    digest: str
    file_bytes: int
    payload_bytes: int
    metadata: Mapping[str, int]
    chunks: tuple[Chunk, ...]

    @property
    def groups(self) -> int:
        """Number of payload chunks: groups of frames of a video, packets of sound, tiles of a picture."""
        return sum(chunk.type == "payload" for chunk in self.chunks)

    @property
    def damaged(self) -> tuple[int, ...]:
        """Numbers, from 0, of the groups whose checksum is wrong."""
        payloads = [chunk for chunk in self.chunks if chunk.type == "payload"]
        return tuple(number for number, chunk in enumerate(payloads) if not chunk.intact)

    @property
    def bpp(self) -> float:
        """Bits of the file per pixel, of all frames, or per sample of sound."""
        return 8 * self.file_bytes / max(1, math.prod(self.shape[:-1] if len(self.shape) > 2 else self.shape))

    @property
    def kbps(self) -> float | None:
        """Thousands of bits of the file per second; None of what lasts no time."""
        return 8 * self.file_bytes / 1000 / self.seconds if self.seconds else None
