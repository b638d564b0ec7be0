"""Samples of an .lcn file, decoded a packet at a time as they are asked for: constant memory, and seeking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..codec import Progress
from ..signals import Audio, AudioSamples

__all__ = ["PacketSamples", "audio_of_packets", "packets_of"]


@dataclass(frozen=True, eq=False)
class PacketSamples:
    """A `SampleSource` of packets of `length` samples each, but for the last: packet p begins at sample p * length.

    `decode(p)` returns a packet's samples (C, n). Those of a packet in `lost` are silent.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    length: int
    decode: Callable[[int], AudioSamples]
    lost: frozenset[int] = frozenset()

    def span(self, packet: int) -> tuple[int, int]:
        """Return the first sample of a packet and the one after its last."""
        return packet * self.length, min((packet + 1) * self.length, self.shape[1])

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1; only their packets are decoded."""
        for packet in range(start // self.length, -(-stop // self.length) if stop > start else 0):
            a, b = self.span(packet)
            part = slice(max(start, a) - a, min(stop, b) - a)
            if packet in self.lost:
                silence: AudioSamples = np.zeros((self.shape[0], part.stop - part.start), self.dtype)
                yield silence
            else:
                yield self.decode(packet)[:, part]


def audio_of_packets(source: PacketSamples, rate: int, bits: int) -> Audio:
    """Return the sound of packets, with the samples of those that are lost."""
    return Audio(source, rate, bits, lost=tuple(source.span(packet) for packet in sorted(source.lost)))


def packets_of(audio: Audio, length: int, stage: str, progress: Progress | None = None) -> Iterator[AudioSamples]:
    """Yield sound in packets (C, length), the last one shorter, reading it once and in order; none of no samples."""
    held: list[AudioSamples] = []
    size, done, count = 0, 0, audio.shape[1]
    for block in audio.source.read(0, count):
        held.append(block)
        size += block.shape[1]
        while size >= length or (size and done + size == count):
            joined = held[0] if len(held) == 1 else cast(AudioSamples, np.concatenate(held, axis=1))
            packet, rest = joined[:, :length], joined[:, length:]
            held, size = [rest], rest.shape[1]
            yield packet
            done += packet.shape[1]
            if progress:
                progress(done / count, stage)
