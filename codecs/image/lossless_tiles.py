"""One tile of a picture to bytes and back without loss, in whichever of three ways suits it. docs/format.md has the layout.

- *planes*: colour channels one after the other, green first, each predicted from those before (`lossless_planes`).
- *origin*: the luma and chroma planes that the picture was made from, where they can be recovered (`origin`).
- *flat*: colours as wholes, for drawings and screenshots (`flat_coder`).
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import decode_integers, encode_integers
from ...entropy.errors import SymbolsCorrupt
from ..codec import Progress
from ..errors import CorruptStream
from ..signals import Samples
from .flat_coder import decode_flat, encode_flat, expected_size, few_colours, flatness
from .lossless_planes import Layer, Plane, decode_layers, encode_layers
from .origin import Origin, Parts, join, split

__all__ = ["decode_tile", "encode_tile"]

PLANES, ORIGIN, FLAT = 0, 1, 2  # the first byte of a tile
GREY, CONSTANT_ALPHA, FEW_LEVELS = 1, 2, 4  # flags of PLANES
GREEN, RED, BLUE = 0, 1, 2  # order of coding, which is that of the stack
CHANNELS = {1: (0,), 2: (0,), 3: (1, 0, 2), 4: (1, 0, 2)}  # of the picture, in the stack's order
RGB_LAYERS = (Layer(GREEN, ()), Layer(RED, (GREEN,)), Layer(BLUE, (RED, GREEN)))
MAYBE_FLAT, SURELY_FLAT = 0.25, 0.8  # shares of pixels equal to a neighbour, between which FLAT is tried as well as another way
WORTH_TRYING = 0.93  # share of the other way's size up to which the one expected of FLAT lets it be tried
MANY_BITS = 0.25  # share of the samples' size from which others' bytes make a look for repetitions worth its time
SMALL = 4096  # samples up to which FLAT is always tried
SPARSE = 0.9  # share of the levels up to the highest that are used, below which only those used are coded


def encode_tile(pixels: Samples, origin: Origin | None, effort: int, progress: Progress | None = None) -> bytes:
    """Code a tile [H, W, C] of 1 to 4 channels, uint8 or uint16; `origin` is that of the whole picture."""
    flat = flatness(pixels)
    if flat >= SURELY_FLAT:
        return bytes([FLAT]) + encode_flat(pixels)
    if origin is None:
        other = bytes([PLANES]) + _encode_planes(pixels, effort, progress)
    else:
        other = bytes([ORIGIN]) + _encode_origin(pixels, origin, effort, progress)
    if _may_be_flat(pixels, flat, len(other)):
        return min(bytes([FLAT]) + encode_flat(pixels), other, key=len)
    return other


def _may_be_flat(pixels: Samples, flat: float, others: int) -> bool:
    """Whether FLAT may take fewer than the `others` bytes of another way; it takes seconds, this must not."""
    return (
        pixels.size <= SMALL
        or others > pixels.nbytes  # noise, which FLAT stores as it is
        or (flat > MAYBE_FLAT and expected_size(pixels, others) < WORTH_TRYING * others)
        or few_colours(pixels)  # dithering
        or (others > MANY_BITS * pixels.nbytes and len(zlib.compress(pixels.tobytes(), 1)) < others)  # repeated textures
    )


def decode_tile(
    coded: bytes, shape: tuple[int, int, int], depth: int, effort: int, progress: Progress | None = None
) -> Samples:
    """Return the tile [H, W, C] of `depth` bits; raises `CorruptStream`."""
    reader = _Reader(coded)
    try:
        way = reader.byte()
        if way == ORIGIN and shape[2] >= 3 and depth == 8:
            return _decode_origin(reader, shape, effort, progress)
        if way == PLANES:
            return _decode_planes(reader, shape, depth, effort, progress)
        if way == FLAT:
            pixels: Samples = decode_flat(reader.rest(), shape, np.uint8 if depth == 8 else np.uint16)
            return pixels
    except SymbolsCorrupt as error:
        raise CorruptStream(f"a tile is damaged: {error}") from error
    raise CorruptStream(f"there is no way {way} to code a tile of {shape[2]} channels at {depth} bits")


class _Reader:
    """Takes fields from the start of a tile's bytes; raises `CorruptStream` where they end."""

    def __init__(self, coded: bytes) -> None:
        self.coded, self.position = coded, 0

    def take(self, count: int) -> bytes:
        field = self.coded[self.position : self.position + count]
        if len(field) != count:
            raise CorruptStream("a tile's bytes end too early")
        self.position += count
        return field

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def rest(self) -> bytes:
        return self.take(len(self.coded) - self.position)


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _encode_planes(pixels: Samples, effort: int, progress: Progress | None) -> bytes:
    channels = pixels.shape[2]
    flags, fields = 0, b""
    stack: list[Plane] = [pixels[..., c].astype(np.int32) for c in CHANNELS[channels]]
    if len(stack) == 3 and all(np.array_equal(stack[0], plane) for plane in stack[1:]):
        flags, stack = GREY, stack[:1]
    if channels in (2, 4):
        alpha = pixels[..., -1].astype(np.int32)
        if (alpha == alpha[0, 0]).all():
            flags |= CONSTANT_ALPHA
            fields = int(alpha[0, 0]).to_bytes(2, "little")
        else:
            stack.append(alpha)
    used = np.unique(np.concatenate([plane.ravel() for plane in stack]))
    highest = int(np.iinfo(pixels.dtype).max)
    if used.size < SPARSE * (int(used[-1]) + 1):
        flags |= FEW_LEVELS
        gaps = encode_integers(np.diff(used, prepend=-1) - 1)
        fields += _number(used.size) + _number(len(gaps)) + gaps
        stack, highest = [np.searchsorted(used, plane).astype(np.int32) for plane in stack], max(used.size - 1, 1)
    return bytes([flags]) + fields + encode_layers(stack, _layers(len(stack)), highest, effort, progress)


def _layers(coded: int) -> list[Layer]:
    """Return what is coded of a stack: grey or green, red, blue; then alpha, if it is in the stack, knowing the first plane."""
    colours = coded if coded in (1, 3) else coded - 1
    layers = list(RGB_LAYERS[:colours])
    if colours < coded:
        layers.append(Layer(colours, (0,)))
    return layers


def _decode_planes(reader: _Reader, shape: tuple[int, int, int], depth: int, effort: int, progress: Progress | None) -> Samples:
    flags, channels = reader.byte(), shape[2]
    colours = 1 if flags & GREY or channels < 3 else 3
    if (
        flags & ~(GREY | CONSTANT_ALPHA | FEW_LEVELS)
        or (flags & GREY and channels < 3)
        or (flags & CONSTANT_ALPHA and channels in (1, 3))
    ):
        raise CorruptStream(f"a tile of {channels} channels cannot have the flags {flags}")
    constant = int.from_bytes(reader.take(2), "little") if flags & CONSTANT_ALPHA else 0
    highest, levels = (1 << depth) - 1, None
    if constant > highest:
        raise CorruptStream("a tile's alpha is larger than its samples may be")
    if flags & FEW_LEVELS:
        count, size = reader.number(), reader.number()
        if not 1 <= count <= highest + 1:
            raise CorruptStream(f"a tile of {depth} bits cannot have {count} levels")
        levels = np.cumsum(decode_integers(reader.take(size), count).astype(np.int64) + 1) - 1
        if (np.diff(levels, prepend=-1) <= 0).any() or levels[-1] > highest:
            raise CorruptStream("a tile's levels do not ascend within its range")
        highest = max(count - 1, 1)
    planes = colours + (channels in (2, 4) and not flags & CONSTANT_ALPHA)
    stack = [np.zeros(shape[:2], np.int32)] * planes
    found = decode_layers(reader.rest(), stack, _layers(planes), highest, effort, progress)
    if levels is not None:
        found = [levels[np.minimum(plane, levels.size - 1)].astype(np.int32) for plane in found]
    if flags & CONSTANT_ALPHA:
        found.append(np.full(shape[:2], constant, np.int32))
    alpha = [found[-1]] if channels in (2, 4) else []
    order = [found[0]] * len(CHANNELS[channels]) if colours == 1 else found[:3]
    placed = [order[CHANNELS[channels].index(c)] for c in range(len(order))]
    pixels = np.stack(placed + alpha, axis=2)
    return pixels.astype(np.uint8) if depth == 8 else pixels.astype(np.uint16)


def _smaller_luma(y: NDArray[np.uint8], origin: Origin, shape: tuple[int, int]) -> Plane:
    """Return luma at the positions of the chroma samples, smoothed along the axes on which those are fewer."""
    plane = y.astype(np.int32)
    for axis, (fewer, phase, size) in enumerate(
        zip((origin.subsampled_y, origin.subsampled_x), (origin.phase_y, origin.phase_x), shape, strict=True)
    ):
        if fewer:
            edges = np.concatenate([plane.take([0], axis), plane, plane.take([-1], axis)], axis)
            ends = plane.shape[axis]
            smooth = (edges.take(range(ends), axis) + 2 * plane + edges.take(range(2, ends + 2), axis) + 2) >> 2
            plane = smooth.take(np.minimum(2 * np.arange(size) + phase, ends - 1), axis)
    return plane


LUMA_LAYERS, CHROMA_LAYERS = (Layer(0, ()),), (Layer(1, (0,)), Layer(2, (1, 0)))


def _encode_origin(pixels: Samples, origin: Origin, effort: int, progress: Progress | None) -> bytes:
    parts = split(np.ascontiguousarray(pixels[..., :3], np.uint8), origin, thorough=effort > 2)
    luma = encode_layers([parts.y.astype(np.int32)], LUMA_LAYERS, 255, effort, progress)
    stack = [_smaller_luma(parts.y, origin, parts.c1.shape), parts.c1.astype(np.int32), parts.c2.astype(np.int32)]
    chroma = encode_layers(stack, CHROMA_LAYERS, 255, effort)
    alpha = _encode_planes(pixels[..., 3:], effort, None) if pixels.shape[2] == 4 else b""
    fields = [parts.corrections, luma, chroma]
    return bytes([origin.to_byte()]) + b"".join(_number(len(field)) + field for field in fields) + alpha


def _decode_origin(reader: _Reader, shape: tuple[int, int, int], effort: int, progress: Progress | None) -> Samples:
    origin, size = Origin.from_byte(reader.byte()), shape[:2]
    corrections, luma, chroma = (reader.take(reader.number()) for _ in range(3))
    (y,) = decode_layers(luma, [np.zeros(size, np.int32)], LUMA_LAYERS, 255, effort, progress)
    small = _smaller_luma(y.astype(np.uint8), origin, origin.base_shape(size))
    c1, c2 = decode_layers(chroma, [small, small, small], CHROMA_LAYERS, 255, effort)
    parts = Parts(y.astype(np.uint8), c1.astype(np.uint8), c2.astype(np.uint8), corrections)
    rgb: Samples = join(parts, origin, size)
    if shape[2] == 4:
        alpha = _decode_planes(reader, (*size, 1), 8, effort, None)
        rgb = np.concatenate([rgb, alpha], axis=2)
    elif reader.rest():
        raise CorruptStream("bytes are left over in a tile")
    return rgb
