"""Long sounds of `audio-rvq` in constant memory, and what damage to its packets costs."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from laconic.codecs import compress, container
from laconic.codecs.audio.rvq import model_of
from laconic.codecs.errors import CorruptStream, LimitExceeded
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Audio, AudioSamples

from .checks import check_rejects
from .sounds import voice

RATE = 16_000


@cache
def second() -> AudioSamples:
    """A second of something like speech."""
    return np.rint(voice(RATE)[:, :RATE] * 32767).astype(np.int16)


@dataclass(frozen=True)
class Generated:
    """A source of so many seconds that makes its samples when they are asked for, each second louder or softer."""

    seconds: int
    dtype = np.dtype(np.int16)

    @property
    def shape(self) -> tuple[int, int]:
        """(1, N)."""
        return 1, self.seconds * RATE

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1, which begin with a whole second."""
        assert start % RATE == 0
        for at in range(start, stop, RATE):
            yield (second()[:, : stop - at] // (1 + at // RATE % 5)).astype(np.int16)


def coded(seconds: int) -> bytes:
    """The file of so many seconds, which are never in memory at once."""
    return compress.encode(Audio(Generated(seconds), RATE), "audio-rvq", {"kbps": 1.5, "effort": 1}, device="cpu").data


def decoded_length(data: bytes) -> int:
    """Decode a file block by block; returns the number of samples."""
    sound = compress.decode(data, device="cpu", whole=False)
    assert isinstance(sound, Audio)
    return sum(block.shape[1] for block in sound.source.read(0, sound.shape[1]))


def peak_of(work: Callable[[], object]) -> int:
    """The bytes that were allocated at once, at most, beyond those before; those of torch are not counted."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_long_sounds_take_the_memory_of_short_ones() -> None:
    files = {seconds: coded(seconds) for seconds in (5, 60)}  # whatever is made once is made here
    assert [decoded_length(data) for data in files.values()] == [5 * RATE, 60 * RATE]
    whole = 2 * 60 * RATE  # bytes of int16 samples
    short, long = (peak_of(lambda seconds=seconds: coded(seconds)) for seconds in files)
    assert long - short < len(files[60]) * 4 + whole // 20
    short, long = (peak_of(lambda data=data: decoded_length(data)) for data in files.values())
    assert long - short < whole // 20


def damaged(data: bytes, packet: int, at: int, bit: int) -> bytes:
    """The file with a wrong bit in a packet: in its byte number `at`."""
    chunk = [chunk for chunk in container.describe(data).chunks if chunk.type == "payload"][packet]
    content = bytearray(data)
    content[chunk.offset + at % chunk.length] ^= 1 << bit
    return bytes(content)


@pytest.fixture(scope="module")
def file() -> bytes:
    return coded(5)


def test_a_wrong_bit_costs_its_packet_wherever_it_is(file: bytes) -> None:
    whole = compress.decode(file, device="cpu").array
    spec = model_of(container.read(file).weights[0]).spec
    memory = (spec.decoder_reach + 1) * spec.hop  # of the networks, in samples
    generator = random.Random(0)
    for packet in range(5):
        for _ in range(4):
            wrong = damaged(file, packet, generator.randrange(10**6), generator.randrange(8))
            with pytest.raises(CorruptStream):
                _ = compress.decode(wrong, device="cpu").array
            saved = compress.decode(wrong, device="cpu", salvage=True)
            assert isinstance(saved, Audio)
            lost, known = (packet * RATE, (packet + 1) * RATE), (packet + 1) * RATE + memory
            assert saved.lost == (lost,)
            assert not saved.array[:, slice(*lost)].any()
            assert np.array_equal(saved.array[:, : lost[0]], whole[:, : lost[0]])
            assert np.array_equal(saved.array[:, known:], whole[:, known:])


def test_a_wrong_bit_anywhere_costs_at_most_a_packet(file: bytes) -> None:
    generator, losses = random.Random(1), list[int]()
    for _ in range(25):
        content = bytearray(file)
        content[generator.randrange(len(file))] ^= 1 << generator.randrange(8)
        saved = compress.decode(bytes(content), device="cpu", salvage=True)
        assert isinstance(saved, Audio)
        assert sum(stop - start for start, stop in saved.lost) <= RATE
        losses.append(len(saved.lost))
        assert saved.array.shape == (1, 5 * RATE)
    assert sum(losses) > 15


def test_packets_that_an_attacker_wrote_raise_or_decode(file: bytes) -> None:
    """Behind the checksum of the bytes: what reads tokens sees every packet."""
    stream = container.read(file)

    def attack(packet: bytes) -> object:
        wrong = container.write(replace(stream, chunks=(stream.chunks[0], packet, *stream.chunks[2:])))
        array = compress.decode(wrong, Limits(max_samples=10**6), device="cpu").array
        assert array.shape == (1, 5 * RATE)
        return array

    assert check_rejects(stream.chunks[1], flips=25, truncations=12, open_file=attack) > 30
    for shape in ((1, 4 * RATE), (1, 6 * RATE), (2, 5 * RATE), (8, 5 * RATE)):
        with pytest.raises(CorruptStream):
            _ = compress.decode(container.write(replace(stream, shape=shape)), device="cpu").array
    endless = container.write(replace(stream, shape=(1, 2**40)))
    with pytest.raises(LimitExceeded):
        compress.decode(endless, device="cpu")
    with pytest.raises(CorruptStream):
        compress.decode(endless, device="cpu", whole=False)
