"""The library: what `import laconic` offers, and its three verbs on every kind of source."""

from __future__ import annotations

import doctest
import io
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import laconic
from laconic.codecs import media
from laconic.codecs.signals import Image

MODULES = ["laconic", "laconic.api", "laconic.errors", "laconic.options", "laconic.pillow", "laconic.codecs.saving"]


def picture(height: int = 40, width: int = 56, channels: int = 3, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    """Smooth waves."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (9 + c)) + np.cos(y / (7 + c)) for c in range(channels)], axis=2)
    return ((waves + 2) / 4 * np.iinfo(dtype).max).astype(dtype)


def test_every_public_name_is_there() -> None:
    assert laconic.__all__ == sorted(laconic.__all__)
    for name in laconic.__all__:
        assert getattr(laconic, name) is not None
    assert set(laconic.__all__) <= set(dir(laconic))
    errors = import_module("laconic.codecs.errors")
    assert set(errors.__all__) <= set(laconic.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = laconic.nothing


def test_import_is_light() -> None:
    heavy = "{'torch', 'numba', 'numpy', 'PIL', 'httpx', 'pydantic', 'typer'}"
    script = f"import sys, laconic; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", MODULES)
def test_documentation_examples_run(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.failed == 0 and result.attempted > 0


def test_examples_of_the_guide_run() -> None:
    result = doctest.testfile(str(Path(__file__).resolve().parent.parent / "docs" / "python.md"), module_relative=False)
    assert result.failed == 0 and result.attempted > 10


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_come_back(channels: int, dtype: type[np.generic]) -> None:
    array = picture(channels=channels, dtype=dtype)
    decoded = laconic.decode(laconic.encode(array, codec="jxl", lossless=True))
    assert decoded.array.dtype == dtype and (decoded.array == array).all()


def test_two_dimensions_are_grey() -> None:
    array = picture(channels=1)[:, :, 0]
    decoded = laconic.decode(laconic.encode(array, codec="webp", lossless=True))
    assert decoded.array.shape == (*array.shape, 1) and (decoded.array[:, :, 0] == array).all()


def test_all_kinds_of_sources_give_the_same_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    array = picture()
    path = tmp_path / "photo.png"
    Image(array).save(path)
    sources = [
        array,
        array[::-1][::-1],
        Image(array),
        PIL.Image.fromarray(array),
        torch.from_numpy(array),
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
    ]
    files = {laconic.encode(source, codec="webp", quality=70) for source in sources}
    assert len(files) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "LAB", "I;16"])
def test_pil_modes(mode: str) -> None:
    base = PIL.Image.fromarray(picture(channels=3 if mode == "P" else 4))
    image = PIL.Image.new("I;16", (9, 7), 40_000) if mode == "I;16" else base.convert("LA" if mode == "La" else mode)
    if mode == "La":
        image = image.convert("La")
    decoded = laconic.decode(laconic.encode(image, codec="jxl", lossless=True))
    expected = {"1": 1, "L": 1, "I;16": 1, "LA": 2, "La": 2, "RGBA": 4, "RGBa": 4}.get(mode, 3)
    assert decoded.shape == (image.height, image.width, expected)
    if mode == "I;16":
        assert (decoded.array == 40_000).all()


def test_pil_images_keep_orientation_and_metadata() -> None:
    image = PIL.Image.fromarray(picture(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    exif[0x010E] = "a wave"
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif, icc_profile=b"a profile")
    opened = PIL.Image.open(io.BytesIO(file.getvalue()))
    from_pil = laconic.decode(laconic.encode(opened, codec="webp", lossless=True))
    from_file = laconic.decode(laconic.encode(file.getvalue(), codec="webp", lossless=True))
    assert from_pil.shape == (30, 20, 3)
    assert (from_pil.array == from_file.array).all()
    assert from_pil.metadata["icc"] == b"a profile" and b"a wave" in from_pil.metadata["exif"]


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((3, 40, 40), np.uint8), "channels last"),
        (np.zeros((4, 4, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((0, 4, 3), np.uint8), "H×W×C"),
        (np.zeros((4, 4, 3, 2), np.uint8), "T×H×W×3"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, part: str) -> None:
    with pytest.raises(laconic.UnsupportedMedia, match=part):
        laconic.encode(array, codec="webp")


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        laconic.encode(7)  # type: ignore[arg-type]
    with pytest.raises(laconic.UnsupportedMedia):
        laconic.encode(b"no picture", codec="webp")
    with pytest.raises(laconic.UnsupportedMedia, match="mode F"):
        laconic.encode(PIL.Image.new("F", (3, 3)), codec="webp")
    with pytest.raises(FileNotFoundError):
        laconic.encode("missing.png", codec="webp")
    with pytest.raises(laconic.CorruptStream):
        laconic.decode(b"no stream")
    with pytest.raises(laconic.InvalidSettings, match="one target"):
        laconic.encode(picture(), target_bpp=1.0, target_psnr=30.0)
    with pytest.raises(laconic.InvalidSettings):
        laconic.encode(picture(), codec="webp", quality=4, target_psnr=30.0)
    with pytest.raises(laconic.InvalidSettings, match="quality"):
        laconic.encode(picture(), codec="webp", qualty=4)


def test_targets() -> None:
    array = picture(96, 96)
    assert len(laconic.encode(array, codec="jpeg", target_bytes=1500)) <= 1500
    assert 8 * len(laconic.encode(array, codec="jpeg", target_bpp=1.5)) / 96**2 <= 1.5


def test_decode_and_inspect_take_paths_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "photo.lcn"
    path.write_bytes(laconic.encode(picture(), codec="webp"))
    assert laconic.decode(path).shape == (40, 56, 3)
    assert laconic.inspect(str(path)).file_bytes == path.stat().st_size
    limits = import_module("laconic.codecs.limits").Limits(max_pixels=100)
    with pytest.raises(laconic.LimitExceeded) as caught:
        laconic.decode(path, limits=limits)
    assert (caught.value.allowed, caught.value.actual) == (100, 40 * 56)


@pytest.mark.parametrize("extension", ["png", "webp", "jxl", "npy", "ppm"])
def test_save_is_lossless_where_the_format_can_be(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"photo.{extension}"
    Image(picture()).save(path)
    assert (media.read(path.read_bytes()).array == picture()).all()


def test_save_with_quality_and_unknown_extensions(tmp_path: Path) -> None:
    Image(picture()).save(tmp_path / "good.jpg", quality=95)
    Image(picture()).save(tmp_path / "small.JPEG", quality=5)
    assert (tmp_path / "small.JPEG").stat().st_size < (tmp_path / "good.jpg").stat().st_size
    for name in ("photo.xyz", "photo", "photo.gif"):
        with pytest.raises(laconic.UnsupportedMedia, match=r"\.png"):
            Image(picture()).save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.jpg", "small.JPEG"]
