"""Pictures of which most is missing are refused by their headers; flat ones, however small their files, are not."""

from __future__ import annotations

import io
import struct
import zlib

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis.strategies import booleans, integers, sampled_from

from laconic.codecs import media
from laconic.codecs.errors import CorruptMedia
from laconic.codecs.image.least_bytes import check_complete

SIDES = integers(1, 700)


def saved(picture: PIL.Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, sampled_from(["1", "L", "LA", "RGB", "RGBA", "P", "I;16"]))
def test_a_flat_png_is_complete(width: int, height: int, mode: str) -> None:
    data = saved(PIL.Image.new(mode, (width, height)), "png", optimize=True)
    check_complete(data, "png")
    assert media.read(data).shape[:2] == (height, width)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, sampled_from(["L", "RGB", "CMYK"]), sampled_from([0, 1, 2]), booleans())
def test_a_flat_jpeg_is_complete(width: int, height: int, mode: str, subsampling: int, progressive: bool) -> None:
    options = {"quality": 1, "optimize": True, "progressive": progressive, "subsampling": subsampling}
    data = saved(PIL.Image.new(mode, (width, height)), "jpeg", **options)
    check_complete(data, "jpeg")
    assert media.read(data).shape[:2] == (height, width)


def claims(data: bytes, width: int, height: int) -> bytes:
    """Return a PNG or JPEG whose header says another size."""
    file = bytearray(data)
    if data[:1] == b"\x89":
        file[16:24] = struct.pack(">II", width, height)
        file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    else:
        at = next(at for at in range(len(file)) if file[at] == 0xFF and file[at + 1] in (0xC0, 0xC2))
        file[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(file)


@pytest.mark.parametrize(("form", "options"), [("png", {}), ("jpeg", {}), ("jpeg", {"progressive": True})])
def test_a_small_file_of_a_large_picture_is_incomplete(form: str, options: dict[str, object]) -> None:
    data = saved(PIL.Image.new("RGB", (64, 64)), form, **options)
    for size in ((64, 64), (150, 150)):
        media.read_header(claims(data, *size))
    for size in ((8000, 8000), (40_000, 1000)):
        with pytest.raises(CorruptMedia, match=f"the {form} file is incomplete: its pixels take at least"):
            media.read_header(claims(data, *size))
        with pytest.raises(CorruptMedia, match="incomplete"):
            media.read(claims(data, *size))


def test_the_bounds_are_those_of_the_formats() -> None:
    png = claims(saved(PIL.Image.new("RGB", (64, 64)), "png"), 8000, 8000)
    with pytest.raises(CorruptMedia, match=f"at least {3 * 8000 * 8000 // 1032:,} bytes, and it has {len(png)}"):
        check_complete(png, "png")
    for mode, subsampling, blocks in (("L", 0, 1_000_000), ("RGB", 0, 3_000_000), ("RGB", 1, 2_000_000), ("RGB", 2, 1_500_000)):
        jpeg = claims(saved(PIL.Image.new(mode, (64, 64)), "jpeg", subsampling=subsampling), 8000, 8000)
        with pytest.raises(CorruptMedia, match=f"at least {blocks // 8:,} bytes"):
            check_complete(jpeg, "jpeg")


def test_what_has_no_such_bound_passes() -> None:
    jpeg = claims(saved(PIL.Image.new("L", (64, 64)), "jpeg"), 8000, 8000)
    at = jpeg.index(b"\xff\xc0")
    arithmetic = jpeg[: at + 1] + b"\xc9" + jpeg[at + 2 :]
    without_sampling = jpeg[: at + 11] + b"\0" + jpeg[at + 12 :]
    for data in (arithmetic, without_sampling, jpeg[:at], jpeg[: at + 5], jpeg[:3] + b"\xff" * 9, b"\xff\xd8\xff\xff\xff\xff"):
        check_complete(data, "jpeg")
    check_complete(b"", "webp")
