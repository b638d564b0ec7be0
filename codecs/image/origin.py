"""Pictures that were luma and subsampled chroma before they became RGB, taken apart and put together again without loss.

PNG files often hold what a lossy format was decoded to. Where that decoder's integer arithmetic is known, three channels of RGB
carry no more than its planes did: one of luma and two of chroma, often a quarter the size. `find_origin` recognises such
pictures, `split` returns the planes and whatever they do not explain (clipped colours, retouched places), `join` computes the
RGB again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptStream
from .origin_chroma import Placement, Upsampler, axis, to_rgb
from .origin_corrections import Corrections, decode, encode
from .origin_lattice import Bytes, Lattice, jpeg, photocd, webp
from .origin_search import EXACT, LABELLED, RAW, SHIFTED, label
from .origin_solver import explained, solve

__all__ = ["Kind", "Origin", "Parts", "find_origin", "join", "split"]

WINDOW = (16, 96)  # rows and columns that are looked at together when searching
WINDOWS = (3, 3)  # down and across
FEWEST = 64  # distinct colours without which nothing is concluded
ALMOST_ALL = 0.97  # of the distinct unclipped colours must lie on a lattice: others' lie there by chance for 11 to 24 %
SOME = 0.5  # of the chroma samples must follow from the others at first sight
MOST = 0.95  # of the pixels in the middle of some windows must be explained in the end
EDGE = slice(4, -4)


Biases = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Kind:
    """A family of decoders: the colour lattice, where chroma lies on a subsampled axis, and which axes may be.

    `biases` has for (rows, columns) subsampled or not the bias of the rounding by parity of row and column.
    """

    name: str
    lattice: Callable[[], Lattice]
    placement: Placement
    biases: Mapping[tuple[bool, bool], Biases]


EVEN: Biases = ((8, 8), (8, 8))
JPEG: Mapping[tuple[bool, bool], Biases] = {
    (False, False): EVEN,
    (False, True): ((4, 8), (4, 8)),
    (True, False): ((4, 4), (8, 8)),
    (True, True): ((8, 7), (8, 7)),
}
KINDS = (
    Kind("photocd", photocd, "cosited", {(False, False): EVEN, (True, True): EVEN}),
    Kind("jpeg", jpeg, "centred", JPEG),
    Kind("jpeg-plain", jpeg, "replicated", {(False, True): EVEN, (True, True): EVEN}),
    Kind("webp", webp, "centred", {(False, False): EVEN, (True, True): EVEN}),
)


@dataclass(frozen=True)
class Origin:
    """What a picture was: its kind (index into KINDS), which axes of chroma are subsampled, the first positions with samples.

    `phase_y` and `phase_x` are 0 unless a subsampled axis starts with a position between two samples.
    """

    kind: int
    subsampled_y: bool
    subsampled_x: bool
    phase_y: int = 0
    phase_x: int = 0

    @classmethod
    def from_byte(cls, byte: int) -> Origin:
        """Return the origin that a file stores as `byte`; raises CorruptStream if there is none."""
        origin = cls(byte >> 4, bool(byte & 8), bool(byte & 4), (byte >> 1) & 1, byte & 1)
        if not 0 <= origin.kind < len(KINDS) or origin not in _hypotheses(origin.kind):
            raise CorruptStream(f"there is no origin {byte} of a picture")
        return origin

    def to_byte(self) -> int:
        """Return the origin as 0..255."""
        return self.kind << 4 | self.subsampled_y << 3 | self.subsampled_x << 2 | self.phase_y << 1 | self.phase_x

    def base_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of the chroma planes of a picture of `shape`."""
        return self.upsampler(shape).base_shape

    def upsampler(self, shape: tuple[int, int]) -> Upsampler:
        """Return what makes full-size chroma for a picture of `shape`."""
        kind = KINDS[self.kind]
        rows = axis(shape[0], kind.placement if self.subsampled_y else "whole", self.phase_y)
        columns = axis(shape[1], kind.placement if self.subsampled_x else "whole", self.phase_x)
        bias = np.array(kind.biases[self.subsampled_y, self.subsampled_x], dtype=np.int64)
        return Upsampler(rows, columns, np.roll(bias, (self.phase_y, self.phase_x), axis=(0, 1)))

    @property
    def lattice(self) -> Lattice:
        """The colour lattice."""
        return _lattice(self.kind)


@dataclass(frozen=True)
class Parts:
    """A picture taken apart: y uint8 [H, W], c1 and c2 uint8 [h2, w2], and coded corrections (empty if there are none)."""

    y: Bytes
    c1: Bytes
    c2: Bytes
    corrections: bytes


@cache
def _lattice(kind: int) -> Lattice:
    return KINDS[kind].lattice()


def _hypotheses(kind: int) -> list[Origin]:
    """Return the origins of a kind that are known to occur."""
    return [
        Origin(kind, *subsampled, y, x)
        for subsampled in KINDS[kind].biases
        for y in range(1 + subsampled[0])
        for x in range(1 + subsampled[1])
    ]


def find_origin(rgb: Bytes) -> Origin | None:
    """Return the origin of a picture uint8 [H, W, 3] if nearly all of it has one, else None; looks at a few windows only."""
    height, width = (min(size, most) for size, most in zip(rgb.shape[:2], WINDOW, strict=True))
    if min(height, width) < WINDOW[0]:
        return None
    tops, lefts = (_starts(rgb.shape[k], (height, width)[k], WINDOWS[k]) for k in (0, 1))
    windows = np.stack([rgb[y : y + height, x : x + width] for y in tops for x in lefts])
    colourful = np.ptp(windows, axis=3) > 0
    unclipped = (windows.min(axis=3) > 0) & (windows.max(axis=3) < 255)
    colours = np.unique(windows[colourful & unclipped], axis=0)
    if len(colours) < FEWEST:
        return None
    found = []
    for kind in range(len(KINDS)):
        if _on_lattice(colours[None], _lattice(kind))[1].mean() >= ALMOST_ALL:
            origin = _placed(windows, kind)
            if origin is not None:
                found.append(origin)
                if origin.subsampled_y and origin.subsampled_x:
                    break
    # where chroma is whole, any kind with this lattice explains everything: another may do with fewer samples
    return max(found, key=lambda origin: origin.subsampled_y + origin.subsampled_x, default=None)


def _placed(windows: Bytes, kind: int) -> Origin | None:
    """Return the origin of the kind with the fewest chroma samples that explains windows [n, h, w, 3] on its lattice."""
    count, height, width, _ = windows.shape
    lattice = _lattice(kind)
    labels, labelled = _on_lattice(windows.reshape(-1, width, 3), lattice)
    labels, labelled = labels.reshape(windows.shape), labelled.reshape(windows.shape[:3])
    for subsampled in sorted(KINDS[kind].biases, key=sum, reverse=True):
        hypotheses = [origin for origin in _hypotheses(kind) if (origin.subsampled_y, origin.subsampled_x) == subsampled]
        upsamplers = [origin.upsampler((height, width)) for origin in hypotheses]
        shares = [explained(labels, labelled, upsampler) for upsampler in upsamplers]
        best = int(np.argmax(shares))
        # a centred filter is undone exactly by the search alone, but if it is the right one a good part shows before
        if shares[best] >= SOME:
            exact = [
                solve(window, lattice, upsamplers[best]).modes[EDGE, EDGE] == EXACT for window in windows[:: max(count // 3, 1)]
            ]
            if np.mean(exact) >= MOST:
                return hypotheses[best]
    return None


def _on_lattice(rgb: Bytes, lattice: Lattice) -> tuple[Bytes, NDArray[np.bool_]]:
    labels, states = np.zeros_like(rgb), np.empty(rgb.shape[:2], dtype=np.uint8)
    label(np.ascontiguousarray(rgb), lattice.tables, lattice.shift, lattice.luma_weights(), labels, states)
    return labels, states == LABELLED


def _starts(size: int, window: int, count: int) -> list[int]:
    """Return where up to `count` windows start: even positions, evenly spread."""
    return sorted({(size - window) * k // max(count - 1, 1) // 2 * 2 for k in range(count)})


def split(rgb: Bytes, origin: Origin, thorough: bool = True) -> Parts:
    """Take a picture uint8 [H, W, 3] apart; `join` of the result returns it exactly, whatever its true origin."""
    rgb = np.ascontiguousarray(rgb)
    upsampler = origin.upsampler(rgb.shape[:2])
    solution = solve(rgb, origin.lattice, upsampler, thorough)
    predicted = _predicted(solution.y, solution.base[0], solution.base[1], origin.lattice, upsampler)[0]
    shifts = solution.shifts[solution.modes == SHIFTED] & 255
    corrections = Corrections(solution.modes, shifts.astype(np.uint8), rgb[solution.modes == RAW])
    return Parts(solution.y, solution.base[0], solution.base[1], encode(corrections, _clipped(predicted)))


def join(parts: Parts, origin: Origin, shape: tuple[int, int]) -> Bytes:
    """Return the picture uint8 [H, W, 3] of `shape` (H, W) that `split` took apart.

    Any planes of the right shapes give some picture. Raises CorruptStream for other shapes or corrections no encoder writes.
    """
    upsampler = origin.upsampler(shape)
    if parts.y.shape != shape or not parts.c1.shape == parts.c2.shape == upsampler.base_shape:
        raise CorruptStream("the planes of a picture's origin have the wrong sizes")
    rgb, c1, c2 = _predicted(parts.y, parts.c1, parts.c2, origin.lattice, upsampler)
    if not parts.corrections:
        return rgb
    corrections = decode(parts.corrections, _clipped(rgb))
    shifted = corrections.modes == SHIFTED
    if shifted.any():
        moved = [(plane[shifted] + corrections.shifts[:, k])[None] for k, plane in enumerate((c1, c2))]
        colours = np.empty((1, len(corrections.shifts), 3), dtype=np.uint8)
        to_rgb(parts.y[shifted][None], moved[0], moved[1], origin.lattice.tables, origin.lattice.shift, colours)
        rgb[shifted] = colours[0]
    rgb[corrections.modes == RAW] = corrections.colours
    return rgb


def _predicted(y: Bytes, c1: Bytes, c2: Bytes, lattice: Lattice, upsampler: Upsampler) -> tuple[Bytes, Bytes, Bytes]:
    """Return the colours [H, W, 3] that the planes give without corrections, and the chroma at full size."""
    full1, full2 = upsampler(np.ascontiguousarray(c1)), upsampler(np.ascontiguousarray(c2))
    rgb = np.empty((*y.shape, 3), dtype=np.uint8)
    to_rgb(np.ascontiguousarray(y), full1, full2, lattice.tables, lattice.shift, rgb)
    return rgb, full1, full2


def _clipped(rgb: Bytes) -> NDArray[np.bool_]:
    return np.asarray((rgb.min(axis=2) == 0) | (rgb.max(axis=2) == 255))
