"""Tokens of sound as a product: the library, .npz files, the command line, files that are none."""

from __future__ import annotations

import doctest
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import laconic
from laconic import cli, sound_tokens
from laconic.codecs import container
from laconic.codecs.audio import rvq_token_files
from laconic.codecs.audio.rvq_token_files import token_file, tokens_in
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Audio

from .checks import check_rejects
from .sounds import voice
from .tones import tone

Captured = pytest.CaptureFixture[str]
PAGE = Path(__file__).resolve().parent.parent / "docs" / "codecs" / "audio-rvq.md"
TAGS = {"tags": b'{"title": "t"}'}


def speech(samples: int = 20_000, channels: int = 2, rate: int = 8000) -> Audio:
    one = np.rint(voice(samples, rate, channels) * 32767).astype(np.int16)
    return replace(Audio.of(one, rate), metadata=TAGS)


@pytest.fixture(scope="module")
def stream() -> bytes:
    return laconic.encode(speech(), codec="audio-rvq", kbps=3)


@pytest.fixture(scope="module")
def tokens(stream: bytes) -> laconic.Tokens:
    return laconic.tokens(stream)


def changed(tokens: laconic.Tokens, **arrays: Any) -> bytes:
    """The .npz file with other arrays; None leaves one out."""
    with np.load(io.BytesIO(token_file(tokens)), allow_pickle=False) as members:
        merged = {**members, **arrays}
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in merged.items() if array is not None})
    return file.getvalue()


def test_examples_run() -> None:
    assert doctest.testmod(sound_tokens).failed == 0
    page = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert page.failed == 0 and page.attempted >= 8


def test_tokens_of_a_sound_are_those_of_its_file(stream: bytes, tokens: laconic.Tokens) -> None:
    assert tokens.codes.shape == (2, container.read(stream).params[16], 127)
    assert (tokens.codes.dtype, tokens.rate, tokens.loudness.shape) == (np.int16, 50.0, (2, 3))
    assert tokens.codes.max() > 128 and len(np.unique(tokens.codes)) > 100
    again = laconic.tokens(speech(), kbps=3)
    assert np.array_equal(again.codes, tokens.codes)
    array = laconic.tokens(speech().array, rate=8000, kbps=3)
    assert np.array_equal(array.codes, tokens.codes) and not array.metadata


def test_the_way_back_is_exact_through_files_too(stream: bytes, tokens: laconic.Tokens, tmp_path: Path) -> None:
    assert laconic.from_tokens(tokens) == stream
    tokens.save(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == token_file(tokens), "the same tokens give other bytes"
    assert laconic.from_tokens(tmp_path / "a.npz") == laconic.from_tokens((tmp_path / "a.npz").read_bytes()) == stream
    loaded = laconic.tokens(tmp_path / "a.npz")
    assert np.array_equal(loaded.codes, tokens.codes) and loaded.metadata == TAGS
    with np.load(tmp_path / "a.npz", allow_pickle=False) as members:
        assert np.array_equal(members["codes"], tokens.codes) and members["rate"] == 50
        file = io.BytesIO()
        np.savez_compressed(file, **members, words=np.array("what was said"))  # people add arrays of their own
    assert laconic.from_tokens(file.getvalue()) == stream
    assert laconic.decode(laconic.from_tokens(tokens)).metadata == TAGS


@pytest.mark.parametrize(("samples", "bits"), [(0, 16), (1, 24), (8000, 32)])
def test_sounds_of_any_length_come_back(samples: int, bits: int) -> None:
    stream = laconic.encode(tone(1, samples, bits, 8000), codec="audio-rvq")
    assert laconic.from_tokens(token_file(laconic.tokens(stream))) == stream


def test_equal_channels_come_back() -> None:
    both = Audio.of(np.repeat(speech(9000, 1).array, 2, 0), 8000)
    tokens = laconic.tokens(both)
    assert (tokens.loudness[1] == 255).all() and np.array_equal(tokens.codes[0], tokens.codes[1])
    assert laconic.from_tokens(tokens) == laconic.encode(both, codec="audio-rvq")
    other = tokens.codes.copy()
    other[1] ^= 1
    with pytest.raises(laconic.InvalidSettings, match="differ from the first"):
        laconic.from_tokens(replace(tokens, codes=other))
    with pytest.raises(laconic.InvalidSettings, match="first channel"):
        laconic.from_tokens(replace(tokens, loudness=np.full_like(tokens.loudness, 255)))


def test_codes_that_a_model_made(tokens: laconic.Tokens) -> None:
    made = tokens.codes[:, :4].astype(np.int64)[:, :, ::-1]
    again = laconic.tokens(laconic.from_tokens(replace(tokens, codes=made)))  # type: ignore[arg-type]
    assert np.array_equal(again.codes, made)
    sound = laconic.decode(laconic.from_tokens(replace(tokens, codes=made)))  # type: ignore[arg-type]
    assert sound.shape == (2, 20_000) and sound.array.any()


@pytest.mark.parametrize(
    "change",
    [
        {"codes": np.zeros((2, 4, 126), np.int16)},
        {"codes": np.zeros((2, 99, 127), np.int16)},
        {"codes": np.zeros((2, 0, 127), np.int16)},
        {"codes": np.full((2, 4, 127), 256, np.int16)},
        {"codes": np.full((2, 4, 127), -1, np.int16)},
        {"codes": np.zeros((4, 127), np.int16)},
        {"codes": np.zeros((2, 4, 127), np.float32)},
        {"codes": np.zeros((0, 4, 127), np.int16)},
        {"loudness": np.zeros((2, 4), np.uint8)},
        {"loudness": np.zeros((2, 3), np.int64)},
        {"shape": (2, -1)},
        {"shape": (2, 2**50)},
        {"shape": (1, 20_000)},
        {"bit_depth": 25},
        {"weights": bytes(8)},
        {"weights": b""},
        {"metadata": {"other": b""}},
    ],
)
def test_tokens_that_fit_no_sound(tokens: laconic.Tokens, change: dict[str, Any]) -> None:
    with pytest.raises(laconic.LaconicError):
        laconic.from_tokens(replace(tokens, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": None}, "no array called 'codes'"),
        ({"weights": None}, "no array called 'weights'"),
        ({"format": np.array("other")}, "format is 'other'"),
        ({"codes": np.zeros((2, 4, 127), np.float64)}, "codes is int16"),
        ({"codes": np.zeros((2, 4, 127), ">i4")}, "codes is int16"),
        ({"codes": np.zeros(4, np.int16)}, "3 dimensions"),
        ({"loudness": np.zeros((2, 3), np.int16)}, "loudness is uint8"),
        ({"rate": np.array([50.0])}, "rate is float64"),
        ({"shape": np.array([2], np.int64)}, "two numbers"),
        ({"shape": np.zeros(10**6, np.int64)}, "longer than such a thing"),
        ({"layout": np.array("x" * 999)}, "layout is text"),
        ({"weights": np.array("xyz")}, "damaged"),
        ({"tags": np.zeros(4, np.int16)}, "tags is uint8"),
    ],
)
def test_files_of_other_things(tokens: laconic.Tokens, change: dict[str, Any], words: str) -> None:
    with pytest.raises(laconic.CorruptMedia, match=words):
        laconic.tokens(changed(tokens, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"sampling_rate": np.int64(-1)},
        {"sampling_rate": np.int64(2**40)},
        {"shape": np.array([2, -(2**62)])},
        {"shape": np.array([2**40, 2**62])},
        {"bit_depth": np.int64(7)},
        {"layout": np.array("a/b")},
        {"weights": np.array("00" * 8)},
        {"codes": np.full((2, 4, 127), 999, np.int16)},
    ],
)
def test_facts_without_sense_are_refused_on_the_way_back(tokens: laconic.Tokens, change: dict[str, Any]) -> None:
    with pytest.raises(laconic.LaconicError):
        laconic.from_tokens(changed(tokens, **change))


class _Trap:
    """Sets a flag when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return setattr, (_Trap, "sprung", True)


def test_objects_are_not_unpickled(tokens: laconic.Tokens) -> None:
    for name in rvq_token_files.FORMS:
        with pytest.raises(laconic.CorruptMedia):
            laconic.tokens(changed(tokens, **{name: np.array([_Trap()], object)}))
    assert not _Trap.sprung


def rewritten(data: bytes, name: str, content: bytes, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The archive with another member."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(file, "w", kind) as after:
        for entry in before.infolist():
            after.writestr(entry.filename, content if entry.filename == f"{name}.npy" else before.read(entry))
    return file.getvalue()


def npy(shape: tuple[int, ...], dtype: str, length: int) -> bytes:
    """An .npy file whose header promises a shape, with `length` zeros behind it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(length)


def test_bombs_are_refused_before_memory_is_taken(tokens: laconic.Tokens) -> None:
    import tracemalloc

    data = token_file(tokens)
    promised = rewritten(data, "codes", npy((2, 2**20, 2**20), "<i2", 100))
    real = rewritten(data, "codes", npy((2, 2**4, 2**21), "<i2", 2**27))
    tags = rewritten(changed(tokens), "tags", npy((2**26,), "|u1", 2**26))
    lying = rewritten(data, "codes", npy((2, 4, 127), "<i2", 2**26))
    hollow = rewritten(data, "codes", bytes(2**26))
    tracemalloc.start()
    for bomb, error in (
        (promised, laconic.LimitExceeded),
        (real, laconic.LimitExceeded),
        (tags, laconic.LimitExceeded),
        (lying, laconic.CorruptMedia),
        (hollow, laconic.CorruptMedia),
    ):
        assert len(bomb) < 300_000
        with pytest.raises(error):
            laconic.tokens(bomb, limits=Limits(max_samples=2**20))
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(2000):
            archive.writestr(str(number), b"")
    with pytest.raises(laconic.CorruptMedia, match="more than 64 entries"):
        laconic.tokens(many.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    with pytest.raises(laconic.CorruptMedia, match="compressed as numpy does not"):
        laconic.tokens(rewritten(data, "codes", b"", zipfile.ZIP_LZMA))
    with pytest.raises(laconic.LimitExceeded):
        laconic.tokens(data, limits=Limits(max_input_bytes=1000))


def test_damaged_files_of_tokens_raise_or_open(tokens: laconic.Tokens) -> None:
    small = replace(tokens, codes=tokens.codes[:, :1])
    for data in (token_file(small), rewritten(token_file(small), "", b"")):
        assert check_rejects(data, flips=150, truncations=60, open_file=tokens_in) > 60
    assert check_rejects(token_file(small), flips=25, truncations=5, open_file=laconic.from_tokens) > 20


def test_what_has_no_tokens(stream: bytes, tokens: laconic.Tokens) -> None:
    with pytest.raises(laconic.UnsupportedMedia, match="coded by flac"):
        laconic.tokens(laconic.encode(speech(), codec="flac"))
    with pytest.raises(laconic.UnsupportedMedia):
        laconic.tokens(np.zeros((8, 9), np.uint8))
    with pytest.raises(laconic.UnsupportedMedia, match=r"\.npz"):
        laconic.from_tokens(stream)
    for given in (stream, token_file(tokens)):
        with pytest.raises(laconic.InvalidSettings, match="in the file already"):
            laconic.tokens(given, kbps=3)
    with pytest.raises(laconic.InvalidSettings):
        laconic.tokens(speech(), bitrate=3)
    with pytest.raises(laconic.LimitExceeded):
        laconic.tokens(stream, limits=Limits(max_samples=30_000))
    with pytest.raises(laconic.CorruptStream):
        laconic.tokens(stream[:-4])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a.wav and b.wav."""
    monkeypatch.chdir(tmp_path)
    speech(9000, 1).save("a.wav")
    speech(4000, 1).save("b.wav")
    yield tmp_path


@pytest.mark.usefixtures("folder")
def test_command_line(capsys: Captured) -> None:
    assert cli.main(["tokens", "a.wav", "--set", "kbps=3"]) == 0
    shown = capsys.readouterr().err
    with np.load("a.npz", allow_pickle=False) as members:
        _, levels, frames = members["codes"].shape
    bits = 8 * levels * frames
    words = (
        f"1 channel, {levels} levels, {frames} frames, 50 a second; {bits:,} bits at 8 a code, {bits / 1125:.3f} kbps; coded "
    )
    assert f"a.npz: {words}" in shown
    assert cli.main(["tokens", "a.npz", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["output"], facts["shape"], facts["rate"], facts["bits"]) == ("a.lcn", [1, levels, frames], 50.0, bits)
    assert facts["coded_bytes"] == Path("a.lcn").stat().st_size
    assert cli.main(["encode", "a.wav", "--codec", "audio-rvq", "--set", "kbps=3", "-o", "c.lcn"]) == 0
    assert Path("c.lcn").read_bytes() == Path("a.lcn").read_bytes()
    assert cli.main(["tokens", "c.lcn"]) == 0 and Path("c.npz").read_bytes() == Path("a.npz").read_bytes()
    assert cli.main(["tokens", "a.wav"]) == 1 and "exists" in capsys.readouterr().err
    for wrong in (["c.lcn", "-q", "50"], ["a.npz", "-e", "1"], ["a.wav", "--set", "rate=8000"], ["a.wav", "--set", "kbps=99"]):
        assert cli.main(["tokens", *wrong, "-f"]) == 2
    Path("bad.npz").write_bytes(Path("a.npz").read_bytes()[:-50])
    assert cli.main(["tokens", "bad.npz"]) == 3


@pytest.mark.usefixtures("folder")
def test_many_files_at_once(capsys: Captured) -> None:
    Path("out").mkdir()
    Path("bad.wav").write_bytes(Path("a.wav").read_bytes()[:100])
    assert cli.main(["tokens", "a.wav", "bad.wav", "b.wav", "-o", "out"]) == 3
    assert capsys.readouterr().err.count("bad.wav: ") == 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.npz", "b.npz"]
    assert cli.main(["tokens", "out/a.npz", "out/b.npz"]) == 0 and Path("out/b.lcn").exists()
    assert cli.main(["tokens", "a.wav", "b.wav", "-o", "none.npz"]) == 2
    for same in (["a.wav", "out/a.npz", "-o", "out"], ["a.wav", "a.flac"]):
        assert cli.main(["tokens", *same, "-f"]) == 2
