"""A job as JSON, for its status, its events and its webhook."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from .job_store import Job
from .jobs import job_path
from .work import EXTENSIONS

__all__ = ["moment", "status_of"]

LEAST_PROGRESS = 0.02  # below it an estimate of the time left would be a guess


def moment(seconds: float) -> str:
    """Return a time, in seconds since 1970, as RFC 3339 writes it.

    >>> moment(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_of(job: Job) -> dict[str, object]:
    """Return the job's status."""
    path = job_path(job.id)
    times = {"created": job.created, "started": job.started, "finished": job.finished, "expires": job.expires}
    return {
        "id": job.id,
        "op": job.op,
        "options": dict(job.options),
        "state": job.state,
        "progress": job.progress,
        "stage": job.stage,
        "eta_s": _seconds_left(job),
        "queue_position": job.position,
        "attempts": job.attempts,
        **{name: None if value is None else moment(value) for name, value in times.items()},
        "result": _result(job),
        "error": job.error,
        "webhook": job.webhook,
        "links": {"self": path, "events": f"{path}/events", "result": f"{path}/result"},
    }


def _seconds_left(job: Job) -> float | None:
    """Return how long the job will still run if it goes on as it went: unknown before its codec has reported."""
    if job.state != "running" or job.started is None or job.progress < LEAST_PROGRESS:
        return None
    return round((time.time() - job.started) * (1 - job.progress) / job.progress, 1)


def _result(job: Job) -> dict[str, object] | None:
    if job.result is None:
        return None
    name = job.name + EXTENSIONS[job.media_type]
    return {"name": name, "bytes": job.result_bytes, "media_type": job.media_type, "codec": job.codec, "sha256": job.result}
