"""Sound to bytes and back with encoders of FFmpeg, for codecs that a measurement compares ours with.

The size is that of the packets: what holds them in a file (Ogg, MP4) is not counted, though it is what tells the decoder how
many samples of delay to take off. Times are CPU seconds, of this process, without resampling.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["AAC", "OPUS_MUSIC", "OPUS_SPEECH", "Coded", "Encoder", "Sound", "code", "resampled"]

Sound = NDArray[np.int16]  # [C, N], mono or stereo


@dataclass(frozen=True)
class Encoder:
    """An encoder of FFmpeg: its name, what holds its packets, its options, and the sample format and rate that it takes."""

    name: str
    container: str
    options: Mapping[str, str]
    kind: str
    rate: int | None = None  # None: any


@dataclass(frozen=True)
class Coded:
    """What came of one sound: bytes, the decoded samples, and CPU seconds; `nominal` is kbit/s without entropy coding."""

    size: int
    decoded: Sound
    encode: float | None = None
    decode: float | None = None
    nominal: float | None = None


OPUS_SPEECH = Encoder("libopus", "ogg", {"application": "voip", "compression_level": "10", "vbr": "on"}, "s16")
OPUS_MUSIC = Encoder("libopus", "ogg", {"application": "audio", "compression_level": "10", "vbr": "on"}, "s16", 48_000)
AAC = Encoder("aac", "mp4", {}, "fltp")  # FFmpeg's own encoder, low complexity profile


def resampled(samples: Sound, rate: int, wanted: int, kind: str = "s16") -> NDArray[Any]:
    """Return samples [C, N] at another rate and in another sample format of FFmpeg's, as [C, N'] all the same."""
    layout = "mono" if samples.shape[0] == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16p", layout=layout)
    frame.sample_rate = rate
    resampler = av.AudioResampler(av.AudioFormat(kind).planar.name, layout, wanted)
    parts = [part.to_ndarray() for part in [*resampler.resample(frame), *resampler.resample(None)]]
    return np.concatenate(parts, axis=1)


def _encoded(encoder: Encoder, samples: NDArray[Any], rate: int, kbps: float) -> tuple[io.BytesIO, int]:
    """Return a file and the bytes of its packets."""
    file, size = io.BytesIO(), 0
    layout = "mono" if samples.shape[0] == 1 else "stereo"
    planar = av.AudioFormat(encoder.kind).is_planar
    data = np.ascontiguousarray(samples) if planar else np.ascontiguousarray(samples.T).reshape(1, -1)
    with av.open(file, "w", format=encoder.container) as container:
        stream: Any = container.add_stream(encoder.name, rate=rate, layout=layout)
        stream.bit_rate = round(kbps * 1000)
        stream.options = dict(encoder.options)
        frame = av.AudioFrame.from_ndarray(data, format=encoder.kind, layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            size += packet.size
            container.mux(packet)
    file.seek(0)
    return file, size


def code(encoder: Encoder, sound: Sound, rate: int, kbps: float) -> Coded:
    """Code a sound at about `kbps` in all, and decode it, aligned and of the same length, rate and layout."""
    inside = encoder.rate or rate
    given = resampled(sound, rate, inside, encoder.kind)
    began = time.process_time()
    file, size = _encoded(encoder, given, inside, kbps)
    encoded = time.process_time()
    with av.open(file, "r") as container:
        frames = list(container.decode(audio=0))
    ended = time.process_time()
    layout = "mono" if sound.shape[0] == 1 else "stereo"
    resampler = av.AudioResampler("s16p", layout, rate)
    parts = [part for frame in frames for part in resampler.resample(frame)] + resampler.resample(None)
    decoded = np.concatenate([part.to_ndarray() for part in parts], axis=1)
    decoded = np.pad(decoded, ((0, 0), (0, max(0, sound.shape[1] - decoded.shape[1]))))[:, : sound.shape[1]]
    return Coded(size, decoded.astype(np.int16), encoded - began, ended - encoded)
