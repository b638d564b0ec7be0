"""Whether a video file is whole, by the lengths that its container states: FFmpeg takes an early end for the end."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CorruptMedia

__all__ = ["check_whole"]

SEGMENT = b"\x18\x53\x80\x67"  # the Matroska element that holds everything
GIF_TRAILER = b";"


def check_whole(data: bytes, name: str) -> None:
    """Raise `CorruptMedia` for a file that is shorter than it says."""
    end = LENGTHS[name](data) if name in LENGTHS else 0
    if end > len(data):
        raise CorruptMedia(f"the {name} file ends too early: {len(data):,} of at least {end:,} bytes are there")


def _boxes(data: bytes) -> int:
    """Return where the last box of an MP4 or QuickTime file ends."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # up to the end
            return len(data)
        at += max(size, 8)
    return at if at >= len(data) else at + 8


def _segment(data: bytes) -> int:
    """Return where the segment of a Matroska file ends; one of unknown length ends with the file."""
    at = 0
    for identifier, start, length in _elements(data):
        at = len(data) if length is None else start + length
        if identifier == SEGMENT:
            return at
    return max(at, len(data) + 1)


def _elements(data: bytes) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield the elements at the top: identifier, where the content starts, and its length, None where it is not known."""
    at = 0
    while at + 2 <= len(data):
        width = 9 - data[at].bit_length()
        identifier = data[at : at + width]
        at += width
        if at >= len(data) or width > 4:
            return
        size = 9 - data[at].bit_length()
        number = int.from_bytes(data[at : at + size], "big") & (1 << 7 * size) - 1
        length = None if number == (1 << 7 * size) - 1 else number
        yield identifier, at + size, length
        if length is None:
            return
        at += size + length


def _riff(data: bytes) -> int:
    return 8 + int.from_bytes(data[4:8], "little")


def _gif(data: bytes) -> int:
    return len(data) + (not data.rstrip(b"\0").endswith(GIF_TRAILER))


LENGTHS = {"mp4": _boxes, "mov": _boxes, "webm": _segment, "mkv": _segment, "avi": _riff, "gif": _gif}
