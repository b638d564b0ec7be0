"""Choose the media type to write from an Accept header (RFC 9110, section 12.5.1), and name the file in the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

from .problems import NotAcceptable

__all__ = ["choose", "content_disposition", "plain_stem", "stem"]

_RANGE = re.compile(r"\s*([\w.+*-]+/[\w.+*-]+)\s*((?:;[^;]*)*)")
_FILENAME = re.compile(r"""filename\*=(?:utf-8|iso-8859-1)'[^']*'([^;\s]+)|filename="?([^";]+)"?""", re.IGNORECASE)


def choose(accept: str, offered: Sequence[str]) -> str:
    """Return the offered media type that `accept` weighs highest, the earlier one of equals.

    Raises `NotAcceptable` that lists what is offered.
    """
    ranges = [_weighted(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    weights = {kind: _weight(kind, ranges) for kind in offered}
    best = max(offered, key=lambda kind: weights[kind])
    if weights[best] <= 0:
        raise NotAcceptable(f"{accept!r} accepts none of {', '.join(offered)}")
    return best


def _weighted(part: str) -> tuple[str, float]:
    match = _RANGE.fullmatch(part)
    if match is None:
        return "", 0.0
    weight = 1.0
    for parameter in match[2].split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            weight = float(value) if re.fullmatch(r"\s*(0(\.\d{0,3})?|1(\.0{0,3})?)\s*", value) else 0.0
    return match[1].lower(), weight


def _weight(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific range that covers a media type."""
    for pattern in (kind, kind.partition("/")[0] + "/*", "*/*"):
        found = [weight for name, weight in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0


def stem(disposition: str) -> str:
    """Return the name, without folders and extension, that a request's Content-Disposition gives its body; else "picture"."""
    match = _FILENAME.search(disposition)
    return plain_stem((unquote(match[1]) if match[1] else match[2]) if match else "")


def plain_stem(name: str) -> str:
    """Return a file's name without folders, extension and what cannot be shown; "picture" where nothing is left."""
    name = re.split(r"[/\\]", name)[-1]
    name = name.rpartition(".")[0] or name
    name = "".join(character for character in name if character.isprintable())
    return name.strip(". ")[:100] or "picture"


def content_disposition(name: str) -> str:
    """Return a Content-Disposition value for a file name: plain ASCII, and RFC 8187 for the exact name."""
    plain = re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
