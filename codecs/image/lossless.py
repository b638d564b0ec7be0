"""`image-lossless`: photographs without loss, by mixing many adaptive predictions of every sample; drawings as well.

How it works and what it costs: docs/codecs/image-lossless.md. Everything is adaptive, so that there are no weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import numpy as np
from pydantic import Field

from ...entropy.digest import symbol_digest
from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream
from ..signals import Image, Samples
from .lossless_tiles import decode_tile, encode_tile
from .origin import find_origin
from .tiling import Tile

__all__ = ["ImageLossless", "LosslessSettings"]

PARAM_EFFORT = 16
DEFAULT_EFFORT, HIGHEST_EFFORT = 5, 9
TILE_SIDE = 1024  # pixels: larger pictures are cut, and their tiles coded in parallel
Result = TypeVar("Result")


class LosslessSettings(CodecSettings):
    """Settings of `image-lossless`."""

    effort: int = Field(
        DEFAULT_EFFORT, ge=1, le=HIGHEST_EFFORT, description="1 (fastest) to 9 (smallest file); decoding takes as long"
    )


class ImageLossless:
    """The codec. Takes every picture: 8 and 16 bits, grey and RGB, with and without alpha."""

    id = "image-lossless"
    signal = "image"
    lossless = True
    overlaps = True
    devices = ("cpu",)
    Settings = LosslessSettings

    def __init__(self, device: str = "cpu", recover_origin: bool = True) -> None:
        """Make the codec; without `recover_origin` it codes RGB where it could code the planes that RGB was made from."""
        self.device, self.recover_origin = device, recover_origin

    def encode(self, signal: Image, settings: LosslessSettings, progress: Progress | None = None) -> Stream:
        """Compress a picture."""
        pixels, tiles = signal.array, _tiles(*signal.shape[:2])
        eligible = self.recover_origin and signal.bit_depth == 8 and signal.shape[2] >= 3
        origin = find_origin(np.ascontiguousarray(pixels[..., :3], np.uint8)) if eligible else None

        def code(tile: Tile, report: Progress | None) -> bytes:
            return encode_tile(pixels[tile.slices()], origin, settings.effort, report)

        chunks = _each(code, tiles, progress)
        params = {} if settings.effort == DEFAULT_EFFORT else {PARAM_EFFORT: settings.effort}
        return Stream(
            self.id,
            signal.shape,
            tuple(chunks),
            bit_depth=signal.bit_depth,
            params=params,
            digest=symbol_digest(pixels),
            metadata=signal.metadata,
        )

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore the picture; raises `CorruptStream`."""
        effort = stream.params.get(PARAM_EFFORT, DEFAULT_EFFORT)
        if type(effort) is not int or not 1 <= effort <= HIGHEST_EFFORT:
            raise CorruptStream(f"the effort is {effort!r}, not an integer of 1..{HIGHEST_EFFORT}")
        if len(stream.shape) != 3 or stream.shape[2] not in (1, 2, 3, 4) or stream.version != 1:
            raise CorruptStream(f"image-lossless has no pictures of shape {stream.shape} in version {stream.version}")
        tiles, chunks = _tiles(*stream.shape[:2]), stream.chunks
        if len(chunks) != len(tiles):
            raise CorruptStream(f"there are {len(chunks)} payloads where the picture has {len(tiles)}")
        pixels: Samples = np.empty(stream.shape, np.uint8) if stream.bit_depth == 8 else np.empty(stream.shape, np.uint16)
        chunk_of = dict(zip(tiles, chunks, strict=True))

        def restore(tile: Tile, report: Progress | None) -> None:
            shape = (*tile.size, stream.shape[2])
            pixels[tile.slices()] = decode_tile(chunk_of[tile], shape, stream.bit_depth, effort, report)

        _each(restore, tiles, progress)
        if symbol_digest(pixels) != stream.digest:
            raise CorruptStream("the decoded samples do not have the checksum in the header")
        return Image(pixels, dict(stream.metadata))


def _tiles(height: int, width: int) -> list[Tile]:
    """Return the tiles of a picture in rows from the top left, of TILE_SIDE pixels but the last of a row or column."""
    return [
        Tile(top, min(top + TILE_SIDE, height), left, min(left + TILE_SIDE, width))
        for top in range(0, height, TILE_SIDE)
        for left in range(0, width, TILE_SIDE)
    ]


def _each(work: Callable[[Tile, Progress | None], Result], tiles: Sequence[Tile], progress: Progress | None) -> list[Result]:
    """Return the work's results on all tiles, done on as many cores as this process may use."""
    done, lock = dict.fromkeys(tiles, 0.0), Lock()

    def run(tile: Tile) -> Result:
        def report(part: float, stage: str) -> None:
            with lock:
                done[tile] = part
                assert progress is not None
                progress(sum(done.values()) / len(tiles), stage)

        return work(tile, report if progress else None)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(tiles))
    if workers == 1:
        return [run(tile) for tile in tiles]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, tiles))
