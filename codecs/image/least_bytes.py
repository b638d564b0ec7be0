"""How few bytes a complete PNG or JPEG of some size can have: a file with fewer lacks pixels, which its header tells already.

Readers of these formats fill in what is missing and say nothing, so that a hundred bytes would give a picture of the largest
size allowed. Other formats code a flat picture of any size in next to nothing: of those every file may be complete.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import CorruptMedia

__all__ = ["check_complete"]

DEFLATE_RATIO = 1032  # at most: a copy of 258 bytes takes a bit for its length and one for its distance (RFC 1951, 3.2.5)
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # of JPEG: baseline, extended and progressive; arithmetic coding has no such bound
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # among the markers of frames
BLOCK = 8


def check_complete(data: bytes, name: str) -> None:
    """Raise `CorruptMedia` for a PNG or JPEG with fewer bytes than its pixels take at least; the header has been read once."""
    least = LEAST[name](data) if name in LEAST else 0
    if len(data) < least:
        raise CorruptMedia(f"the {name} file is incomplete: its pixels take at least {least:,} bytes, and it has {len(data):,}")


def _least_png(data: bytes) -> int:
    """Return the bytes of samples, without the filter bytes of rows, over what deflate can expand."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    depth, colour = data[24], data[25]
    return width * height * depth * PNG_SAMPLES.get(colour, 0) // 8 // DEFLATE_RATIO


def _least_jpeg(data: bytes) -> int:
    """Return a bit for each block: the shortest code that its mean may have (ITU-T T.81, F.1.2.1 and G.1.2.1)."""
    found = _jpeg_frame(data)
    if found is None:
        return 0
    height, width = (int.from_bytes(found[at : at + 2], "big") for at in (1, 3))
    sampling = [(factors >> 4, factors & 15) for factors in found[7::3]]
    most_across, most_down = (max((pair[axis] for pair in sampling), default=0) for axis in (0, 1))
    if not most_across or not most_down:
        return 0
    blocks = sum(
        -(-width * across // (most_across * BLOCK)) * -(-height * down // (most_down * BLOCK)) for across, down in sampling
    )
    return blocks // 8


def _jpeg_frame(data: bytes) -> bytes | None:
    """Return the header of the first frame, after its length; None where it is not of Huffman codes, or not found."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            return data[at + 4 : at + 2 + length] if marker in HUFFMAN_FRAMES and length >= 8 else None
        else:
            at += 2 + length
    return None


LEAST: dict[str, Callable[[bytes], int]] = {"png": _least_png, "jpeg": _least_jpeg}
