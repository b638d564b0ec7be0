"""`image-lossless`: every kind of picture, each way of coding it, sizes beside PNG and WebP, the same bytes, and damage."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from laconic.codecs import compress, container
from laconic.codecs.codec import Stream
from laconic.codecs.errors import Cancelled, CorruptStream, InvalidSettings, LimitExceeded
from laconic.codecs.image import lossless_tiles
from laconic.codecs.image.flat_coder import encode_flat
from laconic.codecs.image.lossless import PARAM_EFFORT, ImageLossless, LosslessSettings
from laconic.codecs.image.lossless_planes import Layer, encode_layers
from laconic.codecs.image.lossless_tiles import CONSTANT_ALPHA, FEW_LEVELS, FLAT, GREY, ORIGIN, PLANES, decode_tile
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Image, Samples
from laconic.entropy.adaptive_binary import encode_integers
from laconic.entropy.kernels import kernel

from .checks import check_batches, check_deterministic, check_rejects, check_round_trip
from .pictures import noisy, photograph, smooth
from .test_flat_coder import window
from .test_origin import SOME, made, scene

CODEC = "image-lossless"
SIZES = ((1, 1), (1, 17), (17, 1), (3, 5), (17, 33))
EFFORTS = (1, 5, 9)
DEPTHS: tuple[Literal[8, 16], ...] = (8, 16)


def encoded(image: Image, effort: int = 5) -> bytes:
    return compress.encode(image, CODEC, {"effort": effort}, device="cpu").data


def ways(data: bytes) -> list[int]:
    """The way in which each tile of a file is coded."""
    return [chunk[0] for chunk in container.read(data).chunks]


def planes(pixels: Samples, effort: int) -> bytes:
    """A tile coded as planes, whether or not another way is shorter."""
    return bytes([PLANES]) + lossless_tiles._encode_planes(pixels, effort, None)


def with_alpha(image: Image, alpha: Samples | int) -> Image:
    """The picture with one more channel."""
    plane = np.broadcast_to(np.asarray(alpha, image.array.dtype), image.shape[:2])
    return Image(np.concatenate([image.array, plane[..., None]], axis=2))


def without_origin() -> Image:
    """The photograph with noise: planes in which no origin is found."""
    return Image(np.asarray(scene()))


def fine(bits: int = 16) -> Image:
    """The same with samples of 16 bits, of which `bits` vary."""
    samples = without_origin().array.astype(np.uint16) << 8
    samples |= noisy(112, 160, 3, 16).array.astype(np.uint16) & ((1 << (bits - 8)) - 1)
    return Image(samples)


def circles() -> Image:
    """Line art: thin black circles, two levels."""
    y, x = np.mgrid[:150, :180]
    return Image(np.where((np.hypot(x - 80.5, y - 70.2) % 14 < 1)[..., None], 0, 255).astype(np.uint8))


def stripes(height: int = 40, width: int = 44) -> Samples:
    """Stripes of full contrast, then all levels: their normal equations are singular in single precision."""
    x = np.arange(width) + np.zeros((height, 1), int)
    pixels = 255 * np.stack([x // 3 % 2, x % 2, noisy(height, width, 1).array[..., 0] >> 7], axis=2).astype(np.uint8)
    pixels[-7:] = np.resize(np.arange(256, dtype=np.uint8), (7, width, 3))
    return pixels


def examples() -> dict[str, tuple[Image, int, int]]:
    """Small pictures for each way of coding, their efforts, and the ways."""
    return {
        "planes-1": (smooth(20, 33), 1, PLANES),
        "planes-5": (with_alpha(Image(fine(12).array[40:70, :40]), smooth(30, 40, 1, 16).array[..., 0]), 5, PLANES),
        "planes-9": (photograph(24, 30), 9, PLANES),
        "levels-5": (Image(smooth(20, 25, 2).array // 8 * 8), 5, PLANES),
        "origin-1": (Image(made(SOME[0], (40, 70), contrast=190)[0]), 1, ORIGIN),
        "origin-5": (with_alpha(Image(made(SOME[1], (40, 70))[0]), smooth(40, 70, 1).array[..., 0]), 5, ORIGIN),
        "flat-5": (Image(window()[20:60, 8:60]), 5, FLAT),
        "noise-5": (noisy(5, 7), 5, FLAT),
    }


def mutated(stream: Stream, count: int, seed: int = 0) -> Iterator[Stream]:
    """Streams whose first payload is cut, has flipped bits, another start, or bytes more: no checksum shows it."""
    generator, payload = np.random.default_rng(seed), stream.chunks[0]
    for attempt in range(count):
        damaged = bytearray(payload)
        if attempt % 4 == 0:
            del damaged[int(generator.integers(len(payload))) :]
        elif attempt % 4 == 1:
            for _ in range(int(generator.integers(1, 4))):
                damaged[int(generator.integers(len(payload)))] ^= 1 << int(generator.integers(8))
        elif attempt % 4 == 2:
            damaged[1 : 1 + int(generator.integers(12))] = generator.bytes(int(generator.integers(1, 12)))
        else:
            damaged += generator.bytes(8)  # fewer may be part of the zeros that decoders read past the end
        yield replace(stream, chunks=(bytes(damaged), *stream.chunks[1:]))


def refused(stream: Stream, count: int, expected: Samples) -> int:
    """How many of `count` mutations raise `CorruptStream`; the others must give the picture."""
    raised = 0
    for damaged in mutated(stream, count):
        try:
            assert np.array_equal(ImageLossless().decode(damaged).array, expected)
        except CorruptStream:
            raised += 1
    return raised


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_odd_pictures_come_back(size: tuple[int, int]) -> None:
    for k, (make, channels, bits) in enumerate(product((smooth, noisy), (1, 2, 3, 4), DEPTHS)):
        check_round_trip(CODEC, make(*size, channels, bits), {"effort": EFFORTS[k % 3]})


@pytest.mark.parametrize("effort", range(1, 10))
def test_odd_tiles_come_back_as_planes(effort: int) -> None:
    """Small tiles would seldom be coded this way by choice."""
    for size, channels, bits in product(SIZES, (1, 2, 3, 4), DEPTHS if effort in EFFORTS else (8,)):
        for make in (smooth, noisy):
            pixels = make(*size, channels, bits).array
            back = decode_tile(planes(pixels, effort), pixels.shape, bits, effort)  # type: ignore[arg-type]
            assert back.dtype == pixels.dtype
            np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize("name", examples())
def test_each_way_comes_back(name: str) -> None:
    image, effort, way = examples()[name]
    assert ways(check_round_trip(CODEC, image, {"effort": effort})) == [way]


def test_photographs_come_back_smaller_with_more_effort() -> None:
    image = without_origin()
    sizes = [len(check_round_trip(CODEC, image, {"effort": effort})) for effort in EFFORTS]
    assert sizes == sorted(set(sizes), reverse=True)
    check_round_trip(CODEC, Image(image.array[::-1, ::2]), {"effort": 3})


def test_grey_is_coded_once() -> None:
    grey = Image(photograph().array[..., 1:2].copy())
    for alpha in (False, True):
        one = with_alpha(grey, 200) if alpha else grey
        three = Image(one.array[..., [0, 0, 0, 1] if alpha else [0, 0, 0]])
        data = check_round_trip(CODEC, three, {"effort": 3})
        assert container.read(data).chunks[0][1] & ~FEW_LEVELS == (GREY | CONSTANT_ALPHA if alpha else GREY)
        assert abs(len(encoded(three, 3)) - len(encoded(one, 3))) <= 4


@pytest.mark.parametrize("bits", DEPTHS)
def test_alpha_costs_what_it_says(bits: Literal[8, 16]) -> None:
    image = without_origin() if bits == 8 else fine(10)
    opaque = check_round_trip(CODEC, with_alpha(image, (1 << bits) - 1), {"effort": 3})
    assert container.read(opaque).chunks[0][1] & CONSTANT_ALPHA
    assert len(encoded(with_alpha(image, (1 << bits) - 1), 3)) - len(encoded(image, 3)) <= 6
    varying = check_round_trip(CODEC, with_alpha(image, smooth(112, 160, 1, bits).array[..., 0]), {"effort": 3})
    assert not container.read(varying).chunks[0][1] & CONSTANT_ALPHA
    assert len(varying) > len(opaque)


@pytest.mark.parametrize("count", [1, 2, 20, 200])
def test_few_levels_cost_what_their_indices_cost(count: int) -> None:
    used = np.sort(np.random.default_rng(count).choice(65536, count, replace=False)).astype(np.uint16)
    used[-1] = 65535
    indices = photograph().array[60:, :, 1:2].astype(int) * count // 256
    coded = planes(used[indices], 5)
    assert coded[1] == FEW_LEVELS
    np.testing.assert_array_equal(decode_tile(coded, used[indices].shape, 16, 5), used[indices])
    check_round_trip(CODEC, Image(used[indices]), {})
    assert len(encoded(Image(used[indices]))) <= len(encoded(Image(indices.astype(np.uint8)))) + 24 + 1.5 * count


def test_a_screenshot_is_coded_as_colours() -> None:
    image = Image(window())
    data = encoded(image)
    assert ways(check_round_trip(CODEC, image, {})) == [FLAT]
    webp = container.read(compress.encode(image, "webp", {"lossless": True}).data).chunks[0]
    assert len(data) < 0.75 * len(webp)
    assert len(data) < 0.5 * len(imagecodecs.png_encode(image.array, level=9))


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("origin", SOME, ids=lambda origin: str(origin.kind))
def test_recovering_the_origin_pays(origin: object, alpha: bool) -> None:
    image = Image(made(origin, (72, 110))[0])  # type: ignore[arg-type]
    image = with_alpha(image, smooth(72, 110, 1).array[..., 0]) if alpha else image
    sizes = []
    for recover, way in ((True, ORIGIN), (False, PLANES)):
        stream = ImageLossless(recover_origin=recover).encode(image, LosslessSettings(effort=1))
        assert stream.chunks[0][0] == way
        data = container.write(stream)
        np.testing.assert_array_equal(compress.decode(data).array, image.array)
        sizes.append(len(data))
    assert sizes[0] < 0.9 * sizes[1]


def test_tiles_of_a_large_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tiles, one of which is flat: the same file and picture on any number of cores."""
    image = smooth(1100, 1030)
    image.array[1024:, :1024] = 9
    files = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: set(range(cores)), raising=False)
        files.append(encoded(image, 1))
        np.testing.assert_array_equal(compress.decode(files[0]).array, image.array)
    assert files[0] == files[1] == files[2]
    assert ways(files[0]) == [PLANES, PLANES, FLAT, PLANES]
    alone = Image(image.array[:1024, 1024:].copy())
    assert container.read(files[0]).chunks[1] == container.read(encoded(alone, 1)).chunks[0]


def test_progress_is_reported_and_may_cancel() -> None:
    image, seen = smooth(50, 1030, 1), list[tuple[float, str]]()
    data = compress.encode(image, CODEC, {"effort": 1}, progress=lambda *step: seen.append(step)).data
    compress.decode(data, progress=lambda *step: seen.append(step))
    for stage in ("encoding", "decoding"):
        parts = [part for part, name in seen if name == stage]
        assert parts == sorted(parts) and len(parts) == 4 and parts[-1] == 1.0

    def cancel(part: float, stage: str) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compress.encode(image, CODEC, progress=cancel)
    with pytest.raises(Cancelled):
        compress.decode(data, progress=cancel)


def test_twenty_megapixels() -> None:
    y, x = np.mgrid[:5000, :4000]
    pixels = ((x // 64 + y // 64) % 256).astype(np.uint8)[..., None]
    data = encoded(Image(pixels), 1)
    assert len(ways(data)) == 20 and len(data) < 5000
    assert np.array_equal(compress.decode(data).array, pixels)


BESIDE_PNG: dict[str, Callable[[], Image]] = {
    "photograph": photograph,
    "photograph without origin": without_origin,
    "noise": lambda: noisy(64, 96),
    "noise of 16 bits": lambda: noisy(64, 64, 2, 16),
    "one colour": lambda: Image(np.full((300, 200, 3), (9, 77, 250), np.uint8)),
    "screenshot": lambda: Image(window()),
    "line art": circles,
    "stripes": lambda: Image(stripes()),
    "16 bits": fine,
    "grey": lambda: Image(photograph().array[..., :1].copy()),
    "RGBA": lambda: with_alpha(photograph(), smooth(112, 160, 1).array[..., 0]),
    "opaque RGBA": lambda: with_alpha(without_origin(), 255),
    **{f"{c}-channel pixel of {b} bits": lambda c=c, b=b: noisy(1, 1, c, b) for c in (1, 2, 3, 4) for b in DEPTHS},
    "row": lambda: noisy(1, 300),
}


@pytest.mark.parametrize("name", BESIDE_PNG)
def test_never_larger_than_png(name: str) -> None:
    image = BESIDE_PNG[name]()
    png = imagecodecs.png_encode(image.array if image.shape[2] > 1 else image.array[..., 0], level=9)
    for effort in (1, 5):
        assert len(encoded(image, effort)) <= len(png) + 64


def test_files_are_the_same_in_every_way_of_running() -> None:
    for name in ("planes-1", "origin-5", "flat-5"):
        image, effort, _ = examples()[name]
        check_deterministic(CODEC, image, {"effort": effort})
        assert encoded(Image(np.asfortranarray(image.array)), effort) == encoded(image, effort)
    check_batches(CODEC, [photograph(40, 50), smooth(33, 7, 1), noisy(9, 9, 4, 16)], {"effort": 3})


@pytest.mark.parametrize("name", examples())
def test_damage_is_an_error(name: str) -> None:
    """Before the container's checksums and behind them."""
    image, effort, _ = examples()[name]
    stream = ImageLossless().encode(image, LosslessSettings(effort=effort))
    assert check_rejects(container.write(stream), 500, 200) > 600
    assert refused(stream, 120, image.array) >= 110


def test_tiles_that_no_encoder_writes() -> None:
    def tile(way: int, *fields: bytes | int) -> bytes:  # integers stand for numbers of four bytes
        return bytes([way]) + b"".join(f if isinstance(f, bytes) else f.to_bytes(4, "little") for f in fields)

    def levels(*gaps: int) -> bytes:
        coded = encode_integers(np.array(gaps))
        return tile(PLANES, bytes([FEW_LEVELS]), len(gaps), len(coded), coded)

    cases = [
        (b"", 3, 8, "too early"),
        (b"\x03", 3, 8, "no way 3"),
        (b"\x01" * 99, 2, 8, "no way 1 .*2 channels"),
        (b"\x01" * 99, 3, 16, "no way 1 .*16 bits"),
        *((tile(PLANES, bytes([flags])), c, 8, f"flags {flags}") for flags, c in ((8, 3), (GREY, 2), (2, 1), (2, 3))),
        (tile(PLANES, bytes([CONSTANT_ALPHA]), b"\0\1"), 4, 8, "alpha is larger"),
        (tile(PLANES, bytes([CONSTANT_ALPHA]), b"\0"), 4, 8, "too early"),
        *((tile(PLANES, b"\4", n, 0), 1, bits, f"have {n} levels") for n, bits in ((0, 8), (257, 8), (65537, 16))),
        (tile(PLANES, bytes([FEW_LEVELS]), 3, 2**32 - 1, b"abc"), 1, 8, "too early"),
        *((levels(*gaps), 1, 8, "do not ascend within its range") for gaps in ((5, -1, 7), (-1, 3), (200, 100))),
        (planes(smooth(4, 5).array, 5) + bytes(8), 3, 8, "left over"),
        (tile(ORIGIN, b"\xff", 0, 0, 0), 3, 8, "no origin 255"),
        (tile(ORIGIN, b"\x1c", 2**32 - 1), 3, 8, "too early"),
        (tile(ORIGIN, b"\x1c", 0, 0, 0), 4, 8, "too early"),
        (tile(ORIGIN, lossless_tiles._encode_origin(smooth(4, 5).array, SOME[1], 5, None), b"\0"), 3, 8, "left over"),
        (tile(FLAT, b"\x03"), 3, 8, "unknown form"),
        (tile(FLAT, b"\0", bytes(7)), 3, 8, "wrong number"),
        (tile(FLAT, encode_flat(stripes()[:4, :5]), bytes(8)), 3, 8, "left over"),
    ]
    for coded, channels, bits, message in cases:
        with pytest.raises(CorruptStream, match=message):
            decode_tile(coded, (4, 5, channels), bits, 5)
    beyond = encode_layers([np.ones((4, 5), np.int32)], [Layer(0, ())], 1, 5)  # indices that the one level lacks
    assert (decode_tile(levels(7) + beyond, (4, 5, 1), 8, 5) == 7).all()


def test_headers_that_contradict_themselves_are_corrupt() -> None:
    stream = ImageLossless().encode(photograph(24, 30), LosslessSettings(effort=9))
    for wrong in (
        *(replace(stream, params={PARAM_EFFORT: effort}) for effort in (0, 10, -1, 1 << 40, True, "9", b"\x09", [9], 5)),
        replace(stream, params={}),
        replace(stream, version=2),
        replace(stream, chunks=stream.chunks * 2),
        replace(stream, chunks=(b"",)),
        replace(stream, shape=(24, 29, 3)),
        replace(stream, shape=(24, 30, 4)),
        replace(stream, shape=(24, 30, 5)),
        replace(stream, shape=(24, 30)),
        replace(stream, shape=(1000, 1000, 3), chunks=(stream.chunks[0][:9],)),
    ):
        with pytest.raises(CorruptStream):
            ImageLossless().decode(wrong)
    for digest in (b"\0\0" if stream.digest != b"\0\0" else b"\0\1", b"", stream.digest + b"\0"):
        with pytest.raises(CorruptStream, match="checksum"):
            ImageLossless().decode(replace(stream, digest=digest))
    with pytest.raises(LimitExceeded):
        compress.decode(container.write(stream), Limits(max_pixels=24 * 30 - 1))


@pytest.mark.parametrize(
    "settings",
    [{"effort": e} for e in (0, 10, -3, 5.5, "high", None)] + [{"recover_origin": False}, {"lossless": False}, {"quality": 90}],
    ids=str,
)
def test_settings_that_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(settings))):
        compress.encode(photograph(8, 8), CODEC, settings)


@kernel
def _peek(values: NDArray[np.int64], at: int) -> int:
    return int(values[at])


def code_within_bounds() -> None:
    """Code every example, decode it and mutations of it; in a process in which numba checks indices."""
    with pytest.raises(IndexError):
        _peek(np.zeros(3, np.int64), 3)
    for name, (image, effort, _) in examples().items():
        stream = ImageLossless().encode(image, LosslessSettings(effort=effort))
        assert np.array_equal(ImageLossless().decode(stream).array, image.array)
        assert refused(stream, 60, image.array) > 50
        print(name, hashlib.sha256(b"".join(stream.chunks)).hexdigest())
    for effort in (7, 8, 9):
        coded = planes(stripes(), effort)
        assert np.array_equal(decode_tile(coded, stripes().shape, 8, effort), stripes())  # type: ignore[arg-type]
        print(f"stripes-{effort}", hashlib.sha256(coded).hexdigest())


def test_no_index_is_out_of_bounds(tmp_path: Path) -> None:
    """Kernels compiled afresh with checks of all indices; files are those that this process writes."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", "from tests.test_image_lossless import code_within_bounds as run; run()"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {name: container.read(encoded(image, effort)).chunks for name, (image, effort, _) in examples().items()}
    expected |= {f"stripes-{effort}": (planes(stripes(), effort),) for effort in (7, 8, 9)}
    digests = {name: hashlib.sha256(b"".join(chunks)).hexdigest() for name, chunks in expected.items()}
    assert dict(line.split() for line in done.stdout.splitlines()) == digests
