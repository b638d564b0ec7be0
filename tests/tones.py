"""Sound for tests: tones of every odd kind, the same ones every time, and files as other tools write them."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

from laconic.codecs.signals import Audio, AudioSamples

__all__ = ["file_of_sound", "snr", "tone"]


def tone(channels: int = 1, samples: int = 4800, bits: int = 16, rate: int = 48_000, first: float = 40.0) -> Audio:
    """A tone of its own in each channel, 15 Hz apart from `first` on, at two fifths of the full range."""
    time = np.arange(samples) / rate
    waves = np.stack([0.4 * np.sin(2 * np.pi * (first + 15 * channel) * time + channel) for channel in range(channels)])
    if bits == 32:
        return Audio.of(waves.astype(np.float32), rate)
    whole = np.round(waves * 2 ** (bits - 1))
    array: AudioSamples = whole.astype(np.int16) if bits <= 16 else whole.astype(np.int32)
    return Audio.of(array, rate, bits)


def snr(reference: AudioSamples, decoded: AudioSamples) -> float:
    """The ratio of signal to noise in dB."""
    error = reference.astype(np.float64) - decoded
    return float(10 * np.log10((reference.astype(np.float64) ** 2).sum() / max(float((error**2).sum()), 1e-12)))


def file_of_sound(audio: Audio, muxer: str, encoder: str, video: bool = False, **options: str) -> bytes:
    """A file as FFmpeg writes it, with its own names of tags and its own choice of sample format; with a picture if asked."""
    file = io.BytesIO()
    with cast(Any, av.open(file, "w", format=muxer)) as container:
        stream = container.add_stream(encoder, audio.rate, options)
        stream.layout = audio.layout
        stream.codec_context.open()
        shown = container.add_stream("mpeg4", 25) if video else None
        if shown is not None:
            shown.width = shown.height = 32
            picture = cast(Any, av.VideoFrame).from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            picture.pts, picture.time_base = 0, Fraction(1, 25)
            container.mux([*shown.encode(picture.reformat(format="yuv420p")), *shown.encode(None)])
        form = {"int16": "s16", "int32": "s32", "float32": "flt"}[audio.array.dtype.name]
        full = audio.array << 32 - audio.bits if form == "s32" else audio.array  # type: ignore[operator]
        packed = np.ascontiguousarray(full.T).reshape(1, -1)
        frame = cast(Any, av.AudioFrame).from_ndarray(packed, form, audio.layout)
        frame.sample_rate, frame.pts, frame.time_base = audio.rate, 0, Fraction(1, audio.rate)
        resampler = av.AudioResampler(stream.format, stream.layout, audio.rate, stream.codec_context.frame_size or 4096)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()
