"""Flat pictures to bytes and back: every shape and depth, small files for drawn pictures, and damaged bytes."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from numpy.typing import NDArray

from laconic.codecs import compress, container
from laconic.codecs.image.flat_coder import decode_flat, encode_flat, few_colours, flatness
from laconic.codecs.image.lossless_tiles import FLAT
from laconic.codecs.signals import Image
from laconic.entropy.errors import SymbolsCorrupt

from .pictures import noisy, odd_pictures, photograph

Picture = NDArray[np.uint8]


def window(height: int = 240, width: int = 320) -> Picture:
    """A drawn window: title bar with a gradient, text, a table, buttons, an antialiased circle."""
    image = PIL.Image.new("RGB", (width, height), (246, 245, 244))
    draw = PIL.ImageDraw.Draw(image)
    for x in range(width):
        draw.line((x, 0, x, 17), fill=(40 + x // 4, 60, 160 - x // 4))
    draw.text((6, 3), "Laconic - settings", fill=(255, 255, 255))
    for row in range(9):
        fill = (255, 255, 255) if row % 2 else (232, 240, 250)
        draw.rectangle((8, 26 + 16 * row, width - 70, 41 + 16 * row), fill=fill, outline=(200, 200, 210))
        draw.text((12, 28 + 16 * row), f"row {row}: size {97 * row * row % 1000} of {row} samples", fill=(30, 30, 30))
    for button in range(3):
        draw.rounded_rectangle((10 + 70 * button, height - 40, 70 + 70 * button, height - 16), 6, fill=(53, 132, 228))
        draw.text((18 + 70 * button, height - 34), ("Apply", "Cancel", "Help")[button], fill=(255, 255, 255))
    circle = PIL.Image.new("L", (240, 240))
    PIL.ImageDraw.Draw(circle).ellipse((8, 8, 230, 230), fill=255)
    image.paste((192, 28, 40), (width - 66, 30), circle.resize((60, 60), PIL.Image.Resampling.BILINEAR))
    return np.asarray(image)


def saved(pixels: Picture, form: str, **options: object) -> int:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, form, **options)
    return len(file.getvalue())


def check(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    coded = encode_flat(pixels)
    decoded = decode_flat(coded, pixels.shape, pixels.dtype)
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)
    assert len(coded) <= pixels.nbytes + 1
    return coded


@pytest.mark.parametrize("bits", [8, 16])
def test_round_trip_of_every_shape(bits: int) -> None:
    for image in odd_pictures(bits).values():  # type: ignore[arg-type]
        check(image.array)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 400, 3), (400, 1, 3), (9, 8, 4)])
def test_round_trip_of_few_colours(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(5)
    for dtype in (np.uint8, np.uint16):
        for colours in (1, 2, 3, 200):
            palette = generator.integers(0, np.iinfo(dtype).max, (colours, shape[2]), endpoint=True, dtype=dtype)
            check(palette[generator.integers(0, colours, shape[:2])])


def test_noise_is_stored() -> None:
    for channels in (1, 4):
        noise = noisy(70, 90, channels).array
        assert len(check(noise)) == noise.nbytes + 1


def test_one_colour_is_tiny() -> None:
    assert len(check(np.full((700, 900, 3), (12, 200, 255), np.uint8))) < 40


def test_gradients_and_more_than_a_palette() -> None:
    y, x = np.mgrid[:90, :120]
    gradient = np.stack([2 * x, 2 * y, x + y], axis=2)
    assert len(check(gradient.astype(np.uint8))) < 2000
    assert len(check((gradient * 257).astype(np.uint16))) < 3000
    assert len(np.unique(gradient.reshape(-1, 3), axis=0)) > 256


def test_smaller_than_png_and_webp() -> None:
    drawn = window()
    size = len(check(drawn))
    assert size < 0.75 * saved(drawn, "WEBP", lossless=True, quality=100, method=6)
    assert size < 0.5 * saved(drawn, "PNG", optimize=True)


def test_what_recurs_costs_little() -> None:
    """A second copy of a picture further down is predicted from the first."""
    drawn = window(120, 200)
    assert len(check(np.concatenate([drawn, drawn]))) < 1.2 * len(check(drawn))


def test_masks() -> None:
    y, x = np.mgrid[:200, :200]
    mask = np.where((x - 90) ** 2 + (y - 110) ** 2 < 70**2, 255, 0).astype(np.uint8)
    assert len(check(mask[..., None])) < 0.7 * saved(mask, "PNG", optimize=True)


def test_same_bytes_again() -> None:
    drawn = window()
    assert encode_flat(drawn) == encode_flat(np.asfortranarray(drawn)) == encode_flat(drawn[:, ::-1].copy()[:, ::-1])


def test_flatness_tells_drawings_from_photographs() -> None:
    assert flatness(window()) > 0.9
    assert flatness(photograph().array) < 0.4
    assert flatness(np.zeros((1, 1, 3), np.uint8)) == 0
    assert flatness(np.zeros((50, 50, 1), np.uint16)) > 0.99


@pytest.mark.parametrize("channels", [1, 3])
def test_damaged_bytes(channels: int) -> None:
    """Any bytes give a picture of the right shape or `SymbolsCorrupt`."""
    drawn = np.ascontiguousarray(window()[20:60, 8:60][..., :channels])
    coded = encode_flat(drawn)
    generator = np.random.default_rng(1)
    damaged = [coded[:n] for n in range(len(coded))] + [coded + b"\0"]
    for _ in range(200):
        flipped = bytearray(coded)
        flipped[generator.integers(len(coded))] ^= 1 << int(generator.integers(8))
        damaged.append(bytes(flipped))
    damaged += [bytes([form]) + generator.bytes(int(n)) for form in range(4) for n in generator.integers(0, 200, 20)]
    raised = 0
    for attempt in damaged:
        try:
            assert decode_flat(attempt, drawn.shape, drawn.dtype).shape == drawn.shape
        except SymbolsCorrupt:
            raised += 1
    assert raised > len(coded) // 2


def test_palette_with_an_index_too_large() -> None:
    pixels = np.arange(5, dtype=np.uint8).repeat(50).reshape(10, 25, 1) * 50
    coded = bytearray(encode_flat(pixels))
    assert coded[0] in (1, 2)
    for head in (b"", b"\x03", b"\x02", b"\x02\xff\xff\xff\xff\x01", b"\x02\x81\x02\x00", b"\x02\x01\xff\x7f\x00"):
        with pytest.raises(SymbolsCorrupt):
            decode_flat(head, pixels.shape, pixels.dtype)


@pytest.mark.parametrize("kind", ["dithered", "tiled", "repeated"])
def test_pictures_that_do_not_look_flat_take_the_flat_way_where_it_pays(kind: str) -> None:
    random = np.random.default_rng(1)
    pixels = {
        "dithered": random.integers(0, 256, (200, 3), np.uint8)[random.integers(0, 200, (96, 128))],
        "tiled": np.tile(random.integers(0, 256, (16, 16, 3), np.uint8), (6, 8, 1)),
        "repeated": np.tile(random.integers(0, 256, (32, 128, 3), np.uint8), (3, 1, 1)),
    }[kind]
    file = compress.encode(Image(pixels), "image-lossless", {"effort": 1}).data
    assert container.read(file).chunks[0][0] == FLAT
    assert len(file) <= len(imagecodecs.png_encode(pixels, level=9))


def test_photographs_have_many_colours() -> None:
    array = photograph().array
    assert not few_colours(array) and not few_colours(array[..., :1]) and not few_colours(array[..., [0, 0, 0]])
    assert few_colours(array // 128 * 128) and few_colours(array[..., :1] // 32)
