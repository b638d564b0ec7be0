"""Prometheus metrics of one service, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .job_store import STATES, State

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DROPS = ("headers late", "too many", "answer not taken")
SPANS = ("queue", "read", "transform", "entropy", "write")


class Metrics:
    """What the service counts. Labels take values from fixed sets only, never from a request's bytes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        into = self.registry
        self.requests = Counter("http_requests_total", "Requests answered", ["method", "route", "status"], registry=into)
        self.duration = Histogram(
            "http_request_duration_seconds", "From headers to answer", ["method", "route"], buckets=_SECONDS, registry=into
        )
        self.spans = Histogram(
            "span_duration_seconds", "Parts of coding requests: " + ", ".join(SPANS), ["span"], buckets=_SECONDS, registry=into
        )
        self.depth = Gauge("queue_depth", "Requests that wait or run", registry=into)
        self.rejected = Counter(
            "queue_rejected_total", "Requests refused because the service is full", ["reason"], registry=into
        )
        self.dropped = Counter(
            "connections_dropped_total", "Connections closed by the service: " + ", ".join(DROPS), ["reason"], registry=into
        )
        self.batch = Histogram("batch_size", "Requests coded together", buckets=(1, 2, 4, 8, 16, 32), registry=into)
        self.bytes_in = Counter("bytes_in_total", "Bytes of bodies coded", ["codec"], registry=into)
        self.bytes_out = Counter("bytes_out_total", "Bytes of results", ["codec"], registry=into)
        self.decode_errors = Counter("decode_errors_total", "Streams that did not decode", ["kind"], registry=into)
        self.jobs = Gauge("jobs", "Jobs stored", ["state"], registry=into)
        self.jobs_ended = Counter("jobs_ended_total", "Attempts at jobs that ended here", ["op", "state"], registry=into)
        for span in SPANS:
            self.spans.labels(span)
        for reason in DROPS:
            self.dropped.labels(reason)

    def watch_depth(self, depth: Callable[[], int]) -> None:
        """Read `queue_depth` from here whenever metrics are asked for."""
        self.depth.set_function(depth)

    def set_jobs(self, counts: Mapping[State, int]) -> None:
        """Set the number of jobs in each state."""
        for state in STATES:
            self.jobs.labels(state).set(counts.get(state, 0))

    def coded(self, codec: str, bytes_in: int, bytes_out: int, spans: Mapping[str, float]) -> None:
        """Count one request that was coded; `spans` are seconds by name."""
        self.bytes_in.labels(codec).inc(bytes_in)
        self.bytes_out.labels(codec).inc(bytes_out)
        for span, seconds in spans.items():
            self.spans.labels(span).observe(seconds)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)
