"""How `audio-rvq` cuts a sound: packets of a second, the frames that each owns, and the level that each is brought to.

With samples at the model's rate, frame t covers the hops t - 1 and t, so that hop t is whole once frame t + 1 is there.
Packet p yields second p and owns the frames that no packet before it owns and its second needs: p = 0 those up to frame 50, p
the next 50. Where the sound has another rate, its last output samples need a hop more for the filter, and every packet owns
one frame more ahead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..signals import Audio, AudioSamples
from ..sources import dtype_of_bits

__all__ = ["LEVEL", "Cut", "LevelMeter", "SequentialSamples", "float_samples", "gain_of", "integer_samples"]

LEVEL = 0.05  # effective value of speech that the networks were trained with
STEP = 1.5  # dB between levels
LOUDEST, LOWEST, SILENT, REFERENCE = 253, 14, 0, 60  # level numbers: REFERENCE stands for LEVEL, LOWEST for 69 dB below it
FOLLOW = 0.3  # of the distance to a packet's energy that the level moves by
PAUSE = 0.03  # energy, against the followed one, below which a packet does not move it
ACTIVE = 1e-3  # of the energy of the loudest frame: what counts as speech

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """The packets of `samples` samples at `rate` a second, for a model with `model_rate` and `hop`."""

    samples: int
    rate: int
    model_rate: int
    hop: int

    @property
    def ahead(self) -> int:
        """Frames that every packet owns beyond its second."""
        return 1 if self.rate == self.model_rate else 2

    @property
    def packets(self) -> int:
        """Number of packets, at least 1."""
        return max(1, -(-self.samples // self.rate))

    @property
    def total(self) -> int:
        """Number of frames of the whole sound."""
        if self.samples == 0:
            return 0
        return -(-self.samples * self.model_rate // (self.rate * self.hop)) + self.ahead

    def span(self, packet: int) -> tuple[int, int]:
        """Return the first sample of a packet and the one after its last."""
        return packet * self.rate, min((packet + 1) * self.rate, self.samples)

    def owned(self, packet: int) -> tuple[int, int]:
        """Return the first frame that a packet owns and the one after its last."""
        second = self.model_rate // self.hop
        start = packet * second + self.ahead if packet else 0
        return start, min((packet + 1) * second + self.ahead, self.total)


class LevelMeter:
    """Follows the level of a sound, packet by packet; pauses do not move it."""

    def __init__(self, hop: int) -> None:
        self.hop, self.energy = hop, 0.0

    def __call__(self, samples: Floats) -> int:
        """Return the level number of a packet of samples (C, N), that of its louder channel; the next ones depend on it."""
        channels, count = samples.shape
        frames = samples[:, : count // self.hop * self.hop].reshape(channels, -1, self.hop).astype(np.float64)
        energies = (frames**2).mean(2).max(0) if frames.size else np.zeros(1)
        active = float(energies[energies >= energies.max() * ACTIVE].mean())
        if self.energy == 0.0:
            self.energy = active
        elif active > PAUSE * self.energy:
            self.energy += FOLLOW * (active - self.energy)
        if self.energy == 0.0:
            return SILENT
        decibels = 10 * math.log10(max(self.energy, 1e-12) / LEVEL**2)
        return min(max(REFERENCE + round(decibels / STEP), LOWEST), LOUDEST)


def gain_of(number: int) -> float:
    """Return what samples of a level number are multiplied by to have `LEVEL`."""
    return float(10 ** (-STEP * (number - REFERENCE) / 20))


def float_samples(samples: AudioSamples, bits: int) -> Floats:
    """Return samples as floats in +-1; what is no number is 0."""
    if samples.dtype == np.float32:
        return np.nan_to_num(samples, posinf=1.0, neginf=-1.0).clip(-64, 64).astype(np.float32)
    return samples.astype(np.float32) * np.float32(2.0 ** (1 - bits))


def integer_samples(samples: Floats, bits: int) -> AudioSamples:
    """Return floats in +-1 as samples of `bits` bits, rounded and clipped; as they are for 32."""
    if bits == 32:
        return samples.astype(np.float32)
    top = 2 ** (bits - 1)
    found: AudioSamples = np.rint(samples.astype(np.float64) * top).clip(-top, top - 1).astype(dtype_of_bits(bits))
    return found


class SequentialSamples:
    """The samples of a sound as floats, read once from front to back; parts may overlap, and begin further on each time."""

    def __init__(self, sound: Audio) -> None:
        self.total, self.bits = sound.shape[1], sound.bit_depth
        self._blocks = sound.source.read(0, self.total)
        self._kept: Floats = np.zeros((sound.shape[0], 0), np.float32)
        self._at = 0  # of the first sample kept

    def part(self, start: int, stop: int) -> Floats:
        """Return the samples start .. stop - 1 (C, n); what lies before or after the sound is silent."""
        first, last = max(start, 0), min(stop, self.total)
        blocks, end = [self._kept], self._at + self._kept.shape[1]
        while end < last:
            blocks.append(float_samples(next(self._blocks), self.bits))
            end += blocks[-1].shape[1]
        kept = np.concatenate(blocks, 1)[:, max(0, min(first, end) - self._at) :]
        self._kept, self._at = kept, max(self._at, min(first, end))
        found = np.zeros((kept.shape[0], stop - start), np.float32)
        if first < last:
            found[:, first - start : last - start] = kept[:, first - self._at : last - self._at]
        return found
