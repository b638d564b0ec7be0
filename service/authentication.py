"""Who may ask for what: the paths that are open, the scope that each other path needs, and the middleware that holds to them.

What is not listed here is closed: with keys in force a path that is in neither table does not exist, whatever routes there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .allowances import Allowance
from .keys import SCOPES, Key
from .problems import Forbidden
from .runtime import Runtime

__all__ = ["Authentication", "is_open", "scope_of"]

_NAME = r"(?!\.\.?(?:/|\Z))[A-Za-z0-9._-]+"  # one segment of a path, not . or ..
OPEN = re.compile(rf"/|/livez|/readyz|/openapi\.json|/playground(?:/{_NAME})*/?|/v1/codecs(?:/{_NAME})?")
OPEN_METHODS = ("GET", "HEAD")
SCOPED: Mapping[str, re.Pattern[str]] = {
    "encode": re.compile(r"/v1/encode"),
    "decode": re.compile(r"/v1/decode|/v1/inspect"),
    "jobs": re.compile(rf"/v1/(?:jobs|uploads)(?:/{_NAME})*"),
    "metrics": re.compile(r"/metrics"),
}
assert set(SCOPED) == set(SCOPES)


def is_open(method: str, path: str) -> bool:
    """Whether anyone may ask this, with or without a key. `path` is decoded, as routing sees it."""
    return method in OPEN_METHODS and OPEN.fullmatch(path) is not None


def scope_of(path: str) -> str | None:
    """Return the scope that a path needs; None for a path that no scope opens."""
    return next((scope for scope, pattern in SCOPED.items() if pattern.fullmatch(path)), None)


class Authentication:
    """ASGI middleware: lets a request in before a byte of its body is read, or refuses it. Inside of `Observation`.

    `state.key_name` is the name of the request's key, None on open paths and where the service has no keys.
    """

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self.app, self.runtime = app, runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the server speaks no other protocol; lifespan is not a request
            await self.app(scope, receive, send)
            return
        scope["state"]["key_name"] = None
        path = _routed_path(scope)
        if self.runtime.keys is None or is_open(scope["method"], path):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = self.runtime.keys.authenticate(headers.getlist("authorization"))
        scope["state"]["key_name"] = scope["state"]["notes"]["key"] = key.name
        _check_scope(key, path, scope_of(path))
        if "respond-async" in ",".join(headers.getlist("prefer")).lower():  # makes a job of the request
            _check_scope(key, path, "jobs")
        allowance = self.runtime.allowances.of(key)
        allowance.take_request(_declared_length(headers))
        await self.app(scope, _counted(receive, allowance), _told(send, allowance))


def _routed_path(scope: Scope) -> str:
    """Return the path that the routes are compared with: without the prefix under which the application is mounted."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def _check_scope(key: Key, path: str, needed: str | None) -> None:
    if needed is None:
        if not OPEN.fullmatch(path):  # where it is open to other methods, routing says so
            raise HTTPException(404)
    elif needed not in key.scopes:
        raise Forbidden(f"{path} needs the scope {needed!r}; this key of {key.name} has {', '.join(key.scopes)}", needed)


def _declared_length(headers: Headers) -> int:
    """Return Content-Length, or 0 where there is none: then, and whatever it claims, bytes are counted as they come."""
    length = headers.get("content-length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else 0


def _counted(receive: Receive, allowance: Allowance) -> Receive:
    async def receive_counted() -> Message:
        message = await receive()
        allowance.take_bytes(len(message.get("body", b"")))
        return message

    return receive_counted


def _told(send: Send, allowance: Allowance) -> Send:
    async def send_told(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.lower().encode(), value.encode()) for name, value in allowance.headers().items()]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return send_told
