"""Videos to files, a frame at a time: however long a video is, little of it is in memory.

Frames of 8 bits become 4:2:0 of 8 bits, which every player takes, and frames of 16 bits 4:2:0 of 10 bits. H.264 has no 4:2:0 of
odd sizes: there it is 4:4:4, so that the size stays. Colour is converted and labelled as `Video.colour` says.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
import numpy as np

from ..errors import UnsupportedMedia
from ..image import writers as pictures
from ..signals import TICKS, Colour, Video
from .ffmpeg import SAME_EVERYWHERE, failures_are, frame_of_rgb, open_encoder, tagged
from .soundtrack import BITEXACT, sound_for

__all__ = ["WRITERS", "Encoding", "Target", "write", "write_to"]

Writer = Callable[[Video, BinaryIO, int], None]  # of a video to an open file at a quality
THREADS = 4  # of an encoder: with another number its bytes are others
VISUALLY_LOSSLESS = 80  # the quality where none is asked for: x264's crf 17
STILL = (1980, 1, 1, 0, 0, 0)  # the date of every file in an archive


@dataclass(frozen=True)
class Encoding:
    """How a container is filled: FFmpeg's muxer, the encoder, its options at a quality 0..100, and what sound it holds.

    An encoder of `rgb` keeps every sample.
    """

    muxer: str
    encoder: str
    options: Callable[[int], Mapping[str, str]]
    odd_420: bool
    sound: frozenset[str] | None  # kinds that are copied; None for all
    other_sound: str = ""  # the encoder for the rest
    rgb: bool = False

    def pixel_format(self, video: Video) -> str:
        """Return the pixel format for a video's size and depth."""
        if self.rgb:
            return "bgr0" if video.bit_depth == 8 else "gbrp16le"
        odd = video.shape[1] % 2 or video.shape[2] % 2
        form = "yuv444p" if odd and not self.odd_420 else "yuv420p"
        return form if video.bit_depth == 8 else form + "10le"


def write(video: Video, format: str, quality: int | None = None) -> bytes:  # noqa: A002
    """Return a video as a file; as `write_to`."""
    file = io.BytesIO()
    write_to(video, format, file, quality)
    return file.getvalue()


def write_to(video: Video, format: str, file: BinaryIO, quality: int | None = None) -> None:  # noqa: A002
    """Write a video to an open file that seeks, reading its frames once and in order.

    mp4 and mkv hold H.264, webm VP9 (AV1 for 16 bits), at a `quality` 0..100 (80 where not given); y4m, npy and zip (numbered
    PNGs) hold frames alone, without sound and times. ffv1 is a Matroska file that keeps every sample, and times to a
    millisecond. Raises `UnsupportedMedia` for other formats, and what reading the frames raises.
    """
    make = WRITERS.get(format)
    if make is None:
        raise UnsupportedMedia(f"a video is not written as {format}; {', '.join(WRITERS)} are; a frame of it is a picture")
    make(video, file, VISUALLY_LOSSLESS if quality is None else quality)


def _encoded(encoding: Encoding) -> Writer:
    """Return what writes videos in a container."""

    def make(video: Video, file: BinaryIO, quality: int) -> None:
        target = Target(file)
        with (
            target.failing_first(),
            failures_are(UnsupportedMedia, f"{encoding.encoder} does not write this video"),
            closing(cast(Any, av.open(target, "w", format=encoding.muxer))) as container,
        ):
            container.flags |= BITEXACT
            stream = container.add_stream(encoding.encoder, video.rate, dict(encoding.options(quality)))
            stream.height, stream.width = video.shape[1:3]
            stream.pix_fmt = encoding.pixel_format(video)
            stream.codec_context.time_base = 1 / video.rate if video.times is None else Fraction(1, TICKS)
            stream.codec_context.thread_count = THREADS
            tagged(stream.codec_context, stream.pix_fmt, video.colour)
            open_encoder(stream.codec_context)
            with sound_for(video.metadata.get("audio"), container, encoding.sound, encoding.other_sound) as sound:
                for packet in _packets(video, stream):
                    sound.until(packet.dts * packet.time_base)
                    container.mux(packet)
                sound.until(None)

    return make


class Target:
    """An open file as PyAV uses it, which must not see its name or close it, and loses what it raises."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._failure = file, cast(OSError | None, None)
        self.seek, self.tell = file.seek, file.tell

    def write(self, content: bytes) -> int:
        """Write, and remember a failure."""
        try:
            return self._file.write(content)
        except OSError as error:
            self._failure = error
            raise

    @contextmanager
    def failing_first(self) -> Iterator[None]:
        """Raise what the file raised, if it did, and not what PyAV made of it."""
        try:
            yield
        except Exception as error:
            if self._failure is not None:
                raise self._failure from error
            raise


def _packets(video: Video, stream: Any) -> Iterator[Any]:
    """Yield the packets of all frames."""
    for number, frame in enumerate(video.source.read(0, video.shape[0])):
        picture = cast(Any, frame_of_rgb(frame, stream.pix_fmt, video.colour))
        picture.time_base = 1 / video.rate if video.times is None else Fraction(1, TICKS)
        picture.pts = number if video.times is None else int(video.times[number])
        yield from stream.encode(picture)
    yield from stream.encode(None)


def _y4m(video: Video, file: BinaryIO, quality: int) -> None:
    """Write YUV4MPEG2 of 4:4:4 in BT.601, as a reader takes it that knows nothing more."""
    _, height, width = video.shape[:3]
    deep = video.bit_depth == 16
    rate = f"{video.rate.numerator}:{video.rate.denominator}"
    form, colour = ("yuv444p16le", "444p16") if deep else ("yuv444p", "444")
    file.write(f"YUV4MPEG2 W{width} H{height} F{rate} Ip A0:0 C{colour} XYSCSS={colour.upper()} XCOLORRANGE=LIMITED\n".encode())
    for frame in video.source.read(0, video.shape[0]):
        planes = cast(Any, frame_of_rgb(frame, form, Colour())).to_ndarray()
        planes = np.moveaxis(planes, -1, 0) if planes.shape[-1] == 3 and planes.shape[0] != 3 else planes
        file.write(b"FRAME\n" + np.ascontiguousarray(planes).tobytes())


def _npy(video: Video, file: BinaryIO, quality: int) -> None:
    descr = "|u1" if video.bit_depth == 8 else "<u2"
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": video.shape})
    for frame in video.source.read(0, video.shape[0]):
        file.write(np.ascontiguousarray(frame).astype(descr, copy=False).tobytes())


def _zip(video: Video, file: BinaryIO, quality: int) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(video.source.read(0, video.shape[0])):
            archive.writestr(zipfile.ZipInfo(f"{number:06}.png", STILL), pictures.png(frame))


def _x264(quality: int) -> Mapping[str, str]:
    return {"crf": f"{51 - 0.425 * quality:.1f}", "preset": "fast", **SAME_EVERYWHERE}


def _vp9(quality: int) -> Mapping[str, str]:
    return {"crf": str(round(63 - 0.56 * quality)), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}


def _av1(quality: int) -> Mapping[str, str]:
    return {"crf": str(max(1, round(63 - 0.56 * quality))), "preset": "8"}


def _by_depth(usual: Writer, deep: Writer) -> Writer:
    """Return what writes videos of 8 bits and of 16 in two ways."""
    return lambda video, file, quality: (usual if video.bit_depth == 8 else deep)(video, file, quality)


IN_WEBM = frozenset({"opus", "vorbis"})
IN_MP4 = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
WRITERS: dict[str, Writer] = {
    "mp4": _encoded(Encoding("mp4", "libx264", _x264, False, IN_MP4, "aac")),
    "webm": _by_depth(
        _encoded(Encoding("webm", "libvpx-vp9", _vp9, True, IN_WEBM, "libopus")),
        _encoded(Encoding("webm", "libsvtav1", _av1, True, IN_WEBM, "libopus")),  # as VP9 is built here without 10 bits
    ),
    "mkv": _encoded(Encoding("matroska", "libx264", _x264, False, None)),
    "ffv1": _encoded(Encoding("matroska", "ffv1", lambda quality: {}, True, None, rgb=True)),
    "y4m": _y4m,
    "npy": _npy,
    "zip": _zip,
}
