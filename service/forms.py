"""Media files that the service writes: which there are for pictures, videos and sound, and which of them a client gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..codecs import media
from ..codecs.media import MediaFormat
from .negotiation import choose
from .problems import NotAcceptable

__all__ = ["OUTPUT_FORMATS", "PICTURE_TYPES", "SOUND_TYPES", "TYPES", "VIDEO_TYPES", "Forms", "accepted_forms"]

_WRITTEN = [form for form in media.FORMATS.values() if form.writes]
PICTURE_TYPES = {form.media_type: form for form in _WRITTEN if form.signal == "image"}
_BOTH = media.FORMATS["npy"]
VIDEO_TYPES = {form.media_type: form for form in _WRITTEN if form.signal == "video"} | {_BOTH.media_type: _BOTH}
SOUND_TYPES = {form.media_type: form for form in reversed(_WRITTEN) if form.signal == "audio"}  # of two of a type the first
SOUND_TYPES = dict(reversed(SOUND_TYPES.items())) | {_BOTH.media_type: _BOTH}
OUTPUT_FORMATS = PICTURE_TYPES | VIDEO_TYPES | SOUND_TYPES
TYPES = {"image": PICTURE_TYPES, "video": VIDEO_TYPES, "audio": SOUND_TYPES}


@dataclass(frozen=True)
class Forms:
    """Names of formats: what a client gets of a picture, of a video and of sound; "" for nothing it takes."""

    picture: str
    video: str
    sound: str = ""

    def __str__(self) -> str:
        return f"{self.picture}/{self.video}/{self.sound}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the forms that this text was made of.

        >>> Forms.parse("webp/mp4/wav")
        Forms(picture='webp', video='mp4', sound='wav')
        """
        return cls(*[*text.split("/"), ""][:3]) if "/" in text else cls(text, "")

    def of(self, kind: str, frames: int) -> str:
        """Return the format for a signal of a kind, a single frame of a video being a picture where no video is accepted."""
        form = {"image": self.picture, "video": self.video, "audio": self.sound}[kind]
        if not form and kind == "video" and frames == 1:
            form = self.picture
        if not form:
            raise NotAcceptable(f"the file holds {media.WORDS[kind]}: accept one of {', '.join(TYPES[kind])}")
        return form


def accepted_forms(accept: str) -> Forms:
    """Return what an Accept header weighs highest; raises `NotAcceptable` where it takes nothing that is written."""
    choose(accept, list(OUTPUT_FORMATS))
    return Forms(*(_best(accept, types) for types in (PICTURE_TYPES, VIDEO_TYPES, SOUND_TYPES)))


def _best(accept: str, offered: dict[str, MediaFormat]) -> str:
    try:
        return offered[choose(accept, list(offered))].name
    except NotAcceptable:
        return ""
