"""What of an .lcn file is wanted: all of it, some frames of a video, or what damage has left; and its restoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..codecs import compress
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.limits import Limits
from ..codecs.signals import Audio, FrameSource, Samples, Signal, Video

__all__ = ["Excerpt", "restore"]

WORDS = {"image": "a picture", "pictures": "pictures", "audio": "sound"}
WHAT = "the number of pixels of all frames that are asked for"


@dataclass(frozen=True)
class Excerpt:
    """The frames `start` .. `stop` - 1, by default all (`stop` None is the end); with `salvage` what damage has left."""

    start: int = 0
    stop: int | None = None
    salvage: bool = False

    def span(self, frames: int) -> tuple[int, int]:
        """Return the first frame and the one after the last, of so many; raises `InvalidSettings` for frames there are not."""
        stop = frames if self.stop is None else self.stop
        if not self.start < stop <= frames:
            raise InvalidSettings(f"frames: there are 0:{frames}, not {self.start}:{stop}")
        return self.start, stop

    @property
    def is_whole(self) -> bool:
        """Whether no frames are named."""
        return self.start == 0 and self.stop is None


@dataclass(frozen=True, eq=False)
class _Watched:
    """A `FrameSource` that tells how many of `wanted` frames have been read."""

    source: FrameSource
    wanted: int
    progress: Progress

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.source.shape

    @property
    def bit_depth(self) -> int:
        return self.source.bit_depth

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        for done, frame in enumerate(self.source.read(start, stop), 1):
            self.progress(min(1.0, done / self.wanted), "decoding")
            yield frame


def restore(
    data: bytes, limits: Limits, device: str, excerpt: Excerpt, picture: Progress | None = None, video: Progress | None = None
) -> Signal:
    """Restore the signal of an .lcn file, of a video the frames that are wanted, into memory; sound whole.

    `picture` hears of the codec's progress, `video` of each frame. Sound comes with all frames only. Raises as
    `compress.decode` does, and `InvalidSettings` for frames that there are not.
    """
    signal = compress.decode(data, limits, device, picture, salvage=excerpt.salvage, whole=excerpt.is_whole)
    if not isinstance(signal, Video):
        if not excerpt.is_whole:
            raise InvalidSettings(f"frames are parts of a video; the file holds {WORDS[signal.kind]}")
        if isinstance(signal, Audio):
            return replace(signal.part(0, signal.shape[1]), metadata=dict(signal.metadata))
        return signal
    start, stop = excerpt.span(signal.shape[0])
    limits.check("max_video_pixels", (stop - start) * signal.shape[1] * signal.shape[2], WHAT)
    watched = _Watched(signal.source, stop - start, video or (lambda part, stage: None))
    part = replace(signal, source=watched).frames(start, stop)
    return replace(part, metadata=dict(signal.metadata)) if excerpt.is_whole else part
