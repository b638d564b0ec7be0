"""`image-circuit`: pictures of any size, small ones together, samples known beforehand, damage, exactness and rate."""

from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

import laconic
from laconic.codecs import compress, container, media
from laconic.codecs.errors import CorruptStream, InvalidSettings, LimitExceeded, UnsupportedMedia
from laconic.codecs.image import circuit_blocks
from laconic.codecs.image.circuit import CircuitSettings, ImageCircuit
from laconic.codecs.image.circuit_residual import TRANSFORMS, from_residuals, merge_colours, split_colours, to_residuals
from laconic.codecs.image.circuit_walk import IntegerCircuit
from laconic.codecs.limits import Limits
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Image, Pictures

from .checks import check_batches, check_deterministic, check_rate, check_rejects, check_round_trip
from .circuits import units
from .pictures import FOLDER, noisy, odd_pictures, photograph, smooth

ODD = odd_pictures()


def sample(name: str) -> NDArray[np.uint8]:
    """24 pictures of 28 x 28 from a test set: "digits" or "clothes"."""
    with PIL.Image.open(FOLDER / f"{name}.png") as strip:
        return np.asarray(strip).reshape(-1, 28, 28).copy()


def codec() -> ImageCircuit:
    opened = open_codec("image-circuit")
    assert isinstance(opened, ImageCircuit)
    return opened


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_come_back(name: str) -> None:
    check_round_trip("image-circuit", ODD[name], {})


def test_a_photograph_comes_back_smaller_than_as_png() -> None:
    data = check_round_trip("image-circuit", photograph(), {})
    assert len(data) < 0.8 * len(media.write(photograph(), "png"))


def test_several_tiles_come_back() -> None:
    image = smooth(17, 1030, 4)
    data = check_round_trip("image-circuit", image, {})
    assert len(container.read(data).chunks) == 6  # three of the colours, three of alpha


@pytest.mark.parametrize("name", ["digits", "clothes"])
def test_small_pictures_go_into_one_stream(name: str) -> None:
    pictures = sample(name)
    stream = laconic.encode(pictures, codec="image-circuit")
    decoded = laconic.decode(stream)
    assert decoded.array.shape == pictures.shape and (decoded.array == pictures).all()
    assert laconic.inspect(stream).shape == (24 * 28, 28, 1)
    strip = media.write(Pictures(pictures), "webp")
    assert len(stream) < {"digits": 0.8, "clothes": 0.9}[name] * len(strip)


def test_the_circuit_is_chosen_by_content_or_by_name() -> None:
    digits, clothes = sample("digits"), sample("clothes")
    sizes = {
        (name, model): len(laconic.encode(pictures, codec="image-circuit", model=model))
        for name, pictures in (("digits", digits), ("clothes", clothes))
        for model in ("auto", "digits", "fashion")
    }
    assert sizes["digits", "auto"] == sizes["digits", "digits"] < sizes["digits", "fashion"]
    assert sizes["clothes", "auto"] == sizes["clothes", "fashion"] < sizes["clothes", "digits"]


def test_small_pictures_of_other_sizes_and_forced_to_blocks_come_back() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 9, 11), np.uint8)
    for array, model in ((pictures, "auto"), (sample("digits")[:3], "photos")):
        decoded = laconic.decode(laconic.encode(array, codec="image-circuit", model=model))
        assert decoded.array.shape == array.shape and (decoded.array == array).all()


def test_the_chunks_of_many_pictures_are_independent() -> None:
    pictures = np.tile(sample("digits"), (42, 1, 1))[:1003]
    data = laconic.encode(pictures, codec="image-circuit")
    stream = container.read(data)
    assert len(stream.chunks) == 2
    assert (laconic.decode(data).array == pictures).all()
    last = container.write(replace(codec().encode(Pictures(pictures[1000:]), CircuitSettings()), metadata={}))
    assert container.read(last).chunks == stream.chunks[1:]


@pytest.mark.parametrize("shape", ["one for all", "each its own"])
def test_known_samples_are_left_out(shape: str) -> None:
    pictures = sample("digits")
    known = np.zeros(pictures.shape, np.bool_)
    known[:, :14] = True
    if shape == "each its own":
        known[::2] = np.random.default_rng(0).random(known[::2].shape) < 0.5
    mask = known if shape == "each its own" else known[0]
    stream = laconic.encode(pictures, codec="image-circuit", known=mask)
    received = np.where(known, pictures, 99).astype(np.uint8)
    decoded = laconic.decode(stream, known=received)
    assert (decoded.array == pictures).all()
    settings = CircuitSettings(model="digits")
    given = codec().ideal_bits(Pictures(pictures, known=mask), settings)
    everything = codec().ideal_bits(Pictures(pictures), settings)
    only_known = codec().ideal_bits(Pictures(pictures, known=~mask), settings)
    assert given < everything
    # without the known part, summed out, the rest costs what the whole costs less the known part given the rest
    assert given < {"one for all": 0.98, "each its own": 0.92}[shape] * (everything - only_known)
    assert 8 * len(stream) < 1.005 * given + 8 * (128 + (0 if shape == "one for all" else 98 * 14))


def test_known_samples_must_be_given_and_right() -> None:
    pictures = sample("digits")[:3]
    mask = np.zeros((28, 28), np.bool_)
    mask[10:20] = True
    stream = laconic.encode(pictures, codec="image-circuit", known=mask)
    wrong = pictures.copy()
    wrong[1, 15, 15] ^= 1
    for known in (None, wrong, pictures[:2], pictures.astype(np.uint16)):
        with pytest.raises(InvalidSettings, match="known"):
            laconic.decode(stream, known=known)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettings, match="known"):
        laconic.encode(pictures, codec="image-circuit", known=mask[:5])
    with pytest.raises(InvalidSettings, match="known"):
        laconic.encode(photograph(), codec="image-circuit", known=mask)
    with pytest.raises(InvalidSettings, match="known"):
        laconic.encode(pictures, codec="webp", known=mask)


def test_nothing_unknown_is_next_to_nothing() -> None:
    pictures = sample("digits")[:2]
    stream = laconic.encode(pictures, codec="image-circuit", known=np.ones((28, 28), np.bool_))
    assert len(stream) < 100
    assert (laconic.decode(stream, known=pictures).array == pictures).all()


def test_rates_are_what_the_probabilities_call_for() -> None:
    for signal in (Pictures(sample("digits")), Pictures(sample("clothes")), photograph()):
        data = compress.encode(signal, "image-circuit").data
        check_rate(data, codec().ideal_bits(signal, CircuitSettings()))


def test_digits_cost_about_what_the_test_set_costs() -> None:
    data = laconic.encode(np.tile(sample("digits"), (10, 1, 1)), codec="image-circuit")
    assert 8 * len(data) / (240 * 784) < 1.3


def test_the_cost_of_a_digit_is_linear_in_the_circuit() -> None:
    """Against D circuit evaluations when each pixel is conditioned on the others from scratch."""
    from laconic.codecs.image.circuit import _model_for
    from laconic.codecs.image.circuit_pictures import encode_pictures

    pictures = sample("digits")
    circuit = _model_for(Pictures(pictures), "digits").circuit
    cost = encode_pictures(circuit, pictures.reshape(24, -1)).cost / 24
    assert cost <= 3 * units(circuit) < 784 * units(circuit) / 250


def test_files_are_the_same_in_every_way_of_running() -> None:
    check_deterministic("image-circuit", photograph(), {})
    check_batches("image-circuit", [photograph(), smooth(33, 7, 1)], {})
    pictures = Pictures(np.tile(sample("digits"), (42, 1, 1)))
    files = []
    for threads in (1, 2):
        either = ImageCircuit()
        either.threads = threads
        files.append(container.write(either.encode(pictures, CircuitSettings())))
    assert files[0] == files[1]


def test_another_process_writes_the_same_file() -> None:
    code = (
        "import sys, numpy as np, PIL.Image, laconic; x = np.asarray(PIL.Image.open(sys.argv[1])).reshape(-1, 28, 28)[:4];"
        "sys.stdout.buffer.write(laconic.encode(x, codec='image-circuit'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(FOLDER / "digits.png")], capture_output=True, check=True)
    assert done.stdout == laconic.encode(sample("digits")[:4], codec="image-circuit")


@pytest.mark.parametrize("what", ["digits", "picture", "known"])
def test_damage_is_an_error(what: str) -> None:
    mask = np.zeros((28, 28), np.bool_)
    mask[:20] = True
    digits = sample("digits")[:2]
    if what == "picture":
        data = compress.encode(photograph(24, 24), "image-circuit").data
    else:
        data = laconic.encode(digits, codec="image-circuit", known=mask if what == "known" else None)
    limits = Limits(max_pixels=10**6)
    raised = check_rejects(
        data, 500, 200, lambda file: compress.decode(file, limits, known=digits if what == "known" else None)
    )
    assert raised > 600


def test_damage_behind_the_checksums_is_an_error_too() -> None:
    """The container's checksums are right, the payload is not."""
    refused = 0
    for signal in (Pictures(sample("digits")[:2]), photograph(24, 24)):
        stream = codec().encode(signal, CircuitSettings())
        generator = np.random.default_rng(0)
        for attempt in range(60):
            payload = bytearray(
                stream.chunks[0][: int(generator.integers(1, len(stream.chunks[0]))) if attempt % 3 == 0 else None]
            )
            payload[int(generator.integers(len(payload)))] ^= 1 << int(generator.integers(8))
            try:  # the last byte has bits that decide nothing
                decoded = codec().decode(replace(stream, chunks=(bytes(payload), *stream.chunks[1:])))
                assert (decoded.array == signal.array).all()
            except CorruptStream:
                refused += 1
    assert refused >= 110


def test_a_tile_that_few_bytes_promise_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decodes a small tile is worth a small part of a large one, not seconds for all of it."""
    blocks, walk = [0], circuit_blocks.walk

    def counted(circuit: IntegerCircuit, values: NDArray[np.uint8], *rest: Any) -> int:
        blocks[0] += len(values)
        return int(walk(circuit, values, *rest))

    stream = codec().encode(photograph(24, 24), CircuitSettings())
    monkeypatch.setattr(circuit_blocks, "walk", counted)
    codec().decode(stream)
    assert blocks[0] == 9
    blocks[0] = 0
    with pytest.raises(CorruptStream, match="end too early"):
        codec().decode(replace(stream, shape=(512, 512, 3)))
    assert 9 <= blocks[0] < 200  # of 4,096


def test_headers_that_contradict_themselves_are_corrupt() -> None:
    stream = codec().encode(Pictures(sample("digits")[:2]), CircuitSettings())
    picture = codec().encode(photograph(24, 24), CircuitSettings())
    for wrong in (
        replace(stream, params={16: 3}),
        replace(stream, params={}),
        replace(stream, params={16: b"2"}),
        replace(stream, chunks=stream.chunks * 2),
        replace(stream, shape=(56, 28, 3)),
        replace(stream, bit_depth=16),
        replace(stream, weights=()),
        replace(picture, chunks=picture.chunks * 2),
        replace(picture, chunks=(b"",)),
        replace(picture, chunks=(bytes([TRANSFORMS]) + picture.chunks[0][1:],)),
        replace(picture, params={16: 5}),
        replace(picture, digest=b"\0\0" if picture.digest != b"\0\0" else b"\0\1"),
    ):
        with pytest.raises(CorruptStream):
            codec().decode(wrong)


def test_what_it_does_not_take_is_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="8 bits"):
        compress.encode(smooth(5, 5, 3, 16), "image-circuit")
    with pytest.raises(InvalidSettings, match="28×28"):
        laconic.encode(np.zeros((2, 20, 20), np.uint8), codec="image-circuit", model="digits")
    with pytest.raises(InvalidSettings, match="small pictures"):
        compress.encode(photograph(), "image-circuit", {"model": "digits"})
    with pytest.raises(InvalidSettings, match="model"):
        compress.encode(photograph(), "image-circuit", {"model": "cats"})
    with pytest.raises(UnsupportedMedia, match="image-circuit"):
        compress.encode(Pictures(sample("digits")), "webp", {"lossless": True})
    with pytest.raises(LimitExceeded):
        compress.decode(laconic.encode(sample("digits"), codec="image-circuit"), Limits(max_pixels=1000))


def test_pictures_are_saved_as_an_array_or_a_strip(tmp_path: Path) -> None:
    decoded = laconic.decode(laconic.encode(sample("digits"), codec="image-circuit"))
    decoded.save(tmp_path / "digits.npy")
    decoded.save(tmp_path / "digits.png")
    assert (np.load(tmp_path / "digits.npy", allow_pickle=False) == sample("digits")).all()
    assert media.read((tmp_path / "digits.png").read_bytes()).shape == (24 * 28, 28, 1)


@pytest.mark.parametrize("transform", range(TRANSFORMS))
def test_the_map_to_residuals_is_reversible(transform: int) -> None:
    for image in (noisy(19, 23), smooth(40, 31), photograph(), noisy(1, 1)):
        rgb = np.ascontiguousarray(image.array.transpose(2, 0, 1), np.uint8)
        planes = split_colours(rgb, transform)
        assert (merge_colours(planes, transform) == rgb).all()
        assert (from_residuals(to_residuals(planes)) == planes).all()


def test_the_documents_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    root = FOLDER.parent.parent
    monkeypatch.chdir(root)
    result = doctest.testfile(str(root / "docs" / "codecs" / "image-circuit.md"), module_relative=False)
    assert result.failed == 0 and result.attempted >= 10


def test_progress_is_reported() -> None:
    seen: list[tuple[float, str]] = []
    data = compress.encode(Image(smooth(8, 600, 1).array), "image-circuit", progress=lambda *step: seen.append(step)).data
    compress.decode(data, progress=lambda *step: seen.append(step))
    assert seen == [(0.5, "encoding"), (1.0, "encoding"), (0.5, "decoding"), (1.0, "decoding")]
