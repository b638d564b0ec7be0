"""`audio-lossless`: every sample of every kind of sound comes back, from whole files, parts and damaged ones."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from laconic.bench import audio_lossless as bench
from laconic.codecs import compress, container
from laconic.codecs.audio.lossless_packets import decode_packet, encode_packet
from laconic.codecs.errors import CorruptStream, InvalidSettings, LaconicError, UnsupportedMedia
from laconic.codecs.signals import ArraySamples, Audio, AudioSamples
from laconic.codecs.sources import dtype_of_bits

from .golden.write import sound

CODEC = "audio-lossless"
GENERATOR = np.random.default_rng(11)


def melody(samples: int, channels: int = 1, bits: int = 16, rate: int = 44_100) -> AudioSamples:
    """Tones that fade and a little noise, each channel a bit later than the one before."""
    t = np.arange(samples + channels) / rate
    tones = sum(np.sin(2 * np.pi * f * t) * np.exp(-t * f / 300) for f in (220.0, 277.2, 331.1, 1310.0))
    line = 0.2 * np.asarray(tones) + 0.002 * GENERATOR.standard_normal(t.size)
    lines = np.stack([line[c : c + samples] for c in range(channels)])
    if bits == 32:
        return lines.astype(np.float32)
    scaled: AudioSamples = np.round(lines * (2 ** (bits - 1) - 1)).astype(dtype_of_bits(bits))
    return scaled


def there_and_back(array: AudioSamples, rate: int = 44_100, bits: int | None = None, **settings: object) -> bytes:
    """Code samples, compare what comes back bit for bit, and return the file."""
    sound = Audio(ArraySamples(array), rate, bits) if bits else Audio.of(array, rate)
    data = compress.encode(sound, CODEC, settings, device="cpu").data
    back = compress.decode(data, device="cpu")
    assert isinstance(back, Audio)
    assert (back.shape, back.rate, back.bits, back.layout) == (sound.shape, sound.rate, sound.bits, sound.layout)
    assert back.array.dtype == array.dtype
    assert back.array.tobytes() == np.ascontiguousarray(array).tobytes()
    return data


@pytest.mark.parametrize("bits", [8, 12, 16, 17, 20, 24, 32])
def test_every_depth_comes_back_and_is_smaller(bits: int) -> None:
    array = melody(4000, 2, bits)
    data = there_and_back(array, bits=bits)
    assert len(data) < 0.8 * array.size * bits / 8


@pytest.mark.parametrize("channels", range(1, 9))
def test_mono_to_7_1_come_back(channels: int) -> None:
    there_and_back(melody(1500, channels))


@pytest.mark.parametrize("rate", [1, 8000, 96_000, 192_000])
def test_every_rate_comes_back(rate: int) -> None:
    there_and_back(melody(1200, 2), rate)


@pytest.mark.parametrize("effort", range(1, 10))
def test_every_effort_comes_back(effort: int) -> None:
    there_and_back(melody(6000, 2), effort=effort)


def test_higher_efforts_make_smaller_files() -> None:
    array = melody(20_000, 2)
    sizes = [len(there_and_back(array, effort=effort)) for effort in (1, 5)]
    assert sizes[1] < sizes[0] < 0.7 * array.nbytes


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 33])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_short_sounds_come_back(samples: int, dtype: type) -> None:
    for channels in (1, 2, 8):
        assert len(there_and_back(np.full((channels, samples), 77, dtype))) < 150
        there_and_back(GENERATOR.integers(-99, 99, (channels, samples)).astype(dtype))


def test_silence_takes_next_to_nothing() -> None:
    for dtype in (np.int16, np.int32, np.float32):
        assert len(there_and_back(np.zeros((2, 500_000), dtype))) < 160


def square(samples: int) -> NDArray[np.int16]:
    """A square wave at full scale."""
    return np.where(np.arange(samples) // 50 % 2, 32767, -32768).astype(np.int16)[None]


def test_clipped_and_square_waves_come_back() -> None:
    assert len(there_and_back(square(20_000))) < 400
    clipped = np.clip(melody(8000, 2).astype(np.int32) * 40, -32768, 32767).astype(np.int16)
    there_and_back(clipped)
    jumps = GENERATOR.choice(np.array([-(2**23), 2**23 - 1], np.int32), (1, 3000))
    assert len(there_and_back(jumps)) < 3000 // 8 + 150


@pytest.mark.parametrize("bits", [8, 12, 16, 24, 32])
def test_noise_is_never_much_larger_than_the_samples(bits: int) -> None:
    dtype = dtype_of_bits(bits)
    if bits == 32:
        array = GENERATOR.integers(0, 256, (2, 4 * 5000), np.uint8).view(np.float32)
    else:
        array = GENERATOR.integers(-(1 << (bits - 1)), 1 << (bits - 1), (2, 5000)).astype(dtype)
    raw = array.size * ((bits + 7) // 8)
    assert len(there_and_back(array, bits=bits)) <= 1.001 * raw + 80  # most of which are the header, twice


def test_wasted_bits_and_companded_sound_are_found() -> None:
    plain = melody(6000)
    size = len(there_and_back(plain))
    assert len(there_and_back(plain.astype(np.int32) * 256)) < size + 40
    assert len(there_and_back(plain.astype(np.int32) * 7 + 3, bits=24)) < size + 40
    assert len(there_and_back(plain.astype(np.float32) / 32768)) < size + 60
    few = np.sort(GENERATOR.integers(-32000, 32000, 200))
    listed = few[np.digitize(plain[0], np.linspace(-9000, 9000, 199))].astype(np.int16)[None]
    assert len(there_and_back(listed)) < listed.size


def test_equal_channels_are_coded_once() -> None:
    mono = melody(6000)
    assert len(there_and_back(np.repeat(mono, 2, axis=0))) < len(there_and_back(mono)) + 30


def test_stereo_prediction_uses_the_other_channel() -> None:
    mono = melody(6000)
    alike = np.concatenate([mono, mono + GENERATOR.integers(-1, 2, mono.shape).astype(np.int16)])
    assert len(there_and_back(alike)) < 1.5 * len(there_and_back(mono))


def test_peculiar_floats_come_back() -> None:
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-38, 3.4e38, 1.0, -1.0, 1e-20, 0.1], np.float32)
    odd = np.concatenate([odd, np.array([0x7F800001, 0xFFC12345], np.uint32).view(np.float32)])
    there_and_back(odd[None])
    there_and_back(GENERATOR.choice(odd, (2, 2000)))
    there_and_back(GENERATOR.choice(odd[[0, 1, 5, 6]], (2, 500)))
    there_and_back((melody(3000, 2, 32) * 1e-30).astype(np.float32))
    there_and_back((melody(3000, 2, 32).astype(np.float64) * 1e38).astype(np.float32))


def test_samples_of_more_bits_than_said_are_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        compress.encode(Audio.of(np.full((1, 10), 2**23, np.int32), 8000), CODEC)
    with pytest.raises(InvalidSettings):
        compress.encode(Audio.of(np.zeros((1, 10), np.int16), 8000), CODEC, {"packet": 0.01})


def test_parts_and_whole_agree() -> None:
    array = melody(10_000, 2)
    data = there_and_back(array, 10_000, packet=0.3)
    assert len(container.read(data).chunks) == 4
    back = compress.decode(data)
    assert isinstance(back, Audio)
    for start, stop in ((0, 1), (2999, 3001), (3000, 6000), (5000, 9999), (9999, 10_000), (4, 4)):
        assert np.array_equal(back.part(start, stop).array, array[:, start:stop])


def test_a_source_is_read_block_by_block() -> None:
    array = melody(10_000, 2)

    class Blocks(ArraySamples):
        def read(self, start: int, stop: int):  # type: ignore[no-untyped-def]
            for at in range(start, stop, 777):
                yield self.array[:, at : min(at + 777, stop)]

    whole = compress.encode(Audio.of(array, 10_000), CODEC, {"packet": 0.25}).data
    assert compress.encode(Audio(Blocks(array), 10_000), CODEC, {"packet": 0.25}).data == whole


def test_the_same_bytes_every_time() -> None:
    clip = Audio.of(melody(9000, 2), 10_000)
    assert len({compress.encode(clip, CODEC, {"packet": 0.2}).data for _ in range(3)}) == 1


def test_a_lost_packet_is_silent_and_named() -> None:
    array = melody(10_000, 2)
    data = bytearray(there_and_back(array, 10_000, packet=0.3))
    stream = container.read(bytes(data))
    at = bytes(data).index(stream.chunks[1]) + 20
    data[at] ^= 4
    with pytest.raises(CorruptStream):
        compress.decode(bytes(data))
    back = compress.decode(bytes(data), salvage=True)
    assert isinstance(back, Audio)
    assert back.lost == ((3000, 6000),)
    assert not back.array[:, 3000:6000].any()
    assert np.array_equal(back.array[:, :3000], array[:, :3000])
    assert np.array_equal(back.array[:, 6000:], array[:, 6000:])


def attacked(coded: bytes, shape: tuple[int, int], bits: int) -> bool:
    """Whether a packet is refused; anything but a `LaconicError` fails the test."""
    try:
        decode_packet(coded, shape, bits, 3)
    except LaconicError:
        return True
    return False


@pytest.mark.parametrize("kind", ["plain", "listed", "stepped", "floats", "stored"])
def test_damaged_packets_raise_nothing_else(kind: str) -> None:
    bits = 32 if kind == "floats" else 16
    arrays = {
        "plain": melody(400, 2),
        "listed": GENERATOR.choice(np.array([-30_000, 3, 900, 31_111], np.int16), (2, 400)),
        "stepped": melody(400, 2, 12) * np.int16(8),
        "floats": melody(400, 2, 32),
        "stored": GENERATOR.integers(-32768, 32768, (2, 400)).astype(np.int16),
    }
    array = arrays[kind]
    coded = encode_packet(array, bits, 3)
    assert np.array_equal(decode_packet(coded, array.shape, bits, 3), array)
    dice = random.Random(5)
    refused = [attacked(coded[:length], array.shape, bits) for length in range(0, len(coded), max(len(coded) // 60, 1))]
    assert all(refused)
    flipped = 0
    for number in range(150):
        damaged = bytearray(coded)
        at = number % 40 if number < 80 else dice.randrange(len(coded))
        damaged[at] ^= 1 << dice.randrange(8)
        flipped += attacked(bytes(damaged), array.shape, bits)
    assert flipped >= 148
    for _ in range(60):
        attacked(coded[:2] + dice.randbytes(dice.randrange(200)), array.shape, bits)
        attacked(coded[:2] + bytes([dice.randrange(3), dice.randrange(5)]) + dice.randbytes(80), array.shape, bits)


def test_headers_that_contradict_themselves_are_refused() -> None:
    stream = container.read(there_and_back(melody(1000), 1000, packet=0.5))
    endless = replace(stream, shape=(1, 2**40), chunks=stream.chunks[:1], params={})
    with pytest.raises(CorruptStream):
        compress.decode(container.write(endless), whole=False)
    for params in ({17: 0}, {17: "x"}, {17: 100}, {16: 0, 17: 500}, {16: 10, 17: 500}):
        with pytest.raises(CorruptStream):
            compress.decode(container.write(replace(stream, params=params)))


def test_the_golden_sound_is_what_it_was() -> None:
    assert sound().array.shape == (2, 5000) and sound().array[:, -1].any()


def test_the_benchmark_counts_whole_files(tmp_path: Path) -> None:
    rows = ["audio-lossless -e 1", "libsndfile flac, level 8", "alac", "tta"]
    (tmp_path / "set").mkdir()
    clips = {"a.wav": melody(5000, 2), "b.wav": melody(4000, 1, 24)}
    for name, array in clips.items():
        shift = 16 if array.dtype == np.int16 else 8
        samples = array.astype(np.int32).T << shift
        soundfile.write(tmp_path / "set" / name, samples, 44_100, "PCM_16" if shift == 16 else "PCM_24")
    (tmp_path / "set" / "notes.txt").write_text("no sound")
    docs = tmp_path / "docs.md"
    docs.write_text(f"{bench.DOCS_BEGIN}\n{bench.DOCS_END}\n")
    found = bench.run(tmp_path / "out", [f"clips={tmp_path / 'set'}"], rows=rows, docs=docs)
    ours = [
        compress.encode(Audio.of(array, 44_100, 24 if array.dtype == np.int32 else 16), CODEC, {"effort": 1}).data
        for array in clips.values()
    ]
    row = next(row for row in found if row.name == rows[0])
    assert row.bytes == row.sets["clips"] == sum(map(len, ours))
    assert [row.bytes for row in found] == sorted(row.bytes for row in found)
    table = docs.read_text()
    assert all(name in table for name in rows) and "clips: 2 files" in table
    with pytest.raises(InvalidSettings):
        bench.run(tmp_path / "out", [str(tmp_path)], rows=rows)
