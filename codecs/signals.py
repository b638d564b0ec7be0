"""Decoded media in memory: plain dataclasses that codecs take and return."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .sources import (
    LAYOUTS,
    ArrayFrames,
    ArraySamples,
    AudioSamples,
    FrameSource,
    PartFrames,
    Samples,
    SampleSource,
    dtype_of_bits,
    gathered,
)

__all__ = [
    "LAYOUTS",
    "ArrayFrames",
    "ArraySamples",
    "Audio",
    "AudioSamples",
    "Colour",
    "FrameSource",
    "Image",
    "PartFrames",
    "Pictures",
    "SampleSource",
    "Samples",
    "Signal",
    "Video",
]

TICKS = 90_000  # of a second: the unit of `Video.times`, which every common frame rate divides


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, upright.

    `array` is uint8 or uint16 of shape (H, W, C), H and W at least 1: C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
    (alpha is straight, not premultiplied). `metadata` holds raw payloads by name: "icc", "exif", "xmp".
    """

    array: Samples
    metadata: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.shape[2] not in (1, 2, 3, 4) or 0 in self.array.shape:
            raise ValueError(f"a picture is H x W x C with 1 to 4 channels, not {self.array.shape}")
        if self.array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"a picture's samples are uint8 or uint16, not {self.array.dtype}")

    @property
    def kind(self) -> str:
        """The kind of signal: "image"."""
        return "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.array.shape

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 or 16."""
        return 8 * self.array.dtype.itemsize

    @property
    def pixels(self) -> int:
        """Number of pixels: the unit that bits per pixel divide by."""
        return int(self.array.shape[0] * self.array.shape[1])

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.array.shape[2] in (2, 4)

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> None:
        """Write the picture, whole or not at all, in the format of the extension: .png, .webp, .jpg, .avif, .jxl, .npy, .ppm.

        Lossless where the format can be, unless a `quality` (0..100) is given. Raises `UnsupportedMedia` for other
        extensions and for formats that cannot hold the picture.
        """
        from .saving import save  # reads and writes signals itself

        save(self, path, quality)


@dataclass(frozen=True, eq=False)
class Pictures(Image):
    """Small grey pictures of one size, for codecs that code them together: to all others one picture too many.

    `array` is uint8 of shape (N, H, W), none of them 0, and `shape` that of all pictures, one below the other. `known`, where
    given, marks the samples that the receiver has already: bool of shape (H, W) or (N, H, W). `metadata` as of `Image`.
    """

    known: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape or self.array.dtype != np.uint8:
            raise ValueError(f"pictures are uint8 of N x H x W, not {self.array.dtype} of {self.array.shape}")
        if self.known is not None and (
            self.known.dtype != np.bool_ or self.known.shape not in (self.array.shape, self.array.shape[1:])
        ):
            raise ValueError(f"`known` marks samples: bool of {self.array.shape} or {self.array.shape[1:]}")

    @property
    def kind(self) -> str:
        """The kind of signal: "pictures"."""
        return "pictures"

    @property
    def shape(self) -> tuple[int, ...]:
        """(N * H, W, 1): of all pictures, one below the other."""
        count, height, width = self.array.shape
        return count * height, width, 1

    @property
    def pixels(self) -> int:
        """Number of pixels of all pictures."""
        return int(self.array.size)

    @property
    def has_alpha(self) -> bool:
        """False."""
        return False

    def strip(self) -> Image:
        """Return all pictures as one, one below the other."""
        return Image(self.array.reshape(self.shape), dict(self.metadata))


@dataclass(frozen=True)
class Colour:
    """How a video file stores colour: the code points of ITU-T H.273, and whether samples use the full range.

    The frames of a `Video` are RGB already; a file written from it is labelled, and converted to, what this says.
    Code point 2 stands for "not said": such a matrix is taken to be BT.601's, as FFmpeg does, and written files say so.
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    full_range: bool = False


@dataclass(frozen=True, eq=False)
class Video:
    """Moving pictures, upright, RGB without alpha, and their sound.

    `source` yields the frames, `rate` is their number per second. `times`, where frames are not evenly spaced, are the
    moments at which they appear, int64 [T] in `TICKS`, ascending from 0. `metadata` holds raw payloads by name: "audio" is a
    Matroska file with nothing but the sound, as it was coded in the original. `lost` are the frames [start, stop) that were
    not decoded because of damage, and repeat the frame before them.
    """

    source: FrameSource
    rate: Fraction = Fraction(25)
    times: NDArray[np.int64] | None = None
    colour: Colour = Colour()
    metadata: dict[str, bytes] = field(default_factory=dict)
    lost: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"a frame rate is positive, not {self.rate}")
        if self.times is not None and (
            self.times.shape != self.shape[:1] or self.times[0] != 0 or (np.diff(self.times) <= 0).any()
        ):
            raise ValueError(f"the times of {self.shape[0]} frames ascend from 0")

    @classmethod
    def of(cls, array: Samples, rate: Fraction | float = 25) -> Video:
        """Return the video of frames T x H x W x 3 in memory."""
        return cls(ArrayFrames(array), Fraction(rate).limit_denominator(100_100))

    @property
    def kind(self) -> str:
        """The kind of signal: "video"."""
        return "video"

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3)."""
        return self.source.shape

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 or 16."""
        return self.source.bit_depth

    @property
    def pixels(self) -> int:
        """Number of pixels of all frames: the unit that bits per pixel divide by."""
        frames, height, width = self.shape[:3]
        return frames * height * width

    @property
    def has_alpha(self) -> bool:
        """False."""
        return False

    @property
    def seconds(self) -> float:
        """How long it lasts: every frame as long as the rate says, or until the next one appears."""
        frame = float(1 / self.rate)
        return float(self.times[-1]) / TICKS + frame if self.times is not None else self.shape[0] * frame

    @property
    def array(self) -> Samples:
        """All frames, uint8 or uint16 of (T, H, W, 3); reads them where they are not in memory."""
        if isinstance(self.source, ArrayFrames):
            return self.source.array
        return gathered(self.source, 0, self.shape[0])

    def view(self, start: int, stop: int) -> Video:
        """Return the part with the frames start .. stop - 1, still read when they are asked for, and without sound.

        Raises ValueError for no frames.
        """
        if not 0 <= start < stop <= self.shape[0]:
            raise ValueError(f"there are the frames 0 to {self.shape[0] - 1}, not {start} to {stop - 1}")
        times = None if self.times is None else self.times[start:stop] - self.times[start]
        lost = tuple((max(a, start) - start, min(b, stop) - start) for a, b in self.lost if a < stop and b > start)
        return replace(self, source=PartFrames(self.source, start, stop), times=times, metadata={}, lost=lost)

    def frames(self, start: int, stop: int) -> Video:
        """Return the part with the frames start .. stop - 1, in memory and without sound; raises as `view` does."""
        part = self.view(start, stop)
        return replace(part, source=ArrayFrames(part.array))

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> None:
        """Write the video, whole or not at all, in the format of the extension: .mp4, .webm, .mkv, .y4m, .npy.

        `quality` (0..100) is that of the codec inside. Raises `UnsupportedMedia` for other extensions.
        """
        from .saving import save  # reads and writes signals itself

        save(self, path, quality)


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound: C channels of N samples each, `rate` of them a second.

    Samples are integers of `bits` (8 to 24) bits, int16 where those are 16 or fewer and int32 where they are more, or float32
    in ±1 (`bits` 32). `layout` names the channels as FFmpeg does. `metadata` holds raw payloads by name: "tags" is a JSON
    object of texts in UTF-8. `lost` are the samples [start, stop) that were not decoded because of damage, and are silent.
    """

    source: SampleSource
    rate: int
    bits: int = 16
    layout: str = ""
    metadata: dict[str, bytes] = field(default_factory=dict)
    lost: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.rate < 2**31:
            raise ValueError(f"a sampling rate is a positive number of Hz, not {self.rate}")
        if self.source.dtype != dtype_of_bits(self.bits):
            raise ValueError(f"{self.source.dtype} does not hold samples of {self.bits} bits")
        if not self.layout:
            object.__setattr__(self, "layout", LAYOUTS[self.shape[0] - 1])

    @classmethod
    def of(cls, array: AudioSamples, rate: int, bits: int | None = None) -> Audio:
        """Return the sound of samples C x N in memory; `bits` are 16, 24 or 32 after the dtype where not given."""
        return cls(ArraySamples(array), rate, bits or {"int16": 16, "int32": 24}.get(array.dtype.name, 32))

    @property
    def kind(self) -> str:
        """The kind of signal: "audio"."""
        return "audio"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, N)."""
        return self.source.shape

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 to 24 of integers, 32 of float32."""
        return self.bits

    @property
    def pixels(self) -> int:
        """Number of samples of all channels, at least 1: what bits per sample divide by."""
        return max(1, self.shape[0] * self.shape[1])

    @property
    def has_alpha(self) -> bool:
        """False."""
        return False

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.shape[1] / self.rate

    @property
    def array(self) -> AudioSamples:
        """All samples, int16, int32 or float32 of (C, N); reads them where they are not in memory."""
        if isinstance(self.source, ArraySamples):
            return self.source.array
        return self.part(0, self.shape[1]).array

    def part(self, start: int, stop: int) -> Audio:
        """Return the samples start .. stop - 1, in memory; raises ValueError outside of 0 .. N."""
        if not 0 <= start <= stop <= self.shape[1]:
            raise ValueError(f"there are the samples 0 to {self.shape[1]}, not {start} to {stop}")
        array: AudioSamples = np.empty((self.shape[0], stop - start), self.source.dtype)
        at = 0
        for block in self.source.read(start, stop):
            array[:, at : at + block.shape[1]] = block
            at += block.shape[1]
        lost = tuple((max(a, start) - start, min(b, stop) - start) for a, b in self.lost if a < stop and b > start)
        return replace(self, source=ArraySamples(array), metadata={}, lost=lost)

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> None:
        """Write the sound, whole or not at all, in the format of the extension: .wav, .flac, .opus, .mp3, .npy.

        `quality` (0..100) is that of the codec inside, where it has one. Raises `UnsupportedMedia` for other extensions.
        """
        from .saving import save  # reads and writes signals itself

        save(self, path, quality)


Signal = Image | Video | Audio
