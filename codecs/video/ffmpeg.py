"""Frames to a video encoder's packets and back, by FFmpeg through PyAV: what media files and conventional codecs share.

Samples are RGB on our side and mostly YUV on the encoder's. swscale converts; which of its ways are exact was measured:
8-bit 4:2:0 of even size has a path of its own, which leaves out the last column of odd sizes; the general one for
8 bits shifts chroma unless it interpolates it fully; to interleaved 16-bit RGB it is wrong in the last rows.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import Interpolation

from ..errors import CorruptStream, LaconicError, UnsupportedMedia
from ..signals import Colour, Samples
from ..varint import read_varint, varint

__all__ = [
    "MATRICES",
    "SAME_EVERYWHERE",
    "decode_frames",
    "encode_frames",
    "failures_are",
    "frame_of_rgb",
    "is_deep",
    "open_encoder",
    "parts_of",
    "rgb_of_frame",
    "tagged",
]

RGB, BT709, NOT_SAID, FCC, BT601_625, BT601_525, SMPTE240, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9  # matrices of ITU-T H.273
MATRICES = {BT709: 1, NOT_SAID: 5, FCC: 4, BT601_625: 5, BT601_525: 5, SMPTE240: 7, BT2020: 9}  # as swscale numbers them
PRIMARIES, TRANSFERS = {1, *range(4, 13), 22}, {1, *range(4, 19)}  # of H.273: encoders refuse others
LIMITED, FULL = 1, 2  # FFmpeg's numbers of ranges
PLAIN = Interpolation.BICUBIC
ROUNDED = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
ACCURATE = ROUNDED | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
LENGTH_BYTES = 4  # of a varint
TASKS = Path("/proc/self/task")
# An option of x264: else its macroblock tree reads memory that nobody wrote, on processors with AVX-512, and bytes vary.
SAME_EVERYWHERE = {"x264-params": "cpu-independent=1"}

os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 writes to standard error by itself, and can be told otherwise only here


@contextlib.contextmanager
def failures_are(error: type[LaconicError], what: str) -> Iterator[None]:
    """Turn what FFmpeg and PyAV raise for bad bytes or arguments into `error`, with `what` before their words.

    What a file of ours raises, such as a disk that is full, passes.
    """
    try:
        yield
    except LaconicError:
        raise
    except (av.error.FFmpegError, ArithmeticError, AssertionError, LookupError, RuntimeError) as failure:
        raise error(f"{what}: {_words(failure)}") from failure
    except (MemoryError, TypeError, ValueError) as failure:
        raise error(f"{what}: {_words(failure)}") from failure


def encode_frames(
    frames: Iterable[Samples],
    rate: Fraction,
    encoder: str,
    options: Mapping[str, str],
    pixel_format: str,
    colour: Colour,
    threads: int = 1,
    stripped: Callable[[bytes], bytes] = bytes,
) -> bytes:
    """Return what an encoder makes of frames, each uint8 or uint16 RGB of (H, W, 3), all of one size and at least one.

    `encoder` and `pixel_format` are FFmpeg's names ("libx264", "yuv420p"), `options` the encoder's own. The bytes are the
    encoder's extradata and then its packets, each with its length before it as a varint: no container, so little is added.
    `stripped` takes from a packet what decoding does without. Raises `UnsupportedMedia` where the encoder refuses.
    """
    with failures_are(UnsupportedMedia, f"{encoder} does not encode these frames"):
        first, rest = _first_and_all(frames)
        context = cast(Any, av.CodecContext.create(encoder, "w"))
        context.height, context.width = first.shape[:2]
        context.pix_fmt, context.framerate, context.time_base = pixel_format, rate, 1 / rate
        context.thread_count, context.options = threads, dict(options)
        tagged(context, pixel_format, colour)
        open_encoder(context)
        packets = []
        for index, frame in enumerate(rest):
            picture = frame_of_rgb(frame, pixel_format, colour)
            picture.pts, picture.time_base = index, 1 / rate
            packets += context.encode(picture)
        packets += context.encode(None)
        parts = [context.extradata or b"", *(stripped(bytes(packet)) for packet in packets)]
        return b"".join(varint(len(part)) + part for part in parts)


def open_encoder(context: Any) -> None:
    """Open an encoder, and leave every thread at the priority that it had.

    SVT-AV1 in a process of root takes the highest real-time priority for its threads and for the calling one, for good: on
    their processors nothing else would run.
    """
    before = _policies()
    context.open()
    for thread, policy in _policies().items():
        earlier = before.get(thread, before.get(threading.get_native_id(), policy))
        if policy != earlier:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, earlier, os.sched_param(0))


def decode_frames(
    blob: bytes, decoder: str, shape: tuple[int, ...], bit_depth: int, colour: Colour, threads: int = 1
) -> Iterator[Samples]:
    """Yield the frames that `encode_frames` took, as FFmpeg's `decoder` ("h264", "hevc", "libdav1d") restores them.

    `shape` is (T, H, W, 3), and more frames or larger ones are not decoded; `bit_depth` is 8 or 16, `colour` as it was given
    to the encoder. Raises `CorruptStream` for other bytes than an encoder's, and for another number or size of frames.
    """
    count, height, width = shape[:3]
    given = 0
    with failures_are(CorruptStream, "the encoded frames are damaged"):
        extradata, *packets = parts_of(blob)
        context = cast(Any, av.CodecContext.create(decoder, "r"))
        context.thread_count, context.height, context.width = threads, height, width  # of which some streams say nothing
        # A decoder takes the memory of whole blocks, so that a frame may be larger than it looks.
        context.options = {"max_pixels": str((height + 256) * (width + 256)), "err_detect": "explode"}
        if extradata:
            context.extradata = extradata
        for packet in [*packets, None]:
            for picture in context.decode(packet and av.Packet(packet)):
                if given == count or (picture.height, picture.width) != (height, width) or picture.is_corrupt:
                    raise CorruptStream(f"the encoded frames are not {count} of {height} x {width} pixels")
                given += 1
                yield rgb_of_frame(picture, colour, bit_depth, ACCURATE)
        if given < count:
            raise CorruptStream(f"{given} of {count} encoded frames are there")


def tagged(context: Any, pixel_format: str, colour: Colour) -> None:
    """Label what an encoder or stream makes: a matrix that is not said is the one that we convert with, BT.601."""
    rgb = _is_rgb(pixel_format)
    context.color_range = FULL if rgb or colour.full_range else LIMITED
    said = colour.matrix in MATRICES and colour.matrix != NOT_SAID
    context.colorspace = RGB if rgb else colour.matrix if said else BT601_525
    context.color_primaries = colour.primaries if colour.primaries in PRIMARIES else NOT_SAID
    context.color_trc = colour.transfer if colour.transfer in TRANSFERS else NOT_SAID


def frame_of_rgb(array: Samples, pixel_format: str, colour: Colour) -> av.VideoFrame:
    """Return a frame (H, W, 3) of uint8 or uint16 as FFmpeg's, in another pixel format."""
    frame = cast(Any, av.VideoFrame).from_ndarray(np.ascontiguousarray(array), "rgb24" if array.itemsize == 1 else "rgb48le")
    converted = frame.reformat(
        format=pixel_format,
        dst_colorspace=MATRICES.get(colour.matrix, MATRICES[NOT_SAID]),
        dst_color_range=FULL if colour.full_range and not _is_rgb(pixel_format) else LIMITED,
        interpolation=ROUNDED,
        threads=1,
    )
    return cast(av.VideoFrame, converted)


def rgb_of_frame(frame: Any, colour: Colour, bit_depth: int, interpolation: Interpolation | None = None) -> Samples:
    """Return FFmpeg's frame as RGB (H, W, 3): uint8, or uint16 of which 65535 is white whatever bits the frame has.

    Without an `interpolation` 8-bit 4:2:0 becomes what FFmpeg's own tools make of it.
    """
    even = frame.height % 2 == 0 and frame.width % 2 == 0
    converted = frame.reformat(
        format="rgb24" if bit_depth == 8 else "gbrp16le",
        src_colorspace=MATRICES.get(colour.matrix, MATRICES[NOT_SAID]),
        src_color_range=FULL if colour.full_range else LIMITED,
        interpolation=interpolation or (PLAIN if even and bit_depth == 8 and not is_deep(frame.format) else ACCURATE),
        threads=1,
    )
    return cast(Samples, converted.to_ndarray())


def is_deep(form: Any) -> bool:
    """Whether a pixel format (`av.VideoFormat`) has more than 8 bits per sample."""
    return max((component.bits for component in form.components), default=8) > 8


def _policies() -> dict[int, int]:
    """Return the scheduling policy of each thread of this process, or of this thread where the system tells no others."""
    try:
        threads = [int(task.name) for task in TASKS.iterdir()]
    except OSError:  # another system than Linux, or a process that may open no more files
        threads = [threading.get_native_id()] if hasattr(os, "sched_getscheduler") else []
    found: dict[int, int] = {}
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.sched_getscheduler(thread)
    return found


def _is_rgb(pixel_format: str) -> bool:
    return bool(av.VideoFormat(pixel_format).is_rgb)


def _words(failure: BaseException) -> str:
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


def _first_and_all(frames: Iterable[Samples]) -> tuple[Samples, Iterator[Samples]]:
    rest = iter(frames)
    first = next(rest)
    return first, itertools.chain([first], rest)


def parts_of(blob: bytes) -> list[bytes]:
    """Return the parts of a blob, each of which has its length before it; raises `CorruptStream`."""
    parts, at = [], 0
    while at < len(blob):
        length, at = read_varint(blob, at, "the length of an encoded frame", LENGTH_BYTES)
        if length > len(blob) - at:
            raise CorruptStream("an encoded frame ends too early")
        parts.append(blob[at : at + length])
        at += length
    if not parts:
        raise CorruptStream("there are no encoded frames")
    return parts
