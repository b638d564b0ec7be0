"""The opening of a JPEG XL file: its boxes and the fields that say how large the decoded picture is.

The decoder that we use allocates the picture before it can be asked for the size, so the size is read here first.
Field by field after ISO/IEC 18181-1:2024, sections D.2 (SizeHeader), D.3 (ImageMetadata) and E.2 (ColourEncoding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import CorruptMedia, UnsupportedMedia

__all__ = ["CONTAINER_SIGNATURE", "JxlHeader", "boxes", "parse"]

CONTAINER_SIGNATURE = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"
CODESTREAM_SIGNATURE = b"\xff\x0a"
MAX_EXTRA_CHANNELS = 16  # each one costs the decoder a plane of the picture's size
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))

# The four choices of a U32 field: (constant, number of further bits to add).
Choice = tuple[int, int]
SIZE: tuple[Choice, ...] = ((1, 9), (1, 13), (1, 18), (1, 30))
ENUM: tuple[Choice, ...] = ((0, 0), (1, 0), (2, 4), (18, 6))


@dataclass(frozen=True)
class JxlHeader:
    """Geometry of the upright picture; `bits` per sample, `is_float` whether samples are floating point."""

    height: int
    width: int
    channels: int
    bits: int
    is_float: bool


class _Bits:
    """Reads little-endian bit fields, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise CorruptMedia("the JPEG XL header ends too early")
        field = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return field

    def flag(self) -> bool:
        return bool(self.take(1))

    def u32(self, choices: tuple[Choice, ...]) -> int:
        base, count = choices[self.take(2)]
        return base + self.take(count)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, content) of each box of a JPEG XL container; raises `CorruptMedia` where a length does not fit."""
    at = 0
    while at < len(data):
        size, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = len(data) if size == 0 else at + size
        if len(kind) < 4 or not start <= end <= len(data):
            raise CorruptMedia("a box of the JPEG XL file does not fit into the file")
        yield kind, data[start:end]
        at = end


def parse(data: bytes) -> JxlHeader:
    """Return the geometry of a bare or boxed JPEG XL file; raises `CorruptMedia` or `UnsupportedMedia`."""
    codestream = data
    if data.startswith(CONTAINER_SIGNATURE):
        codestream = b"".join(body[4:] if kind == b"jxlp" else body for kind, body in boxes(data) if kind in (b"jxlc", b"jxlp"))
    if not codestream.startswith(CODESTREAM_SIGNATURE):
        raise CorruptMedia("the JPEG XL file holds no codestream")
    bits = _Bits(codestream[2:8192])
    height, width = _size(bits)
    if bits.flag():
        return JxlHeader(height, width, channels=3, bits=8, is_float=False)
    orientation = _extra_fields(bits) if bits.flag() else 1
    is_float, depth = _bit_depth(bits)
    bits.flag()  # modular_16bit_buffers
    count = bits.u32(((0, 0), (1, 0), (2, 4), (1, 12)))
    if count > MAX_EXTRA_CHANNELS:
        raise UnsupportedMedia(f"a JPEG XL file with {count} extra channels is not read; at most {MAX_EXTRA_CHANNELS} are")
    alpha = any([_extra_channel_is_alpha(bits) for _ in range(count)])
    bits.flag()  # xyb_encoded
    grey = not bits.flag() and _is_grey(bits)
    if orientation > 4:
        height, width = width, height
    return JxlHeader(height, width, (1 if grey else 3) + alpha, depth, is_float)


def _size(bits: _Bits) -> tuple[int, int]:
    eighths = bits.flag()
    height = 8 * (1 + bits.take(5)) if eighths else bits.u32(SIZE)
    ratio = bits.take(3)
    if ratio:
        over, under = RATIOS[ratio - 1]
        return height, height * over // under
    return height, 8 * (1 + bits.take(5)) if eighths else bits.u32(SIZE)


def _extra_fields(bits: _Bits) -> int:
    """Read orientation (returned), intrinsic size, preview and animation headers."""
    orientation = 1 + bits.take(3)
    if bits.flag():
        _size(bits)
    if bits.flag():
        preview: tuple[Choice, ...] = (
            ((16, 0), (32, 0), (1, 5), (33, 9)) if bits.flag() else ((1, 6), (65, 8), (321, 10), (1345, 12))
        )
        bits.u32(preview)
        if bits.take(3) == 0:
            bits.u32(preview)
    if bits.flag():
        bits.u32(((100, 0), (1000, 0), (1, 10), (1, 30)))
        bits.u32(((1, 0), (1001, 0), (1, 8), (1, 10)))
        bits.u32(((0, 0), (0, 3), (0, 16), (0, 32)))
        bits.flag()
    return orientation


def _bit_depth(bits: _Bits) -> tuple[bool, int]:
    if bits.flag():
        depth = bits.u32(((32, 0), (16, 0), (24, 0), (1, 6)))
        bits.take(4)
        return True, depth
    return False, bits.u32(((8, 0), (10, 0), (12, 0), (1, 6)))


def _extra_channel_is_alpha(bits: _Bits) -> bool:
    if bits.flag():
        return True
    kind = bits.u32(ENUM)
    _bit_depth(bits)
    bits.u32(((0, 0), (3, 0), (4, 0), (1, 3)))  # dim_shift
    bits.take(8 * bits.u32(((0, 0), (0, 4), (16, 5), (48, 10))))  # name
    if kind == 0:
        bits.flag()  # alpha_associated
    elif kind == 2:
        bits.take(64)  # spot colour
    elif kind == 5:
        bits.u32(((1, 0), (0, 2), (3, 4), (19, 8)))  # colour filter array
    return kind == 0


def _is_grey(bits: _Bits) -> bool:
    bits.flag()  # want_icc
    return bits.u32(ENUM) == 1
