"""The REST service as a FastAPI application: its routes and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .authentication import Authentication
from .job_runner import running_jobs
from .linger import Linger
from .logs import Log
from .middleware import Observation
from .openapi import openapi_schema
from .problems import answer
from .routes_coding import router as coding_routes
from .routes_jobs import router as job_routes
from .routes_playground import playground_routes
from .routes_status import router as status_routes
from .routes_uploads import router as upload_routes
from .runtime import Runtime
from .settings import ServiceSettings

__all__ = ["create_app"]


def create_app(settings: ServiceSettings | None = None, log: Log | None = None) -> FastAPI:
    """Return the application; its lifespan starts the device owner, which opens the codecs.

    Settings come from the environment unless given. Raises `InvalidSettings` for bad ones.
    """
    runtime = Runtime(settings or ServiceSettings.from_environment(), log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runtime.open(), running_jobs(runtime):
            yield

    app = FastAPI(
        title="Laconic",
        version=version("laconic"),
        summary="Small, exact files from pictures, by learned and conventional codecs",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _http_problem},
        generate_unique_id_function=lambda route: route.name,  # `submit_job`: short enough for links to name
    )
    app.state.runtime = runtime
    app.include_router(coding_routes)
    app.include_router(job_routes)
    app.include_router(upload_routes)
    app.include_router(status_routes)
    if runtime.settings.playground:
        app.include_router(playground_routes())
    app.add_middleware(Authentication, runtime=runtime)  # inside of the next, which answers what it refuses
    app.add_middleware(Observation, runtime=runtime)
    app.add_middleware(Linger)
    app.openapi = lambda: openapi_schema(app, runtime)  # type: ignore[method-assign]
    return app


async def _http_problem(request: Request, error: Exception) -> Response:
    """Answer what routing itself refuses: an unknown path, a method that a path does not have."""
    return answer(error, request.url.path, request.state.request_id)
