"""`h264`: H.264 (ITU-T H.264, AVC) by x264."""

from __future__ import annotations

import re

from ..codec import Progress, Stream
from ..signals import Video
from .conventional import PRESETS, Coding, LossyOrLosslessVideo, decode_groups, encode_groups, pixel_format, refuse_lossless
from .ffmpeg import SAME_EVERYWHERE

__all__ = ["H264", "H264Settings"]

LOWEST_CRF, HIGHEST_CRF = 6.0, 51.0  # at quality 100 and 0
START = re.compile(rb"\x00?\x00\x00\x01")  # of a unit in a packet
SEI = 6  # the type of units that decoding does without: x264 describes itself and all its settings in one


class H264Settings(LossyOrLosslessVideo):
    """Settings of `h264`."""


class H264:
    """The codec. Takes video of 8 and 16 bits, the latter lossily in 10 bits; lossless coding is of RGB."""

    id = "h264"
    signal = "video"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = H264Settings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Video, settings: H264Settings, progress: Progress | None = None) -> Stream:
        """Compress a video, group by group; raises `UnsupportedMedia` for frames that the encoder does not take."""
        preset = {"preset": PRESETS[settings.effort - 1], **SAME_EVERYWHERE}
        if settings.lossless:
            refuse_lossless(signal)
            coding = Coding("libx264rgb", preset | {"qp": "0"}, "rgb24", _without_sei)
        else:
            crf = HIGHEST_CRF - (HIGHEST_CRF - LOWEST_CRF) * settings.quality / 100
            deep = (settings.depth or str(min(signal.bit_depth, 10))) == "10"
            options = preset | {"crf": f"{crf:.3f}"}
            coding = Coding("libx264", options, pixel_format(settings.chroma, deep), _without_sei)
        return encode_groups(self.id, signal, coding, settings.frames, progress)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Video:
        """Restore the video, whose frames are decoded as they are asked for; raises `CorruptStream`, here and then."""
        return decode_groups(stream, "h264", progress)


def _without_sei(packet: bytes) -> bytes:
    units = START.split(packet)[1:]
    return b"".join(b"\0\0\0\1" + unit for unit in units if unit[:1] and unit[0] & 31 != SEI)
