"""Whether a sound file is whole, by the lengths that it states: FFmpeg takes an early end for the end."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import CorruptMedia
from ..video import framing as videos

__all__ = ["check_whole", "promised_samples", "samples_of_lame"]

UNKNOWN = 0xFFFFFFFF  # the length in a WAV file that was written to a pipe, and in one of more than 4 GiB
XING_PLACES = (13, 21, 36)  # where the tag of an encoder lies in the first frame, after its mode and version
ENCODERS = (b"LAME", b"Lavc", b"Lavf")
FRAMES, BYTES = 1, 2  # of that tag: what it says
STREAMINFO = 4 + 4  # bytes before it in a FLAC file: the signature and the block's header


def check_whole(data: bytes, name: str) -> None:
    """Raise `CorruptMedia` for a file that is shorter than it says."""
    if name not in LENGTHS:
        videos.check_whole(data, VIDEO_NAMES.get(name, name))
        return
    end = LENGTHS[name](data)
    if end > len(data):
        raise CorruptMedia(f"the {name} file ends too early: {len(data):,} of at least {end:,} bytes are there")


def promised_samples(data: bytes, name: str) -> int | None:
    """Return how many samples of a channel a file says it has at least, None where it does not say."""
    if name == "flac":
        start = _after_id3(data) + STREAMINFO
        return int.from_bytes(data[start + 13 : start + 18], "big") & (1 << 36) - 1 or None
    return None


def samples_of_lame(data: bytes) -> int | None:
    """Return how many samples of a channel an MP3 file has by the tag of LAME and its like, None without one."""
    place = _xing(data)
    if place is None or data[place + 120 : place + 124] not in ENCODERS:
        return None
    frames, pads = (int.from_bytes(data[at : at + size], "big") for at, size in ((place + 8, 4), (place + 141, 3)))
    length = 1152 if data[_after_id3(data) + 1] & 0x18 == 0x18 else 576
    count = frames * length - (pads >> 12) - (pads & 0xFFF)
    return count if data[place + 7] & FRAMES and count > 0 else None


def _wav(data: bytes) -> int:
    """Return where the samples of a WAV file end."""
    at, long = 12, None
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"ds64":
            long = int.from_bytes(data[at + 16 : at + 24], "little")
        if kind == b"data":
            if size == UNKNOWN:
                return at + 8 if long is None else at + 8 + long
            return at + 8 + size
        at += 8 + size + size % 2
    return max(at, len(data) + 1)


def _aiff(data: bytes) -> int:
    return 8 + int.from_bytes(data[4:8], "big")


def _ogg(data: bytes) -> int:
    """Return where the last page of an Ogg file ends; it says of itself that it is the last."""
    at, flags = 0, 0
    while at + 27 <= len(data):
        if data[at : at + 4] != b"OggS":
            raise CorruptMedia(f"the ogg file is damaged at byte {at:,}: no page begins there")
        segments = data[at + 26]
        flags = data[at + 5]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return at if at >= len(data) and flags & 4 else len(data) + 1


def _mp3(data: bytes) -> int:
    """Return where an MP3 file ends by the tag of its encoder, 0 without one."""
    place = _xing(data)
    if place is None:
        return 0
    flags = int.from_bytes(data[place + 4 : place + 8], "big")
    if not flags & BYTES:
        return 0
    at = place + 8 + (4 if flags & FRAMES else 0)
    return _after_id3(data) + int.from_bytes(data[at : at + 4], "big")


def _adts(data: bytes) -> int:
    """Return where the last frame of an ADTS stream ends."""
    at = _after_id3(data)
    while at + 7 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xF6 == 0xF0:
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        at += max(7, length)
    return at if at >= len(data) - 128 else len(data) + 1  # as an ID3 tag may follow


def _xing(data: bytes) -> int | None:
    first = _after_id3(data)
    for place in XING_PLACES:
        if data[first + place : first + place + 4] in (b"Xing", b"Info"):
            return first + place
    return None


def _after_id3(data: bytes) -> int:
    """Return where what follows an ID3 tag begins."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if data[5] & 0x10 else 0)


VIDEO_NAMES = {"m4a": "mp4", "weba": "webm", "mka": "mkv"}
LENGTHS: dict[str, Callable[[bytes], int]] = {
    "wav": _wav,
    "aiff": _aiff,
    "flac": lambda data: 0,
    "ogg": _ogg,
    "mp3": _mp3,
    "aac": _adts,
}
