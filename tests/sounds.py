"""Sounds that tests make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from laconic.codecs.signals import AudioSamples

__all__ = ["BlockSamples", "voice"]


def voice(samples: int, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return something like speech (channels, samples): syllables of a gliding tone with formants, hisses between them."""
    generator = np.random.default_rng(seed)
    t = np.arange(samples) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tone = sum(np.sin(n * phase) * np.exp(-(((n * 120 - 500) / 600) ** 2)) for n in range(1, 24))
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) ** 0.5
    hiss = generator.normal(size=(channels, samples)) * np.clip(-np.sin(2 * np.pi * 3 * t), 0, 1) ** 4
    return (0.08 * tone * syllables + 0.02 * hiss + 1e-4 * generator.normal(size=(channels, samples))).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BlockSamples:
    """A source that yields an array's samples in blocks of `size`."""

    array: AudioSamples
    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(C, N)."""
        channels, samples = self.array.shape
        return channels, samples

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the array."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1."""
        for at in range(start, stop, self.size):
            yield self.array[:, at : min(at + self.size, stop)]
