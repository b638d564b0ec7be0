"""A request's place in a distributed trace (W3C Trace Context, level 1), and its spans for whoever collects them.

Spans are sent (`otlp`, the extra `[otel]`) only where the standard variables name a collector; nothing is imported without.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from .logs import Log

__all__ = ["Clock", "Part", "Recorder", "Trace", "open_recorder", "trace_of"]

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
Attributes = Mapping[str, str | int | float | bool]


def trace_of(traceparent: str) -> dict[str, str]:
    """Return `trace_id` and `parent_id` (the caller's span) in hexadecimal; empty for a header that is missing or malformed.

    >>> trace_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    {'trace_id': '0af7651916cd43dd8448eb211c80319c', 'parent_id': 'b7ad6b7169203331'}
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[4]):  # later versions may add fields
        return {}
    return {"trace_id": match[2], "parent_id": match[3]}


class Part(NamedTuple):
    """A part of some work, from one reading of `time.perf_counter` to another, and what is known of it."""

    name: str
    began: float
    ended: float
    facts: Attributes = MappingProxyType({})


@dataclass(frozen=True)
class Clock:
    """A moment on the clock of spans, nanoseconds since 1970, and on `time.perf_counter`."""

    nanoseconds: int = field(default_factory=time.time_ns)
    seconds: float = field(default_factory=time.perf_counter)

    def at(self, moment: float) -> int:
        """Return a reading of `time.perf_counter` in nanoseconds since 1970.

        >>> Clock(1_000_000_000, 5.0).at(5.5)
        1500000000
        """
        return self.nanoseconds + round(1e9 * (moment - self.seconds))


class Trace(Protocol):
    """One span that has begun: a request's or a job's. `ids` are for the log, `traceparent` for whoever goes on with it."""

    ids: Mapping[str, str]
    traceparent: str

    def end(self, name: str, facts: Attributes, parts: Sequence[Part], error: str | None) -> None:
        """End the span, with a name, attributes, the parts as its children, and what went wrong (`error.type`)."""
        ...


class Recorder(Protocol):
    """Sends spans to a collector, in the background."""

    def request(self, method: str, facts: Attributes, headers: Mapping[str, str]) -> Trace:
        """Begin the span of a request, under the caller's where `headers` have `traceparent`."""
        ...

    def job(self, name: str, facts: Attributes, submitted_by: str) -> Trace:
        """Begin the span of an attempt at a job, linked to the span whose traceparent is given, if any is."""
        ...

    def close(self, seconds: float) -> None:
        """Send what has ended, for at most so long; later spans are dropped."""
        ...


def open_recorder(log: Log) -> Recorder | None:
    """Return what sends spans, as OpenTelemetry's variables ask; None where they name no collector or switch it off.

    What is wrong with them, or a missing extra, is logged: a service without traces is better than none.
    """
    endpoint = any(os.environ.get(name) for name in _ENDPOINTS)
    if not endpoint or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    try:
        from .otlp import OtlpRecorder

        return OtlpRecorder()
    except ImportError as error:
        log.warning("no traces", reason=f"they need OpenTelemetry: pip install 'laconic[otel]' ({error})")
    except ValueError as error:
        log.warning("no traces", reason=str(error))
    return None
