"""Conditional requests: whether the client's copy is current, and which part of a stored result it asks for (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from .problems import RangeNotSatisfiable

__all__ = ["is_current", "not_modified", "wanted_range"]

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


def is_current(request: Request, tag: str) -> bool:
    """Whether If-None-Match names this ETag; weak comparison, as RFC 9110 asks."""
    given = request.headers.get("if-none-match", "")
    return tag in (part.strip().removeprefix("W/") for part in given.split(","))


def not_modified(tag: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the 304 for it."""
    return Response(status_code=304, headers={"ETag": tag, **(headers or {})})


def wanted_range(request: Request, tag: str, length: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last that Range asks for; None where the whole is to be sent.

    Of the header's forms a single range of bytes counts; others are ignored, as RFC 9110 allows, and so is one whose If-Range
    names another version. Raises `RangeNotSatisfiable`.
    """
    text = request.headers.get("range", "")
    match = _RANGE.fullmatch(text)
    if match is None or match[1] == match[2] == "" or request.headers.get("if-range", tag) != tag:
        return None
    if match[1] == "":  # the last so many bytes
        first, end = max(0, length - int(match[2])), length
    else:
        first, end = int(match[1]), min(length, int(match[2]) + 1 if match[2] else length)
        if match[2] and int(match[2]) < int(match[1]):
            return None  # not a range at all
    if first >= end:
        raise RangeNotSatisfiable(text, length)
    return first, end
