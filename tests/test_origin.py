"""Pictures with an origin in luma and chroma are recognised and taken apart; others come back exactly as well."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from laconic.codecs import media
from laconic.codecs.errors import CorruptStream
from laconic.codecs.image.origin import KINDS, Origin, Parts, find_origin, join, split
from laconic.entropy.errors import SymbolsCorrupt

from .checks import check_rejects
from .pictures import noisy, photograph, saved, smooth

Picture = NDArray[np.uint8]

SHAPE = (72, 110)
MIDDLES = {"photocd": (156, 137), "jpeg": (128, 128), "jpeg-plain": (128, 128), "webp": (128, 128)}  # where colours are grey


def every_origin() -> list[Origin]:
    origins = []
    for byte in range(256):
        try:
            origins.append(Origin.from_byte(byte))
        except CorruptStream:
            continue
    return origins


def name_of(origin: Origin) -> str:
    return f"{KINDS[origin.kind].name}-{origin.to_byte() & 15:04b}"


ORIGINS = every_origin()
SOME = [next(o for o in ORIGINS if o.kind == kind and o.subsampled_y and o.subsampled_x) for kind in range(len(KINDS))]


def plane(generator: np.random.Generator, height: int, width: int, middle: float, most: float) -> Picture:
    """Random waves with a little noise, about `most` away from the middle."""
    y, x = np.mgrid[:height, :width]
    frequencies, phases = generator.uniform(0.05, 0.25, 2), generator.uniform(0, 6, 2)
    waves = np.sin(x * frequencies[0] + phases[0]) + np.cos(y * frequencies[1] + phases[1])
    return np.rint(middle + most / 2 * waves + generator.normal(0, 1.2, waves.shape)).clip(0, 255).astype(np.uint8)


def made(origin: Origin, shape: tuple[int, int] = SHAPE, seed: int = 1, contrast: float = 60) -> tuple[Picture, Parts]:
    """A picture with this origin, and the planes that it is of."""
    generator, base = np.random.default_rng(seed), origin.base_shape(shape)
    one, other = MIDDLES[KINDS[origin.kind].name]
    parts = Parts(
        plane(generator, *shape, 125, contrast), plane(generator, *base, one, 22), plane(generator, *base, other, 22), b""
    )
    return join(parts, origin, shape), parts


def scene(contrast: float = 0.6) -> PIL.Image.Image:
    """The photograph with less contrast, so that few colours are clipped, and a little noise, so that chroma is not smooth."""
    pixels = 128 + contrast * (photograph().array.astype(float) - 128) + 0.06 * noisy(112, 160).array
    return PIL.Image.fromarray(pixels.astype(np.uint8))


def decoded(file: bytes) -> Picture:
    return media.read(file).array[..., :3].astype(np.uint8)


def check(rgb: Picture, origin: Origin) -> Parts:
    before = rgb.copy()
    parts = split(rgb, origin)
    assert np.array_equal(join(parts, origin, rgb.shape[:2]), rgb)
    assert np.array_equal(before, rgb), "the input was changed"
    assert parts.y.shape == rgb.shape[:2] and parts.c1.shape == parts.c2.shape == origin.base_shape(rgb.shape[:2])
    return parts


def test_bytes_of_origins() -> None:
    assert len(ORIGINS) == 5 + 9 + 6 + 5
    assert [Origin.from_byte(origin.to_byte()) for origin in ORIGINS] == ORIGINS
    assert {origin.kind for origin in ORIGINS} == set(range(len(KINDS)))
    for byte in (0x01, 0x08, 0x20, 0x38, 0x40, 0xFF):
        with pytest.raises(CorruptStream, match="no origin"):
            Origin.from_byte(byte)


@pytest.mark.parametrize("origin", ORIGINS, ids=name_of)
def test_what_was_joined_is_found_and_taken_apart(origin: Origin) -> None:
    rgb, planes = made(origin)
    assert find_origin(rgb) == origin
    parts = check(rgb, origin)
    assert len(parts.corrections) < 120
    assert np.mean(parts.y == planes.y) > 0.98
    assert np.mean(parts.c1 == planes.c1) > 0.94 and np.mean(parts.c2 == planes.c2) > 0.94


@pytest.mark.parametrize("origin", SOME, ids=name_of)
def test_clipped_colours_are_taken_apart_too(origin: Origin) -> None:
    rgb, _ = made(origin, contrast=190)
    assert 0.1 < np.mean((rgb == 0) | (rgb == 255)) < 0.7
    assert len(check(rgb, origin).corrections) < 0.1 * rgb.size


@pytest.mark.parametrize(
    ("form", "options", "name", "subsampled"),
    [
        ("JPEG", {"quality": 96, "subsampling": "4:4:4"}, "jpeg", (False, False)),
        ("JPEG", {"quality": 96, "subsampling": "4:2:2"}, "jpeg", (False, True)),
        ("JPEG", {"quality": 60, "subsampling": "4:2:0"}, "jpeg", (True, True)),
        ("WEBP", {"quality": 75}, "webp", (True, True)),
    ],
    ids=["4:4:4", "4:2:2", "4:2:0", "webp"],
)
def test_files_that_other_software_decoded(
    form: str, options: dict[str, object], name: str, subsampled: tuple[bool, bool]
) -> None:
    rgb = decoded(saved(scene(), form, **options))
    origin = find_origin(rgb)
    assert origin is not None
    assert (KINDS[origin.kind].name, (origin.subsampled_y, origin.subsampled_x)) == (name, subsampled)
    assert (origin.phase_y, origin.phase_x) == (0, 0)
    assert len(check(rgb, origin).corrections) < 100


@pytest.mark.parametrize("phase", [(0, 1), (1, 0), (1, 1)])
def test_cropped_files(phase: tuple[int, int]) -> None:
    rgb = np.ascontiguousarray(decoded(saved(scene(), "JPEG", quality=85))[phase[0] : -7, phase[1] : -8])
    origin = find_origin(rgb)
    assert origin is not None and (origin.phase_y, origin.phase_x) == phase
    assert len(check(rgb, origin).corrections) < 150


def test_retouched_places_are_corrections() -> None:
    origin = SOME[1]
    rgb = decoded(saved(scene(), "JPEG", quality=85, subsampling="4:2:0"))
    untouched = len(check(rgb, origin).corrections)
    rgb[30:40, 50:70] = noisy(10, 20).array
    rgb[60:64, 20:90] = (255, 0, 0)
    assert find_origin(rgb) in (origin, None)
    assert untouched < len(check(rgb, origin).corrections) < untouched + 1500


WITHOUT = {
    "noise": lambda: noisy(15, 21).array,
    "flat": lambda: np.full((20, 30, 3), (250, 3, 77), np.uint8),
    "black": lambda: np.zeros((18, 9, 3), np.uint8),
    "white": lambda: np.full((9, 18, 3), 255, np.uint8),
    "clipped": lambda: np.where(noisy(12, 20).array > 127, 255, 0).astype(np.uint8),
    "clipped photograph": lambda: (2 * photograph(20, 26).array.astype(int) - 128).clip(0, 255).astype(np.uint8),
    "photograph": lambda: photograph(20, 26).array,
    "smooth": lambda: smooth(20, 24).array,
    "1x1": lambda: noisy(1, 1).array,
    "1x17": lambda: noisy(1, 17).array,
    "17x1": lambda: smooth(17, 1).array,
    "2x2": lambda: noisy(2, 2).array,
    "33x7": lambda: noisy(33, 7).array,
}


@pytest.mark.parametrize("name", WITHOUT)
def test_any_picture_comes_back_whatever_the_origin(name: str) -> None:
    for origin in ORIGINS:
        check(np.ascontiguousarray(WITHOUT[name](), np.uint8), origin)


def test_views_are_taken_apart_like_copies() -> None:
    rgb, _ = made(SOME[1])
    view = np.asfortranarray(rgb)
    assert check(view, SOME[1]).corrections == check(rgb, SOME[1]).corrections
    view.setflags(write=False)
    assert find_origin(view) == find_origin(rgb) == SOME[1]


def test_pictures_without_an_origin() -> None:
    assert find_origin(noisy(100, 120).array.astype(np.uint8)) is None
    assert find_origin(np.full((100, 120, 3), (9, 90, 200), np.uint8)) is None
    assert find_origin(smooth(100, 120, 1).array.astype(np.uint8).repeat(3, axis=2)) is None
    assert find_origin(smooth(100, 120).array.astype(np.uint8)) is None
    assert find_origin(np.asarray(scene())) is None
    for height, width in ((1, 1), (1, 17), (15, 200), (200, 15), (16, 16)):
        assert find_origin(noisy(height, width).array.astype(np.uint8)) is None
    few = np.zeros((64, 64, 3), np.uint8) + noisy(1, 8).array[0, np.arange(64) % 8][None].astype(np.uint8)
    assert find_origin(few) is None


@pytest.mark.parametrize("origin", SOME, ids=name_of)
def test_hostile_corrections(origin: Origin) -> None:
    rgb = noisy(13, 35).array.astype(np.uint8)
    rgb[:, 10:] = made(origin, (13, 25), contrast=190)[0]
    parts = split(rgb, origin)
    assert len(parts.corrections) > 200

    def attack(corrections: bytes) -> None:
        try:
            picture = join(Parts(parts.y, parts.c1, parts.c2, corrections), origin, (13, 35))
        except SymbolsCorrupt as error:
            raise CorruptStream(str(error)) from error
        assert picture.shape == rgb.shape and picture.dtype == np.uint8

    assert check_rejects(parts.corrections, 1000, len(parts.corrections), attack) > len(parts.corrections) // 2
    for head in (b"\0" * 7, b"\xff" * 8, b"\xff" * 300, np.random.default_rng(4).bytes(300)):
        with pytest.raises(CorruptStream):
            attack(head)


def test_planes_of_other_sizes() -> None:
    origin = SOME[1]
    _, parts = made(origin)
    for wrong in (
        Parts(parts.y[:-1], parts.c1, parts.c2, b""),
        Parts(parts.y, parts.c1[:-1], parts.c2, b""),
        Parts(parts.y, parts.c1, parts.c2[:, :-1], b""),
        Parts(parts.y, parts.y, parts.y, b""),
    ):
        with pytest.raises(CorruptStream, match="wrong sizes"):
            join(wrong, origin, SHAPE)
