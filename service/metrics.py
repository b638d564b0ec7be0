"""Prometheus metrics of one service, in a registry of its own."""

from __future__ import annotations

import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from .job_store import STATES, State

__all__ = ["Metrics"]

_RATIOS = (0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500)
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
        self.ratio = Histogram(
            "compression_ratio", "Bytes of samples per byte of the .lcn file", ["codec"], buckets=_RATIOS, registry=into
        )
        self.in_flight = Gauge("http_requests_in_flight", "Requests begun and not answered yet", registry=into)
        self.buffered = Gauge("bodies_buffered_bytes", "Bytes of all bodies held", registry=into)
        self.load = Gauge(
            "model_load_seconds", "Opening a codec at start, weights and warming up included", ["codec"], registry=into
        )
        self.gpu_memory = Gauge("gpu_memory_bytes", "Memory of the GPU by this process", ["kind"], registry=into)
        self.busy = Counter(
            "workers_busy_seconds_total", "Seconds that workers worked, of all workers", ["worker"], registry=into
        )
        self.utilisation = Gauge("workers_utilization", "Part of the workers that work just now", ["worker"], registry=into)
        self._active: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        for span in SPANS:
            self.spans.labels(span)
        for reason in DROPS:
            self.dropped.labels(reason)
        versions = {"version": version("laconic"), "python": platform.python_version(), "torch": version("torch")}
        Info("laconic_build", "What runs here", registry=into).info(versions)
        ProcessCollector(registry=into)

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

    def compressed(self, codec: str, samples: int, file: int) -> None:
        """Count one encoding of so many bytes of samples to a file of so many bytes."""
        self.ratio.labels(codec).observe(samples / file)

    def have_workers(self, worker: str, count: int) -> None:
        """Say how many workers of a kind there are: "device" and "worker" code, "media" reads and writes."""
        self.utilisation.labels(worker).set_function(lambda: self._active[worker] / count)
        self.busy.labels(worker)

    @contextmanager
    def working(self, worker: str) -> Iterator[None]:
        """Count a worker as busy for as long as the block lasts; from any thread."""
        began = time.perf_counter()
        self._activate(worker, 1)
        try:
            yield
        finally:
            self._activate(worker, -1)
            self.busy.labels(worker).inc(time.perf_counter() - began)

    def _activate(self, worker: str, change: int) -> None:
        with self._lock:
            self._active[worker] += change

    def watch_gpu(self) -> None:
        """Read `gpu_memory_bytes` from torch whenever metrics are asked for."""
        import torch

        self.gpu_memory.labels("allocated").set_function(torch.cuda.memory_allocated)
        self.gpu_memory.labels("reserved").set_function(torch.cuda.memory_reserved)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)
