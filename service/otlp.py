"""Spans by OpenTelemetry's SDK to a collector over OTLP/HTTP: the extra `[otel]`, imported only where the variables ask for it.

Ended spans go into a bounded queue (`OTEL_BSP_MAX_QUEUE_SIZE`), which a thread of the SDK empties: a collector that is slow or
gone costs spans, never a request its time.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .tracing import Attributes, Clock, Part, trace_of

__all__ = ["OtlpRecorder"]

_PROPAGATOR = TraceContextTextMapPropagator()
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"


class OtlpRecorder:
    """A `Recorder`. Raises `ValueError` for variables that ask for what there is not."""

    def __init__(self) -> None:
        asked = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), SPOKEN)
        if asked != SPOKEN:
            raise ValueError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {asked}; only {SPOKEN} is spoken, which collectors take at port 4318"
            )
        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        itself = {"service.version": version("laconic"), "service.instance.id": str(uuid.uuid4())}
        resource = Resource.create(itself if named else itself | {"service.name": "laconic"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # sampler: OTEL_TRACES_SAMPLER
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("laconic.service", version("laconic"))

    def request(self, method: str, facts: Attributes, headers: Mapping[str, str]) -> _OtlpTrace:
        """See `Recorder.request`."""
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        clock = Clock()
        span = self._tracer.start_span(
            method,
            context=_PROPAGATOR.extract(carrier, context={}),  # type: ignore[arg-type]
            kind=trace.SpanKind.SERVER,
            attributes=facts,
            start_time=clock.nanoseconds,
        )
        return _OtlpTrace(self._tracer, span, clock, trace_of(carrier.get("traceparent", "")).get("parent_id"))

    def job(self, name: str, facts: Attributes, submitted_by: str) -> _OtlpTrace:
        """See `Recorder.job`."""
        submission = trace.get_current_span(_PROPAGATOR.extract({"traceparent": submitted_by})).get_span_context()
        links = [trace.Link(submission)] if submission.is_valid else []
        clock = Clock()
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=trace.SpanKind.CONSUMER,
            attributes=facts,
            links=links,
            start_time=clock.nanoseconds,
        )
        return _OtlpTrace(self._tracer, span, clock)

    def close(self, seconds: float) -> None:
        """See `Recorder.close`. The SDK's own shutdown may wait longer for a collector that does not answer."""
        thread = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        thread.start()
        thread.join(seconds)


class _OtlpTrace:
    """A `Trace`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span, clock: Clock, parent_id: str | None = None) -> None:
        self._tracer, self._span, self._clock = tracer, span, clock
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
        self.traceparent = carrier["traceparent"]
        own = trace_of(self.traceparent)
        above = {"parent_id": parent_id} if parent_id else {}
        self.ids: Mapping[str, str] = {"trace_id": own["trace_id"], "span_id": own["parent_id"], **above}

    def end(self, name: str, facts: Attributes, parts: Sequence[Part], error: str | None) -> None:
        """See `Trace.end`."""
        context = trace.set_span_in_context(self._span)
        for part in parts if self._span.is_recording() else ():
            child = self._tracer.start_span(part.name, context, attributes=part.facts, start_time=self._clock.at(part.began))
            child.end(self._clock.at(part.ended))
        self._span.update_name(name)
        self._span.set_attributes(facts)
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()
