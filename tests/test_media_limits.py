"""Media files that are none, too large, damaged or made to explode."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import PIL.Image
import pytest

from laconic.codecs import media
from laconic.codecs.errors import CorruptMedia, LimitExceeded, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Image

from .checks import check_rejects
from .pictures import FOLDER, exif_payload, photograph, saved, smooth, tiff16


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with_size(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header promises any size, with the pixels of one row of one pixel."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [b"", b"P", b"hello", bytes(100), b"RIFF\0\0\0\0ACON", b"\0\0\0\x18ftypheic" + bytes(50)])
def test_other_bytes_are_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="png, jpeg"):
        media.read(data)


def test_a_header_of_sound_without_sound_is_corrupt() -> None:
    with pytest.raises(CorruptMedia, match="ends too early"):
        media.read(b"RIFF\0\0\0\0WAVEfmt ")


def test_bytes_are_limited() -> None:
    file = (FOLDER / "photograph.png").read_bytes()
    with pytest.raises(LimitExceeded) as caught:
        media.read(file, Limits(max_input_bytes=1000))
    assert (caught.value.allowed, caught.value.actual, caught.value.setting) == (1000, len(file), "max_input_bytes")


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif", "jxl", "npy", "ppm"])
def test_pixels_are_limited(form: str) -> None:
    file = media.write(smooth(30, 40), form)
    assert media.read(file, Limits(max_pixels=1200)).shape == (30, 40, 3)
    for act in (media.read, media.read_header):
        with pytest.raises(LimitExceeded) as caught:
            act(file, Limits(max_pixels=1199))
        assert (caught.value.allowed, caught.value.actual, caught.value.setting) == (1199, 1200, "max_pixels")


HUGE: dict[str, Callable[[], bytes]] = {
    "png": lambda: png_with_size(60_000, 60_000),
    "png of one row": lambda: png_with_size(2**31 - 1, 1),
    "npy": lambda: (
        media.write(smooth(9, 9), "npy").replace(b"(9, 9, 3), }", b"(99999, 99999, 3), }").replace(b"          \n", b"  \n")
    ),
    "ppm": lambda: b"P6 100000 100000 255\n" + bytes(100),
    "webp": lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
    "gif": lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
    "bmp": lambda: saved(PIL.Image.new("RGB", (1, 1)), "BMP").replace(
        struct.pack("<ii", 1, 1), struct.pack("<ii", 30000, 30000)
    ),
    "jxl": lambda: b"\xff\x0a" + ((0 | 3 << 1 | (2**30 - 1) << 3 | 1 << 33).to_bytes(16, "little")),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_headers_are_refused_without_decoding(name: str) -> None:
    import tracemalloc

    file = HUGE[name]()
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match="max_pixels"):
            media.read(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_compressed_text_and_profiles_do_not_explode() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    for chunk in (png_chunk(b"zTXt", b"k\0\0" + bomb), png_chunk(b"iCCP", b"k\0\0" + bomb)):
        with pytest.raises(CorruptMedia):
            media.read(png_with_size(1, 1, chunk))
    assert media.read(png_with_size(1, 1)).array.ravel().tolist() == [1, 2, 3]


def test_metadata_is_limited() -> None:
    file = media.write(Image(smooth(4, 4).array, {"exif": exif_payload(1) + bytes(5000)}), "png")
    with pytest.raises(LimitExceeded, match="max_metadata_bytes"):
        media.read(file, Limits(max_metadata_bytes=1000))


def test_large_tiles_of_a_small_tiff_are_refused() -> None:
    file = tiff16(smooth(2, 2), {322: 60_000, 323: 60_000, 324: 8, 325: 12})
    with pytest.raises(CorruptMedia, match="tile"):
        media.read(file)


DAMAGED = {
    "png": "png",
    "png16": "png",
    "jpeg": "jpeg",
    "webp": "webp",
    "avif": "avif",
    "jxl": "jxl",
    "npy": "npy",
    "ppm": "ppm",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_reported_as_such(name: str) -> None:
    image = smooth(33, 27, 3, 16 if name == "png16" else 8)
    given = Image(image.array, {"exif": exif_payload(6), "xmp": b"<x/>"})
    file = media.write(given, DAMAGED[name], 60 if name in ("webp", "jxl") else None)
    raised = check_rejects(file, flips=150, truncations=150, open_file=lambda data: media.read(data, Limits(max_pixels=10**5)))
    assert raised > 100


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_damage_of_formats_that_are_only_read(form: str) -> None:
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    file = saved(PIL.Image.fromarray(smooth(23, 27).array), form, **options)
    check_rejects(file, flips=300, truncations=150, open_file=lambda data: media.read(data, Limits(max_pixels=10**5)))


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif", "jxl", "npy", "ppm"])
def test_half_a_file_is_corrupt(form: str) -> None:
    file = media.write(photograph(), form)
    with pytest.raises(CorruptMedia, match="damaged"):
        media.read(file[: len(file) // 2])
