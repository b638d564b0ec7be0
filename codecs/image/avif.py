"""`avif`: AVIF (AOMedia, AV1 Image File Format 1.1) by libavif and libaom."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..codec import Progress, Stream
from ..signals import Image
from . import writers
from .conventional import LossyOrLossless, decode_native, native_stream

__all__ = ["Avif", "AvifSettings"]


class AvifSettings(LossyOrLossless):
    """Settings of `avif`."""

    effort: int = Field(4, ge=1, le=9, description="1 (fastest) to 9 (smallest file, minutes for a photograph)")
    chroma: Literal["420", "444"] = Field(
        "420", description="420 halves the colour planes both ways, 444 keeps them whole; lossy only"
    )


class Avif:
    """The codec. Takes 8-bit pictures; lossy coding codes alpha at the colours' quality."""

    id = "avif"
    signal = "image"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = AvifSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: AvifSettings, progress: Progress | None = None) -> Stream:
        """Compress a picture; raises `UnsupportedMedia` for 16 bits and for pictures that are too large for the format."""
        speed = 10 - settings.effort
        if settings.lossless:
            native = writers.avif_lossless(signal.array, speed)
        else:
            native = writers.avif(signal.array, settings.quality, settings.chroma, speed)
        return native_stream(self.id, signal, native, progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore the picture; raises `CorruptStream`."""
        return decode_native(stream, progress)
