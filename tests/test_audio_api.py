"""Sound in the library, on the command line, and through the service and its client."""

from __future__ import annotations

import doctest
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import laconic
from laconic import cli
from laconic.codecs import compress, container, media, parts
from laconic.codecs.limits import Limits
from laconic.codecs.parts import span_of_seconds
from laconic.codecs.signals import Audio
from laconic.codecs.watched import watched_samples
from laconic.service.forms import Forms, accepted_forms
from laconic.service.logs import make_log
from laconic.service.packing import pack_signal, unpack_signal
from laconic.service.sandbox import Sandbox
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .clips import clip
from .tones import file_of_sound, tone

Captured = pytest.CaptureFixture[str]
TAGS = b'{"artist": "Me", "title": "A tone"}'


def damaged(stream: bytes, packet: int) -> bytes:
    """The file with a wrong byte in a packet."""
    content = bytearray(stream)
    content[[chunk for chunk in container.describe(stream).chunks if chunk.type == "payload"][packet].offset + 60] ^= 1
    return bytes(content)


def test_examples_run() -> None:
    assert doctest.testmod(parts).failed == 0


@pytest.mark.parametrize("bits", [16, 24])
def test_arrays_of_integers_come_back(bits: int) -> None:
    for array in (tone(2, 5000, bits).array, tone(1, 5000, bits).array[0]):
        decoded = laconic.decode(laconic.encode(array, rate=8000, lossless=True))
        assert isinstance(decoded, laconic.Audio) and (decoded.rate, decoded.bits) == (8000, bits)
        assert np.array_equal(decoded.array, np.atleast_2d(array)) and decoded.array.dtype == array.dtype


def test_floats_torch_and_signals() -> None:
    import torch

    array = tone(2, 24_000, 32).array
    stream = laconic.encode(array, rate=48_000)
    description = laconic.inspect(stream)
    assert (description.codec, description.shape, description.rate, description.seconds) == ("opus", (2, 24_000), 48_000, 0.5)
    assert laconic.encode(torch.from_numpy(array), rate=48_000) == stream
    assert laconic.encode(laconic.Audio.of(array, 48_000)) == stream == laconic.encode(media.write(tone(2, 24_000, 32), "wav"))
    assert laconic.decode(stream).array.dtype == np.float32


@pytest.mark.parametrize(
    ("array", "rate", "words"),
    [
        (np.zeros((2, 9), np.float32), None, "`rate` is missing"),
        (np.zeros(9, np.int16), None, "`rate` is missing"),
        (np.zeros((2, 9), np.float32), 0, "whole number of Hz"),
        (np.zeros((2, 9), np.float32), 44_100.5, "whole number of Hz"),
        (np.zeros((2, 9), np.float64), 8000, "float64"),
        (np.zeros((2, 9), np.uint8), 8000, "uint8"),
        (np.zeros((900, 2), np.int16), 8000, "move the channels first"),
        (np.full((1, 9), 2**23, np.int32), 8000, "24 bits"),
        (np.zeros((4, 4, 3), np.uint8), 25, "`rate` is for arrays"),
    ],
)
def test_arrays_that_are_no_sound(array: Any, rate: float | None, words: str) -> None:
    with pytest.raises(laconic.LaconicError, match=words):
        laconic.encode(array, rate=rate)


def test_pictures_stay_pictures() -> None:
    assert laconic.inspect(laconic.encode(np.zeros((8, 9), np.uint8), codec="webp")).shape == (8, 9, 1)
    with pytest.raises(laconic.UnsupportedMedia, match="opus does"):
        laconic.encode(tone(), codec="webp")


def test_parts_are_seconds() -> None:
    stream = laconic.encode(tone(2, 24_000, 16, 8000), codec="flac")
    whole = laconic.decode(stream)
    for seconds, span in (((1, 2), (8000, 16_000)), ((-0.5, None), (20_000, 24_000)), ((None, 0.001), (0, 8))):
        part = laconic.decode(stream, seconds=seconds)
        assert np.array_equal(part.array, whole.array[:, slice(*span)])
    for wrong in ((3, None), (2, 1), (0, 3.01), (-4, None), (1, 1)):
        with pytest.raises(laconic.InvalidSettings, match="no seconds"):
            laconic.decode(stream, seconds=wrong)
    with pytest.raises(laconic.InvalidSettings, match="one of the two"):
        laconic.decode(stream, seconds=(0, 1), frames=(0, 1))
    with pytest.raises(laconic.InvalidSettings, match="holds none"):
        laconic.decode(laconic.encode(np.zeros((8, 9), np.uint8), codec="webp"), seconds=(0, 1))
    assert span_of_seconds((None, None), 8000, 10) == (0, 10)


def test_limits_allow_parts_of_what_they_refuse() -> None:
    stream, limits = laconic.encode(tone(1, 80_000, 16, 8000), codec="flac"), Limits(max_samples=9000)
    with pytest.raises(laconic.LimitExceeded):
        laconic.decode(stream, limits=limits)
    assert laconic.decode(stream, limits=limits, seconds=(8, 9)).shape == (1, 8000)
    with pytest.raises(laconic.LimitExceeded):
        laconic.decode(stream, limits=limits, seconds=(7, 9))


def test_samples_are_watched() -> None:
    seen: list[float] = []
    audio, samples = watched_samples(tone(1, 100), "decoding", lambda part, stage: seen.append(part))
    assert np.array_equal(audio.part(0, 100).array, tone(1, 100).array) and seen == [1.0] and samples.seconds > 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with song.wav of 12 s and song.lcn of two packets."""
    monkeypatch.chdir(tmp_path)
    replace(tone(2, 96_000, 16, 8000), metadata={"tags": TAGS}).save("song.wav")
    assert cli.main(["encode", "song.wav", "--set", "kbps=24"]) == 0
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_command_line(capsys: Captured) -> None:
    assert cli.main(["decode", "song.lcn", "-f"]) == 0
    assert media.read(Path("song.wav").read_bytes()).shape == (2, 96_000)
    for name in ("a.flac", "a.mp3", "a.opus", "a.m4a", "a.npy"):
        assert cli.main(["decode", "song.lcn", "--seconds", "9.5:10.5", "-o", name]) == 0
    assert np.load("a.npy").shape == (2, 8000)
    part = media.read(Path("a.flac").read_bytes())
    assert part.shape == (2, 8000) and json.loads(part.metadata["tags"]) == json.loads(TAGS)
    assert cli.main(["encode", "a.mp3", "--target-kbps", "16", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["codec"] == "opus" and 15 < facts["kbps"] <= 16 and "bpp" not in facts
    assert cli.main(["decode", "a.lcn", "-o", "b.wav", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape"] == [2, 8000] and facts["rate"] == 8000 and facts["lost"] == []
    assert cli.main(["decode", "song.lcn", "-o", "a.png"]) == 1
    assert "hold pictures" in capsys.readouterr().err
    for wrong in (["--seconds", "1"], ["--seconds", "50:"], ["--seconds", "0:1", "--frames", "0:1"], ["--frames", "0:1"]):
        assert cli.main(["decode", "song.lcn", *wrong, "-o", "c.wav"]) == 2
    assert cli.main(["encode", "song.wav", "-o", "d.lcn", "--target-psnr", "30"]) == 2
    assert cli.main(["encode", "song.wav", "-o", "d.lcn", "--lossless"]) == 0
    assert cli.main(["compare", "song.wav", "--target-psnr", "30"]) == 2
    assert cli.main(["compare", "song.wav"]) == 0
    assert Path("song-compare.html").stat().st_size > 10_000


@pytest.mark.usefixtures("folder")
def test_what_a_file_says_and_what_damage_leaves(capsys: Captured) -> None:
    assert cli.main(["inspect", "song.lcn"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("stereo", "A tone", "2 channels of 96,000 samples", "kbps", "2, all intact"))
    assert cli.main(["inspect", "song.lcn", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["tags"], facts["groups"], facts["seconds"]) == ("stereo", json.loads(TAGS), 2, 12.0)
    Path("bad.lcn").write_bytes(damaged(Path("song.lcn").read_bytes(), 1))
    assert cli.main(["test", "song.lcn", "bad.lcn"]) == 3
    assert "lost: seconds 10.000 to 12.000 of 12.000; `laconic decode --salvage`" in capsys.readouterr().err
    assert cli.main(["decode", "bad.lcn", "-o", "bad.wav"]) == 3
    assert cli.main(["decode", "bad.lcn", "-o", "bad.wav", "--salvage"]) == 0
    assert "they are silent" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_the_sound_of_a_video_for_a_codec_of_sound() -> None:
    Path("clip.mkv").write_bytes(file_of_sound(tone(1, 9_600), "matroska", "aac", video=True))
    assert cli.main(["encode", "clip.mkv", "--codec", "opus"]) == 0
    assert laconic.inspect("clip.lcn").codec == "opus"
    Path("silent.mp4").write_bytes(media.write(clip(4), "mp4"))
    assert cli.main(["encode", "silent.mp4", "--codec", "opus"]) == 1


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = ServiceSettings(port=0, threads=1, codecs=("webp", "flac", "opus"), max_samples=200_000)
    with background(settings, make_log(io.StringIO())) as address:
        yield address


def test_the_service_codes_sound(url: str) -> None:
    original = replace(tone(2, 12_000, 24, 44_100), metadata={"tags": TAGS})
    with laconic.Client(url) as client:
        stream = client.encode(original, codec="flac")
        decoded = client.decode(stream)
        assert isinstance(decoded, Audio) and np.array_equal(decoded.array, original.array)
        assert (decoded.rate, decoded.bits, decoded.metadata) == (44_100, 24, {"tags": TAGS})
        assert laconic.inspect(client.encode(original)).codec == "opus"
        assert laconic.inspect(client.encode(tone(1, 8000, 32).array, rate=48_000, codec="opus")).bit_depth == 32
        for kind, name in (("audio/wav", "wav"), ("audio/flac", "flac"), ("audio/ogg", "ogg"), ("audio/mpeg", "mp3")):
            file = client.decode_file(stream, kind)
            assert media.sniff(file) == name and media.read(file).shape == (2, 13_062 if name == "ogg" else 12_000)
        assert media.sniff(client.decode_file(stream)) == "wav"
        assert len(client.encode(original, target_kbps=32)) <= 32_000 / 8 * 12_000 / 44_100
        assert client.inspect(stream).shape == (2, 12_000)
        for wrong in ({"target_psnr": 30}, {"codec": "webp"}, {"codec": "flac", "quality": 3}):
            with pytest.raises((laconic.InvalidSettings, laconic.UnsupportedMedia)):
                client.encode(original, **wrong)
        with pytest.raises(laconic.LimitExceeded):
            client.encode(tone(2, 110_000), codec="flac")
        with pytest.raises(laconic.LaconicError):
            client.decode_file(stream, "image/png")
        long = laconic.encode(tone(1, 96_000, 16, 8000), codec="opus")
        with pytest.raises(laconic.CorruptStream):
            client.decode(damaged(long, 1))
        salvaged = client.decode(damaged(long, 1), salvage=True)
        assert isinstance(salvaged, Audio) and salvaged.lost == ((80_000, 96_000),)


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_the_service_decodes_parts_of_sound(url: str, codec: str) -> None:
    original = replace(tone(2, 90_001, 16, 44_100), metadata={"tags": TAGS})
    stream = laconic.encode(original, codec=codec)
    with laconic.Client(url) as client:
        for seconds in ((0.5, 1.25), (None, 0.0001), (1.99, None), (-0.5, -0.1), (0.333333, 1.7)):
            part, expected = client.decode(stream, seconds=seconds), laconic.decode(stream, seconds=seconds)
            assert isinstance(part, Audio) and np.array_equal(part.array, expected.array)
            assert (part.rate, part.metadata) == (44_100, {"tags": TAGS})
        for wrong in ((3, None), (2, 1), (0, 9)):
            with pytest.raises(laconic.InvalidSettings, match="no seconds"):
                client.decode(stream, seconds=wrong)
        with pytest.raises(laconic.InvalidSettings, match="one of the two"):
            client.decode(stream, seconds=(0, 1), frames=(0, 1))
        with pytest.raises(laconic.InvalidSettings, match="holds none"):
            client.decode(stream, frames=(0, 1))
        picture = laconic.encode(np.zeros((8, 9), np.uint8), codec="webp")
        with pytest.raises(laconic.InvalidSettings, match="holds none"):
            client.decode(picture, seconds=(0, 1))
        long = container.read(laconic.encode(tone(1, 480_000, 16, 8000), codec=codec))
        spoilt = container.write(replace(long, chunks=(*long.chunks[:-1], b"no packet")))
        assert client.decode(spoilt, seconds=(0, 1)).shape == (1, 8000)  # the last packet is not decoded
        with pytest.raises(laconic.LaconicError):
            client.decode(spoilt, seconds=(-1, None))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("seconds=2:1", "no seconds 2:1"),
        ("seconds=0:9", "no seconds 0:9"),
        ("seconds=-9:", "no seconds -9:"),
        ("seconds=1:1", "no seconds 1:1"),
        ("seconds=1", "not START:STOP"),
        ("seconds=1e-3:2", "not START:STOP"),
        ("seconds=nan:2", "not START:STOP"),
        ("seconds=0:1:2", "not START:STOP"),
        ("seconds=0:1%0A", "not START:STOP"),
        ("seconds=0:1&frames=0:1", "one of the two"),
        ("seconds=0:1&seconds=0:1", "more than once"),
        ("frames=0:1", "frames are parts of a video; the file holds sound"),
    ],
)
def test_seconds_that_there_are_not(url: str, query: str, words: str) -> None:
    stream = laconic.encode(tone(1, 16_000, 16, 8000), codec="flac")
    for path in ("decode", "jobs"):
        response = httpx.post(f"{url}/v1/{path}?{'op=decode&' * (path == 'jobs')}{query}", content=stream)
        assert (response.status_code, response.json()["code"]) == (422, "invalid-settings"), response.text
        assert words in response.json()["detail"]


def test_seconds_of_what_is_no_sound(url: str) -> None:
    picture = laconic.encode(np.zeros((8, 9), np.uint8), codec="webp")
    response = httpx.post(f"{url}/v1/decode?seconds=0:1", content=picture)
    assert response.status_code == 422 and "seconds are parts of sound; the file holds a picture" in response.text


def test_the_service_decodes_a_part_of_what_is_too_long(url: str) -> None:
    """200,000 samples are the limit."""
    stream = laconic.encode(tone(1, 480_000, 16, 8000), codec="flac")
    whole = httpx.post(f"{url}/v1/decode", content=stream)
    assert (whole.status_code, whole.json()["code"]) == (413, "limit-exceeded")
    part = httpx.post(f"{url}/v1/decode?seconds=59.5:", content=stream, headers={"Accept": "audio/wav"})
    assert part.status_code == 200 and media.read(part.content).shape == (1, 4000)
    assert np.array_equal(media.read(part.content).array, tone(1, 480_000, 16, 8000).array[:, -4000:])


def test_sound_travels_with_all_that_it_has() -> None:
    for bits in (8, 16, 24, 32):
        audio = replace(tone(3, 100, bits), layout="3.0", metadata={"tags": TAGS}, lost=((3, 5),))
        facts, parts = pack_signal(audio)
        payload = memoryview(b"".join(map(bytes, parts)))
        back = unpack_signal(json.loads(json.dumps(facts)), payload)
        assert isinstance(back, Audio) and np.array_equal(back.array, audio.array)
        assert (back.rate, back.bits, back.layout, back.metadata, back.lost) == (48_000, bits, "3.0", audio.metadata, ((3, 5),))
        for wrong in ({"rate": 0}, {"bits": 30}, {"shape": [3, 101]}, {"lost": [[1]]}, {"kind": "video"}):
            with pytest.raises((ValueError, KeyError, TypeError, ZeroDivisionError)):
                unpack_signal({**facts, **wrong}, payload)


def test_accepted_types_of_sound() -> None:
    assert accepted_forms("audio/flac") == Forms("", "", "flac") == Forms.parse("//flac")
    assert accepted_forms("audio/*").sound == "wav" and accepted_forms("audio/ogg").sound == "ogg"
    assert Forms.parse("webp/mp4") == Forms("webp", "mp4", "")


def test_confined_processes_code_sound() -> None:
    sandbox = Sandbox(1, Limits(max_samples=2**20), 30)
    try:
        original = replace(tone(2, 9000), metadata={"tags": TAGS})
        for form in ("wav", "flac", "ogg", "mp3", "m4a"):
            file = sandbox.write(original, form)
            assert file == media.write(original, form)
            assert sandbox.read(file, Limits()).shape == (2, 9000)
        for codec in ("flac", "opus"):
            stream = compress.encode(original, codec).data
            assert np.array_equal(sandbox.decode(stream, Limits()).array, compress.decode(stream).array)
    finally:
        sandbox.stop()
