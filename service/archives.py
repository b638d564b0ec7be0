"""What is written beside `codecs.media`: a video's frames as pictures in a ZIP file, and a single frame as a picture."""

from __future__ import annotations

import zipfile
from io import BytesIO

from ..codecs import media
from ..codecs.media import MediaFormat
from ..codecs.signals import Image, Signal, Video

__all__ = ["FRAMES", "write"]

FRAMES = MediaFormat("zip", ".zip", "application/zip", "video", True)  # PNGs called 000000.png, 000001.png ...
EARLIEST = (1980, 1, 1, 0, 0, 0)  # that ZIP knows: the same frames give the same bytes


def write(signal: Signal, form: str, quality: int | None = None) -> bytes:
    """Return the signal as a media file, as `media.write` does; of a video also as `FRAMES`, and its first frame as a picture."""
    if isinstance(signal, Video) and form == FRAMES.name:
        return _archive(signal)
    if isinstance(signal, Video) and form != "npy" and form in media.FORMATS and media.FORMATS[form].signal == "image":
        signal = Image(next(iter(signal.source.read(0, 1))))
    return media.write(signal, form, quality)


def _archive(video: Video) -> bytes:
    """Return a ZIP file of PNGs, which no other compression makes smaller."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(video.source.read(0, video.shape[0])):
            archive.writestr(zipfile.ZipInfo(f"{number:06d}.png", EARLIEST), media.write(Image(frame), "png"))
    return file.getvalue()
