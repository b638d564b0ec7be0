"""The caller's place in a distributed trace, from its `traceparent` header (W3C Trace Context, level 1), for the log."""

from __future__ import annotations

import re

__all__ = ["trace_of"]

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def trace_of(traceparent: str) -> dict[str, str]:
    """Return `trace_id` and `parent_id` (the caller's span) in hexadecimal; empty for a header that is missing or malformed.

    >>> trace_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    {'trace_id': '0af7651916cd43dd8448eb211c80319c', 'parent_id': 'b7ad6b7169203331'}
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[4]):  # later versions may add fields
        return {}
    return {"trace_id": match[2], "parent_id": match[3]}
