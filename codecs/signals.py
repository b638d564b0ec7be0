"""Decoded media in memory: plain dataclasses that codecs take and return."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayFrames", "Colour", "FrameSource", "Image", "Pictures", "Signal", "Video"]

Samples = NDArray[np.uint8] | NDArray[np.uint16]
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


@dataclass(frozen=True)
class Colour:
    """How a video file stores colour: the code points of ITU-T H.273, and whether samples use the full range.

    The frames of a `Video` are RGB already; a file written from it is labelled, and converted to, what this says.
    Code point 2 stands for "not said", which means BT.709 from 720 rows up and BT.601 below.
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
        return _gathered(self.source, 0, self.shape[0])

    def frames(self, start: int, stop: int) -> Video:
        """Return the part with the frames start .. stop - 1, in memory and without sound; raises ValueError for no frames."""
        if not 0 <= start < stop <= self.shape[0]:
            raise ValueError(f"there are the frames 0 to {self.shape[0] - 1}, not {start} to {stop - 1}")
        array = _gathered(self.source, start, stop)
        times = None if self.times is None else self.times[start:stop] - self.times[start]
        lost = tuple((max(a, start) - start, min(b, stop) - start) for a, b in self.lost if a < stop and b > start)
        return replace(self, source=ArrayFrames(array), times=times, metadata={}, lost=lost)

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> None:
        """Write the video, whole or not at all, in the format of the extension: .mp4, .webm, .mkv, .y4m, .npy.

        `quality` (0..100) is that of the codec inside. Raises `UnsupportedMedia` for other extensions.
        """
        from .saving import save  # reads and writes signals itself

        save(self, path, quality)


def _gathered(source: FrameSource, start: int, stop: int) -> Samples:
    shape = (stop - start, *source.shape[1:])
    frames: Samples = np.empty(shape, np.uint8) if source.bit_depth == 8 else np.empty(shape, np.uint16)
    for index, frame in enumerate(source.read(start, stop)):
        frames[index] = frame
    return frames


Signal = Image | Video
