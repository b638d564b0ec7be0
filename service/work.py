"""What may be asked of the service, from body to result: the same work for a request that waits and for a job."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from starlette.datastructures import QueryParams

from ..codecs import batches, container, media
from ..codecs.compress import Encoded
from ..codecs.errors import UnsupportedMedia
from ..codecs.limits import Limits
from ..codecs.signals import Signal
from .catalogue import Catalogue
from .exchange import Exchange
from .options import EncodeOptions, decode_quality, encode_options
from .problems import NotAcceptable
from .runtime import Runtime

__all__ = ["EXTENSIONS", "MEDIA_TYPE", "OUTPUT_FORMATS", "Decoding", "Encoding", "Result", "Work", "describe_stream", "work_of"]

MEDIA_TYPE = "application/vnd.laconic"
OUTPUT_FORMATS = {form.media_type: form for form in media.FORMATS.values() if form.writes}
EXTENSIONS = {MEDIA_TYPE: ".lcn"} | {form.media_type: form.extension for form in OUTPUT_FORMATS.values()}


@dataclass(frozen=True)
class Result:
    """A file, its media type, the codec that made it or that it was made with, and the bits per pixel of the .lcn file."""

    content: bytes
    media_type: str
    codec: str
    bpp: float


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
    """A picture is to become an .lcn file."""

    options: EncodeOptions

    def check(self, body: bytes, runtime: Runtime) -> None:
        """See `Work.check`."""
        runtime.media.read_header(body, runtime.limits)

    async def run(self, exchange: Exchange, body: bytes) -> Result:
        """See `Work.run`."""
        runtime, options = exchange.runtime, self.options
        with exchange.place():
            header = await exchange.in_pool("read", runtime.media.read_header, body, runtime.limits)
            pixels = header.height * header.width
            async with exchange.room(runtime.coder.encode_plan(options.codec, options.settings, options.target, pixels)):
                signal = await exchange.in_media_pool("read", header.format, pixels, runtime.media.read, body, runtime.limits)
                job = runtime.coder.encode_job(batches.Request(signal, options.codec, options.settings, options.target))
                del signal
                encoded = await exchange.on_device(job)
        assert isinstance(encoded, Encoded)
        return Result(encoded.data, MEDIA_TYPE, encoded.codec, encoded.bpp)


@dataclass(frozen=True)
class Decoding:
    """An .lcn file is to become a media file of the format `form`, at `quality` where that is lossy."""

    form: str
    quality: int | None

    def check(self, body: bytes, runtime: Runtime) -> None:
        """See `Work.check`."""
        describe_stream(body, runtime.limits)

    async def run(self, exchange: Exchange, body: bytes) -> Result:
        """See `Work.run`."""
        runtime = exchange.runtime
        with exchange.place():
            header = await exchange.in_pool("read", describe_stream, body, runtime.limits)
            pixels = header.shape[0] * header.shape[1]
            job = runtime.coder.decode_job(body, header.codec, pixels)
            async with exchange.room(job.plan):
                signal = await exchange.on_device(job)
                assert isinstance(signal, Signal)
                writing = partial(_write, runtime, signal, self.form, self.quality)
                content = await exchange.in_media_pool("write", self.form, pixels, writing)
        return Result(content, media.FORMATS[self.form].media_type, header.codec, 8 * len(body) / pixels)


def work_of(op: str, query: QueryParams, form: str, catalogue: Catalogue) -> Work:
    """Return the work that `op` (encode or decode) is with these options; raises `InvalidSettings` for bad ones."""
    return Encoding(encode_options(query, catalogue)) if op == "encode" else Decoding(form, decode_quality(query))


def describe_stream(body: bytes, limits: Limits) -> container.Description:
    """Describe an .lcn file; a body that does not begin as one is the wrong kind of media, not a damaged file."""
    if not container.is_laconic(body):
        raise UnsupportedMedia("the body is no .lcn file; media to compress go to /v1/encode")
    return container.describe(body, limits)


def _write(runtime: Runtime, signal: Signal, form: str, quality: int | None) -> bytes:
    """Return the media file; what the format cannot hold is no fault of the body."""
    try:
        return runtime.media.write(signal, form, quality)
    except UnsupportedMedia as error:
        raise NotAcceptable(f"{error}; accept another of {', '.join(OUTPUT_FORMATS)}") from error
