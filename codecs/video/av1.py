"""`av1`: AV1 (AOMedia) by SVT-AV1, decoded by dav1d."""

from __future__ import annotations

import os

from pydantic import Field

from ..codec import Progress, Stream
from ..signals import Video
from .conventional import Coding, VideoSettings, decode_groups, encode_groups, pixel_format

__all__ = ["Av1", "Av1Settings"]

LOWEST_CRF, HIGHEST_CRF = 8.0, 63.0  # at quality 100 and 0, in the encoder's steps of a quarter
FASTEST_PRESET = 11  # at effort 1; each effort more is a preset slower
THREADS = 4  # at most: the bytes are the same whatever their number


class Av1Settings(VideoSettings):
    """Settings of `av1`."""

    effort: int = Field(5, ge=1, le=9, description="1 (fastest) to 9 (smallest file): SVT-AV1's presets 11 to 3")


class Av1:
    """The codec. Takes video of 8 and 16 bits; codes 4:2:0, by default in 10 bits, which is better for 8-bit video too."""

    id = "av1"
    signal = "video"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = Av1Settings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Video, settings: Av1Settings, progress: Progress | None = None) -> Stream:
        """Compress a video, group by group; raises `UnsupportedMedia` for frames that the encoder does not take."""
        crf = round(4 * (HIGHEST_CRF - (HIGHEST_CRF - LOWEST_CRF) * settings.quality / 100)) / 4
        threads = min(THREADS, os.cpu_count() or 1)
        options = {"preset": str(FASTEST_PRESET + 1 - settings.effort), "svtav1-params": f"crf={crf}:lp={threads}"}
        coding = Coding("libsvtav1", options, pixel_format("420", settings.depth != "8"))
        return encode_groups(self.id, signal, coding, settings.frames, progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Video:
        """Restore the video, whose frames are decoded as they are asked for; raises `CorruptStream`, here and then."""
        return decode_groups(stream, "libdav1d", progress)
