"""`jpeg`: JPEG (ITU-T T.81) by libjpeg-turbo, progressive with optimised Huffman tables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..codec import CodecSettings, Progress, Stream
from ..signals import Image
from . import writers
from .conventional import decode_native, native_stream

__all__ = ["Jpeg", "JpegSettings"]


class JpegSettings(CodecSettings):
    """Settings of `jpeg`."""

    quality: int = Field(75, ge=0, le=100, description="0 (smallest file) to 100 (best picture), libjpeg's scale")
    chroma: Literal["420", "444"] = Field("420", description="420 halves the colour planes both ways, 444 keeps them whole")


class Jpeg:
    """The codec. Takes 8-bit grey and RGB."""

    id = "jpeg"
    signal = "image"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = JpegSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: JpegSettings, progress: Progress | None = None) -> Stream:
        """Compress a picture; raises `UnsupportedMedia` for alpha and 16 bits."""
        return native_stream(self.id, signal, writers.jpeg(signal.array, settings.quality, settings.chroma), progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore the picture; raises `CorruptStream`."""
        return decode_native(stream, progress)
