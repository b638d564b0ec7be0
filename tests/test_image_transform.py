"""`image-transform`: every kind of picture, the same bytes however it is run, the promised rate, no seams, damage."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from laconic.codecs import compress, container, media
from laconic.codecs.codec import BatchCodec, ParamValue, Stream
from laconic.codecs.errors import (
    Cancelled,
    CorruptStream,
    InvalidSettings,
    LaconicError,
    LimitExceeded,
    UnsupportedMedia,
    WeightsMissing,
)
from laconic.codecs.image import transform_context
from laconic.codecs.image.alpha import decode_alpha, encode_alpha
from laconic.codecs.image.rgb import rgb_planes
from laconic.codecs.image.tiling import CELL, TILE, grid_of, tiles_of
from laconic.codecs.image.transform import PARAM_QUALITY, ImageTransform, TransformSettings, pad_to_cells
from laconic.codecs.image.transform_coding import EntropyMeter, decode_tiles
from laconic.codecs.metrics import psnr
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Image
from laconic.entropy import tables

from .checks import check_batches, check_deterministic, check_rate, check_rejects, check_round_trip
from .pictures import noisy, photograph, smooth, two_tiles

CODEC = "image-transform"
SIZES = ((1, 1), (1, 17), (17, 1), (33, 7), (16, 16), (100, 130))
BORDER = TILE * CELL  # first row of the second tile


def encoded(image: Image, quality: int = 50) -> bytes:
    return compress.encode(image, CODEC, {"quality": quality}, device="cpu").data


def detail() -> Image:
    """The 48 x 64 pixels of the photograph with the most in them."""
    return Image(photograph().array[-48:, -64:].copy())


def small_stream(image: Image | None = None) -> Stream:
    return container.read(encoded(image or detail()))


@pytest.fixture(scope="module")
def codec() -> ImageTransform:
    opened = open_codec(CODEC)
    assert isinstance(opened, ImageTransform) and isinstance(opened, BatchCodec)
    return opened


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_round_trip(size: tuple[int, int], channels: int) -> None:
    image = smooth(*size, channels)
    data = check_round_trip(CODEC, image, {"quality": 90}, least_psnr=28)
    if image.has_alpha:
        assert np.array_equal(compress.decode(data).array[..., -1], image.array[..., -1])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_unlike_photographs(channels: int) -> None:
    rows, columns = np.indices((64, 64))
    checked = Image(np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], channels, axis=2))
    for quality in (0, 30, 70, 100):
        for image in (noisy(33, 21, channels), checked):
            check_round_trip(CODEC, image, {"quality": quality}, least_psnr=5)


@pytest.mark.parametrize("quality", [30, 70, 100])
def test_the_finest_lines_are_better_than_grey(quality: int) -> None:
    """No photograph has black and white lines of a pixel each: the branches must not answer with what they never learnt."""
    rows, columns = np.indices((64, 64))
    grey = 10 * np.log10(255**2 / 127.5**2)
    for pattern, gain in ((rows % 2, 12), (columns % 2, 12), ((rows + columns) % 2, 5), ((rows + columns) % 3 // 2, 15)):
        image = Image(np.repeat((pattern * 255).astype(np.uint8)[..., None], 3, axis=2))
        check_round_trip(CODEC, image, {"quality": quality}, least_psnr=grey + gain)


def test_two_tiles_round_trip() -> None:
    data = check_round_trip(CODEC, two_tiles(), {"quality": 60}, least_psnr=26)
    assert len(container.read(data).chunks) == 2


def test_thin_pictures_take_no_more_memory_than_they_may() -> None:
    header = replace(small_stream(), shape=(1, 64_000_000, 3), chunks=(b"",) * 62_500)
    with pytest.raises(LimitExceeded, match="cells of 16 x 16"):
        open_codec("image-transform").decode(header)


def test_16_bits_are_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="jxl"):
        compress.encode(smooth(8, 8, 3, 16), CODEC)


def test_strided_pictures() -> None:
    image = photograph(40, 60)
    flipped = Image(image.array[::-1, ::2])
    assert encoded(flipped) == encoded(Image(flipped.array.copy()))


def test_quality_orders_size_and_psnr() -> None:
    image = photograph()
    files = [encoded(image, quality) for quality in (0, 10, 50, 90, 100)]
    assert [len(data) for data in files] == sorted({len(data) for data in files})
    found = [psnr(image, compress.decode(data)) for data in files]
    assert found == sorted(set(found))
    assert found[1] > 20 and found[3] > 33


@pytest.mark.parametrize(
    "settings", [{"quality": 101}, {"quality": -1}, {"quality": 9.5}, {"effort": 0}, {"effort": 10}, {"lossless": True}]
)
def test_wrong_settings(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings):
        compress.encode(smooth(4, 4), CODEC, settings)


def test_runs_and_threads_agree() -> None:
    check_deterministic(CODEC, photograph(), {"quality": 50})


def test_batches_agree_with_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_codec(CODEC), "tiles_at_once", 4)
    odd = [smooth(9, 9), noisy(8, 5, 1), smooth(20, 30, 4), two_tiles()]
    check_batches(CODEC, [photograph(), *odd, photograph(100, 130), photograph(), noisy(112, 160)], {"quality": 40})


def test_a_batch_may_mix_qualities(codec: ImageTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "tiles_at_once", 4)
    images = [photograph(), noisy(112, 160), smooth(112, 160), photograph()]
    settings = [TransformSettings(quality=quality) for quality in (5, 35, 65, 95)]
    together = codec.encode_batch(images, settings)
    assert together == [codec.encode(image, chosen) for image, chosen in zip(images, settings, strict=True)]
    for decoded, stream in zip(codec.decode_batch(together), together, strict=True):
        assert np.abs(decoded.array.astype(int) - codec.decode(stream).array).max() <= 1


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch says so whenever it switches oneDNN on or off
def test_onednn_changes_nothing() -> None:
    image = photograph()
    data = encoded(image)
    decoded = compress.decode(data).array.astype(int)
    with torch.backends.mkldnn.flags(enabled=False):
        assert encoded(image) == data
        assert np.abs(compress.decode(data).array - decoded).max() <= 1


OTHER_PROCESS = """
import sys
from pathlib import Path
import torch
from laconic.codecs import compress, media
torch.backends.mkldnn.enabled = False
folder = Path(sys.argv[1])
image = media.read((folder / "picture.png").read_bytes())
(folder / "other.lcn").write_bytes(compress.encode(image, "image-transform", {"quality": 40}, device="cpu").data)
decoded = compress.decode((folder / "first.lcn").read_bytes(), device="cpu")
(folder / "decoded.png").write_bytes(media.write(decoded, "png"))
"""


def test_another_process_agrees(tmp_path: Path) -> None:
    image = detail()
    data = encoded(image, 40)
    (tmp_path / "picture.png").write_bytes(media.write(image, "png"))
    (tmp_path / "first.lcn").write_bytes(data)
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(tmp_path)], check=True, timeout=120, cwd=tmp_path)
    assert (tmp_path / "other.lcn").read_bytes() == data
    decoded = media.read((tmp_path / "decoded.png").read_bytes()).array
    assert np.abs(decoded.astype(int) - compress.decode(data).array).max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_and_cpu_agree() -> None:
    for image in (photograph(), two_tiles()):
        data = encoded(image)
        assert compress.encode(image, CODEC, {"quality": 50}, device="cuda").data == data
        on_cuda = compress.decode(data, device="cuda").array
        assert np.abs(on_cuda.astype(int) - compress.decode(data, device="cpu").array).max() <= 1


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_files_are_as_small_as_their_probabilities(codec: ImageTransform, quality: int) -> None:
    for image in (photograph(), two_tiles(), smooth(1, 1)):
        data = encoded(image, quality)
        bits = codec.ideal_bits(image, TransformSettings(quality=quality))
        check_rate(data, bits)
        assert 8 * len(data) > bits
        stream = container.read(data)
        assert len(data) - sum(map(len, stream.chunks)) <= 48 + 5 * (len(stream.chunks) - 1)


def test_windows_give_the_latents_of_the_whole(codec: ImageTransform) -> None:
    image, quality = two_tiles(), torch.tensor([60])
    pixels = torch.from_numpy(pad_to_cells(rgb_planes(image, "image-transform")))[None]
    grid = grid_of(*image.shape[:2])
    with torch.inference_mode():
        whole = codec.model.latents(pixels, quality)
        for tile in tiles_of(grid):
            window = tile.grown(codec.model.spec.halo, grid)
            y = codec.model.latents(pixels[(..., *window.slices(CELL))], quality)
            assert torch.equal(y[(..., *tile.within(window).slices())], whole[(..., *tile.slices())])


def test_windows_give_the_pixels_of_the_whole(codec: ImageTransform) -> None:
    stream, quality = container.read(encoded(two_tiles(), 60)), torch.tensor([60])
    grid = grid_of(*stream.shape[:2])
    whole = torch.empty(1, codec.model.spec.latent, *grid)
    with torch.inference_mode():
        for tile, chunk in zip(tiles_of(grid), stream.chunks, strict=True):
            whole[(..., *tile.slices())] = decode_tiles(codec.model, [chunk], quality, tile.size, EntropyMeter())[0].float()
        expected = codec.model.reconstruct(whole, quality)[0].permute(1, 2, 0).numpy()
    decoded = codec.decode(stream).array
    assert np.abs(expected[: stream.shape[0], : stream.shape[1]].astype(int) - decoded).max() <= 1


@pytest.mark.parametrize("quality", [20, 60])
def test_no_seam_shows_where_tiles_meet(quality: int) -> None:
    image = two_tiles()
    error = (image.array.astype(float) - compress.decode(encoded(image, quality)).array) ** 2
    # the picture repeats every 224 rows, so the same content lies elsewhere inside a tile
    border = error[BORDER - 8 : BORDER + 8].mean()
    elsewhere = [error[BORDER - 8 - 224 * n : BORDER + 8 - 224 * n].mean() for n in (1, 2, 3, 4)]
    assert border < 1.1 * max(elsewhere)


@pytest.mark.parametrize("image", [detail(), smooth(48, 64, 4)], ids=["RGB", "RGBA"])
def test_damaged_files(image: Image) -> None:
    data = encoded(image)
    raised = check_rejects(data, flips=2000, truncations=len(data))
    assert raised >= len(data) + 1990  # every truncation, and every flip: checksums see them


def test_damaged_payloads_behind_right_checksums() -> None:
    stream = small_stream()

    def decode(payload: bytes) -> None:
        compress.decode(container.write(replace(stream, chunks=(payload,))), device="cpu")

    check_rejects(stream.chunks[0], flips=100, truncations=20, open_file=decode)
    for seed in range(10):
        with pytest.raises(CorruptStream):
            decode(random.Random(seed).randbytes(seed * 40))


def test_damaged_alpha_planes() -> None:
    def decode(payload: bytes) -> None:
        decode_alpha(payload, *PLANE.shape)

    payload = encode_alpha(PLANE)
    assert check_rejects(payload, flips=1000, truncations=len(payload), open_file=decode) >= len(payload) // 2


def test_symbols_that_no_encoder_writes(codec: ImageTransform) -> None:
    for payload in (b"\xff" * 400, b"", b"\0" * 400, b"\x80" * 9):
        with pytest.raises(CorruptStream):
            codec.decode(replace(small_stream(), chunks=(payload,)))


def test_a_wrong_symbol_checksum(codec: ImageTransform) -> None:
    stream = small_stream()
    for digest in (b"", b"\0", bytes(byte ^ 1 for byte in stream.digest)):
        with pytest.raises(CorruptStream, match="checksum"):
            codec.decode(replace(stream, digest=digest))


def test_swapped_tiles(codec: ImageTransform) -> None:
    stream = container.read(encoded(two_tiles()))
    with pytest.raises(CorruptStream):
        codec.decode(replace(stream, chunks=stream.chunks[::-1]))


def test_unknown_weights() -> None:
    stream = replace(small_stream(), weights=(b"\1" * 8,))
    with pytest.raises(WeightsMissing, match="0101010101010101"):
        compress.decode(container.write(stream))


QUALITIES: list[dict[int, ParamValue]] = [
    {}, {PARAM_QUALITY: -1}, {PARAM_QUALITY: 101}, {PARAM_QUALITY: True}, {PARAM_QUALITY: "50"}, {PARAM_QUALITY: [50]},
]  # fmt: skip


@pytest.mark.parametrize("params", QUALITIES, ids=str)
def test_bad_qualities_in_the_header(params: dict[int, ParamValue]) -> None:
    with pytest.raises(CorruptStream, match="quality"):
        compress.decode(container.write(replace(small_stream(), params=params)))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, shape=(48, 64, 4)),
        lambda s: replace(s, shape=(48, 64, 1)),
        lambda s: replace(s, shape=(480, 64, 3)),
        lambda s: replace(s, shape=(1, 1, 3)),
        lambda s: replace(s, shape=(48, 1100, 3)),
        lambda s: replace(s, bit_depth=16),
        lambda s: replace(s, weights=()),
        lambda s: replace(s, weights=s.weights * 2),
        lambda s: replace(s, chunks=s.chunks * 2),
    ],
    ids=["alpha", "grey", "taller", "smaller", "more tiles", "16 bits", "no weights", "two weights", "two chunks"],
)
def test_headers_that_contradict_the_payload(change: Callable[[Stream], Stream]) -> None:
    stream = change(small_stream())
    if stream.shape == (48, 64, 1):  # grey is a choice of the header: the symbols are the same
        assert compress.decode(container.write(stream)).shape == (48, 64, 1)
        return
    with pytest.raises(CorruptStream):
        compress.decode(container.write(stream))


def test_one_bad_stream_spoils_no_other(codec: ImageTransform) -> None:
    from laconic.codecs.batches import decode_many

    stream = small_stream()
    good, bad = container.write(stream), container.write(replace(stream, chunks=(b"\1\2\3",)))
    first, second, third = decode_many([good, bad, good], device="cpu")
    assert isinstance(first, Image) and isinstance(second, CorruptStream) and isinstance(third, Image)


PLANE: NDArray[np.uint8] = smooth(12, 9, 1).array[..., 0].astype(np.uint8)
ALPHAS: dict[str, Callable[[], bytes]] = {
    "larger": lambda: encode_alpha(np.tile(PLANE, (2, 1))),
    "turned": lambda: encode_alpha(np.ascontiguousarray(PLANE.T)),
    "png": lambda: media.write(Image(PLANE[..., None]), "png"),
    "colour": lambda: media.write(smooth(12, 9, 3), "jxl"),
    "16 bits": lambda: bytes(imagecodecs.jpegxl_encode(PLANE.astype(np.uint16) << 8, lossless=True)),
    "empty": lambda: b"",
    "cut": lambda: encode_alpha(PLANE)[:30],
    "other": lambda: b"GIF89a",
}


@pytest.mark.parametrize("name", ALPHAS)
def test_alpha_planes_that_do_not_fit(name: str) -> None:
    with pytest.raises(CorruptStream, match="alpha"):
        decode_alpha(ALPHAS[name](), *PLANE.shape)


def test_alpha_planes_are_exact_and_only_their_first_frame_counts() -> None:
    assert np.array_equal(decode_alpha(encode_alpha(PLANE), *PLANE.shape), PLANE)
    frames = bytes(imagecodecs.jpegxl_encode(np.stack([PLANE, 255 - PLANE, PLANE])[..., None], lossless=True))
    assert np.array_equal(decode_alpha(frames, *PLANE.shape), PLANE)


def test_progress_rises_to_one_and_may_cancel(codec: ImageTransform) -> None:
    seen: list[float] = []
    stream = codec.encode(two_tiles(), TransformSettings(quality=50), lambda part, stage: seen.append(part))
    assert seen == sorted(seen) and seen[-1] == 1
    seen.clear()
    codec.decode(stream, lambda part, stage: seen.append(part))
    assert seen == sorted(seen) and seen[-1] == 1

    def cancel(part: float, stage: str) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        codec.decode(stream, cancel)


def test_timings_are_told(codec: ImageTransform) -> None:
    codec.encode(photograph(), TransformSettings(quality=50))
    assert set(codec.last_timings) == {"transform", "entropy"}
    assert all(seconds > 0 for seconds in codec.last_timings.values())


def test_training_and_coder_mean_the_same_tables() -> None:
    ours, theirs = transform_context, tables
    assert (ours.SCALE_COUNT, ours.SCALE_MIN, ours.SCALE_MAX) == (theirs.SCALE_COUNT, theirs.SCALE_MIN, theirs.SCALE_MAX)
    for index in (0, 1, 31, 63):
        scale = transform_context.scale_of_index(torch.tensor(float(index), dtype=torch.float64))
        assert float(scale) == pytest.approx(tables.scale_of_index(index), rel=1e-12)


def test_settings_are_documented() -> None:
    schema = TransformSettings.model_json_schema()
    assert all(entry["description"] for entry in schema["properties"].values())
    assert issubclass(CorruptStream, LaconicError)
