"""The orientation tag of EXIF and XMP payloads: read it, apply it to pixels, reset it."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from ..signals import Samples

__all__ = ["PREFIX", "orientation", "reset_orientation", "reset_xmp_orientation", "upright"]

PREFIX = b"Exif\x00\x00"  # what JPEG puts before the TIFF structure; kept payloads do not have it
ORIENTATION_TAG = 0x0112
SHORT, LONG = 3, 4
ORDERS: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>))[1-8]""")


class _Place(NamedTuple):
    start: int
    end: int
    order: Literal["little", "big"]


def _find(exif: bytes) -> _Place | None:
    """Return where the first directory of a TIFF structure has its orientation value, if it has one."""
    order = ORDERS.get(exif[:2])
    if order is None:
        return None
    directory = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[directory : directory + 2], order)
    for at in range(directory + 2, min(directory + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = (int.from_bytes(exif[start : start + 2], order) for start in (at, at + 2))
        if tag == ORIENTATION_TAG and kind in (SHORT, LONG):
            return _Place(at + 8, at + (10 if kind == SHORT else 12), order)
    return None


def orientation(exif: bytes) -> int:
    """Return the orientation 1..8 of an EXIF payload (a TIFF structure); 1 where it has none that makes sense."""
    place = _find(exif)
    value = int.from_bytes(exif[place.start : place.end], place.order) if place else 1
    return value if 1 <= value <= 8 else 1


def reset_orientation(exif: bytes) -> bytes:
    """Return the payload with its orientation, if it has one, set to 1 in place: everything else stays as it was."""
    place = _find(exif)
    if place is None:
        return exif
    return exif[: place.start] + (1).to_bytes(place.end - place.start, place.order) + exif[place.end :]


def reset_xmp_orientation(xmp: bytes) -> bytes:
    """Return the XMP packet with every orientation in it set to 1."""
    return XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def upright(array: Samples, value: int) -> Samples:
    """Return pixels (H, W, C) stored under EXIF orientation `value` as they should be seen."""
    turned: dict[int, Any] = {
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: array[::-1].swapaxes(0, 1),
        7: array[::-1, ::-1].swapaxes(0, 1),
        8: array[:, ::-1].swapaxes(0, 1),
    }
    return cast(Samples, np.ascontiguousarray(turned.get(value, array)))
