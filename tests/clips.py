"""Clips and video files for tests: small, moving, of every odd kind. The same ones every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

from laconic.codecs.signals import ArrayFrames, Samples, Video
from laconic.codecs.video.ffmpeg import ROUNDED, SAME_EVERYWHERE

__all__ = ["clip", "file_of", "sound"]


def clip(frames: int = 6, height: int = 48, width: int = 64, bits: int = 8, **facts: Any) -> Video:
    """Waves that move, all three channels different; white in the upper left corner."""
    time, y, x = np.mgrid[:frames, :height, :width]
    waves = [np.sin((x + 2 * time) / 9 + c) + np.cos((y - time) / (7 + c)) for c in range(3)]
    unit = 0.5 + 0.2 * np.stack(waves, axis=3)
    unit[:, : max(1, height // 4), : max(1, width // 4)] = 1
    array: Samples = np.round(unit * 255).astype(np.uint8) if bits == 8 else np.round(unit * 65535).astype(np.uint16)
    return Video(ArrayFrames(array), **facts)


def file_of(
    video: Video,
    muxer: str,
    encoder: str = "libx264",
    pixel_format: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    turn: tuple[float, bool] | None = None,
    **options: str,
) -> bytes:
    """A file as other tools write it: `stamps` in frames at the rate, `turn` in degrees counter-clockwise and a mirror."""
    file = io.BytesIO()
    container = cast(Any, av.open(file, "w", format=muxer))
    stream = container.add_stream(encoder, video.rate, options | (SAME_EVERYWHERE if encoder == "libx264" else {}))
    stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pixel_format
    if turn is not None:
        stream.set_display_rotation(turn[0], hflip=turn[1])
    for number, frame in enumerate(video.array):
        picture = cast(Any, av.VideoFrame).from_ndarray(frame, "rgb24" if video.bit_depth == 8 else "rgb48le")
        # Without `ROUNDED` swscale's vector code for 16 bits takes in memory that nobody wrote, and the file differs each time.
        picture = picture.reformat(format=pixel_format, interpolation=ROUNDED)
        picture.pts, picture.time_base = number if stamps is None else stamps[number], 1 / video.rate
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))
    container.close()
    return file.getvalue()


def sound(encoder: str = "aac", seconds: float = 0.3, muxer: str = "matroska", rate: int = 48_000) -> bytes:
    """A file with nothing but a tone, mono."""
    file = io.BytesIO()
    container = cast(Any, av.open(file, "w", format=muxer))
    stream = container.add_stream(encoder, rate)
    stream.layout = "mono"
    stream.codec_context.open()
    resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.codec_context.frame_size or 1024)
    tone = (0.3 * np.sin(np.arange(int(seconds * rate)) / 9)).astype(np.float32)[None]
    frame = cast(Any, av.AudioFrame).from_ndarray(tone, "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))
    container.close()
    return file.getvalue()
