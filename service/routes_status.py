"""Routes that tell about the service: what it offers, whether it lives, what it counts."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from .forms import OUTPUT_FORMATS
from .problems import NoSuchCodec
from .runtime import Runtime

__all__ = ["router"]

router = APIRouter()


@router.get("/")
async def index(request: Request) -> Response:
    """Name the service and point to its parts."""
    links = {
        "codecs": "/v1/codecs",
        "jobs": "/v1/jobs",
        "openapi": "/openapi.json",
        "health": "/livez",
        "readiness": "/readyz",
        "metrics": "/metrics",
    }
    if request.app.state.runtime.settings.playground:
        links["playground"] = "/playground"
    usage = "curl -T photo.jpg 'URL/v1/encode?quality=50' -X POST -o photo.lcn"
    return JSONResponse({"name": "laconic", "version": request.app.version, "usage": usage, "links": links})


@router.get("/v1/codecs")
async def list_codecs(request: Request) -> Response:
    """List the codecs served and the limits that all share."""
    runtime: Runtime = request.app.state.runtime
    catalogue = runtime.catalogue
    body = {
        "codecs": [{**served.summary(), "href": f"/v1/codecs/{name}"} for name, served in catalogue.served.items()],
        "missing": catalogue.missing,
        "default": "auto",
        "output_types": list(OUTPUT_FORMATS),
        "limits": _limits(runtime),
    }
    return JSONResponse(body)


@router.get("/v1/codecs/{codec}")
async def show_codec(request: Request) -> Response:
    """Describe one codec: its settings as a JSON schema, its weights, its limits."""
    runtime: Runtime = request.app.state.runtime
    name = request.path_params["codec"]
    served = runtime.catalogue.served.get(name)
    if served is None:
        raise NoSuchCodec(f"no codec {name!r} is served; there are {', '.join(runtime.catalogue.served)}")
    return JSONResponse({**served.summary(), "limits": _limits(runtime)})


def _limits(runtime: Runtime) -> Mapping[str, int | float]:
    names = (
        "max_body_bytes",
        "max_upload_bytes",
        "max_pixels",
        "max_video_pixels",
        "max_frames",
        "queue_size",
        "request_timeout_s",
    )
    return {name: getattr(runtime.settings, name) for name in names}


@router.get("/livez")
async def livez() -> Response:
    """Answer as long as the event loop turns; waits for neither queue nor device."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Answer 200 when codecs are open and work is accepted, 503 otherwise."""
    runtime: Runtime = request.app.state.runtime
    catalogue = runtime.check_accepting()
    return JSONResponse({"status": "ready", "codecs": list(catalogue.served), "queue_depth": runtime.owner.depth})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format."""
    runtime: Runtime = request.app.state.runtime
    return Response(runtime.metrics.exposition(), media_type="text/plain; version=0.0.4")
