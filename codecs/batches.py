"""Several signals at once, for the service: codecs that are faster in batches get them, the others go one by one.

Results come in the order of the input, each a result or the error that it met: one bad input spoils no other. Bytes and
pixels are the same as those of `compress.encode` and `compress.decode`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import compress, container
from .codec import BatchCodec, Stream
from .compress import AUTO, PREFERRED, Encoded, Target
from .errors import LaconicError
from .limits import Limits
from .registry import codec_class, open_codec
from .settings import make_settings
from .signals import Signal

__all__ = ["Request", "decode_many", "encode_many"]


@dataclass(frozen=True)
class Request:
    """One signal to compress; the fields are the arguments of `compress.encode`."""

    signal: Signal
    codec: str = AUTO
    settings: Mapping[str, object] = field(default_factory=dict)
    target: Target | None = None


def encode_many(requests: Sequence[Request], device: str = "auto") -> list[Encoded | LaconicError]:
    """Compress every request; `seconds` of a file from a batch is its share of the batch's."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        if request.target is None and "lossless" not in request.settings:
            groups[PREFERRED[0] if request.codec == AUTO else request.codec].append(index)
    results: dict[int, Encoded | LaconicError] = {}
    for name, members in groups.items():
        if len(members) > 1:
            results |= dict(zip(members, _encode_batch(name, [requests[index] for index in members], device), strict=False))
    for index, request in enumerate(requests):
        if index not in results:
            results[index] = _encode_one(request, device)
    return [results[index] for index in range(len(requests))]


def decode_many(files: Sequence[bytes], limits: Limits | None = None, device: str = "auto") -> list[Signal | LaconicError]:
    """Restore every file."""
    groups: dict[str, list[int]] = defaultdict(list)
    streams: dict[int, Stream] = {}
    results: dict[int, Signal | LaconicError] = {}
    for index, data in enumerate(files):
        try:
            streams[index] = container.read(data, limits or Limits())
            groups[streams[index].codec].append(index)
        except LaconicError as error:
            results[index] = error
    for members in groups.values():
        if len(members) > 1:
            results |= dict(zip(members, _decode_batch([streams[index] for index in members], device), strict=False))
    for index in streams:
        if index not in results:
            results[index] = _decode_one(streams[index], device)
    return [results[index] for index in range(len(files))]


def _encode_one(request: Request, device: str) -> Encoded | LaconicError:
    try:
        return compress.encode(request.signal, request.codec, request.settings, request.target, device)
    except LaconicError as error:
        return error


def _encode_batch(name: str, requests: Sequence[Request], device: str) -> list[Encoded]:
    """Return the files, or nothing where the codec has no batches or refuses one member: then each goes alone."""
    began = time.perf_counter()
    try:
        kind = codec_class(name)
        place = compress.device_of(kind, device)
        codec = open_codec(name, place)
        if not isinstance(codec, BatchCodec):
            return []
        settings = [make_settings(kind, request.settings) for request in requests]
        streams = codec.encode_batch([request.signal for request in requests], settings)
    except LaconicError:
        return []
    seconds = (time.perf_counter() - began) / len(requests)
    return [
        compress.packed(stream, request.signal, chosen, seconds, place)
        for stream, request, chosen in zip(streams, requests, settings, strict=True)
    ]


def _decode_one(stream: Stream, device: str) -> Signal | LaconicError:
    try:
        return compress.finished(compress.codec_of(stream, device).decode(stream), stream)
    except LaconicError as error:
        return error


def _decode_batch(streams: Sequence[Stream], device: str) -> list[Signal]:
    """Return the signals, or nothing where the codec has no batches or one stream is bad: then each goes alone."""
    try:
        codec = compress.codec_of(streams[0], device)
        if not isinstance(codec, BatchCodec):
            return []
        return [compress.finished(signal, stream) for signal, stream in zip(codec.decode_batch(streams), streams, strict=True)]
    except LaconicError:
        return []
