"""The playground: a page that codes pictures through this service. Fixed files, read once, under a strict policy."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from .conditional import is_current, not_modified

__all__ = ["CONTENT_SECURITY_POLICY", "FILES", "playground_routes"]

PAGE, EXAMPLE = "index.html", "photograph.png"
FILES = {
    PAGE: "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    EXAMPLE: "image/png",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in (
            "api",
            "coding",
            "curve",
            "dom",
            "files",
            "film",
            "jobs",
            "kinds",
            "listen",
            "main",
            "metrics",
            "png",
            "runs",
            "settings",
            "sound",
            "spectrogram",
            "texts",
            "video",
            "viewer",
            "wav",
            "worker",
        )
    },
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class _File:
    """A file as it is sent: `encoding` is that of the content, "" for none."""

    content: bytes
    media_type: str
    encoding: str

    @cached_property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()}"'


def playground_routes() -> APIRouter:
    """Return the routes `/playground` and `/playground/{file}`; all files are read now, so a request names no path."""
    held = _read()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/playground", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _answer(request, held[PAGE])

    @router.api_route("/playground/", methods=["GET", "HEAD"])
    async def page_with_slash() -> Response:
        return RedirectResponse("../playground", 308)  # the page's links are relative to a path without the slash

    @router.api_route("/playground/{file}", methods=["GET", "HEAD"])
    async def part(request: Request, file: str) -> Response:
        if file not in held or file == PAGE:
            raise HTTPException(404)
        return _answer(request, held[file])

    return router


def _read() -> Mapping[str, tuple[_File, _File]]:
    """Return each file as it is and as gzip, which makes text a third; a picture is the same twice."""
    folder = files("laconic.service") / "playground"
    held = {}
    for name, media_type in FILES.items():
        content = (files("laconic") / name if name == EXAMPLE else folder / name).read_bytes()
        plain = _File(content, media_type, "")
        packed = plain if name == EXAMPLE else _File(gzip.compress(content, mtime=0), media_type, "gzip")
        held[name] = plain, packed
    return held


def _answer(request: Request, forms: tuple[_File, _File]) -> Response:
    file = forms[_takes_gzip(request.headers.get("accept-encoding", ""))]
    headers = {
        "ETag": file.tag,
        "Vary": "Accept-Encoding",
        "Cache-Control": "no-cache",  # asked again each time, answered with 304: a new version shows at once
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer",
    }
    if file.encoding:
        headers["Content-Encoding"] = file.encoding
    if is_current(request, file.tag):
        return not_modified(file.tag, headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def _takes_gzip(accept: str) -> bool:
    return re.search(r"(^|,)\s*gzip\s*(,|$|;\s*q=(0?\.0*[1-9]|1))", accept, re.IGNORECASE) is not None
