"""What of an .lcn file is wanted: all, frames of a video, seconds of sound, or what damage has left; and its restoring."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..codecs import compress, media
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.limits import Limits
from ..codecs.parts import FrameRange, SecondsRange, part_of, sound_of, span_of, span_of_seconds
from ..codecs.signals import Audio, Signal, Video
from ..codecs.watched import watched, watched_samples

__all__ = ["Excerpt", "restore"]

WHAT = "the number of pixels of all frames that are asked for"


@dataclass(frozen=True)
class Excerpt:
    """The `frames` of a video or the `seconds` of sound, all where both are None; with `salvage` what damage has left."""

    frames: FrameRange | None = None
    seconds: SecondsRange | None = None
    salvage: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether no part is named."""
        return self.frames is None and self.seconds is None

    def span(self, kind: str, count: int, rate: float | None = None) -> tuple[int, int]:
        """Return the first frame or sample and the one after the last, of `count` in a signal of this kind.

        `rate` is that of sound. Raises `InvalidSettings` for parts that there are not, and for parts of another kind.
        """
        self.check_kind(kind)
        if self.frames is not None:
            return span_of(self.frames, count)
        if self.seconds is not None:
            return span_of_seconds(self.seconds, int(rate or 1), count)
        return 0, count

    def check_kind(self, kind: str) -> None:
        """Raise `InvalidSettings` where the part is of another kind of signal."""
        if self.frames is not None and kind != "video":
            raise InvalidSettings(f"frames are parts of a video; the file holds {media.WORDS.get(kind, kind)}")
        if self.seconds is not None and kind != "audio":
            raise InvalidSettings(f"seconds are parts of sound; the file holds {media.WORDS.get(kind, kind)}")


def restore(
    data: bytes, limits: Limits, device: str, excerpt: Excerpt, picture: Progress | None = None, lasting: Progress | None = None
) -> Signal:
    """Restore the signal of an .lcn file, or the part of it that is wanted, into memory.

    `picture` hears of the codec's progress, `lasting` of each frame, or block of samples. The sound of a video comes with all
    frames only. Raises as `compress.decode` does, and `InvalidSettings` for parts that there are not.
    """
    signal = compress.decode(data, limits, device, picture, salvage=excerpt.salvage, whole=excerpt.is_whole)
    excerpt.check_kind(signal.kind)
    if isinstance(signal, Audio):
        heard, _ = watched_samples(signal, "decoding", lasting)
        if excerpt.seconds is not None:
            return sound_of(heard, excerpt.seconds, limits)
        return replace(heard.part(0, heard.shape[1]), metadata=dict(signal.metadata))
    if not isinstance(signal, Video):
        return signal
    part = signal if excerpt.frames is None else part_of(signal, excerpt.frames)
    limits.check("max_video_pixels", part.pixels, WHAT)
    shown, _ = watched(part, "frame", lasting)
    return replace(shown.frames(0, part.shape[0]), metadata=dict(part.metadata))
