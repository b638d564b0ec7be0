"""`hevc`: H.265 (ITU-T H.265, HEVC) by x265."""

from __future__ import annotations

from ..codec import Progress, Stream
from ..signals import Video
from .conventional import PRESETS, Coding, LossyOrLosslessVideo, decode_groups, encode_groups, pixel_format, refuse_lossless

__all__ = ["Hevc", "HevcSettings"]

LOWEST_CRF, HIGHEST_CRF = 9.0, 51.0  # at quality 100 and 0
# One thread, whose bytes are the smallest and depend on no machine; nothing about itself, nothing on standard error.
QUIET = "pools=none:frame-threads=1:info=0:log-level=none"


class HevcSettings(LossyOrLosslessVideo):
    """Settings of `hevc`."""


class Hevc:
    """The codec. Takes video of 8 and 16 bits, the latter lossily in 10 bits; lossless coding is of RGB."""

    id = "hevc"
    signal = "video"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = HevcSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Video, settings: HevcSettings, progress: Progress | None = None) -> Stream:
        """Compress a video, group by group; raises `UnsupportedMedia` for frames that the encoder does not take."""
        preset = {"preset": PRESETS[settings.effort - 1]}
        if settings.lossless:
            refuse_lossless(signal)
            coding = Coding("libx265", preset | {"x265-params": f"{QUIET}:lossless=1"}, "gbrp")
        else:
            crf = HIGHEST_CRF - (HIGHEST_CRF - LOWEST_CRF) * settings.quality / 100
            deep = (settings.depth or str(min(signal.bit_depth, 10))) == "10"
            options = preset | {"crf": f"{crf:.3f}", "x265-params": QUIET}
            coding = Coding("libx265", options, pixel_format(settings.chroma, deep))
        return encode_groups(self.id, signal, coding, settings.frames, progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Video:
        """Restore the video, whose frames are decoded as they are asked for; raises `CorruptStream`, here and then."""
        return decode_groups(stream, "hevc", progress)
