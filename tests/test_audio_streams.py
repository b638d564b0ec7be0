"""Sound in .lcn files: the header, salvage, samples by the packet."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from laconic.codecs import container
from laconic.codecs.audio.samples import PacketSamples, audio_of_packets
from laconic.codecs.codec import AudioFacts, Stream
from laconic.codecs.compress import finished
from laconic.codecs.errors import CorruptStream
from laconic.codecs.signals import ArraySamples, Audio, AudioSamples, dtype_of_bits

CLIP = Stream(
    "third.party",
    (2, 1000),
    tuple(bytes([number]) * (30 + number) for number in range(3)),
    bit_depth=24,
    metadata={"tags": b'{"title": "t"}'},
    audio=AudioFacts(44_100, "stereo"),
)


def test_what_a_header_says_of_sound_comes_back() -> None:
    data = container.write(CLIP)
    assert container.read(data) == CLIP
    description = container.describe(data)
    assert (description.shape, description.rate, description.bit_depth) == ((2, 1000), 44_100, 24)
    empty = replace(CLIP, shape=(1, 0), audio=AudioFacts(8000, "mono"), bit_depth=32)
    assert container.read(container.write(empty)) == empty


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (9, 10)},
        {"shape": (0, 10)},
        {"bit_depth": 25},
        {"bit_depth": 7},
        {"audio": AudioFacts(0, "mono")},
        {"audio": AudioFacts(2**31, "mono")},
        {"audio": AudioFacts(8000, "")},
        {"audio": AudioFacts(8000, "a/b")},
    ],
)
def test_sound_that_the_format_cannot_hold_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CorruptStream):
        container.write(replace(CLIP, **changes))  # type: ignore[arg-type]


def test_a_damaged_byte_costs_one_packet_wherever_it_is() -> None:
    data = container.write(CLIP)
    for at, bit in itertools.product(range(len(data)), (0, 3, 7)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        read = container.read(bytes(damaged), salvage=True)
        assert len(read.lost) <= 1, (at, bit)
        for number, chunk in enumerate(read.chunks):
            assert chunk == (b"" if number in read.lost else CLIP.chunks[number])


def test_samples_are_read_from_their_packets_only() -> None:
    array = np.arange(20, dtype=np.int16).reshape(2, 10)
    decoded = list[int]()

    def decode(packet: int) -> AudioSamples:
        decoded.append(packet)
        return array[:, 4 * packet : 4 * packet + 4]

    source = PacketSamples((2, 10), np.dtype(np.int16), 4, decode)
    sound = audio_of_packets(source, 8000, 16)
    for start, stop in itertools.combinations_with_replacement(range(11), 2):
        decoded.clear()
        assert np.array_equal(sound.part(start, stop).array, array[:, start:stop])
        assert decoded == ([] if start == stop else list(range(start // 4, (stop - 1) // 4 + 1)))
    lossy = audio_of_packets(replace(source, lost=frozenset({1})), 8000, 16)
    assert lossy.lost == ((4, 8),)
    assert not lossy.array[:, 4:8].any() and np.array_equal(lossy.array[:, 8:], array[:, 8:])
    assert lossy.part(5, 10).lost == ((0, 3),)


def test_decoded_sound_gets_what_the_stream_says_of_it() -> None:
    sound = finished(Audio.of(np.zeros((2, 1000), np.int32), 8000), CLIP)
    assert isinstance(sound, Audio)
    assert (sound.rate, sound.layout, sound.metadata) == (44_100, "stereo", {"tags": b'{"title": "t"}'})
    with pytest.raises(CorruptStream):
        finished(Audio.of(np.zeros((2, 999), np.int32), 8000), CLIP)


@pytest.mark.parametrize(("bits", "name"), [(8, "int16"), (16, "int16"), (17, "int32"), (24, "int32"), (32, "float32")])
def test_bits_have_a_dtype(bits: int, name: str) -> None:
    assert dtype_of_bits(bits).name == name
    assert Audio(ArraySamples(np.zeros((1, 3), name)), 8000, bits).seconds == 3 / 8000


@pytest.mark.parametrize("bits", [7, 25, 31, 33])
def test_other_bits_have_none(bits: int) -> None:
    with pytest.raises(ValueError, match="bits per sample"):
        dtype_of_bits(bits)


@pytest.mark.parametrize("array", [np.zeros((9, 3), np.int16), np.zeros(3, np.int16), np.zeros((1, 3), np.float64)])
def test_samples_of_other_shapes_are_refused(array: AudioSamples) -> None:
    with pytest.raises(ValueError, match="sound"):
        ArraySamples(array)
