"""Routes that code: /v1/encode, /v1/decode and /v1/inspect, from raw body to raw answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..codecs import batches, container, media
from ..codecs.compress import Encoded
from ..codecs.errors import LaconicError, UnsupportedMedia
from ..codecs.limits import Limits
from ..codecs.signals import Signal
from .exchange import Exchange
from .negotiation import choose, content_disposition, stem
from .options import EncodeOptions, decode_quality, encode_options, entity_tag, no_options
from .problems import NotAcceptable
from .runtime import Runtime

__all__ = ["MEDIA_TYPE", "OUTPUT_FORMATS", "router"]

MEDIA_TYPE = "application/vnd.laconic"
OUTPUT_FORMATS = {form.media_type: form for form in media.FORMATS.values() if form.writes}

router = APIRouter()


@router.post("/v1/encode")
async def encode(request: Request) -> Response:
    """Compress the picture in the body to an .lcn file."""
    runtime: Runtime = request.app.state.runtime
    options = encode_options(request.query_params, runtime.check_accepting())
    exchange = Exchange(runtime)
    async with runtime.bodies.read(request.headers, request.receive) as body:
        tag = await runtime.in_pool(entity_tag, body, "encode", options, runtime.catalogue.identity)
        if _is_current(request, tag):
            return _not_modified(tag)
        encoded = await exchange.finish(_encode(exchange, body, options), request.receive)
    runtime.metrics.coded(encoded.codec, len(body), len(encoded.data), exchange.spans)
    _note(request, codec=encoded.codec, bytes_in=len(body), bytes_out=len(encoded.data))
    headers = {
        "ETag": tag,
        "X-Laconic-Codec": encoded.codec,
        "X-Laconic-Bpp": f"{encoded.bpp:.5f}",
        "Server-Timing": exchange.server_timing(),
        "Content-Disposition": content_disposition(_stem(request) + ".lcn"),
    }
    return Response(encoded.data, headers=headers, media_type=MEDIA_TYPE)


async def _encode(exchange: Exchange, body: bytes, options: EncodeOptions) -> Encoded:
    runtime = exchange.runtime
    with runtime.owner.place():
        header = await exchange.in_pool("read", media.read_header, body, runtime.limits)
        async with exchange.room(header.height * header.width):
            signal = await exchange.in_pool("read", media.read, body, runtime.limits)
            job = runtime.coder.encode_job(batches.Request(signal, options.codec, options.settings, options.target))
            del signal
            outcome = await exchange.on_device(job)
    assert isinstance(outcome, Encoded)
    return outcome


@router.post("/v1/decode")
async def decode(request: Request) -> Response:
    """Restore the picture of the .lcn file in the body, in the form that Accept asks for."""
    runtime: Runtime = request.app.state.runtime
    catalogue = runtime.check_accepting()
    quality = decode_quality(request.query_params)
    form = OUTPUT_FORMATS[choose(request.headers.get("accept", "*/*"), list(OUTPUT_FORMATS))]
    exchange = Exchange(runtime)
    async with runtime.bodies.read(request.headers, request.receive) as body:
        tag = await runtime.in_pool(entity_tag, body, "decode", form.name, quality, catalogue.identity)
        if _is_current(request, tag):
            return _not_modified(tag, {"Vary": "Accept"})
        try:
            codec, shape, result = await exchange.finish(_decode(exchange, body, form.name, quality), request.receive)
        except LaconicError as error:
            runtime.metrics.decode_errors.labels(error.code).inc()
            raise
    runtime.metrics.coded(codec, len(body), len(result), exchange.spans)
    _note(request, codec=codec, bytes_in=len(body), bytes_out=len(result))
    headers = {
        "ETag": tag,
        "Vary": "Accept",
        "X-Laconic-Codec": codec,
        "X-Laconic-Bpp": f"{8 * len(body) / (shape[0] * shape[1]):.5f}",
        "Server-Timing": exchange.server_timing(),
        "Content-Disposition": content_disposition(_stem(request) + form.extension),
    }
    return Response(result, headers=headers, media_type=form.media_type)


async def _decode(exchange: Exchange, body: bytes, form: str, quality: int | None) -> tuple[str, tuple[int, ...], bytes]:
    """Return the codec, the shape and the media file."""
    runtime = exchange.runtime
    with runtime.owner.place():
        header = await exchange.in_pool("read", _describe, body, runtime.limits)
        job = runtime.coder.decode_job(body, header.codec)
        async with exchange.room(header.shape[0] * header.shape[1]):
            signal = await exchange.on_device(job)
            assert isinstance(signal, Signal)
            result = await exchange.in_pool("write", _write, signal, form, quality)
    return header.codec, header.shape, result


def _describe(body: bytes, limits: Limits) -> container.Description:
    """Describe an .lcn file; a body that does not begin as one is the wrong kind of media, not a damaged file."""
    if not container.is_laconic(body):
        raise UnsupportedMedia("the body is no .lcn file; media to compress go to /v1/encode")
    return container.describe(body, limits)


def _write(signal: Signal, form: str, quality: int | None) -> bytes:
    """Return the media file; what the format cannot hold is no fault of the body."""
    try:
        return media.write(signal, form, quality)
    except UnsupportedMedia as error:
        raise NotAcceptable(f"{error}; accept another of {', '.join(OUTPUT_FORMATS)}") from error


@router.post("/v1/inspect")
async def inspect(request: Request) -> Response:
    """Describe the .lcn file in the body without decoding it."""
    runtime: Runtime = request.app.state.runtime
    no_options(request.query_params)
    async with runtime.bodies.read(request.headers, request.receive) as body:
        description = await runtime.in_pool(_describe, body, runtime.limits)
    facts = {field.name: getattr(description, field.name) for field in dataclasses.fields(description)}
    facts["params"] = {str(key): _plain(value) for key, value in description.params.items()}
    facts["metadata"] = dict(description.metadata)
    facts["chunks"] = [dataclasses.asdict(chunk) for chunk in description.chunks]
    return JSONResponse(facts)


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _is_current(request: Request, tag: str) -> bool:
    """Whether If-None-Match names this ETag; weak comparison, as RFC 9110 asks."""
    given = request.headers.get("if-none-match", "")
    return tag in (part.strip().removeprefix("W/") for part in given.split(","))


def _not_modified(tag: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status_code=304, headers={"ETag": tag, **(headers or {})})


def _stem(request: Request) -> str:
    return stem(request.headers.get("content-disposition", ""))


def _note(request: Request, **facts: object) -> None:
    """Add facts to the request's line in the log."""
    request.state.notes.update(facts)
