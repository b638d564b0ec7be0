"""Media files that the service writes: which there are for pictures and for videos, and which of them a client gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..codecs import media
from ..codecs.media import MediaFormat
from .negotiation import choose
from .problems import NotAcceptable

__all__ = ["OUTPUT_FORMATS", "PICTURE_TYPES", "VIDEO_TYPES", "Forms", "accepted_forms"]

_WRITTEN = [form for form in media.FORMATS.values() if form.writes]
PICTURE_TYPES = {form.media_type: form for form in _WRITTEN if form.signal == "image"}
_BOTH = media.FORMATS["npy"]
VIDEO_TYPES = {form.media_type: form for form in _WRITTEN if form.signal == "video"} | {_BOTH.media_type: _BOTH}
OUTPUT_FORMATS = PICTURE_TYPES | VIDEO_TYPES


@dataclass(frozen=True)
class Forms:
    """Names of formats: what a client gets if a file holds a picture, and if it holds a video; "" for nothing it takes."""

    picture: str
    video: str

    def __str__(self) -> str:
        return f"{self.picture}/{self.video}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the forms that this text was made of.

        >>> Forms.parse("webp/mp4")
        Forms(picture='webp', video='mp4')
        """
        picture, _, video = text.partition("/")
        return cls(picture, video)

    def of(self, kind: str, frames: int) -> str:
        """Return the format for a signal of a kind, a single frame of a video being a picture where no video is accepted."""
        video = kind == "video"
        form = self.video if video else self.picture
        if not form and video and frames == 1:
            form = self.picture
        if not form:
            raise NotAcceptable(f"the file holds a {kind}: accept one of {', '.join(VIDEO_TYPES if video else PICTURE_TYPES)}")
        return form


def accepted_forms(accept: str) -> Forms:
    """Return what an Accept header weighs highest; raises `NotAcceptable` where it takes nothing that is written."""
    choose(accept, list(OUTPUT_FORMATS))
    return Forms(_best(accept, PICTURE_TYPES), _best(accept, VIDEO_TYPES))


def _best(accept: str, offered: dict[str, MediaFormat]) -> str:
    try:
        return offered[choose(accept, list(offered))].name
    except NotAcceptable:
        return ""
