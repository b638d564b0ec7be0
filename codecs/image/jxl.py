"""`jxl`: JPEG XL (ISO/IEC 18181) by libjxl, lossy (VarDCT) or lossless (modular)."""

from __future__ import annotations

from pydantic import Field

from ..codec import Progress, Stream
from ..signals import Image
from . import writers
from .conventional import LossyOrLossless, decode_native, native_stream

__all__ = ["JpegXl", "JpegXlSettings"]


class JpegXlSettings(LossyOrLossless):
    """Settings of `jxl`."""

    effort: int = Field(7, ge=1, le=9, description="1 (fastest) to 9 (smallest file), libjxl's scale")


class JpegXl:
    """The codec. Takes 8-bit pictures, and 16-bit ones losslessly; alpha is always lossless."""

    id = "jxl"
    signal = "image"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = JpegXlSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: JpegXlSettings, progress: Progress | None = None) -> Stream:
        """Compress a picture; raises `UnsupportedMedia` for 16 bits coded lossily."""
        if settings.lossless:
            native = writers.jxl_lossless(signal.array, settings.effort)
        else:
            native = writers.jxl(signal.array, settings.quality, settings.effort)
        return native_stream(self.id, signal, native, progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore the picture; raises `CorruptStream`."""
        return decode_native(stream, progress)
