"""What wraps every request: its id, its log line, its metrics, and the problem that answers whatever goes wrong."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import QueueFull, Unavailable, answer, describe
from .runtime import Runtime
from .tracing import Trace, trace_of
from .upload_store import UPLOADS, VERSION

__all__ = ["PROTECTIVE_HEADERS", "Observation"]

# What every answer says unless its route says otherwise. No header allows other origins anything: CORS is off.
PROTECTIVE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds: counted, not logged


class Observation:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self.app, self.runtime = app, runtime
        self.metrics, self.log = runtime.metrics, runtime.log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given, trace = headers.get("x-request-id", ""), self._begin_trace(scope, headers)
        ids = trace.ids if trace else trace_of(headers.get("traceparent", ""))
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "notes": dict(ids), "parts": [], "traceparent": trace.traceparent if trace else ""}
        began, status, failed = time.perf_counter(), 0, ""

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in PROTECTIVE_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(UPLOADS):
                    headers["Tus-Resumable"] = VERSION
                if status >= 400 or not scope["path"].startswith("/playground"):  # its files are the same for everyone
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        self.runtime.in_flight += 1
        try:
            _check_framing(scope)
            await self.app(scope, receive, send_observed)
        except Exception as error:
            self._note_failure(error, request_id, ids)
            failed = describe(error)[1]
            if status == 0:
                await answer(error, scope["path"], request_id)(scope, receive, send_observed)
        finally:
            self.runtime.in_flight -= 1
            self._record(scope, status or 499, time.perf_counter() - began)
            if trace:
                _end_trace(trace, scope, status or 499, failed)

    def _begin_trace(self, scope: Scope, headers: Headers) -> Trace | None:
        """Begin the request's span, where any are sent; names of attributes are OpenTelemetry's for HTTP servers."""
        if self.runtime.recorder is None or scope["path"] in _QUIET:
            return None
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        host, port = scope.get("server") or ("", None)
        facts: dict[str, str | int] = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", ""),
            "server.address": host,
        }
        if port is not None:
            facts["server.port"] = port
        return self.runtime.recorder.request(method if method in _METHODS else "HTTP", facts, headers)

    def _note_failure(self, error: Exception, request_id: str, trace: Mapping[str, str]) -> None:
        """Count refusals; log what is the service's own fault, with its traceback."""
        if isinstance(error, QueueFull):
            self.metrics.rejected.labels(error.limit).inc()
        if describe(error)[0].status in (500, 503) and not isinstance(error, Unavailable):
            self.log.error("failure", request_id=request_id, exc_info=error, **trace)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.duration.labels(method, route).observe(seconds)
        if route not in _QUIET:
            self.log.info(
                "request",
                request_id=scope["state"]["request_id"],
                method=method,
                path=scope["path"],
                status=status,
                milliseconds=round(seconds * 1000, 2),
                **scope["state"]["notes"],
            )


def _end_trace(trace: Trace, scope: Scope, status: int, failed: str) -> None:
    """End the request's span with what the log says of it; as an error where the service did not do what it should."""
    state, route = scope["state"], getattr(scope.get("route"), "path", None)
    method = scope["method"] if scope["method"] in _METHODS else "HTTP"
    facts = {f"laconic.{name}": value for name, value in state["notes"].items() if name not in trace.ids}
    facts |= {"http.response.status_code": status, "laconic.request_id": state["request_id"]}
    facts |= {"http.route": route} if route else {}
    trace.end(
        f"{method} {route}" if route else method, facts, state["parts"], (failed or str(status)) if status >= 500 else None
    )


def _check_framing(scope: Scope) -> None:
    """Refuse a body of two lengths, of which a proxy may believe the other (RFC 9112, section 6.3), and whatever follows it."""
    names = {name for name, _ in scope["headers"]}
    if {b"content-length", b"transfer-encoding"} <= names:
        detail = "a request has Content-Length or Transfer-Encoding, not both"
        raise HTTPException(400, detail, {"Connection": "close"})
