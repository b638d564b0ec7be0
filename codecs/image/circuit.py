"""`image-circuit`: lossless coding with probabilistic circuits, which answer any marginal exactly.

Liu, Mandt and Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022. Two ways in: small grey pictures
of one size, many in a stream, each sample given the others by one circuit over the whole picture; and pictures of any size, as
residuals in blocks. `circuit_walk` does the coding, `circuit_tables` the loading.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...entropy.digest import symbol_digest
from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream, InvalidSettings, UnsupportedMedia, WeightsMissing
from ..signals import Image, Pictures
from ..weights import pinned_weights
from .circuit_blocks import decode_tile, encode_tile
from .circuit_pictures import PICTURES_PER_CHUNK, Coded, decode_pictures, encode_pictures
from .circuit_tables import LoadedCircuit, load_model, model_spec

__all__ = ["CircuitSettings", "ImageCircuit"]

PARAM_COUNT, PARAM_PARTIAL = 16, 17  # header keys: number of pictures; whether samples known beforehand are left out
TILE = 512  # pixels, of pictures of any size
SAMPLE = 100  # pictures that the choice of a circuit is made on

Bytes = NDArray[np.uint8]
Result = TypeVar("Result")


class CircuitSettings(CodecSettings):
    """Settings of `image-circuit`."""

    model: Literal["auto", "digits", "fashion", "photos"] = Field(
        "auto", description="which circuit: auto tries those that fit the size of the pictures"
    )


class ImageCircuit:
    """The codec. Takes 8-bit pictures, and small grey ones together."""

    id = "image-circuit"
    signal = "image"
    signals = ("image", "pictures")
    devices = ("cpu",)
    overlaps = True
    lossless = True
    Settings = CircuitSettings

    def __init__(self, device: str = "cpu") -> None:
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.last_cost = 0  # multiplications of the last call

    def encode(self, signal: Image, settings: CircuitSettings, progress: Progress | None = None) -> Stream:
        """Compress; raises `UnsupportedMedia` for 16-bit samples, `InvalidSettings` for a model of another size."""
        return self._encode(signal, settings, progress)[0]

    def ideal_bits(self, signal: Image, settings: CircuitSettings) -> float:
        """Return -log2 of the probability that the circuit gives to the samples that are coded."""
        return sum(part.ideal_bits for part in self._encode(signal, settings, None)[1])

    def _encode(self, signal: Image, settings: CircuitSettings, progress: Progress | None) -> tuple[Stream, list[Coded]]:
        if signal.bit_depth != 8:
            raise UnsupportedMedia("image-circuit takes 8 bits per sample; use image-lossless or jxl with lossless for 16")
        if isinstance(signal, Pictures):
            model = _model_for(signal, settings.model)
            if model.spec["kind"] == "pictures":
                return self._encode_pictures(signal, model, progress)
            if signal.known is not None:
                raise InvalidSettings("no circuit knows pictures of this size whole, so none can leave out known samples")
            parts, params = signal.strip().array, {PARAM_COUNT: len(signal.array)}
        else:
            if settings.model not in ("auto", "photos"):
                raise InvalidSettings(f"the model {settings.model} takes small pictures as an array N×H×W, not one picture")
            model, parts, params = _named("photos"), signal.array, dict[int, int]()
        jobs = [partial(encode_tile, model.circuit, part) for part in _tiles(parts.astype(np.uint8, copy=False))]
        coded = self._run(jobs, progress, "encoding")
        return _stream(signal, model, coded, params), coded

    def _encode_pictures(self, signal: Pictures, model: LoadedCircuit, progress: Progress | None) -> tuple[Stream, list[Coded]]:
        count = len(signal.array)
        values = cast(Bytes, signal.array).reshape(count, -1)
        known = None if signal.known is None else np.broadcast_to(signal.known, signal.array.shape).reshape(count, -1)
        jobs = [
            partial(encode_pictures, model.circuit, values[part], None if known is None else known[part])
            for part in _chunks(count)
        ]
        coded = self._run(jobs, progress, "encoding")
        params = {PARAM_COUNT: count} | ({} if known is None else {PARAM_PARTIAL: 1})
        return _stream(signal, model, coded, params), coded

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore; raises `CorruptStream`, and `InvalidSettings` where known samples are missing or differ."""
        model, count = _check_stream(stream)
        height, width = stream.shape[:2]
        if model.spec["kind"] == "pictures":
            array = self._decode_pictures(stream, model, count, progress)
        else:
            array = np.empty(stream.shape, np.uint8)
            views = _views(array)
            jobs = [
                partial(decode_tile, model.circuit, chunk, view.shape[2], *view.shape[:2])
                for chunk, view in zip(stream.chunks, views, strict=True)
            ]
            for part, decoded in zip(views, self._run(jobs, progress, "decoding"), strict=True):
                part[:] = decoded.transpose(1, 2, 0)
        if symbol_digest(array) != stream.digest:
            raise CorruptStream("the decoded samples do not have the checksum in the header")
        if count:
            return Pictures(array.reshape(count, height // count, width), dict(stream.metadata))
        return Image(array, dict(stream.metadata))

    def _decode_pictures(self, stream: Stream, model: LoadedCircuit, count: int, progress: Progress | None) -> Bytes:
        height, width = stream.shape[0] // count, stream.shape[1]
        known = stream.known
        if known is not None and known.shape != (count, height, width):
            raise InvalidSettings(f"known= is of shape {known.shape}; the file holds {count}×{height}×{width} samples")
        flat = None if known is None else np.ascontiguousarray(known).reshape(count, -1)
        partially = PARAM_PARTIAL in stream.params
        jobs = [
            partial(
                decode_pictures,
                model.circuit,
                chunk,
                part.stop - part.start,
                None if flat is None else flat[part],
                partially,
            )
            for chunk, part in zip(stream.chunks, _chunks(count), strict=True)
        ]
        return np.concatenate(self._run(jobs, progress, "decoding")).reshape(stream.shape)

    def _run(self, jobs: Sequence[Callable[[], Result]], progress: Progress | None, stage: str) -> list[Result]:
        """Return the results of the jobs, in order, from as many threads as there are cores: kernels let go of the lock."""
        results = []
        with ThreadPoolExecutor(min(self.threads, len(jobs))) as pool:
            try:
                for number, result in enumerate(pool.map(lambda job: job(), jobs)):
                    results.append(result)
                    if progress is not None:
                        progress((number + 1) / len(jobs), stage)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return results


def _check_stream(stream: Stream) -> tuple[LoadedCircuit, int]:
    """Return the circuit of a stream whose header makes sense and its number of pictures (0: one picture of any size)."""
    if len(stream.weights) != 1 or stream.bit_depth != 8 or len(stream.shape) != 3:
        raise CorruptStream("image-circuit codes 8 bits per sample with one circuit")
    count, height = stream.params.get(PARAM_COUNT, 0), stream.shape[0]
    if type(count) is not int or count < 0 or (count and (height % count or stream.shape[2] != 1)):
        raise CorruptStream(f"{count!r} pictures do not share {height} rows")
    spec = model_spec(stream.weights[0])
    if spec["kind"] == "pictures":
        if not count or [height // count, stream.shape[1]] != spec["size"]:
            raise CorruptStream("the circuit is for pictures of another size")
        expected = len(_chunks(count))
    else:
        expected = len(_places(*stream.shape))
    if len(stream.chunks) != expected:
        raise CorruptStream(f"there are {len(stream.chunks)} payloads where {expected} belong")
    return load_model(stream.weights[0]), count


def _stream(signal: Image, model: LoadedCircuit, coded: list[Coded], params: dict[int, int]) -> Stream:
    return Stream(
        ImageCircuit.id,
        signal.shape,
        tuple(part.payload for part in coded),
        params=params,
        weights=(model.digest,),
        digest=symbol_digest(signal.array),
        metadata=signal.metadata,
    )


def _chunks(count: int) -> list[slice]:
    return [slice(at, min(at + PICTURES_PER_CHUNK, count)) for at in range(0, count, PICTURES_PER_CHUNK)]


def _places(height: int, width: int, channels: int) -> list[tuple[slice, slice, slice]]:
    """Return rows, columns and channels of each tile: those of the colours in raster order, then those of alpha."""
    colours = channels - (channels in (2, 4))
    parts = [slice(0, colours)] + [slice(colours, channels)] * (channels > colours)
    return [
        (slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width)), part)
        for part in parts
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]


def _views(array: Bytes) -> list[Bytes]:
    return [array[place] for place in _places(*array.shape)]


def _tiles(array: Bytes) -> list[Bytes]:
    """Return the tiles of an array (H, W, C), each as planes (1 or 3, h, w)."""
    return [np.ascontiguousarray(view.transpose(2, 0, 1)) for view in _views(array)]


def _named(name: str) -> LoadedCircuit:
    """Return the current circuit of a name."""
    for pin in pinned_weights("image-circuit"):
        if model_spec(pin.digest)["name"] == name:
            return load_model(pin.digest)
    raise WeightsMissing(f"no circuit called {name} is installed; a newer release may have it")


def _model_for(signal: Pictures, name: str) -> LoadedCircuit:
    """Return the circuit for small pictures: the one asked for, or the best of those for their size, by some of them."""
    size = list(signal.array.shape[1:])
    if name != "auto":
        model = _named(name)
        if model.spec["kind"] == "pictures" and model.spec["size"] != size:
            raise InvalidSettings(f"the model {name} takes pictures of {'×'.join(map(str, model.spec['size']))}")
        return model
    specs = {pin.digest: model_spec(pin.digest) for pin in pinned_weights("image-circuit")}
    names: dict[str, bytes] = {}
    for digest, spec in specs.items():
        if spec["kind"] == "pictures" and spec["size"] == size:
            names.setdefault(cast(str, spec["name"]), digest)  # the first of a name is the current one
    if not names:
        return _named("photos")
    models = [load_model(digest) for digest in names.values()]
    if len(models) == 1:
        return models[0]
    chosen = cast(Bytes, signal.array)[:: max(1, len(signal.array) // SAMPLE)].reshape(-1, size[0] * size[1])
    return min(models, key=lambda model: len(encode_pictures(model.circuit, chosen).payload))
