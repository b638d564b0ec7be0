"""`webp`: WebP (RFC 9649) by libwebp, lossy (VP8) or lossless (VP8L)."""

from __future__ import annotations

from pydantic import Field

from ..codec import Progress, Stream
from ..signals import Image
from . import writers
from .conventional import LossyOrLossless, decode_native, native_stream

__all__ = ["WebP", "WebPSettings"]

METHODS = (0, 1, 2, 2, 3, 4, 5, 5, 6)  # libwebp's method for efforts 1 to 9


class WebPSettings(LossyOrLossless):
    """Settings of `webp`."""

    effort: int = Field(9, ge=1, le=9, description="1 (fastest) to 9 (smallest file)")


class WebP:
    """The codec. Takes 8-bit pictures of up to 16383 x 16383 pixels; alpha is always lossless."""

    id = "webp"
    signal = "image"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = WebPSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: WebPSettings, progress: Progress | None = None) -> Stream:
        """Compress a picture; raises `UnsupportedMedia` for 16 bits and for pictures that are too large for the format."""
        method = METHODS[settings.effort - 1]
        if settings.lossless:
            native = writers.webp_lossless(signal.array, method)
        else:
            native = writers.webp(signal.array, settings.quality, method)
        return native_stream(self.id, signal, native, progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore the picture; raises `CorruptStream`."""
        return decode_native(stream, progress)
