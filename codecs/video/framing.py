"""What containers state of video files: whether one is whole (FFmpeg takes an early end for the end), and how much is in it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from ..errors import CorruptMedia

__all__ = ["check_whole", "gif_frames", "y4m_size"]

SEGMENT = b"\x18\x53\x80\x67"  # the Matroska element that holds everything
BOXES_OF_SAMPLES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
GIF_TRAILER = b";"
GIF_FRAME, GIF_EXTENSION = b",!"
GIF_BLOCKS = 2**17  # of a GIF that are looked at to count its frames: 30 ms
Y4M_LINE = 256  # bytes of a header at most
CHROMA = re.compile(rb"(mono|420|411|422|444)(?:jpeg|mpeg2|paldv)?(p?(?:9|10|12|14|16))?")
SUBSAMPLING = {b"mono": (0, 0), b"420": (2, 2), b"411": (4, 1), b"422": (2, 1), b"444": (1, 1)}  # columns and rows a sample


def check_whole(data: bytes, name: str) -> None:
    """Raise `CorruptMedia` for a file that is shorter than it says."""
    end = LENGTHS[name](data) if name in LENGTHS else 0
    if end > len(data):
        raise CorruptMedia(f"the {name} file ends too early: {len(data):,} of at least {end:,} bytes are there")


def _mp4(data: bytes) -> int:
    """Return where the last box of an MP4 or QuickTime file ends."""
    end = 0
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind in BOXES_OF_SAMPLES:
            _check_samples(data, start, min(end, len(data)))
    return end if end >= len(data) else end + 8


def _boxes(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of a stretch: kind, where the content starts, and where it ends, which may be beyond the stretch."""
    while at + 8 <= stop:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = stop if size == 0 else at + max(size, head)
        yield data[at + 4 : at + 8], at + head, end
        at = end


def _check_samples(data: bytes, start: int, stop: int) -> None:
    """Raise `CorruptMedia` for more samples than a file can hold: FFmpeg takes memory for as many as a box says."""
    for kind, first, end in _boxes(data, start, stop):
        if kind in BOXES_OF_SAMPLES:
            _check_samples(data, first, min(end, stop))
        elif kind in COUNTS:
            size, count = COUNTS[kind](data[first : first + 12])
            if size * count > len(data):
                raise CorruptMedia(f"{count:,} samples are more than {len(data):,} bytes hold")


def _numbers(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")


def _segment(data: bytes) -> int:
    """Return where the segment of a Matroska file ends; one of unknown length ends with the file."""
    at = 0
    for identifier, start, length in _elements(data):
        at = len(data) if length is None else start + length
        if identifier == SEGMENT:
            return at
    return max(at, len(data) + 1)


def y4m_size(data: bytes) -> tuple[int, int]:
    """Return the height and width in the header of a YUV4MPEG2 file, 0 for what is not there."""
    fields = _y4m_fields(data)
    height, width = (int(fields[name]) if fields.get(name, b"").isdigit() else 0 for name in (b"H", b"W"))
    return height, width


def _y4m_fields(data: bytes) -> dict[bytes, bytes]:
    return {field[:1]: field[1:] for field in data[: data.find(b"\n", 0, Y4M_LINE) + 1].split()[1:]}


def _y4m(data: bytes) -> int:
    """Return where the last frame of a YUV4MPEG2 file ends; 0 for kinds of chroma that only FFmpeg may know."""
    found = CHROMA.fullmatch(_y4m_fields(data).get(b"C", b"420"))
    height, width = y4m_size(data)
    if found is None or not (height and width):
        return 0
    across, down = SUBSAMPLING[found[1]]
    chroma = 2 * -(-width // across) * -(-height // down) if across else 0
    size = (width * height + chroma) * (2 if found[2] else 1)
    at = data.find(b"\n", 0, Y4M_LINE) + 1
    while at < len(data):
        line = data.find(b"\n", at, at + Y4M_LINE) + 1
        if not line:
            return len(data) + 1
        at = line + size
    return at


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


def gif_frames(data: bytes, most: int) -> int:
    """Return the number of frames of a GIF, at most `most`, or of those in its first `GIF_BLOCKS` blocks; decodes none."""
    frames = blocks = 0
    with contextlib.suppress(IndexError):  # a file that ends too early has those that came before
        at = 13 + _gif_colours(data[10])
        while frames < most and blocks < GIF_BLOCKS and (kind := data[at]) in (GIF_FRAME, GIF_EXTENSION):
            at += 2 if kind == GIF_EXTENSION else 11 + _gif_colours(data[at + 9])
            frames += kind == GIF_FRAME
            while (size := data[at]) and blocks < GIF_BLOCKS:
                at += 1 + size
                blocks += 1
            at += 1
            blocks += 1
    return frames


def _gif_colours(flags: int) -> int:
    """Return the bytes of a colour table, by the flags of a screen or frame."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# Bytes of a sample at least, and how many there are: of one size (stsz), in a fragment (trun).
COUNTS: dict[bytes, Callable[[bytes], tuple[int, int]]] = {b"stsz": _numbers, b"trun": lambda head: (1, _numbers(head)[0])}
LENGTHS = {"mp4": _mp4, "mov": _mp4, "webm": _segment, "mkv": _segment, "avi": _riff, "y4m": _y4m, "gif": _gif}
