"""Routes that code: /v1/encode, /v1/decode and /v1/inspect, from raw body to raw answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..codecs.errors import LaconicError
from .conditional import is_current, not_modified
from .exchange import Exchange
from .forms import accepted_forms
from .negotiation import content_disposition, stem
from .options import decode_options, encode_options, entity_tag, no_options
from .runtime import Runtime
from .submission import prefers_job, submit
from .work import EXTENSIONS, Decoding, Encoding, Result, describe_stream

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/encode")
async def encode(request: Request) -> Response:
    """Compress the picture or video in the body to an .lcn file."""
    if prefers_job(request):
        return await submit(request, "encode", request.query_params, {"Preference-Applied": "respond-async"})
    runtime: Runtime = request.app.state.runtime
    options = encode_options(request.query_params, runtime.check_accepting())
    Encoding(options).check_may_wait(runtime)
    runtime.owner.check_room()  # before the body is read
    exchange = Exchange(runtime, parts=request.state.parts)
    async with runtime.bodies.read(request.headers, request.receive) as body:
        tag = await runtime.in_pool(entity_tag, body, "encode", options, runtime.catalogue.identity)
        if is_current(request, tag):
            return not_modified(tag)
        result = await exchange.finish(Encoding(options).run(exchange, body), request.receive)
    return _answer(request, exchange, result, len(body), {"ETag": tag})


@router.post("/v1/decode")
async def decode(request: Request) -> Response:
    """Restore the picture or video of the .lcn file in the body, in the form that Accept asks for."""
    if prefers_job(request):
        return await submit(request, "decode", request.query_params, {"Preference-Applied": "respond-async"})
    runtime: Runtime = request.app.state.runtime
    catalogue = runtime.check_accepting()
    decoding = Decoding(accepted_forms(request.headers.get("accept", "*/*")), decode_options(request.query_params))
    runtime.owner.check_room()  # before the body is read
    exchange = Exchange(runtime, parts=request.state.parts)
    async with runtime.bodies.read(request.headers, request.receive) as body:
        tag = await runtime.in_pool(entity_tag, body, "decode", decoding, catalogue.identity)
        if is_current(request, tag):
            return not_modified(tag, {"Vary": "Accept"})
        try:
            result = await exchange.finish(decoding.run(exchange, body), request.receive)
        except LaconicError as error:
            runtime.metrics.decode_errors.labels(error.code).inc()
            raise
    return _answer(request, exchange, result, len(body), {"ETag": tag, "Vary": "Accept"})


def _answer(request: Request, exchange: Exchange, result: Result, bytes_in: int, headers: Mapping[str, str]) -> Response:
    """Count a result, note it for the log, and send it."""
    exchange.runtime.metrics.coded(result.codec, bytes_in, len(result.content), exchange.spans)
    request.state.notes.update(codec=result.codec, bytes_in=bytes_in, bytes_out=len(result.content))
    name = stem(request.headers.get("content-disposition", "")) + EXTENSIONS[result.media_type]
    headers = {
        **headers,
        "X-Laconic-Codec": result.codec,
        "X-Laconic-Bpp": f"{result.bpp:.5f}",
        **({"X-Laconic-Lost": ", ".join(f"{start}:{stop}" for start, stop in result.lost)} if result.lost else {}),
        "Server-Timing": exchange.server_timing(),
        "Content-Disposition": content_disposition(name),
    }
    return Response(result.content, headers=headers, media_type=result.media_type)


@router.post("/v1/inspect")
async def inspect(request: Request) -> Response:
    """Describe the .lcn file in the body without decoding it."""
    runtime: Runtime = request.app.state.runtime
    no_options(request.query_params)
    async with runtime.bodies.read(request.headers, request.receive) as body:
        description = await runtime.in_pool(describe_stream, body, runtime.limits)
    facts = {field.name: getattr(description, field.name) for field in dataclasses.fields(description)}
    facts["params"] = {str(key): _plain(value) for key, value in description.params.items()}
    facts["metadata"] = dict(description.metadata)
    video, sound = len(description.shape) == 4, len(description.shape) == 2
    facts["signal"] = "video" if video else "audio" if sound else "image"
    facts["frames"] = description.shape[0] if video else None
    facts["groups"] = [chunk.length for chunk in description.chunks if chunk.type == "payload"] if video or sound else None
    facts["chunks"] = [dataclasses.asdict(chunk) for chunk in description.chunks]
    return JSONResponse(facts)


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value
