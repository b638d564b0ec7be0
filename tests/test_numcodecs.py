"""Arrays as .lcn files: for numcodecs, in Zarr 2 and in Zarr 3, every sample, shape, byte order and memory order kept."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numcodecs")
pytest.importorskip("zarr")

import numcodecs
import zarr
import zarr.codecs
import zarr.registry

import laconic
from laconic.arrays import LAYOUT, decode_array, encode_array
from laconic.codecs import container
from laconic.codecs.errors import CorruptStream, InvalidSettings, LaconicError, LimitExceeded, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.numcodecs import Laconic
from laconic.zarr import LaconicCodec

PYPROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())
SHAPES = [(5, 7), (1, 1), (3, 5, 7), (6, 9, 3), (6, 9, 4), (6, 9, 2), (6, 9, 1), (2, 1, 3, 6, 7)]


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    """As entry points register them where the package is installed."""
    numcodecs.register_codec(Laconic)
    zarr.registry.register_codec("laconic", LaconicCodec)


def array(shape: tuple[int, ...], dtype: str = "u1", order: Any = "C") -> np.ndarray:
    """A slope with noise; 16-bit samples reach high."""
    values = np.random.default_rng(3).integers(0, 40, shape) + np.arange(shape[-1])
    return np.asarray((values * (900 if dtype != "u1" else 1)).astype(dtype), order=order)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arrays_come_back_whole(shape: tuple[int, ...], dtype: str, order: str) -> None:
    before = array(shape, dtype, order)
    codec = Laconic("jxl", effort=1)
    after = codec.decode(codec.encode(before))
    assert (after.shape, after.dtype, after.flags.f_contiguous) == (before.shape, before.dtype, before.flags.f_contiguous)
    assert np.array_equal(after, before)


@pytest.mark.parametrize(("codec", "dtype"), [("image-lossless", "u1"), ("image-lossless", "<u2"), ("webp", "u1")])
def test_every_codec_without_loss(codec: str, dtype: str) -> None:
    before = array((2, 24, 31), dtype)
    data = Laconic(codec, effort=1).encode(before)
    assert laconic.inspect(data).codec == codec
    assert np.array_equal(numcodecs.get_codec({"id": "laconic"}).decode(data), before), "any of them decodes all"


def test_a_chunk_is_a_file_like_any_other() -> None:
    """A plain array costs nothing beside the picture; a stack is its pictures one below the other."""
    flat, stack = array((20, 30)), array((4, 20, 30))
    assert encode_array(flat, "webp") == laconic.encode(flat, codec="webp", lossless=True)
    assert laconic.decode(encode_array(stack, "webp")).array.shape == (80, 30, 1)
    assert np.array_equal(decode_array(laconic.encode(flat, codec="jxl", lossless=True)), flat)


def test_views_and_buffers() -> None:
    codec, whole = Laconic("webp"), array((8, 20, 24))
    for view in (whole[:, ::2, 3:], whole[2], whole[:, :, ::-1], whole.transpose(1, 0, 2)):
        assert np.array_equal(codec.decode(codec.encode(view)), view)
    data = codec.encode(whole)
    out = np.empty_like(whole)
    assert codec.decode(memoryview(data), out) is out and np.array_equal(out, whole)
    assert np.array_equal(codec.decode(np.frombuffer(data, np.uint8)), whole)
    with pytest.raises(ValueError, match="reshape"):
        codec.decode(data, np.empty(7, np.uint8))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (np.zeros((4, 4), np.int16), "int16"),
        (np.zeros((4, 4), np.uint32), "uint32"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros(16, np.uint8), "2 to 32 axes"),
        (np.zeros((0, 4), np.uint8), "2 to 32 axes"),
        (np.broadcast_to(np.uint8(0), (9000, 9000)), "smaller chunks"),
    ],
)
def test_what_is_not_coded_is_said(wrong: np.ndarray, part: str) -> None:
    with pytest.raises(UnsupportedMedia, match=part):
        Laconic().encode(wrong)


@pytest.mark.parametrize(
    ("codec", "effort"), [("jpeg", None), ("image-transform", 3), ("none", None), ("jxl", 0), ("webp", 10)]
)
def test_settings_are_checked_at_once(codec: str, effort: int | None) -> None:
    for make in (Laconic, LaconicCodec):
        with pytest.raises(InvalidSettings):
            make(codec, effort)
    with pytest.raises(InvalidSettings, match="speed"):
        LaconicCodec.from_dict({"name": "laconic", "configuration": {"speed": 1}})


def test_a_configuration_makes_the_codec_again() -> None:
    codec = Laconic("jxl", effort=3)
    assert codec.get_config() == {"id": "laconic", "codec": "jxl", "effort": 3}
    assert numcodecs.get_codec(codec.get_config()) == codec and eval(repr(codec)) == codec
    for third in (LaconicCodec(), LaconicCodec("jxl", 3)):
        assert LaconicCodec.from_dict(third.to_dict()) == third


@pytest.mark.parametrize(
    "layout",
    [
        [0, 3, 20],
        [4, 20, 30],
        [-1, 20, 30],
        [0, 600],
        [0, -20, -30],
        [0, 20, 30, 0],
        [0, *[1] * 33],
        b"x",
        7,
        [0, 2**62, 2**62],
    ],
    ids=str,
)
def test_hostile_layouts(layout: Any) -> None:
    stream = container.read(encode_array(array((20, 30)), "webp"), Limits())
    with pytest.raises(CorruptStream):
        decode_array(container.write(replace(stream, params={LAYOUT: layout})))


def test_hostile_bytes() -> None:
    data = encode_array(array((2, 20, 30)), "image-lossless", effort=1)
    for cut in range(0, len(data), 7):
        with pytest.raises(CorruptStream):
            decode_array(data[:cut])
    for place in range(0, len(data), 5):
        with pytest.raises(LaconicError):
            decode_array(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
    with pytest.raises(LimitExceeded):
        decode_array(data, Limits(max_pixels=100))
    with pytest.raises(UnsupportedMedia, match="jpeg"):
        decode_array(laconic.encode(array((20, 30)), codec="jpeg"))


def test_chunks_on_several_threads() -> None:
    codec = Laconic("image-lossless", effort=1)
    arrays = [np.roll(array((40, 50)), shift) for shift in range(12)]
    with ThreadPoolExecutor(4) as pool:
        back = list(pool.map(codec.decode, pool.map(codec.encode, arrays)))
    assert all(np.array_equal(after, before) for after, before in zip(back, arrays, strict=True))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_zarr_2(dtype: str, order: Any) -> None:
    before, store = array((10, 30, 41), dtype), zarr.storage.MemoryStore()
    made = zarr.create_array(
        store, shape=before.shape, chunks=(4, 16, 16), dtype=dtype, order=order, zarr_format=2, compressors=Laconic("jxl", 1)
    )
    made[:] = before
    opened = zarr.open_array(store, mode="r")
    assert np.array_equal(opened[:], before) and opened.metadata.to_dict()["compressor"]["id"] == "laconic"  # type: ignore[index, call-overload]
    assert np.array_equal(opened[3:6, 5:, 7], before[3:6, 5:, 7])


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("shape", [(30, 41), (10, 30, 41), (30, 41, 3)], ids=str)
def test_zarr_3(dtype: str, shape: tuple[int, ...]) -> None:
    before, store = array(shape, dtype, "F"), zarr.storage.MemoryStore()
    chunks = tuple(min(16, side) for side in shape)
    serializer = LaconicCodec("image-lossless", 1)
    made = zarr.create_array(store, shape=shape, chunks=chunks, dtype=dtype, serializer=serializer, compressors=None)
    made[:] = before
    opened = zarr.open_array(store, mode="r")
    assert np.array_equal(opened[:], before)
    assert opened.metadata.to_dict()["codecs"] == (serializer.to_dict(),)


def test_zarr_3_in_shards() -> None:
    before, store = array((64, 64)), zarr.storage.MemoryStore()
    codec = LaconicCodec("webp")
    made = zarr.create_array(
        store, shape=(64, 64), chunks=(16, 16), shards=(32, 32), dtype="u1", serializer=codec, compressors=None
    )
    made[:] = before
    assert np.array_equal(zarr.open_array(store, mode="r")[:], before)


def test_zarr_3_refuses_what_is_not_coded_when_the_array_is_made() -> None:
    for shape, dtype in (((30, 40), "f4"), ((30, 40), "i2"), ((30,), "u1")):
        with pytest.raises(UnsupportedMedia):
            zarr.create_array({}, shape=shape, chunks=(8,) * len(shape), dtype=dtype, serializer=LaconicCodec())


def test_zarr_3_notices_a_chunk_of_another_shape() -> None:
    store: dict[str, Any] = {}
    made = zarr.create_array(
        store, shape=(32, 32), chunks=(16, 16), dtype="u1", serializer=LaconicCodec("webp"), compressors=None
    )
    made[:] = array((32, 32))
    key = next(key for key in store if key.endswith("c/0/0"))
    store[key] = type(store[key]).from_bytes(encode_array(array((8, 32)), "webp"))
    with pytest.raises(CorruptStream, match=r"\(8, 32\)"):
        zarr.open_array(store, mode="r")[:]


def test_no_import_is_needed(tmp_path: Path) -> None:
    """With the entry points of pyproject.toml installed, both libraries find the codec by its name."""
    groups = PYPROJECT["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups.items()
    ]
    folder = tmp_path / "laconic_entry_points-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: laconic-entry-points\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("\n".join(lines))
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "import numcodecs, zarr, zarr.registry\n"
        "print(type(numcodecs.get_codec({'id': 'laconic'})).__module__, zarr.registry.get_codec_class('laconic').__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "laconic.numcodecs laconic.zarr", done.stderr
