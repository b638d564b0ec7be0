"""The Pillow plugin."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import laconic
import laconic.pillow
from laconic.codecs.signals import Image

from .pictures import smooth


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_round_trip_by_extension(tmp_path: Path, mode: str) -> None:
    array = smooth(30, 44, len(mode)).array
    image = PIL.Image.fromarray(array[:, :, 0] if mode == "L" else array)
    image.save(tmp_path / "photo.lcn", codec="webp", lossless=True)
    with PIL.Image.open(tmp_path / "photo.lcn") as opened:
        assert (opened.format, opened.mode, opened.size) == ("LACONIC", mode, (44, 30))
        assert opened.get_format_mimetype() == "application/vnd.laconic"
        assert (np.asarray(opened).reshape(array.shape) == array).all()


def test_16_bits() -> None:
    array = smooth(9, 7, 1, 16).array
    opened = PIL.Image.open(io.BytesIO(laconic.encode(array, codec="jxl", lossless=True)))
    assert opened.mode == "I;16" and (np.asarray(opened) == array[:, :, 0]).all()
    colour = laconic.encode(smooth(9, 7, 3, 16).array, codec="jxl", lossless=True)
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(io.BytesIO(colour))


def test_pixels_are_decoded_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = laconic.encode(smooth(30, 44), codec="webp")
    monkeypatch.setattr(laconic.pillow.compress, "decode", lambda data: pytest.fail("decoded too early"))
    assert PIL.Image.open(io.BytesIO(stream)).size == (44, 30)


def test_metadata_survives() -> None:
    signal = Image(smooth(30, 44).array, {"icc": b"a profile", "xmp": b"<x:xmpmeta/>"})
    opened = PIL.Image.open(io.BytesIO(laconic.encode(signal, codec="webp")))
    assert opened.info["icc_profile"] == b"a profile" and opened.info["xmp"] == b"<x:xmpmeta/>"
    file = io.BytesIO()
    opened.save(file, "LACONIC", codec="jpeg", quality=80)
    assert laconic.decode(file.getvalue()).metadata == signal.metadata
    other = io.BytesIO()
    opened.save(other, "LACONIC", codec="jpeg", icc_profile=b"another")
    assert laconic.decode(other.getvalue()).metadata["icc"] == b"another"


def test_convert_resize_and_save_as_another_format() -> None:
    opened = PIL.Image.open(io.BytesIO(laconic.encode(smooth(30, 44), codec="webp")))
    file = io.BytesIO()
    opened.convert("L").resize((11, 15)).save(file, "PNG")
    assert PIL.Image.open(file).size == (11, 15)


def test_damaged_files() -> None:
    stream = laconic.encode(smooth(30, 44), codec="webp")
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(io.BytesIO(stream[:20]))
    damaged = bytearray(stream)
    damaged[-20] ^= 1
    opened = PIL.Image.open(io.BytesIO(damaged))
    with pytest.raises(OSError, match=r"\.lcn file does not decode"):
        opened.load()


def test_bad_settings_reach_the_caller() -> None:
    with pytest.raises(laconic.InvalidSettings):
        PIL.Image.new("RGB", (4, 4)).save(io.BytesIO(), "LACONIC", codec="webp", qualty=3)
