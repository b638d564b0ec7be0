"""The .lcn file: a `Stream` to bytes and back. docs/format.md is the specification; terms and checks follow it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

from google_crc32c import extend as crc32c_extend

from .codec import Stream
from .description import Chunk, Description
from .errors import CorruptStream, LimitExceeded, TruncatedStream
from .header import Header, decode_header, encode_header
from .limits import Limits
from .signals import TICKS
from .varint import read_varint, varint
from .video.timing import unpack_times

__all__ = ["SIGNATURE", "Chunk", "Description", "Limits", "describe", "is_laconic", "read", "read_header", "write"]

SIGNATURE = b"\x8cLC\r\n\x1a\n\x01"

_HEADER, _PAYLOAD, _ANCILLARY = 0x01, 0x02, 0x80
_METADATA = {"icc": 0x81, "exif": 0x82, "xmp": 0x83, "times": 0x86, "audio": 0x87, "tags": 0x88}
_HEADER_COPY, _INDEX = 0x84, 0x85
_METADATA_NAMES = {number: name for name, number in _METADATA.items()}
_CHUNK_NAMES = {_HEADER: "header", _PAYLOAD: "payload", _HEADER_COPY: "header copy", _INDEX: "index", **_METADATA_NAMES}

# Of a salvage: how far behind damage the next intact chunk is looked for, and how often the file's bytes are looked at for it.
_SEARCHED, _SEARCHES = 2**17, 8


@dataclass(frozen=True)
class _Framed:
    """One chunk as it stands in the file; `payload` is empty where the checksum is wrong or the type is skipped."""

    type: int
    offset: int
    length: int
    intact: bool
    payload: bytes


def is_laconic(data: bytes | memoryview) -> bool:
    """Say whether the bytes begin as an .lcn file of any version."""
    return bytes(data[: len(SIGNATURE) - 1]) == SIGNATURE[:-1]


def write(stream: Stream) -> bytes:
    """Return the .lcn file of a stream; raises `CorruptStream` for a stream that the format cannot hold."""
    header = encode_header(stream)
    checked = decode_header(header)
    if checked.shape != stream.shape or checked.weights != stream.weights or checked.digest != stream.digest:
        raise CorruptStream("the stream's shape, weights digests or symbol checksum do not fit the format")
    unknown = stream.metadata.keys() - _METADATA.keys()
    if unknown:
        raise CorruptStream(f"the format has no metadata called {', '.join(sorted(unknown))}")
    metadata: list[bytes] = []
    for name, number in _METADATA.items():
        if name in stream.metadata:
            metadata += _chunk(number, stream.metadata[name])
    parts = [SIGNATURE, *_chunk(_HEADER, header)]
    if stream.video or stream.audio:
        index = b"".join(map(varint, (sum(map(len, metadata)), *map(len, stream.chunks))))
        parts += [*_chunk(_HEADER_COPY, header), *_chunk(_INDEX, index)]
    parts += metadata
    for payload in stream.chunks:
        parts += _chunk(_PAYLOAD, payload)
    return b"".join(parts)


def read(data: bytes | memoryview, limits: Limits | None = None, salvage: bool = False) -> Stream:
    """Return the stream of an .lcn file.

    Raises `TruncatedStream`, `CorruptStream` or `LimitExceeded`, and nothing else, whatever the bytes. Ancillary chunks
    that are damaged are left out. With `salvage` payload chunks that are damaged or missing are left out too, and named in
    `Stream.lost`; raises `CorruptStream` only where nothing is left.
    """
    limits = limits or Limits()
    header, framed = _salvage(data, limits) if salvage else _scan(data, limits)
    payloads = [chunk for chunk in framed if chunk.type == _PAYLOAD]
    lost = frozenset(number for number, chunk in enumerate(payloads) if not chunk.intact)
    if lost and not salvage:
        what = "group of frames" if header.video else "packet" if header.audio else "tile"
        raise CorruptStream(f"{what} {min(lost)} of {header.chunk_count} is damaged: its checksum is wrong")
    if len(lost) == len(payloads):
        raise CorruptStream("nothing of the file is left")
    return Stream(
        codec=header.codec,
        version=header.version,
        shape=header.shape,
        bit_depth=header.bit_depth,
        params=header.params,
        weights=header.weights,
        digest=header.digest,
        chunks=tuple(chunk.payload for chunk in payloads),
        metadata={name: chunk.payload for name, chunk in _intact_metadata(framed).items()},
        video=header.video,
        audio=header.audio,
        lost=lost,
    )


def read_header(data: bytes | memoryview, limits: Limits | None = None) -> Header:
    """Return a file's header; its first 128 KiB are enough. Raises as `read` does."""
    limits = limits or Limits()
    view = memoryview(data).cast("B")
    _check_signature(bytes(view[: len(SIGNATURE)]))
    first = next(_chunks(view, limits), None)
    if first is None:
        raise TruncatedStream("the file ends before its header")
    if first.type != _HEADER or not first.intact:
        raise CorruptStream("the header is damaged or missing")
    return _checked_header(first.payload, limits)


def describe(data: bytes | memoryview, limits: Limits | None = None) -> Description:
    """Return what a file says of itself; raises as `read` does, but reports damaged payload chunks instead of raising."""
    header, framed = _scan(data, limits or Limits())
    chunks = (Chunk(_CHUNK_NAMES.get(c.type, f"0x{c.type:02x}"), c.offset, c.length, c.intact) for c in framed)
    return Description(
        codec=header.codec,
        version=header.version,
        shape=header.shape,
        rate=float(header.video.rate) if header.video else header.audio.rate if header.audio else None,
        seconds=_seconds(header, framed),
        bit_depth=header.bit_depth,
        params=header.params,
        weights=tuple(digest.hex() for digest in header.weights),
        digest=header.digest.hex(),
        file_bytes=len(data),
        payload_bytes=sum(c.length for c in framed if c.type == _PAYLOAD),
        metadata={name: c.length for name, c in _intact_metadata(framed).items()},
        chunks=tuple(chunks),
    )


def _seconds(header: Header, framed: list[_Framed]) -> float | None:
    """Return how long a video or sound lasts, as their `seconds` do; None of a picture."""
    if header.audio:
        return header.shape[1] / header.audio.rate
    if header.video is None:
        return None
    times = _intact_metadata(framed).get("times")
    if times is None:
        return float(header.shape[0] / header.video.rate)
    return float(unpack_times(times.payload, header.shape[0])[-1] / TICKS + 1 / header.video.rate)


def _intact_metadata(framed: list[_Framed]) -> dict[str, _Framed]:
    return {_METADATA_NAMES[c.type]: c for c in framed if c.intact and c.type in _METADATA_NAMES}


def _chunk(number: int, payload: bytes) -> tuple[bytes, bytes, bytes]:
    if len(payload) >= 2**32:
        raise CorruptStream(f"a chunk of {len(payload):,} bytes does not fit the format")
    head = bytes([number]) + varint(len(payload))
    return head, payload, _crc(head, payload)


def _crc(head: bytes, payload: bytes) -> bytes:
    return cast(int, crc32c_extend(crc32c_extend(0, head), payload)).to_bytes(4, "little")


def _scan(data: bytes | memoryview, limits: Limits) -> tuple[Header, list[_Framed]]:
    """Check signature, order, counts and caps; return the header and every chunk."""
    view = memoryview(data).cast("B")
    limits.check("max_input_bytes", len(view), "the file's length in bytes")
    header, chunks = read_header(view, limits), _chunks(view, limits)
    framed, tiles = [next(chunks)], 0
    for chunk in chunks:
        _check_order(chunk, tiles, header.chunk_count, framed)
        tiles += chunk.type == _PAYLOAD
        framed.append(chunk)
        limits.check("max_chunks", len(framed) - 1, "the number of chunks")
    if tiles < header.chunk_count:
        raise TruncatedStream(f"the file ends after {tiles} of {header.chunk_count} payload chunks")
    return header, framed


def _checked_header(payload: bytes, limits: Limits) -> Header:
    header = decode_header(payload)
    limits.check("max_chunks", header.chunk_count, "the number of payload chunks")
    if header.audio:
        return header
    height, width = header.shape[-3:-1]
    limits.check("max_pixels", height * width, "the picture's number of pixels")
    if header.video:
        limits.check("max_frames", header.shape[0], "the number of frames")
    return header


def _salvage(data: bytes | memoryview, limits: Limits) -> tuple[Header, list[_Framed]]:
    """Return the header, or its copy, and the chunks that can be found; lost payload chunks stand among them, not intact."""
    view = memoryview(data).cast("B")
    limits.check("max_input_bytes", len(view), "the file's length in bytes")
    if sum(a == b for a, b in zip(bytes(view[: len(SIGNATURE)]), SIGNATURE, strict=False)) < len(SIGNATURE) - 2:
        raise CorruptStream("not an .lcn file: the signature is wrong")
    found = _walk(view, limits)
    headers = [chunk for chunk in found if chunk.type in (_HEADER, _HEADER_COPY) and chunk.intact]
    if not headers:
        raise CorruptStream("the header is damaged or missing")
    header = _checked_header(headers[0].payload, limits)
    index = next((chunk for chunk in found if chunk.type == _INDEX and chunk.intact), None)
    starts = _payload_starts(index, header) if index else None
    if starts is None:
        ancillary, payloads = found, [chunk for chunk in found if chunk.type == _PAYLOAD][-header.chunk_count :]
    else:
        ancillary = [chunk for chunk in found if chunk.offset < starts[0]]
        payloads = [_payload_at(view, start, end, limits) for start, end in pairwise(starts)]
    missing = header.chunk_count - len(payloads)
    ancillary = [chunk for chunk in ancillary if chunk.type != _PAYLOAD]
    return header, [*ancillary, *payloads, *missing * [_Framed(_PAYLOAD, len(view), 0, False, b"")]]


def _walk(view: memoryview, limits: Limits) -> list[_Framed]:
    """Return the chunks of a damaged file: one that is not intact keeps its place only if another chunk follows it."""
    found: list[_Framed] = []
    at, budget = len(SIGNATURE), _SEARCHES * len(view)
    while at < len(view) and len(found) <= limits.max_chunks:
        chunk = _chunk_at(view, at, limits)
        if chunk and not chunk.intact:
            after = _end(chunk)
            follower = _chunk_at(view, after, limits) if after < len(view) else chunk
            chunk = chunk if follower and (follower.intact or follower is chunk) else None
        if chunk:
            found.append(chunk)
            at = _end(chunk)
            continue
        at, budget = _next_intact(view, at + 1, limits, budget)
    return found


def _next_intact(view: memoryview, start: int, limits: Limits, budget: int) -> tuple[int, int]:
    """Return where the next intact chunk begins, or the end, and what is left of the bytes that the search may look at."""
    for at in range(start, min(len(view), start + _SEARCHED)):
        chunk = _chunk_at(view, at, limits) if view[at] in _CHUNK_NAMES else None
        if chunk and chunk.intact:
            return at, budget
        budget -= chunk.length if chunk else 1
        if budget < 0:
            break
    return len(view), budget


def _chunk_at(view: memoryview, at: int, limits: Limits) -> _Framed | None:
    try:
        return next(_chunks(view, limits, at), None)
    except (CorruptStream, LimitExceeded):  # a damaged length may be a large one
        return None


def _end(chunk: _Framed) -> int:
    return chunk.offset + chunk.length + 4


def _payload_starts(index: _Framed, header: Header) -> list[int] | None:
    """Return where each payload chunk begins, and where the last ends, by the index; None where it contradicts the header."""
    view, at = memoryview(index.payload), 0
    lengths: list[int] = []
    try:
        while at < len(view) and len(lengths) <= header.chunk_count:
            value, at = read_varint(view, at, "a length of the index")
            lengths.append(value)
    except CorruptStream:
        return None
    if len(lengths) != header.chunk_count + 1 or at < len(view):
        return None
    sizes = [1 + len(varint(length)) + length + 4 for length in lengths[1:]]
    return list(accumulate(sizes, initial=_end(index) + lengths[0]))


def _payload_at(view: memoryview, start: int, end: int, limits: Limits) -> _Framed:
    """Return the payload chunk that should lie at start .. end - 1, not intact where it does not."""
    chunk = _chunk_at(view, start, limits) if end <= len(view) else None
    if chunk and chunk.type == _PAYLOAD and _end(chunk) == end:
        return chunk
    return _Framed(_PAYLOAD, start, 0, False, b"")


def _check_signature(start: bytes) -> None:
    if start == SIGNATURE:
        return
    if SIGNATURE.startswith(start):
        raise TruncatedStream("the file ends inside its signature")
    if is_laconic(start):
        raise CorruptStream(f"the file is of format version {start[-1]}; this reader knows version {SIGNATURE[-1]}")
    raise CorruptStream("not an .lcn file: the signature is wrong")


def _check_order(chunk: _Framed, tiles: int, announced: int, before: list[_Framed]) -> None:
    """Raise unless `chunk` may follow `before`, of which `tiles` of the `announced` are payload chunks."""
    if tiles == announced:
        raise CorruptStream("bytes follow the last payload chunk")
    if chunk.type == _PAYLOAD:
        return
    if not chunk.type & _ANCILLARY:
        raise CorruptStream(f"a chunk of type 0x{chunk.type:02x} is unknown or out of place")
    if tiles:
        raise CorruptStream(f"a chunk of type 0x{chunk.type:02x} stands between payload chunks")
    if chunk.intact and chunk.type in _METADATA_NAMES and any(c.intact and c.type == chunk.type for c in before):
        raise CorruptStream(f"a second {_METADATA_NAMES[chunk.type]} chunk")


def _chunks(view: memoryview, limits: Limits, at: int = len(SIGNATURE)) -> Iterator[_Framed]:
    """Yield the chunks from `at`, by default after the signature; no payload is copied before its length is checked."""
    metadata_bytes = 0
    while at < len(view):
        number = view[at]
        length, start = read_varint(view, at + 1, "a chunk's length")
        end = start + length
        if end + 4 > len(view):
            raise TruncatedStream(f"a chunk at byte {at} needs {end + 4 - len(view):,} bytes more than the file has")
        if number == _HEADER:
            limits.check("max_header_bytes", length, "the header's length in bytes")
        if number == _METADATA["audio"]:
            limits.check("max_audio_bytes", length, "the sound's length in bytes")
        elif number in _METADATA_NAMES:
            metadata_bytes += length
            limits.check("max_metadata_bytes", metadata_bytes, "the metadata's length in bytes")
        payload = bytes(view[start:end])
        intact = _crc(bytes(view[at:start]), payload) == bytes(view[end : end + 4])
        kept = intact and number in _CHUNK_NAMES
        yield _Framed(number, start, length, intact, payload if kept else b"")
        at = end + 4
