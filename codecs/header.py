"""The header chunk of an .lcn file: one deterministic CBOR map, whose keys docs/format.md lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn, cast

import cbor2

from .codec import AudioFacts, ParamValue, Stream, VideoFacts
from .errors import CorruptStream
from .signals import LAYOUTS, Colour

__all__ = ["CODEC_NUMBERS", "Header", "decode_header", "encode_header"]

# On disk for ever: add, never change.
CODEC_NUMBERS = {
    "image-transform": 1,
    "jpeg": 2,
    "webp": 3,
    "avif": 4,
    "jxl": 5,
    "image-lossless": 6,
    "image-circuit": 7,
    "video-inr": 8,
    "av1": 9,
    "hevc": 10,
    "h264": 11,
    "audio-rvq": 12,
    "audio-lossless": 13,
    "flac": 14,
    "opus": 15,
    "image-overfit": 16,
}

_CODEC_NAMES = {number: name for name, number in CODEC_NUMBERS.items()}
_LAYOUT = re.compile(r"[a-zA-Z0-9.()+ ]{1,64}")
_THIRD_PARTY_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_CODEC, _VERSION, _SHAPE, _BIT_DEPTH, _DIGESTS, _CHUNK_COUNT, _VIDEO, _AUDIO, _FIRST_PARAM = 0, 1, 2, 3, 4, 5, 6, 7, 16
_DEFAULTS: dict[int, object] = {_CODEC: 1, _VERSION: 1, _BIT_DEPTH: 8, _DIGESTS: b"", _CHUNK_COUNT: 1}
_HEADER_CAP, _WEIGHTS_CAP = 65_536, 64
_DIGEST_BYTES, _CHECKSUM_BYTES = 8, 2


@dataclass(frozen=True)
class Header:
    """What the header chunk says, checked: as in `Stream`, with the number of payload chunks instead of their bytes."""

    codec: str
    version: int
    shape: tuple[int, ...]
    bit_depth: int
    weights: tuple[bytes, ...]
    digest: bytes
    chunk_count: int
    video: VideoFacts | None
    audio: AudioFacts | None
    params: dict[int, ParamValue]


class _NoTags(dict[int, Any]):
    """Semantic decoders that refuse every CBOR tag before its content is read."""

    def __getitem__(self, tag: int) -> NoReturn:
        raise cbor2.CBORDecodeError(f"tag {tag} is not allowed")


def encode_header(stream: Stream) -> bytes:
    """Return the header chunk's payload; raises `CorruptStream` for a stream that the format cannot hold."""
    shape = list(stream.shape)
    items: dict[int, object] = {
        _CODEC: CODEC_NUMBERS.get(stream.codec, stream.codec),
        _VERSION: stream.version,
        _SHAPE: shape[:-1] if stream.video or shape[2:] == [3] else shape,
        _BIT_DEPTH: stream.bit_depth,
        _DIGESTS: b"".join(stream.weights) + stream.digest,
        _CHUNK_COUNT: len(stream.chunks),
    }
    if stream.video:
        rate, colour = stream.video.rate, stream.video.colour
        codes = [colour.primaries, colour.transfer, colour.matrix, int(colour.full_range)]
        items[_VIDEO] = [rate.numerator, rate.denominator, *([] if colour == Colour() else codes)]
    if stream.audio:
        items[_AUDIO] = [stream.audio.rate, stream.audio.layout]
    items = {key: value for key, value in items.items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
    if any(type(key) is not int or key < _FIRST_PARAM for key in stream.params):
        raise CorruptStream(f"a codec's parameters have integer keys from {_FIRST_PARAM} up")
    try:
        return cbor2.dumps({**items, **stream.params}, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, OverflowError) as error:
        raise CorruptStream(f"the header cannot be encoded: {error}") from error


def decode_header(payload: bytes) -> Header:
    """Return what a header chunk's payload says; raises `CorruptStream`, and nothing else, whatever the bytes."""
    if len(payload) > _HEADER_CAP:
        raise CorruptStream(f"a header of {len(payload):,} bytes is longer than the format allows")
    items = {**_DEFAULTS, **_decode_map(payload)}
    weights, digest = _digests(items[_DIGESTS])
    params = {key: _param(key, value) for key, value in items.items() if key >= _FIRST_PARAM}
    video = _video(items[_VIDEO]) if _VIDEO in items else None
    audio = _audio(items[_AUDIO]) if _AUDIO in items else None
    if video and audio:
        raise CorruptStream("the header is of a video and of sound")
    return Header(
        codec=_codec_name(items[_CODEC]),
        version=_integer(items[_VERSION], 1, 65_535, "the codec's version"),
        shape=(_video_shape if video else _audio_shape if audio else _picture_shape)(items.get(_SHAPE)),
        bit_depth=_audio_bits(items[_BIT_DEPTH]) if audio else _bit_depth(items[_BIT_DEPTH]),
        weights=weights,
        digest=digest,
        chunk_count=_integer(items[_CHUNK_COUNT], 1, 2**32 - 1, "the number of payload chunks"),
        video=video,
        audio=audio,
        params=params,
    )


def _decode_map(payload: bytes) -> dict[int, object]:
    """Decode deterministic CBOR: a map of unsigned integers below 2^32 to plain values."""
    try:
        items = cbor2.loads(
            payload, semantic_decoders=_NoTags(), max_depth=3, allow_indefinite=False, allow_duplicate_keys=False
        )
        # Keys are checked before comparing: True equals 1, and a file must have one form only.
        if not isinstance(items, dict) or not all(type(key) is int and 0 <= key < 2**32 for key in items):
            raise CorruptStream("the header is no map of unsigned integers")
        if not all(_is_plain(value) for value in items.values()):
            raise CorruptStream("the header holds a value of a type that is not allowed")
        if cbor2.dumps(items, canonical=True) != payload:
            raise CorruptStream("the header is not deterministically encoded")
    except CorruptStream:
        raise
    # Hostile content can fail inside cbor2 in more ways than its own errors (hashing a map used as a key, say).
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CorruptStream("the header is not valid CBOR") from error
    return items


def _is_plain(value: object) -> bool:
    if type(value) is list:
        return all(_is_plain(item) for item in value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return value is None or type(value) in (bytes, str, bool)


def _integer(value: object, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise CorruptStream(f"{what} is not an integer from {low} to {high}")
    return value


def _codec_name(value: object) -> str:
    if type(value) is int and value in _CODEC_NAMES:
        return _CODEC_NAMES[value]
    if type(value) is str and value not in CODEC_NUMBERS and _THIRD_PARTY_ID.fullmatch(value):
        return value
    raise CorruptStream("the header names a codec that this version does not know")


def _video_shape(value: object) -> tuple[int, ...]:
    if type(value) is not list or len(value) != 3:
        raise CorruptStream("the video's shape is missing or malformed")
    return *(_integer(size, 1, 2**32 - 1, "a video's number of frames, height or width") for size in value), 3


def _video(value: object) -> VideoFacts:
    if type(value) is not list or len(value) not in (2, 6):
        raise CorruptStream("the video's frame rate is malformed")
    over, under = (_integer(part, 1, 2**31 - 1, "a part of the frame rate") for part in value[:2])
    rate = Fraction(over, under)
    if (rate.numerator, rate.denominator) != (over, under):
        raise CorruptStream("the frame rate is not in lowest terms")
    if len(value) == 2:
        return VideoFacts(rate, Colour())
    primaries, transfer, matrix = (_integer(code, 0, 255, "a colour's code point") for code in value[2:5])
    colour = Colour(primaries, transfer, matrix, bool(_integer(value[5], 0, 1, "the mark of the full range")))
    if colour == Colour():
        raise CorruptStream("the video's colour is the default, which is left out")
    return VideoFacts(rate, colour)


def _audio_shape(value: object) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2:
        raise CorruptStream("the sound's shape is missing or malformed")
    channels = _integer(value[0], 1, len(LAYOUTS), "the number of channels")
    return channels, _integer(value[1], 0, 2**40, "the number of samples")


def _audio(value: object) -> AudioFacts:
    if type(value) is not list or len(value) != 2 or type(value[1]) is not str or not _LAYOUT.fullmatch(value[1]):
        raise CorruptStream("the sound's rate and layout are malformed")
    return AudioFacts(_integer(value[0], 1, 2**31 - 1, "the sampling rate"), value[1])


def _audio_bits(value: object) -> int:
    bits = _integer(value, 8, 32, "the number of bits per sample")
    if 24 < bits < 32:
        raise CorruptStream("the number of bits per sample is neither 8 to 24 nor 32")
    return bits


def _picture_shape(value: object) -> tuple[int, int, int]:
    if type(value) is not list or len(value) not in (2, 3) or value[2:] == [3]:
        raise CorruptStream("the picture's shape is missing or malformed")
    height, width = (_integer(size, 1, 2**32 - 1, "the picture's side") for size in value[:2])
    return height, width, _integer(value[2], 1, 4, "the number of channels") if len(value) == 3 else 3


def _bit_depth(value: object) -> int:
    if _integer(value, 8, 16, "the number of bits per sample") not in (8, 16):
        raise CorruptStream("the number of bits per sample is neither 8 nor 16")
    return cast(int, value)


def _digests(value: object) -> tuple[tuple[bytes, ...], bytes]:
    """Split into the weights' digests and the symbol checksum."""
    if type(value) is not bytes or len(value) % _DIGEST_BYTES not in (0, _CHECKSUM_BYTES):
        raise CorruptStream("the digests are malformed")
    count = len(value) // _DIGEST_BYTES
    if count > _WEIGHTS_CAP:
        raise CorruptStream(f"the header names more than {_WEIGHTS_CAP} weights files")
    cut = count * _DIGEST_BYTES
    return tuple(value[at : at + _DIGEST_BYTES] for at in range(0, cut, _DIGEST_BYTES)), value[cut:]


def _param(key: int, value: object) -> ParamValue:
    if value is None or (type(value) is list and any(type(item) is not int for item in value)):
        raise CorruptStream(f"the codec's parameter {key} has a type that is not allowed")
    return cast(ParamValue, value)
