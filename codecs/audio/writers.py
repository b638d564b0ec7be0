"""Sound to files, a block at a time: however long it is, little of it is in memory.

Samples are written with the bits that a format has: WAV holds 8, 16 and 24 bits and float32, FLAC 16 and 24 bits. Those of
other depths take the next of these, so that they sound the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
import numpy as np

from ..errors import UnsupportedMedia
from ..signals import Audio, AudioSamples
from ..sources import LAYOUTS
from ..video.ffmpeg import failures_are
from ..video.soundtrack import BITEXACT
from ..video.writers import Target

__all__ = ["WRITERS", "Encoding", "kbps_of", "tags_of", "write", "write_to"]

Writer = Callable[[Audio, BinaryIO, "int | None"], None]  # of sound to an open file at a quality
GOOD = 60  # the quality where none is asked for
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
AAC_RATES = (7_350, *MP3_RATES, 64_000, 88_200, 96_000)
OPUS_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
LAMBDA = 118  # FFmpeg's unit of quality
BLOCK = 16_384  # samples that are converted at a time


@dataclass(frozen=True)
class Encoding:
    """How a file is made: FFmpeg's muxer and encoder, the sample format, its options at a quality, and what it takes."""

    muxer: str
    encoder: Callable[[Audio], str]
    form: Callable[[Audio], str]
    options: Callable[[Audio, int], Mapping[str, str]] = lambda audio, quality: {}
    rates: tuple[int, ...] = ()  # none for all
    layouts: tuple[str, ...] = ()  # of 1, 2... channels, where not all are taken
    muxing: Callable[[int], Mapping[str, str]] = lambda rate: {}


def write(audio: Audio, format: str, quality: int | None = None) -> bytes:  # noqa: A002
    """Return sound as a file; as `write_to`."""
    file = io.BytesIO()
    write_to(audio, format, file, quality)
    return file.getvalue()


def write_to(audio: Audio, format: str, file: BinaryIO, quality: int | None = None) -> None:  # noqa: A002
    """Write sound to an open file that seeks, reading its samples once and in order.

    wav holds every sample of every `Audio`; flac those of integers. ogg and opus hold Opus, mp3 and m4a (AAC) what their
    names say, at a `quality` 0..100 (60 where not given), with the nearest higher rate that they have. npy holds samples C x N
    alone. Raises `UnsupportedMedia` for other formats, and for sound that a format cannot hold.
    """
    make = WRITERS.get(format)
    if make is None:
        raise UnsupportedMedia(f"sound is not written as {format}; {', '.join(WRITERS)} are")
    make(audio, file, quality)


def tags_of(audio: Audio) -> dict[str, str]:
    """Return what is said of the sound; nothing for tags of another form than `Audio` says."""
    try:
        tags = json.loads(audio.metadata.get("tags", b"{}"))
    except (ValueError, RecursionError):
        return {}
    plain = {name: text for name, text in tags.items() if isinstance(text, str)} if isinstance(tags, dict) else {}
    return {_clean(name): _clean(text) for name, text in plain.items() if _clean(name)}


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _encoded(encoding: Encoding) -> Writer:
    """Return what writes sound in a container."""

    def make(audio: Audio, file: BinaryIO, quality: int | None) -> None:
        target, encoder = Target(file), encoding.encoder(audio)
        if not audio.shape[1] and encoding.rates:
            raise UnsupportedMedia(f"{encoder} does not write sound without samples; wav, flac and npy files hold it")
        rate = _rate(audio.rate, encoding.rates)
        with (
            target.failing_first(),
            failures_are(UnsupportedMedia, f"{encoder} does not write this sound"),
            closing(_opened(target, encoding.muxer, encoding.muxing(rate))) as container,
        ):
            container.flags |= BITEXACT
            container.metadata.update(tags_of(audio))
            stream = container.add_stream(encoder, rate, dict(encoding.options(audio, GOOD if quality is None else quality)))
            stream.format, stream.layout = encoding.form(audio), _layout(audio, encoding.layouts)
            stream.codec_context.open()
            container.start_encoding()
            for frame in _frames(audio, stream, rate):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return make


def _opened(target: Any, muxer: str, options: Mapping[str, str]) -> Any:
    return av.open(target, "w", format=muxer, options=dict(options))


def _rate(rate: int, rates: tuple[int, ...]) -> int:
    """Return the rate itself where a format has it, or the next higher, or the highest."""
    return rate if not rates else next((known for known in rates if known >= rate), rates[-1])


def _layout(audio: Audio, layouts: tuple[str, ...]) -> str:
    """Return the layout where a format takes it, or what it takes of as many channels."""
    channels = audio.shape[0]
    if layouts and channels > len(layouts):
        raise UnsupportedMedia(f"the format holds {len(layouts)} channels at most, and this is sound of {channels}")
    if layouts:
        return layouts[channels - 1]
    with failures_are(UnsupportedMedia, f"no layout is called {audio.layout}"):
        try:
            known = av.AudioLayout(audio.layout).nb_channels == channels
        except ValueError:
            known = False
    return audio.layout if known else LAYOUTS[channels - 1]


def _frames(audio: Audio, stream: Any, rate: int) -> Iterator[Any]:
    """Yield FFmpeg's frames of all samples, in the stream's form, of the length that its encoder wants."""
    resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.codec_context.frame_size or BLOCK)
    at = 0
    for block in _blocks(audio):
        values, form = _values(block, audio.bits, stream.format.name)
        packed = np.ascontiguousarray(values.T).reshape(1, -1)
        frame = cast(Any, av.AudioFrame).from_ndarray(packed, form, stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = audio.rate, at, Fraction(1, audio.rate)
        at += block.shape[1]
        yield from resampler.resample(frame)
    if at:
        yield from resampler.resample(None)


def _blocks(audio: Audio) -> Iterator[AudioSamples]:
    for block in audio.source.read(0, audio.shape[1]):
        for start in range(0, block.shape[1], BLOCK):
            yield block[:, start : start + BLOCK]


def _values(block: AudioSamples, bits: int, form: str) -> tuple[Any, str]:
    """Return samples as FFmpeg has them, packed, and its name of their form: integers fill their type from the top."""
    packed = form.removesuffix("p")
    if bits == 32:
        return block, "flt"  # and other forms are FFmpeg's to make, which clips
    if packed == "u8" and bits == 8:
        return (block + 128).astype(np.uint8), "u8"
    if bits <= 16 and packed != "s32":
        return block.astype(np.int16) << (16 - bits), "s16"
    return block.astype(np.int32) << (32 - bits), "s32"


def _npy(audio: Audio, file: BinaryIO, quality: int | None) -> None:
    array = audio.array
    np.lib.format.write_array_header_1_0(
        file, {"descr": array.dtype.newbyteorder("<").str, "fortran_order": False, "shape": array.shape}
    )
    file.write(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _wav_encoder(audio: Audio) -> str:
    return {8: "pcm_u8", 32: "pcm_f32le"}.get(audio.bits, "pcm_s16le" if audio.bits <= 16 else "pcm_s24le")


def _wav_form(audio: Audio) -> str:
    return {8: "u8", 32: "flt"}.get(audio.bits, "s16" if audio.bits <= 16 else "s32")


def _flac_form(audio: Audio) -> str:
    if audio.bits == 32:
        raise UnsupportedMedia("flac files hold integers, not float32: wav does; scale to 24 bits for flac")
    return "s16" if audio.bits <= 16 else "s32"


def kbps_of(quality: float, channels: int) -> float:
    """Return the kbit/s of Opus at a quality 0..100: 6 to 160 a channel, evenly by ear."""
    return float(channels * 6 * (160 / 6) ** (quality / 100))


def _bits_a_second(audio: Audio, quality: int, least: int, most: int) -> Mapping[str, str]:
    return {"b": str(round(1000 * min(max(kbps_of(quality, audio.shape[0]), least), most)))}


OPUS = Encoding(
    "ogg",
    lambda audio: "libopus",
    lambda audio: "flt",
    lambda audio, quality: {
        **_bits_a_second(audio, quality, 6, 256 * audio.shape[0]),
        "mapping_family": str(int(audio.shape[0] > 2)),  # left open, FFmpeg mistakes the order of 5 and 7 channels
    },
    (48_000,),
    OPUS_LAYOUTS,
)
MP3 = Encoding(
    "mp3",
    lambda audio: "libmp3lame",
    lambda audio: "fltp",
    lambda audio, quality: {"flags": "+qscale", "global_quality": str(round(LAMBDA * (9 - 0.09 * quality)))},
    MP3_RATES,
    ("mono", "stereo"),
)
M4A = Encoding(
    "ipod",
    lambda audio: "aac",
    lambda audio: "fltp",
    lambda audio, quality: _bits_a_second(audio, quality, 16, 256 * audio.shape[0]),
    AAC_RATES,
    ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1"),
    lambda rate: {"movie_timescale": str(rate)},
)
WRITERS: dict[str, Writer] = {
    "wav": _encoded(Encoding("wav", _wav_encoder, _wav_form, muxing=lambda rate: {"rf64": "auto"})),
    "flac": _encoded(Encoding("flac", lambda audio: "flac", _flac_form)),
    "ogg": _encoded(OPUS),
    "opus": _encoded(OPUS),
    "mp3": _encoded(MP3),
    "m4a": _encoded(M4A),
    "npy": _npy,
}
