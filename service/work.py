"""What may be asked of the service, from body to result: the same work for a request that waits and for a job."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from starlette.datastructures import QueryParams

from ..codecs import batches, container, media
from ..codecs.compress import Encoded
from ..codecs.errors import UnsupportedMedia
from ..codecs.limits import Limits
from ..codecs.signals import Audio, Image, Signal, Video
from .catalogue import Catalogue
from .exchange import Exchange
from .forms import OUTPUT_FORMATS, TYPES, VIDEO_TYPES, Forms
from .options import DecodeOptions, EncodeOptions, decode_options, encode_options
from .problems import JobNeeded, NotAcceptable
from .runtime import Runtime

__all__ = ["EXTENSIONS", "MEDIA_TYPE", "Decoding", "Encoding", "Result", "Work", "describe_stream", "work_of"]

MEDIA_TYPE = "application/vnd.laconic"
EXTENSIONS = {MEDIA_TYPE: ".lcn"} | {form.media_type: form.extension for form in OUTPUT_FORMATS.values()}
MEDIA_TYPES = {form.name: form.media_type for form in OUTPUT_FORMATS.values()}
COUNTED = ("mp4", "mov")  # formats that list their frames; of others the header's number is a guess
ALL_SAMPLES = "the sound's number of samples, of all channels"
ALL_FRAMES = "the video's number of pixels, of all frames"


@dataclass(frozen=True)
class Result:
    """A file, its media type, the codec that made it or that it was made with, and the bits per pixel of the .lcn file.

    `lost` are frames [start, stop) of a video, or samples of sound, that were damaged.
    """

    content: bytes
    media_type: str
    codec: str
    bpp: float
    lost: tuple[tuple[int, int], ...] = ()


class Work(Protocol):
    """Options that were found valid, and what to do with a body under them."""

    def check(self, body: bytes, runtime: Runtime) -> None:
        """Look at the body's first bytes; raises what `run` would raise for them."""
        ...

    async def run(self, exchange: Exchange, body: bytes) -> Result:
        """Do the work; raises a `LaconicError`."""
        ...


@dataclass(frozen=True)
class Encoding:
    """A picture, a video or sound is to become an .lcn file."""

    options: EncodeOptions

    def check(self, body: bytes, runtime: Runtime) -> None:
        """See `Work.check`."""
        runtime.media.read_header(body, runtime.limits)

    def check_may_wait(self, runtime: Runtime) -> None:
        """Raise `JobNeeded` for what nobody should wait for in a request."""
        if _fits(runtime, self.options.codec):
            raise JobNeeded(f"{self.options.codec} fits in steps, for longer than a request may take")

    async def run(self, exchange: Exchange, body: bytes) -> Result:
        """See `Work.run`."""
        runtime, options = exchange.runtime, self.options
        with exchange.place():
            header = await exchange.in_pool("read", runtime.media.read_header, body, runtime.limits)
            asked = runtime.coder.signal_of(options.codec)
            header = header._replace(frames=1) if asked == "image" else header  # of a GIF, whose first frame is a picture
            kind = "audio" if asked == "audio" else _kind(header)
            pixels = _most_pixels(header, kind, len(body), runtime.limits)
            plan = runtime.coder.encode_plan(options.codec, options.settings, options.target, pixels, kind)
            limits = runtime.limits if kind == "audio" else replace(runtime.limits, max_video_pixels=pixels)
            async with exchange.room(plan):
                signal = await exchange.in_media_pool("read", header.format, pixels, runtime.media.read, body, limits, asked)
                job = runtime.coder.encode_job(batches.Request(signal, options.codec, options.settings, options.target))
                if _fits(runtime, job.request.codec):
                    job = replace(job, checkpoint=exchange.checkpoint)
                del signal
                encoded = await exchange.on_device(job)
        assert isinstance(encoded, Encoded)
        return Result(encoded.data, MEDIA_TYPE, encoded.codec, encoded.bpp)


@dataclass(frozen=True)
class Decoding:
    """An .lcn file, or the part of it that the options say, is to become a media file of one of the `forms`."""

    forms: Forms
    options: DecodeOptions

    def check(self, body: bytes, runtime: Runtime) -> None:
        """See `Work.check`."""
        self._shape(body, runtime.limits)

    async def run(self, exchange: Exchange, body: bytes) -> Result:
        """See `Work.run`."""
        runtime, options = exchange.runtime, self.options
        with exchange.place():
            codec, shape, pixels, form = await exchange.in_pool("read", self._shape, body, runtime.limits)
            job = runtime.coder.decode_job(body, codec, pixels, options.excerpt)
            async with exchange.room(job.plan):
                signal = await exchange.on_device(job)
                assert isinstance(signal, Signal)
                writing = partial(_write, runtime, signal, form, options.quality)
                content = await exchange.in_media_pool("write", form, signal.pixels, writing)
        lost = signal.lost if isinstance(signal, Audio | Video) else ()
        units = math.prod(shape if isinstance(signal, Audio) else shape[:-1])
        return Result(content, MEDIA_TYPES[form], codec, 8 * len(body) / max(1, units), lost)

    def _shape(self, body: bytes, limits: Limits) -> tuple[str, tuple[int, ...], int, str]:
        """Return codec, shape, pixels to decode and the format to write; raises what is wrong with file, options or forms."""
        excerpt = self.options.excerpt
        codec, shape, groups, rate = _facts(body, limits, excerpt.salvage)
        kind = {2: "audio", 3: "image", 4: "video"}[len(shape)]
        if kind == "image":
            excerpt.check_kind(kind)
            return codec, shape, shape[0] * shape[1], self.forms.of(kind, 1)
        count, each = (shape[1], shape[0]) if kind == "audio" else (shape[0], shape[1] * shape[2])
        start, stop = excerpt.span(kind, count, rate)
        limit, what = ("max_samples", ALL_SAMPLES) if kind == "audio" else ("max_video_pixels", ALL_FRAMES)
        limits.check(limit, (stop - start) * each, what)
        touched = count if excerpt.is_whole else min(count, stop - start + 2 * math.ceil(count / max(1, groups)))
        return codec, shape, max(1, touched * each), self.forms.of(kind, stop - start)


def work_of(op: str, query: QueryParams, forms: str, catalogue: Catalogue) -> Work:
    """Return the work that `op` (encode or decode) is with these options; raises `InvalidSettings` for bad ones."""
    if op == "encode":
        return Encoding(encode_options(query, catalogue))
    return Decoding(Forms.parse(forms), decode_options(query))


def _fits(runtime: Runtime, codec: str) -> bool:
    """Whether a codec, which may be "auto", is one that fits in steps."""
    served = runtime.catalogue.served.get(codec)
    return served is not None and served.fits


def _kind(header: media.Header) -> str:
    """Return the kind of signal that a file holds; only of GIFs the format does not tell."""
    return "video" if header.frames > 1 else media.FORMATS[header.format].signal


def _most_pixels(header: media.Header, kind: str, size: int, limits: Limits) -> int:
    """Return a bound of the pixels of all frames of a file of so many bytes; raises `LimitExceeded` for too many.

    Of sound it is the number of samples that the file says, and of the sound of a video what a quarter of the limit allows.
    """
    pixels = header.height * header.width * header.frames
    if kind == "audio":
        return header.width * header.channels if _kind(header) == "audio" else limits.max_samples // 4
    if kind != "video":
        return pixels
    limits.check("max_video_pixels", pixels, ALL_FRAMES)
    if header.format in COUNTED:
        return pixels
    return min(size, limits.max_video_pixels) if header.format == "y4m" else limits.max_video_pixels


def _facts(body: bytes, limits: Limits, salvage: bool) -> tuple[str, tuple[int, ...], int, float | None]:
    """Return codec, shape, number of payload chunks, and rate of frames or samples (None of pictures) of an .lcn file."""
    if salvage:
        stream = container.read(body, limits, salvage=True)
        lasting = stream.video or stream.audio
        return stream.codec, stream.shape, len(stream.chunks), float(lasting.rate) if lasting else None
    found = describe_stream(body, limits)
    return found.codec, found.shape, sum(chunk.type == "payload" for chunk in found.chunks), found.rate


def describe_stream(body: bytes, limits: Limits) -> container.Description:
    """Describe an .lcn file; a body that does not begin as one is the wrong kind of media, not a damaged file."""
    if not container.is_laconic(body):
        raise UnsupportedMedia("the body is no .lcn file; media to compress go to /v1/encode")
    return container.describe(body, limits)


def _write(runtime: Runtime, signal: Signal, form: str, quality: int | None) -> bytes:
    """Return the media file; what the format cannot hold is no fault of the body."""
    if isinstance(signal, Video) and form not in {one.name for one in VIDEO_TYPES.values()}:
        signal = Image(signal.array[0])  # the one frame that was asked for
    try:
        return runtime.media.write(signal, form, quality)
    except UnsupportedMedia as error:
        others = TYPES.get(signal.kind, TYPES["image"])
        raise NotAcceptable(f"{error}; accept another of {', '.join(others)}") from error
