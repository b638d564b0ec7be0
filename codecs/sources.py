"""Where the frames of videos and the samples of sound come from: memory, or whatever yields them a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LAYOUTS",
    "ArrayFrames",
    "ArraySamples",
    "AudioSamples",
    "FrameSource",
    "PartFrames",
    "SampleSource",
    "Samples",
    "dtype_of_bits",
    "gathered",
]

Samples = NDArray[np.uint8] | NDArray[np.uint16]
AudioSamples = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")  # of 1 to 8 channels where nothing else is said


class FrameSource(Protocol):
    """Where a video's frames come from, a few at a time: an array, a media file, or an .lcn file.

    `shape` is (T, H, W, 3), `bit_depth` 8 or 16. `read` yields the frames start .. stop - 1 in order, each uint8 or uint16 of
    (H, W, 3), and may be called again, also before an earlier reading has ended. It raises `LaconicError`s.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def bit_depth(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Samples]: ...


@dataclass(frozen=True, eq=False)
class ArrayFrames:
    """Frames in memory: uint8 or uint16 of shape (T, H, W, 3), none of them 0."""

    array: Samples

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[3] != 3 or 0 in self.array.shape:
            raise ValueError(f"a video's frames are T x H x W x 3, not {self.array.shape}")
        if self.array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"a video's samples are uint8 or uint16, not {self.array.dtype}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        frames, height, width, channels = self.array.shape
        return frames, height, width, channels

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 or 16."""
        return 8 * self.array.dtype.itemsize

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1."""
        yield from self.array[start:stop]


@dataclass(frozen=True, eq=False)
class PartFrames:
    """The frames start .. stop - 1 of another source, read from there when they are asked for."""

    whole: FrameSource
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(stop - start, H, W, 3)."""
        _, height, width, channels = self.whole.shape
        return self.stop - self.start, height, width, channels

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 or 16."""
        return self.whole.bit_depth

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1, counted from the part's first."""
        return self.whole.read(self.start + start, self.start + stop)


class SampleSource(Protocol):
    """Where sound's samples come from, a few at a time: an array, a media file, or an .lcn file.

    `shape` is (C, N), `dtype` int16, int32 or float32. `read` yields the samples start .. stop - 1 in order, in blocks
    (C, n) of any length n > 0, and may be called again. It raises `LaconicError`s.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]: ...


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples in memory: int16, int32 or float32 of shape (C, N), C from 1 to 8."""

    array: AudioSamples

    def __post_init__(self) -> None:
        if self.array.ndim != 2 or not 1 <= self.array.shape[0] <= len(LAYOUTS):
            raise ValueError(f"sound is channels x samples with 1 to {len(LAYOUTS)} channels, not {self.array.shape}")
        if self.array.dtype not in (np.int16, np.int32, np.float32):
            raise ValueError(f"sound's samples are int16, int32 or float32, not {self.array.dtype}")

    @property
    def shape(self) -> tuple[int, int]:
        """(C, N)."""
        channels, samples = self.array.shape
        return channels, samples

    @property
    def dtype(self) -> np.dtype[Any]:
        """int16, int32 or float32."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1."""
        if stop > start:
            yield self.array[:, start:stop]


def dtype_of_bits(bits: int) -> np.dtype[Any]:
    """Return the dtype of sound with so many bits per sample; raises ValueError outside of 8 to 24 and 32."""
    if bits == 32:
        return np.dtype(np.float32)
    if not 8 <= bits <= 24:
        raise ValueError(f"sound has 8 to 24 bits per sample, or 32 of float32, not {bits}")
    return np.dtype(np.int16 if bits <= 16 else np.int32)


def gathered(source: FrameSource, start: int, stop: int) -> Samples:
    """Return the frames start .. stop - 1 of a source in one array."""
    shape = (stop - start, *source.shape[1:])
    frames: Samples = np.empty(shape, np.uint8) if source.bit_depth == 8 else np.empty(shape, np.uint16)
    for index, frame in enumerate(source.read(start, stop)):
        frames[index] = frame
    return frames
