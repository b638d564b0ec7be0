"""`image-transform`: a learned transform codec, one model for all rates, exact on every machine.

Networks and their sources are in `transform_networks`; how they run on integers is in `transform_model`. A picture is coded
as independent tiles of 1024 x 1024 pixels; the transforms see across their borders, so that no seam shows.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ...entropy.digest import joint_digest
from ...entropy.errors import EntropyError, InexactDevice
from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream, DeviceUnavailable, LimitExceeded
from ..signals import Image
from ..weights import load_weights
from .alpha import encode_alpha
from .rgb import check_shape, restore, rgb_planes
from .tiling import CELL, Tile, grid_of, tiles_of
from .transform_coding import EntropyMeter, decode_tiles, encode_tiles
from .transform_correction import decode_correction
from .transform_efforts import EFFORTS, Improved, encode_improved
from .transform_model import ExactModel
from .transform_networks import QUALITY_MAX
from .transform_spec import TransformSpec

TILES_AT_ONCE = {"cpu": 1, "cuda": 8}  # through the networks; on a CPU more is slower (caches), by a fifth for four tiles
PARAM_QUALITY = 16  # header key
MAX_PADDED_PIXELS = 2**27


class TransformSettings(CodecSettings):
    """Settings of `image-transform`."""

    quality: int = Field(50, ge=0, le=QUALITY_MAX, description="0 (smallest file) to 100 (best picture)")
    effort: int = Field(
        3,
        ge=1,
        le=9,
        description="1 (fastest) to 9 (smallest file): 4 corrects the decoder's last layer for the picture, "
        "from 5 on symbols are refined for it too",
    )


class _Piece(NamedTuple):
    """Tile `tile`, the `number`th of picture number `picture`, and the larger part that its transform reads."""

    picture: int
    number: int
    tile: Tile
    window: Tile


@cache
def exact_model(digest: bytes, device: str) -> ExactModel:
    """Return the networks of the weights with this digest on a device; raises `DeviceUnavailable` where that is not exact."""
    weights = load_weights("image-transform", digest)
    spec = json.loads(weights.metadata["spec"])
    spec["groups"] = tuple(spec["groups"])
    try:
        with torch.inference_mode(False):  # or no gradient could be had through the networks for ever after
            return ExactModel(weights.tensors, TransformSpec(**spec), device)
    except InexactDevice as error:
        raise DeviceUnavailable(f"{error}; use the cpu") from error


class ImageTransform:
    """The codec. Takes 8-bit grey and RGB; alpha travels losslessly beside it."""

    id = "image-transform"
    signal = "image"
    lossless = False
    Settings = TransformSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.tiles_at_once = device, TILES_AT_ONCE[device]
        self.digest = load_weights("image-transform").digest
        self.model = exact_model(self.digest, device)
        self.last_timings: dict[str, float] = {}

    def encode(self, signal: Image, settings: TransformSettings, progress: Progress | None = None) -> Stream:
        """Compress a picture; raises `UnsupportedMedia` for 16-bit samples."""
        return self._encode([signal], [settings], EntropyMeter(), progress)[0]

    def ideal_bits(self, signal: Image, settings: TransformSettings) -> float:
        """Return -log2 of the probability that the tables give to the picture's symbols."""
        meter = EntropyMeter(counting=True)
        self._encode([signal], [settings], meter)
        return meter.ideal_bits

    def encode_batch(self, signals: Sequence[Image], settings: Sequence[TransformSettings]) -> list[Stream]:
        """Compress pictures together: the same bytes as one by one."""
        return self._encode(signals, settings, EntropyMeter())

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore a picture; raises `CorruptStream` where symbols or sizes contradict the header."""
        return self._decode([stream], progress)[0]

    def decode_batch(self, streams: Sequence[Stream]) -> list[Image]:
        """Restore pictures together."""
        if len({stream.weights for stream in streams}) > 1:  # old and new weights do not share a batch
            return [self.decode(stream) for stream in streams]
        return self._decode(streams, None)

    @torch.inference_mode()
    def _encode(
        self,
        signals: Sequence[Image],
        settings: Sequence[TransformSettings],
        meter: EntropyMeter,
        progress: Progress | None = None,
    ) -> list[Stream]:
        began = time.perf_counter()
        for signal in signals:
            check_area(*signal.shape[:2])
        pixels = [pad_to_cells(rgb_planes(signal, self.id)) for signal in signals]
        codes = [Improved({}) for _ in signals]
        grids = {}
        for picture, (signal, chosen) in enumerate(zip(signals, settings, strict=True)):
            if chosen.effort in EFFORTS:
                codes[picture] = encode_improved(
                    self.model, pixels[picture], signal.shape, chosen.quality, chosen.effort, meter, progress
                )
            else:
                grids[picture] = grid_of(*signal.shape[:2])
        batches = _batches(grids, self.tiles_at_once, self.model.spec.halo)
        for number, batch in enumerate(batches):
            windows = np.stack([pixels[p.picture][(slice(None), *p.window.slices(CELL))] for p in batch])
            quality = torch.tensor([settings[p.picture].quality for p in batch])
            rows, columns = batch[0].tile.within(batch[0].window).slices()
            y = self.model.latents(torch.from_numpy(windows), quality)[:, :, rows, columns]
            for piece, code in zip(batch, encode_tiles(self.model, y, quality, meter), strict=True):
                codes[piece.picture].tiles[piece.tile] = code
            _report(progress, number + 1, len(batches), "encoding")
        self._note_timings(began, meter)
        return [self._stream(*parts) for parts in zip(signals, settings, codes, strict=True)]

    def _stream(self, signal: Image, settings: TransformSettings, codes: Improved) -> Stream:
        tiles = tiles_of(grid_of(*signal.shape[:2]))
        chunks = [codes.tiles[tile][0] for tile in tiles]
        if codes.correction is not None:
            chunks.append(codes.correction)
        if signal.has_alpha:
            chunks.append(encode_alpha(signal.array[:, :, -1].astype(np.uint8)))
        return Stream(
            self.id,
            signal.shape,
            tuple(chunks),
            params={PARAM_QUALITY: settings.quality},
            weights=(self.digest,),
            digest=joint_digest([codes.tiles[tile][1] for tile in tiles]),
            metadata=signal.metadata,
        )

    @torch.inference_mode()
    def _decode(self, streams: Sequence[Stream], progress: Progress | None) -> list[Image]:
        began, meter = time.perf_counter(), EntropyMeter()
        qualities = [check_stream(stream) for stream in streams]
        model = exact_model(streams[0].weights[0], self.device)
        corrections = [correction_in(stream, model) for stream in streams]
        grids = [grid_of(*stream.shape[:2]) for stream in streams]
        latents = [torch.empty(model.spec.latent, *grid) for grid in grids]
        digests: list[dict[Tile, bytes]] = [{} for _ in streams]
        batches = _batches(dict(enumerate(grids)), self.tiles_at_once, model.spec.halo)
        for number, batch in enumerate(batches):
            quality = torch.tensor([qualities[p.picture] for p in batch])
            chunks = [streams[p.picture].chunks[p.number] for p in batch]
            try:
                y, found = decode_tiles(model, chunks, quality, batch[0].tile.size, meter)
            except EntropyError as error:
                raise CorruptStream(f"tile at row {batch[0].tile.top}: {error}") from error
            for piece, part, digest in zip(batch, y.cpu(), found, strict=True):
                latents[piece.picture][(slice(None), *piece.tile.slices())] = part
                digests[piece.picture][piece.tile] = digest
            _report(progress, number + 1, 2 * len(batches), "decoding")
        for stream, grid, found_digests in zip(streams, grids, digests, strict=True):
            if joint_digest([found_digests[tile] for tile in tiles_of(grid)]) != stream.digest:
                raise CorruptStream("the decoded symbols do not have the checksum in the header")
        pixels = self._synthesise(model, latents, qualities, corrections, batches, progress)
        self._note_timings(began, meter)
        return [restore(stream, planes) for stream, planes in zip(streams, pixels, strict=True)]

    @staticmethod
    def _synthesise(
        model: ExactModel,
        latents: list[Tensor],
        qualities: list[int],
        corrections: list[Tensor | None],
        batches: list[list[_Piece]],
        progress: Progress | None,
    ) -> list[NDArray[np.uint8]]:
        pixels = [np.empty((3, y.shape[1] * CELL, y.shape[2] * CELL), np.uint8) for y in latents]
        for number, batch in enumerate(batches):
            quality = torch.tensor([qualities[p.picture] for p in batch])
            windows = torch.stack([latents[p.picture][(slice(None), *p.window.slices())] for p in batch])
            inner = (slice(None), *batch[0].tile.within(batch[0].window).slices(CELL))
            chosen = [corrections[p.picture] for p in batch]
            decoded = model.reconstruct(windows, quality, chosen if any(c is not None for c in chosen) else None)
            for piece, part in zip(batch, decoded.numpy(), strict=True):
                pixels[piece.picture][(slice(None), *piece.tile.slices(CELL))] = part[inner]
            _report(progress, len(batches) + number + 1, 2 * len(batches), "decoding")
        return pixels

    def _note_timings(self, began: float, meter: EntropyMeter) -> None:
        self.last_timings = {"transform": time.perf_counter() - began - meter.seconds, "entropy": meter.seconds}


def _batches(grids: Mapping[int, tuple[int, int]], most: int, halo: int) -> list[list[_Piece]]:
    """Return all tiles of numbered pictures in batches of at most `most`, whose tiles and windows have one size and offset."""
    alike: dict[tuple[object, ...], list[_Piece]] = defaultdict(list)
    for picture, grid in grids.items():
        for number, tile in enumerate(tiles_of(grid)):
            window = tile.grown(halo, grid)
            alike[window.size, tile.within(window)].append(_Piece(picture, number, tile, window))
    return [pieces[i : i + most] for pieces in alike.values() for i in range(0, len(pieces), most)]


def check_area(height: int, width: int) -> None:
    """Raise `LimitExceeded` for a picture so thin that whole cells of 16 x 16 pixels would take far more memory than it."""
    rows, columns = grid_of(height, width)
    if rows * columns * CELL**2 > MAX_PADDED_PIXELS:
        raise LimitExceeded(
            "the picture's area in whole cells of 16 x 16 pixels", MAX_PADDED_PIXELS, rows * columns * CELL**2, "another codec"
        )


def pad_to_cells(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the last row and column until both sizes are multiples of 16."""
    height, width = planes.shape[1:]
    return np.pad(planes, ((0, 0), (0, -height % CELL), (0, -width % CELL)), mode="edge")


def check_stream(stream: Stream) -> int:
    """Return the quality of a stream whose header makes sense; raises `CorruptStream` otherwise."""
    quality = stream.params.get(PARAM_QUALITY)
    if type(quality) is not int or not 0 <= quality <= QUALITY_MAX:
        raise CorruptStream(f"the quality is {quality!r}, not an integer of 0..{QUALITY_MAX}")
    check_shape(stream)
    check_area(*stream.shape[:2])
    expected = len(tiles_of(grid_of(*stream.shape[:2]))) + (stream.shape[2] in (2, 4))
    if len(stream.chunks) not in (expected, expected + 1):
        raise CorruptStream(
            f"there are {len(stream.chunks)} payloads where the picture has {expected}, and perhaps a correction"
        )
    return quality


def correction_in(stream: Stream, model: ExactModel) -> Tensor | None:
    """Return what a stream adds to the last layer's weights, None for nothing; raises `CorruptStream`.

    A correction is a payload of its own after those of the tiles: where there is one more than tiles and alpha take.
    """
    tiles = len(tiles_of(grid_of(*stream.shape[:2])))
    if len(stream.chunks) == tiles + (stream.shape[2] in (2, 4)):
        return None
    if model.directions is None:
        raise CorruptStream("there is a correction of a layer that these weights do not have")
    return decode_correction(stream.chunks[tiles], len(model.directions)).weights(model.directions)


def _report(progress: Progress | None, done: int, of: int, stage: str) -> None:
    if progress is not None:
        progress(done / of, stage)
