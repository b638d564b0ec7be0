"""Corrections of the last layer: what is sent is what was fitted, no file gets worse, and damage is an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from laconic.codecs import compress, container
from laconic.codecs.errors import CorruptStream, LaconicError
from laconic.codecs.image.tiling import tiles_of
from laconic.codecs.image.transform import ImageTransform, TransformSettings
from laconic.codecs.image.transform_correction import (
    OUTPUTS,
    Correction,
    NormalEquations,
    decode_correction,
    fit_correction,
    gram,
    independent_directions,
)
from laconic.codecs.image.transform_efforts import MOST_TILES, corrected_tiles
from laconic.codecs.image.transform_networks import STRIP, Finish
from laconic.codecs.image.transform_refine import slope_of
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Image

from .checks import check_batches, check_deterministic, check_rate, check_rejects, check_round_trip
from .pictures import photograph, smooth

CODEC = "image-transform"
EFFORT = 4


@pytest.fixture(scope="module")
def codec() -> ImageTransform:
    opened = open_codec(CODEC)
    assert isinstance(opened, ImageTransform)
    return opened


def large() -> Image:
    """A picture large enough for a correction to be worth its bits."""
    return Image(np.tile(photograph().array, (3, 3, 1)))


def encoded(image: Image, quality: int = 50, effort: int = EFFORT) -> bytes:
    return compress.encode(image, CODEC, {"quality": quality, "effort": effort}, device="cpu").data


def error(image: Image, data: bytes) -> float:
    return float(((compress.decode(data, device="cpu").array.astype(np.float64) - image.array) ** 2).sum())


@pytest.mark.parametrize("quality", [50, 90])
def test_photographs_get_better(quality: int) -> None:
    image = large()
    plain, corrected = encoded(image, quality, 3), encoded(image, quality)
    slope = slope_of(torch.tensor([quality]))
    assert len(container.read(corrected).chunks) == len(container.read(plain).chunks) + 1
    assert container.read(corrected).chunks[0] == container.read(plain).chunks[0]
    saved = slope * (error(image, plain) - error(image, corrected))
    assert saved > 8 * (len(corrected) - len(plain))


def test_a_picture_of_a_decoder_needs_no_correction() -> None:
    image = compress.decode(encoded(photograph(), 30, 3), device="cpu")
    assert isinstance(image, Image)
    assert len(container.read(encoded(image, 5)).chunks) == len(container.read(encoded(image, 5, 3)).chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (33, 7), (33, 21)], ids=str)
def test_odd_pictures_round_trip(size: tuple[int, int], channels: int) -> None:
    check_round_trip(CODEC, smooth(*size, channels), {"quality": 90, "effort": EFFORT}, least_psnr=28)


def test_runs_threads_and_batches_agree(codec: ImageTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    check_deterministic(CODEC, large(), {"quality": 70, "effort": EFFORT})
    monkeypatch.setattr(codec, "tiles_at_once", 4)
    check_batches(CODEC, [large(), smooth(20, 30, 4), large()], {"quality": 70, "effort": EFFORT})
    settings = [TransformSettings(quality=70, effort=effort) for effort in (3, EFFORT, 3)]
    streams = codec.encode_batch([large()] * 3, settings)
    for stream, decoded in zip(streams, codec.decode_batch(streams), strict=True):
        assert np.abs(decoded.array.astype(int) - codec.decode(stream).array).max() <= 1


def test_tiles_share_a_correction(codec: ImageTransform) -> None:
    image = Image(np.tile(photograph().array, (10, 1, 1)))
    data = encoded(image, 90)
    assert len(container.read(data).chunks) == 3, "two tiles and a correction"
    check_rate(data, codec.ideal_bits(image, TransformSettings(quality=90, effort=EFFORT)))
    whole = compress.decode(data, device="cpu").array.astype(int)
    assert np.abs(whole - compress.decode(encoded(image, 90, 3), device="cpu").array).max() > 0


def test_a_large_picture_is_corrected_by_some_of_its_tiles() -> None:
    tiles = tiles_of((64 * 5, 64 * 3))
    chosen = corrected_tiles((64 * 5, 64 * 3))
    assert len(tiles) == 15 and len(set(chosen)) == MOST_TILES and set(chosen) <= set(tiles)
    assert corrected_tiles((3, 5)) == tiles_of((3, 5))


def test_what_made_a_picture_is_found(codec: ImageTransform) -> None:
    directions = codec.model.directions
    assert directions is not None
    quality = torch.tensor([70])
    picture = torch.from_numpy(photograph(64, 96).array.transpose(2, 0, 1).copy())[None]
    numbers = np.zeros((3, 12), np.int64)
    numbers[0, 0], numbers[2, 7] = 3, 5
    with torch.inference_mode():
        latents = torch.floor(codec.model.latents(picture, quality) + 0.5)
        made = codec.model.synthesise(latents, quality, [Correction(numbers, 12).weights(directions)])
        sums = NormalEquations(codec.model, quality)
        sums.look(latents, made, (slice(0, 64), slice(0, 96)), 10**6)
        found = fit_correction(sums, directions, 0.03)
        assert found is not None
        steps = found.numbers * 2.0 ** (6 - found.exponent / 2)
        assert fit_correction(sums, directions, 1e-9) is None, "where errors weigh nothing no bit pays"
    np.testing.assert_allclose(steps[:3][numbers != 0], numbers[numbers != 0], atol=0.3)
    assert np.count_nonzero(steps) <= 5


def test_the_last_layer_depends_on_the_quality(codec: ImageTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photograph(64, 96)
    picture = torch.from_numpy(image.array.transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        quality = torch.tensor([20])
        latents = codec.model.latents(picture, quality)
        found, inputs = codec.model.last_layer(latents, quality)
        torch.testing.assert_close(found, codec.model.synthesise(latents, quality), atol=1e-2, rtol=0)
        finish = codec.model.synthesis.finish
        assert finish is not None
        changed = finish.last(inputs, codec.model.by_quality[20]) - finish.last(inputs, None)
        monkeypatch.setattr(codec.model, "by_quality", torch.empty(0))
        plain = codec.model.synthesise(latents, quality)
    moved = torch.nn.functional.pixel_shuffle(changed, 2)[:, :, 4:-4, 4:-4] * 64
    assert moved.abs().max() > 0.1
    torch.testing.assert_close(found - plain, moved, atol=1e-2, rtol=0)


def test_what_is_seen(codec: ImageTransform) -> None:
    quality = torch.tensor([50])
    picture = torch.from_numpy(photograph(48, 48).array.transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        latents = codec.model.latents(picture, quality)
        for place, most, positions, seen in (
            ((slice(0, 1), slice(0, 48)), 10**6, 24, 24),
            ((slice(16, 31), slice(16, 32)), 10**6, 64, 64),
            ((slice(0, 48), slice(0, 48)), 24 * 12, 24 * 24, 16 * 24),  # only each second strip of 16 rows
        ):
            sums = NormalEquations(codec.model, quality)
            sums.look(latents, picture, place, most)
            assert (sums.positions, sums.seen) == (positions, seen)
            assert sums.error(None) > 0


@pytest.mark.parametrize("size", [1, 3, 8, 21])
def test_products_of_inputs(size: int) -> None:
    x = torch.randn(size, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(gram(x), x @ x.T)


def test_directions_are_independent_and_alike() -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(5, 400)) * np.array([[1], [10], [3], [0.1], [2]])
    inputs[3] += inputs[1]
    products = inputs @ inputs.T / 400
    vectors, factors = independent_directions(products)
    whitened = vectors * factors
    np.testing.assert_allclose(whitened.T @ products @ whitened, np.eye(5), atol=1e-9)
    assert (np.diff(factors) > 0).all()
    np.testing.assert_allclose(OUTPUTS @ OUTPUTS.T, np.eye(12), atol=1e-12)


def test_strips_are_the_whole() -> None:
    torch.manual_seed(0)
    finish = Finish(4)
    for parameter in finish.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, condition = torch.randn(2, 3, 2 * STRIP + 40, 24), torch.randn(2, 4, 1, 1)
    corrections = [None, torch.randn(12, 16, 3, 3)]
    with torch.inference_mode():
        for chosen in (None, corrections):
            torch.testing.assert_close(finish(x, condition, chosen), finish._strip(x, condition, chosen), atol=1e-4, rtol=1e-4)
    x.requires_grad_(True)
    for function in (finish, finish._strip):
        function(x, condition, corrections).square().sum().backward()
        kept, x.grad = x.grad, None
        if function is finish:
            first = kept
    assert first is not None and kept is not None
    torch.testing.assert_close(first, kept, atol=1e-2, rtol=1e-3)


def test_damaged_corrections_are_errors(codec: ImageTransform) -> None:
    numbers = np.arange(-60, 60).reshape(10, 12)
    payload = Correction(numbers, 20).encode()
    back = decode_correction(payload, 10)
    assert back.exponent == 20 and (back.numbers == numbers).all()
    with pytest.raises(CorruptStream, match="10 directions"):
        decode_correction(payload, 9)
    with pytest.raises(CorruptStream, match="exponent of 64"):
        decode_correction(Correction(numbers, 64).encode(), 10)
    with pytest.raises(CorruptStream, match="out of range"):
        decode_correction(Correction(numbers * 1000, 20).encode(), 10)
    for length in range(len(payload) - 1):  # the coder reads the last byte as zeros where it is missing
        with pytest.raises(LaconicError):
            decode_correction(payload[:length], 10)
    stream = container.read(encoded(large(), 70))
    for chunks in ((*stream.chunks, b""), (*stream.chunks[:-1], b"\x01" + stream.chunks[-1])):
        with pytest.raises(CorruptStream):
            codec.decode(replace(stream, chunks=chunks))


def test_damaged_files_are_errors() -> None:
    data = encoded(large(), 70)
    assert len(container.read(data).chunks) == 2
    assert check_rejects(data, flips=40, truncations=40) > 40


def test_weights_without_directions_refuse_corrections(codec: ImageTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = container.read(encoded(large(), 70))
    monkeypatch.setattr(codec.model, "directions", None)
    with pytest.raises(CorruptStream, match="do not have"):
        codec.decode(stream)
