"""`image-overfit`: every kind of picture, the same bytes and pixels however it is run, gradients, damage, interrupted fits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laconic.codecs import compress, container, media
from laconic.codecs.codec import ParamValue, Stream, TargetCodec
from laconic.codecs.compress import Target
from laconic.codecs.errors import Cancelled, CorruptStream, InvalidSettings, UnsupportedMedia, WeightsMissing
from laconic.codecs.image import overfit, overfit_stream
from laconic.codecs.image.overfit import PARAM_NETWORK, ImageOverfit, OverfitSettings
from laconic.codecs.image.overfit_fit import Fit
from laconic.codecs.image.overfit_loss import Loss
from laconic.codecs.image.overfit_parameters import (
    GROUPS,
    Network,
    decode_network,
    encode_network,
    initial_networks,
)
from laconic.codecs.image.overfit_spec import LARGEST, LEVELS, LOG_SCALES, Spec, plane_shapes
from laconic.codecs.image.overfit_stream import decode_tile, encode_latents, encode_tile, tiles_of
from laconic.codecs.metrics import psnr
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Image

from .checks import check_deterministic, check_rejects, check_round_trip
from .pictures import noisy, photograph, smooth

CODEC = "image-overfit"
FAST: dict[str, object] = {"effort": 1}
SIZES = ((1, 1), (1, 17), (17, 1), (33, 7), (64, 64))


def encoded(image: Image, **settings: object) -> bytes:
    return compress.encode(image, CODEC, FAST | settings, device="cpu").data


def detail() -> Image:
    """The 48 x 64 pixels of the photograph with the most in them."""
    return Image(photograph().array[-48:, -64:].copy())


@pytest.fixture(scope="module")
def stream() -> Stream:
    return container.read(encoded(detail()))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_round_trip(size: tuple[int, int], channels: int) -> None:
    image = smooth(*size, channels)
    data = check_round_trip(CODEC, image, FAST | {"quality": 70}, least_psnr=17)
    if image.has_alpha:
        assert np.array_equal(compress.decode(data).array[..., -1], image.array[..., -1])


def test_pictures_unlike_photographs() -> None:
    rows, columns = np.indices((40, 40))
    checked = Image(np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2))
    for image in (noisy(33, 21), checked):
        for quality in (0, 100):
            check_round_trip(CODEC, image, FAST | {"quality": quality}, least_psnr=4)


def test_tiles_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit_stream, "TILE", 64)
    data = check_round_trip(CODEC, photograph(100, 130), FAST, least_psnr=18)
    assert len(container.read(data).chunks) == 2 * 3


def test_tiles_cover_a_picture_once() -> None:
    for height, width in ((1, 1), (2048, 2049), (5000, 300)):
        seen = np.zeros((height, width), np.uint8)
        for place in tiles_of(height, width):
            seen[place] += 1
            assert seen[place].size <= 2048 * 2048
        assert (seen == 1).all()


def test_16_bits_are_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="jxl"):
        compress.encode(smooth(8, 8, 3, 16), CODEC)


@pytest.mark.parametrize("settings", [{"quality": 101}, {"effort": 0}, {"effort": 10}, {"lossless": True}, {"steps": 3}])
def test_wrong_settings(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings):
        compress.encode(smooth(4, 4), CODEC, settings)


def test_quality_orders_size_and_psnr() -> None:
    image = photograph()
    files = [encoded(image, quality=quality) for quality in (0, 40, 80)]
    assert [len(data) for data in files] == sorted({len(data) for data in files})
    found = [psnr(image, compress.decode(data)) for data in files]
    assert found == sorted(set(found))


def test_effort_makes_better_files() -> None:
    image, weight = photograph(), OverfitSettings(quality=50).weight
    costs = []
    for effort in (1, 3):
        data = encoded(image, effort=effort)
        costs.append(10 ** (-psnr(image, compress.decode(data)) / 10) + weight * 8 * len(data) / image.pixels)
    assert costs[1] < 0.95 * costs[0]


def test_runs_agree() -> None:
    check_deterministic(CODEC, photograph(70, 90), FAST)


def test_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    image, files = photograph(), []
    for count in (1, 3):
        monkeypatch.setattr(overfit.os, "sched_getaffinity", lambda pid, count=count: set(range(count)), raising=False)
        files.append(encoded(image))
    assert files[0] == files[1]


OTHER_PROCESS = """
import sys
from pathlib import Path
from laconic.codecs import compress, media
folder = Path(sys.argv[1])
image = media.read((folder / "picture.png").read_bytes())
(folder / "other.lcn").write_bytes(compress.encode(image, "image-overfit", {"effort": 1}, device="cpu").data)
decoded = compress.decode((folder / "first.lcn").read_bytes(), device="cpu")
(folder / "decoded.png").write_bytes(media.write(decoded, "png"))
"""


def test_another_process_gives_the_same_bytes_and_pixels(tmp_path: Path) -> None:
    data = encoded(detail())
    (tmp_path / "picture.png").write_bytes(media.write(detail(), "png"))
    (tmp_path / "first.lcn").write_bytes(data)
    # kernels are compiled there, where this process may have read them from the cache
    anew = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(tmp_path)], check=True, timeout=300, cwd=tmp_path, env=anew)
    assert (tmp_path / "other.lcn").read_bytes() == data
    decoded = media.read((tmp_path / "decoded.png").read_bytes()).array
    assert np.array_equal(decoded, compress.decode(data).array)  # not even the last bit of a pixel may differ


def test_other_processors_decode_the_same_pixels(tmp_path: Path, stream: Stream) -> None:
    """Kernels compiled for any processor of this kind, without its vector instructions, give every pixel the same."""
    data = container.write(stream)
    (tmp_path / "first.lcn").write_bytes(data)
    program = (
        "import sys, numpy; from pathlib import Path; from laconic.codecs import compress; folder = Path(sys.argv[1]);"
        "numpy.save(folder / 'pixels.npy', compress.decode((folder / 'first.lcn').read_bytes(), device='cpu').array)"
    )
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, timeout=300, cwd=tmp_path, env=os.environ | plain
    )
    assert np.array_equal(np.load(tmp_path / "pixels.npy"), compress.decode(data, device="cpu").array)


def random_network(seed: int) -> Network:
    """A network whose rates and pixels depend on all of its parameters."""
    spec, rng = Spec(), np.random.default_rng(seed)
    integers = np.rint(rng.normal(0, 400, spec.count)).astype(np.int64)
    tensors = spec.views(integers)
    tensors["upsampling"][:] = [-1500, 15000, 57000, -4600]
    for name in ("upsampling", *(f"synthesis.{i}.{part}" for i in range(4) for part in ("bias", "weight"))):
        if name != "upsampling":
            tensors[name][...] = np.rint(rng.normal(0, 15000, tensors[name].shape))
    return Network(spec, integers)


def random_latents(height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.rint(rng.laplace(0, 0.3 + k, shape)).astype(np.int32) for k, shape in enumerate(plane_shapes(height, width))]


def loss_of(height: int, width: int, latents: list[np.ndarray], threads: int = 1) -> Loss:
    target = np.random.default_rng(9).random((3, height, width), np.float32)
    loss = Loss(target, 0.01, ThreadPoolExecutor(threads).map if threads > 1 else map)
    for k, plane in enumerate(latents):
        loss.inside(k)[...] = plane
    return loss


@pytest.mark.parametrize("name", [parameter.name for parameter in Spec().parameters()])
def test_gradients_of_parameters(name: str) -> None:
    """Against differences of the loss itself, for the entry of each tensor whose gradient is largest."""
    latents = [plane + 0.2 for plane in random_latents(70, 67)]
    loss, floats = loss_of(70, 67, latents), random_network(1).floats()
    spec = Spec()
    gradient = np.zeros_like(floats)
    loss.backwards(spec.views(floats), spec.views(gradient))
    part = spec.views(gradient)[name]
    place = np.unravel_index(np.abs(part).argmax(), part.shape)
    step, costs = 1e-3, []
    for side in (1, -1):
        moved = floats.copy()
        spec.views(moved)[name][place] += side * step
        costs.append(loss.cost(spec.views(moved), 0.0))
    assert part[place] == pytest.approx((costs[0] - costs[1]) / (2 * step), rel=0.03)


@pytest.mark.parametrize("k", range(LEVELS))
def test_gradients_of_latents(k: int) -> None:
    latents = [plane + 0.2 for plane in random_latents(70, 67)]
    loss, tensors = loss_of(70, 67, latents), random_network(1).tensors()
    loss.backwards(tensors, {name: np.zeros_like(tensor) for name, tensor in tensors.items()})
    part = loss.gradient(k).copy()
    place = np.unravel_index(np.abs(part).argmax(), part.shape)
    step, costs = 1e-2, []
    for side in (1, -1):
        loss.inside(k)[place] += side * step
        costs.append(loss.cost(tensors, 0.0))
        loss.inside(k)[place] -= side * step
    assert part[place] == pytest.approx((costs[0] - costs[1]) / (2 * step), rel=0.03)


def test_the_dearest_latents_are_pulled_back() -> None:
    """Where hardly anything but 0 is expected, a 1 takes 24 bits and has nearly the whole slope of the rate."""
    spec, latents = Spec(), random_latents(30, 40)
    floats = np.zeros(spec.count, np.float32)
    spec.views(floats)["context.2.bias"][1] = LOG_SCALES[0]
    for plane in latents:
        plane[...] = 0
    latents[0][20, 10] = 1
    loss = loss_of(30, 40, latents)
    loss.backwards(spec.views(floats), spec.views(np.zeros_like(floats)))
    bits_a_unit = 2.0 ** -LOG_SCALES[0] / np.log(2)
    assert loss.gradient(0)[20, 10] == pytest.approx(loss.weight * bits_a_unit, rel=0.1)


def test_planes_that_cost_more_than_they_mend_are_emptied() -> None:
    initial, found = initial_networks().entries[0], []
    for image in (smooth(64, 96, 3), noisy(64, 96, 3)):
        target = np.ascontiguousarray(image.array.transpose(2, 0, 1), np.float32) / np.float32(255)
        fit = Fit(target, 1e-3, initial, steps=60)
        fit.advance(None, lambda part, stage: None)
        fit.picture.latents[0].values[::20, ::30] += 1
        fit._empty_planes()
        found.append(bool(fit.picture.symbols()[0].any()))
    assert found == [False, True]


def test_gradients_are_the_same_on_any_number_of_threads() -> None:
    tensors, found = random_network(2).tensors(), []
    for threads in (1, 3):
        loss = loss_of(150, 90, random_latents(150, 90), threads)
        gradient = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
        measured = loss.backwards(tensors, gradient)
        found.append([np.array(measured), *gradient.values(), *(loss.gradient(k) for k in range(LEVELS))])
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_files_are_as_small_as_the_fit_believed() -> None:
    """The float rate of the loss beside the bytes that the integer coder writes."""
    for seed in range(3):
        network, latents = random_network(seed), random_latents(90, 120, seed)
        bits = loss_of(90, 120, latents).measure(network.tensors()).bits
        assert 8 * len(encode_latents(network, latents)) == pytest.approx(bits, rel=0.02, abs=64)


def test_overhead_is_small(stream: Stream) -> None:
    assert len(container.write(stream)) - len(stream.chunks[0]) <= 48


def test_extreme_latents_and_networks_come_back() -> None:
    spec = Spec()
    for value in (-LARGEST, LARGEST):
        latents = [np.full(shape, value, np.int32) for shape in plane_shapes(9, 12)]
        for scale in (0, 1 << 15, -(1 << 15)):
            network = Network(spec, np.full(spec.count, scale, np.int64))
            code = encode_network(network, [0] * len(GROUPS), np.zeros(spec.count, np.int64))
            payload, digest = encode_tile(code, network, latents)
            found = decode_tile(payload, network, 9, 12)
            assert found.digest == digest
            assert all(np.array_equal(one, other) for one, other in zip(found.latents, latents, strict=True))


def test_networks_come_back() -> None:
    initial, rng = initial_networks().entries[0].network, np.random.default_rng(3)
    numbers = np.rint(rng.laplace(0, 2, initial.spec.count)).astype(np.int64)
    code = encode_network(initial, [5, 4, 6, 3, 0], numbers)
    assert (decode_network(code, initial).integers != initial.integers).any()
    with pytest.raises(CorruptStream):
        decode_network(encode_network(initial, [16, 4, 6, 3, 0], numbers), initial)
    with pytest.raises(CorruptStream):
        decode_network(encode_network(initial, [15, 4, 6, 3, 0], numbers + 40), initial)


def test_damaged_files() -> None:
    for image in (detail(), smooth(48, 64, 4)):
        data = encoded(image)
        raised = check_rejects(data, flips=1000, truncations=400)
        assert raised >= 1000


def test_damaged_payloads_behind_right_checksums(stream: Stream) -> None:
    def decode(payload: bytes) -> None:
        compress.decode(container.write(replace(stream, chunks=(payload,))), device="cpu")

    assert check_rejects(stream.chunks[0], flips=300, truncations=100, open_file=decode) > 350
    for seed in range(20):
        with pytest.raises(CorruptStream):
            decode(random.Random(seed).randbytes(seed * 40))
    for payload in (b"\xff" * 400, b"", b"\0" * 400, b"\x80" * 9):
        with pytest.raises(CorruptStream):
            decode(payload)


def test_a_payload_that_ends_early_stops_the_decoder(stream: Stream) -> None:
    """A short payload that claims to be a large picture is refused after a few rows."""
    large = replace(stream, shape=(2000, 2000, 3))
    with pytest.raises(CorruptStream):
        ImageOverfit().decode(large)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, shape=(48, 64, 4)),
        lambda s: replace(s, shape=(480, 64, 3)),
        lambda s: replace(s, shape=(48, 3000, 3)),
        lambda s: replace(s, bit_depth=16),
        lambda s: replace(s, weights=()),
        lambda s: replace(s, chunks=s.chunks * 2),
        lambda s: replace(s, digest=bytes(byte ^ 1 for byte in s.digest)),
    ],
    ids=["alpha", "taller", "more tiles", "16 bits", "no weights", "two chunks", "digest"],
)
def test_headers_that_contradict_the_payload(change: Callable[[Stream], Stream], stream: Stream) -> None:
    with pytest.raises(CorruptStream):
        compress.decode(container.write(change(stream)))


NUMBERS: list[dict[int, ParamValue]] = [{}, *({PARAM_NETWORK: value} for value in (-1, 1000, True, "0", [0]))]


@pytest.mark.parametrize("params", NUMBERS, ids=str)
def test_bad_networks_in_the_header(params: dict[int, ParamValue], stream: Stream) -> None:
    with pytest.raises(CorruptStream, match="initial network"):
        compress.decode(container.write(replace(stream, params=params)))


def test_unknown_weights(stream: Stream) -> None:
    with pytest.raises(WeightsMissing, match="0101010101010101"):
        compress.decode(container.write(replace(stream, weights=(b"\1" * 8,))))


def test_an_interrupted_fit_goes_on_to_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.codecs.image.overfit_fit.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("laconic.codecs.image.overfit_fit.REPORT_SECONDS", 0.0)
    image, settings = detail(), FAST | {"checkpoint": str(tmp_path)}
    seen: list[float] = []

    def stop(part: float, stage: str) -> None:
        seen.append(part)
        if part > 0.5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compress.encode(image, CODEC, settings, progress=stop)
    parts: list[float] = []
    data = compress.encode(image, CODEC, settings, progress=lambda part, stage: parts.append(part)).data
    assert parts[0] > 0.4
    assert data == encoded(image)


def test_checkpoints_that_do_not_open_are_begun_anew(tmp_path: Path) -> None:
    image, settings = detail(), FAST | {"checkpoint": str(tmp_path)}
    expected = encoded(image)
    compress.encode(image, CODEC, settings)
    (folder,) = tmp_path.iterdir()
    for content in (b"", b"damaged" * 30):
        (folder / "0.safetensors").write_bytes(content)
        assert compress.encode(image, CODEC, settings).data == expected


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    codec = open_codec(CODEC)
    made = codec.encode(detail(), OverfitSettings(effort=1), lambda part, stage: seen.append(part))
    assert seen == sorted(seen) and seen[-1] == 1
    seen.clear()
    codec.decode(made, lambda part, stage: seen.append(part))
    assert seen == sorted(seen) and seen[-1] == 1


def test_targets_are_met_closely() -> None:
    image = photograph()
    assert isinstance(open_codec(CODEC), TargetCodec)
    coarse, fine = (encoded(image, quality=quality) for quality in (20, 70))
    most = (len(coarse) + len(fine)) // 2
    data = compress.encode(image, CODEC, FAST, Target(bytes=most)).data
    assert 0.93 * most < len(data) <= most
    least = (psnr(image, compress.decode(coarse)) + psnr(image, compress.decode(fine))) / 2
    reached = psnr(image, compress.decode(compress.encode(image, CODEC, FAST, Target(psnr=least)).data))
    assert least <= reached < least + 0.5


def test_targets_out_of_reach_say_what_is_reached() -> None:
    with pytest.raises(InvalidSettings, match="smallest file"):
        compress.encode(detail(), CODEC, FAST, Target(bytes=20))
    with pytest.raises(InvalidSettings, match="highest PSNR"):
        compress.encode(detail(), CODEC, FAST, Target(psnr=70))


def test_settings_are_documented() -> None:
    assert all(entry["description"] for entry in OverfitSettings.model_json_schema()["properties"].values())
