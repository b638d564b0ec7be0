"""Media files in and out: every format and kind of sample, orientation, metadata."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from laconic.codecs import media
from laconic.codecs.errors import LaconicError, UnsupportedMedia
from laconic.codecs.image import exif, jxl_header
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Image

from .pictures import FOLDER, exif_payload, noisy, odd_pictures, photograph, saved, smooth, tiff16

LOSSLESS = ("png", "webp", "jxl", "npy")


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("name", odd_pictures())
def test_lossless_formats_keep_every_sample(form: str, name: str) -> None:
    image = odd_pictures()[name]
    file = media.write(image, form)
    assert media.sniff(file) == form
    header = media.read_header(file)
    assert (header.format, header.height, header.width) == (form, *image.shape[:2])
    decoded = media.read(file).array
    if form == "webp" and image.shape[2] < 3:  # WebP has no grey
        decoded = decoded[..., [0, 3] if image.has_alpha else [0]]
    assert np.array_equal(decoded, image.array)


@pytest.mark.parametrize("form", ["png", "npy"])
@pytest.mark.parametrize("name", odd_pictures(16))
def test_16_bits_stay(form: str, name: str) -> None:
    image = odd_pictures(16)[name]
    file = media.write(image, form)
    decoded = media.read(file)
    assert decoded.array.dtype == np.uint16
    assert np.array_equal(decoded.array, image.array)
    assert media.read_header(file)[1:4] == image.shape


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_ppm_keeps_every_sample(bits: Any, channels: int) -> None:
    image = noisy(5, 9, channels, bits)
    file = media.write(image, "ppm")
    assert np.array_equal(media.read(file).array, image.array)
    assert media.read_header(file)[1:4] == image.shape


@pytest.mark.parametrize("form", ["jpeg", "webp", "avif", "jxl"])
def test_lossy_formats_follow_quality(form: str) -> None:
    image = photograph()
    sizes, qualities = [], []
    for quality in (10, 50, 95):
        file = media.write(image, form, quality)
        sizes.append(len(file))
        qualities.append(psnr(image, media.read(file)))
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert qualities[-1] > 36


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif", "jxl"])
def test_metadata_travels(form: str) -> None:
    given = {"icc": real_profile(), "exif": exif_payload(1), "xmp": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"}
    decoded = media.read(media.write(Image(smooth(20, 30).array, given), form)).metadata
    if form == "jxl":  # its encoder takes no profile
        del given["icc"]
    if form == "avif":  # Pillow rewrites EXIF without the orientation, which AVIF keeps elsewhere
        assert b"ab\0" in decoded.pop("exif")
        del given["exif"]
    assert decoded == given


def real_profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif", "tiff"])
def test_orientation_is_applied_and_reset(form: str, orientation: int) -> None:
    from PIL import ImageOps

    stored = PIL.Image.fromarray(smooth(12, 20).array)
    payload = exif_payload(orientation)
    options: dict[str, Any] = {"png": {}, "tiff": {}, "jpeg": {"quality": 100, "subsampling": 0}}.get(form, {"quality": 100})
    if form == "tiff":
        options["tiffinfo"] = {exif.ORIENTATION_TAG: orientation}
    else:
        options["exif"] = (exif.PREFIX if form == "jpeg" else b"") + payload
    if form == "webp":
        options["lossless"] = True
    file = saved(stored, form.upper(), **options)
    with PIL.Image.open(io.BytesIO(file)) as reference:
        expected = np.asarray(ImageOps.exif_transpose(reference))
    decoded = media.read(file)
    assert np.array_equal(decoded.array, expected)
    assert media.read_header(file)[1:3] == decoded.shape[:2]
    assert exif.orientation(decoded.metadata.get("exif", b"")) == 1
    if form in ("png", "jpeg", "webp"):
        assert decoded.metadata["exif"] == exif_payload(1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tag(order: str, orientation: int) -> None:
    payload = exif_payload(orientation, order)
    assert exif.orientation(payload) == orientation
    assert exif.reset_orientation(payload) == exif_payload(1, order)
    for length in range(len(payload)):
        assert 1 <= exif.orientation(payload[:length]) <= 8
        assert len(exif.reset_orientation(payload[:length])) == length


def test_orientation_in_xmp_is_reset() -> None:
    before = b'<x tiff:Orientation="6"/><tiff:Orientation>8</tiff:Orientation>'
    assert exif.reset_xmp_orientation(before) == b'<x tiff:Orientation="1"/><tiff:Orientation>1</tiff:Orientation>'


@pytest.mark.parametrize(
    ("mode", "options", "shape"),
    [
        ("1", {}, (6, 8, 1)),
        ("L", {"transparency": 7}, (6, 8, 2)),
        ("P", {}, (6, 8, 3)),
        ("P", {"transparency": 3}, (6, 8, 4)),
        ("P", {"transparency": bytes(range(256))}, (6, 8, 4)),
        ("RGB", {"transparency": (1, 2, 3)}, (6, 8, 4)),
        ("LA", {}, (6, 8, 2)),
        ("RGBA", {}, (6, 8, 4)),
    ],
)
def test_png_kinds(mode: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    samples = np.arange(6 * 8 * 4, dtype=np.uint8).reshape(6, 8, 4)
    samples[0, 0, :3] = 1, 2, 3
    colour = PIL.Image.fromarray(samples)
    image = colour.convert("RGB").quantize(16) if mode == "P" else colour.convert(mode)
    if mode == "L":
        image.putpixel((0, 0), 7)
    file = saved(image, "PNG", **options)
    header = media.read_header(file)
    decoded = media.read(file)
    assert decoded.shape == shape == tuple(header[1:4])
    with PIL.Image.open(io.BytesIO(file)) as reference:
        expected = np.asarray(reference.convert("RGBA"))
    assert np.array_equal(decoded.array[..., 0], expected[..., 0])
    if shape[2] in (2, 4):
        assert np.array_equal(decoded.array[..., -1], expected[..., 3])


def test_opaque_alpha_is_dropped() -> None:
    image = smooth(5, 6, 4)
    image.array[..., 3] = 255
    decoded = media.read(media.write(image, "png"))
    assert np.array_equal(decoded.array, image.array[..., :3])


def test_cmyk_becomes_rgb_without_its_profile() -> None:
    stored = PIL.Image.fromarray(smooth(9, 11).array).convert("CMYK")
    file = saved(stored, "JPEG", quality=95, icc_profile=b"a profile of inks")
    decoded = media.read(file)
    assert decoded.shape == (9, 11, 3) == media.read_header(file)[1:4]
    assert "icc" not in decoded.metadata
    assert psnr(Image(np.asarray(stored.convert("RGB"))), decoded) > 30


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_formats_that_are_only_read(form: str) -> None:
    stored = PIL.Image.fromarray(smooth(9, 11).array)
    file = saved(stored, form)
    decoded = media.read(file)
    assert decoded.shape == (9, 11, 3) == media.read_header(file)[1:4]
    assert psnr(smooth(9, 11), decoded) > (20 if form == "GIF" else 200)
    with pytest.raises(UnsupportedMedia, match="png"):
        media.write(decoded, form.lower())


def test_first_frame_of_an_animation() -> None:
    frames = [PIL.Image.fromarray(smooth(9, 11).array).quantize(8), PIL.Image.fromarray(noisy(9, 11).array).quantize(8)]
    file = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(media.read(file, kind="image").array, np.asarray(frames[0].convert("RGB")))
    moving = media.read(file)
    assert (moving.kind, moving.shape, media.read_header(file).frames) == ("video", (2, 9, 11, 3), 2)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff(channels: int) -> None:
    image = smooth(9, 11, channels, 16)
    file = tiff16(image)
    assert np.array_equal(media.read(file).array, image.array)
    assert media.read_header(file)[1:4] == image.shape


def test_arrays_in_column_order_and_big_endian() -> None:
    for array in (np.asfortranarray(noisy(4, 6).array), noisy(4, 6, 3, 16).array.astype(">u2"), noisy(4, 6, 1).array[..., 0]):
        file = io.BytesIO()
        np.save(file, array)
        decoded = media.read(file.getvalue()).array
        assert decoded.dtype.isnative
        assert np.array_equal(decoded, array.reshape(decoded.shape))


@pytest.mark.parametrize("array", [np.zeros(4), np.zeros((2, 2)), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2), np.uint8)])
def test_arrays_that_are_no_pictures(array: Any) -> None:
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(UnsupportedMedia, match=r"\.npy"):
        media.read(file.getvalue())


def test_pickled_arrays_are_refused() -> None:
    file = io.BytesIO()
    np.save(file, np.array([[{}]], dtype=object), allow_pickle=True)  # written only: the reader must refuse it
    with pytest.raises(UnsupportedMedia):
        media.read(file.getvalue())


def test_jxl_of_10_bits_fills_16() -> None:
    samples = (smooth(9, 11, 3, 16).array >> 6).astype(np.uint16)
    file = bytes(imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=10))
    decoded = media.read(file).array
    assert jxl_header.parse(file).bits == 10
    assert np.array_equal(decoded, np.round(samples.astype(float) * 65535 / 1023).astype(np.uint16))


def test_jxl_of_floats_is_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="floating"):
        media.read(bytes(imagecodecs.jpegxl_encode(np.zeros((4, 4), np.float32), lossless=True)))


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (256, 256), (300, 400), (512, 256), (513, 9000), (1080, 1920), (5000, 3)])
def test_jxl_sizes(shape: tuple[int, int]) -> None:
    for extra in ((), (2,), (3,), (4,)):
        file = bytes(imagecodecs.jpegxl_encode(np.zeros(shape + extra, np.uint8), lossless=True, effort=1))
        header = jxl_header.parse(file)
        assert (header.height, header.width, header.channels, header.bits) == (*shape, *(extra or (1,)), 8)


def test_pillow_images() -> None:
    from laconic.codecs.media import from_pillow

    with PIL.Image.open(FOLDER / "photograph.png") as opened:
        assert np.array_equal(from_pillow(opened).array, photograph().array)
    with pytest.raises(UnsupportedMedia, match="'F'"):
        from_pillow(PIL.Image.new("F", (2, 2)))


@pytest.mark.parametrize(("form", "image"), [("jpeg", smooth(3, 3, 4)), ("ppm", smooth(3, 3, 2))])
def test_alpha_that_a_format_cannot_hold(form: str, image: Image) -> None:
    with pytest.raises(UnsupportedMedia, match="png"):
        media.write(image, form)


@pytest.mark.parametrize("form", ["jpeg", "webp", "avif", "jxl"])
def test_16_bits_that_a_format_cannot_hold(form: str) -> None:
    with pytest.raises(UnsupportedMedia, match="png"):
        media.write(smooth(3, 3, 3, 16), form)


def test_noise_that_needs_more_room_than_pillow_gives() -> None:
    image = noisy(300, 300)
    assert psnr(image, media.read(media.write(image, "jpeg", 94))) > 10


def test_formats_are_complete() -> None:
    image = smooth(4, 4)
    for form in media.FORMATS.values():
        if form.writes and form.signal == "image":
            assert media.sniff(media.write(image, form.name)) == form.name
        else:
            with pytest.raises(LaconicError):
                media.write(image, form.name)
