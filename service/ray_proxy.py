"""What goes around Ray Serve's HTTP proxy, so that what the proxy itself refuses is a problem like all others.

Ray's proxy answers in plain text where no replica does: a full queue, no replica yet, a replica that died. And it says in every
answer which server it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .middleware import PROTECTIVE_HEADERS
from .problems import ReplicasFull, RequestTimeout, Unavailable, answer

__all__ = ["ProxyProblems", "proxy_middleware"]

MARK = "X-Content-Type-Options"  # every answer of the application has it
REFUSALS: Mapping[int, tuple[type[Exception], str]] = {
    408: (RequestTimeout, "no replica answered in time"),
    429: (ReplicasFull, "every replica has as much to do as it may, and enough requests wait: retry, or allow more replicas"),
    503: (Unavailable, "no replica is there to answer: they start, stop, or have failed"),
}


class NamelessConfig(uvicorn.Config):
    """Uvicorn's configuration, without the header `Server` unless it is asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"server_header": False, **options})


def proxy_middleware() -> list[Middleware]:
    """Return the middleware; Ray calls this in every proxy (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), before that listens."""
    uvicorn.Config = NamelessConfig  # type: ignore[misc] # no setting of Ray's reaches it, and no middleware sees that header
    return [Middleware(ProxyProblems)]


class ProxyProblems:
    """ASGI middleware around Ray's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and turn an error that is not the application's into a problem."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Ray's own health and routes
            await self.app(scope, receive, send)
            return
        refused: int | None = None
        request_id = ""

        async def send_problems(message: Message) -> None:
            nonlocal refused, request_id
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                request_id = headers.get("x-request-id", "")
                if message["status"] >= 400 and MARK not in headers:
                    refused = message["status"]
                    return
                MutableHeaders(raw=message["headers"])["X-Request-Id"] = request_id  # once: Ray adds its own
            if refused is None:
                await send(message)

        await self.app(scope, receive, send_problems)
        if refused is not None:
            response = answer(_error(refused), scope["path"], request_id)
            for name, value in {**PROTECTIVE_HEADERS, "Cache-Control": "no-store", "X-Request-Id": request_id}.items():
                response.headers.setdefault(name, value)
            await response(scope, receive, send)


def _error(status: int) -> Exception:
    if status == 500:
        return RuntimeError("a replica died")
    kind, detail = REFUSALS.get(status, (HTTPException, ""))
    return HTTPException(status) if kind is HTTPException else kind(detail)
