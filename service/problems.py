"""Problems: one table from error class to HTTP status and title, and the RFC 9457 answer made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..codecs.errors import (
    Cancelled,
    CorruptMedia,
    CorruptStream,
    DeviceUnavailable,
    InvalidSettings,
    LaconicError,
    LimitExceeded,
    TruncatedStream,
    UnsupportedMedia,
    WeightsMismatch,
    WeightsMissing,
)
from .settings import ServiceSettings, variable

__all__ = [
    "AS_A_JOB",
    "MEDIA_TYPE",
    "PROBLEMS",
    "BadRequest",
    "BodyTimeout",
    "ChecksumMismatch",
    "ClientGone",
    "Forbidden",
    "HeaderTimeout",
    "IdempotencyMismatch",
    "JobCancelled",
    "JobExpired",
    "JobLost",
    "JobNeeded",
    "JobNotDone",
    "JobsOff",
    "NoSuchCodec",
    "NoSuchJob",
    "NoSuchUpload",
    "NotAcceptable",
    "Problem",
    "QueueFull",
    "RangeNotSatisfiable",
    "RateLimited",
    "ReplicasFull",
    "RequestTimeout",
    "StorageFailed",
    "Unauthenticated",
    "Unavailable",
    "UploadConflict",
    "UploadLocked",
    "WrongProtocol",
    "answer",
    "describe",
    "members",
]

MEDIA_TYPE = "application/problem+json"
AS_A_JOB = "send it to POST /v1/jobs, or with the header Prefer: respond-async, and fetch the result when it is done"


class BadRequest(LaconicError):
    """The request itself is malformed: no body, a bad header."""

    code = "bad-request"


class NoSuchCodec(LaconicError, LookupError):
    """A path names a codec that is not served."""

    code = "no-such-codec"


class NotAcceptable(LaconicError):
    """No media type that the client accepts can be written."""

    code = "not-acceptable"


class BodyTimeout(LaconicError, TimeoutError):
    """The body did not arrive in time."""

    code = "body-timeout"


class QueueFull(LaconicError):
    """The service has as much work as it may hold; `retry_after` is in seconds."""

    code = "queue-full"

    def __init__(self, limit: str, allowed: int, actual: int, setting: str, retry_after: int = 1) -> None:
        super().__init__(f"{limit} is {actual:,} of {allowed:,}: retry in {retry_after} s, or raise {setting}")
        self.limit, self.allowed, self.actual, self.setting = limit, allowed, actual, setting
        self.retry_after = retry_after


class Unavailable(LaconicError):
    """The service starts, drains or has failed; `retry_after` is in seconds."""

    code = "unavailable"
    retry_after = 2


class RequestTimeout(LaconicError, TimeoutError):
    """The work took longer than a request may."""

    code = "request-timeout"


class HeaderTimeout(LaconicError, TimeoutError):
    """A request's headers did not arrive in time."""

    code = "header-timeout"


class Unauthenticated(LaconicError):
    """There is no key, or none that is good here; the answer names the scheme (RFC 6750)."""

    code = "unauthenticated"

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": 'Bearer realm="laconic"' + (', error="invalid_token"' if refused else "")}


class Forbidden(LaconicError):
    """The key is good but has not the scope that the path needs."""

    code = "forbidden"

    def __init__(self, message: str, scope: str) -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": f'Bearer realm="laconic", error="insufficient_scope", scope="{scope}"'}


class RateLimited(LaconicError):
    """A key has used what it may in this window; `retry_after` is in seconds, `headers` say where it stands."""

    code = "rate-limited"

    def __init__(self, message: str, retry_after: int, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.retry_after, self.headers = retry_after, headers


class ClientGone(LaconicError):
    """The client closed the connection; nobody reads the answer, 499 is for logs and metrics."""

    code = "client-gone"


class NoSuchJob(LaconicError, LookupError):
    """A path names a job that is not known here, no longer known, or somebody else's."""

    code = "no-such-job"


class JobNotDone(LaconicError):
    """The result is asked for while the job waits or runs; `retry_after` is in seconds."""

    code = "job-not-done"
    retry_after = 1


class JobCancelled(Cancelled):
    """The job was cancelled by request."""


class JobExpired(LaconicError):
    """The job's result was kept for as long as was promised."""

    code = "job-expired"


class JobLost(LaconicError):
    """The process died in every attempt at the job."""

    code = "job-lost"


class JobNeeded(LaconicError):
    """The work takes longer than anybody waits for an answer: it is taken as a job only."""

    code = "job-needed"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}: {AS_A_JOB}")


class JobsOff(LaconicError):
    """Jobs, and uploads for them, are not taken here."""

    code = "jobs-off"

    def __init__(self) -> None:
        stores = f"{variable('job_store')} and {variable('blob_store')}"
        super().__init__(f"jobs and uploads are off here ({variable('jobs')}), or several machines have no common {stores}")


class ReplicasFull(LaconicError):
    """No replica takes a request and enough of them wait for one; `retry_after` is in seconds."""

    code = QueueFull.code
    retry_after = 1


class IdempotencyMismatch(LaconicError):
    """An Idempotency-Key comes again with another request."""

    code = "idempotency-mismatch"


class RangeNotSatisfiable(LaconicError):
    """The Range lies outside of a result of `length` bytes."""

    code = "range-not-satisfiable"

    def __init__(self, text: str, length: int) -> None:
        super().__init__(f"{text!r} is outside of the result, which has {length:,} bytes")
        self.length = length


class StorageFailed(LaconicError):
    """What keeps the jobs, a folder or the stores that machines share, cannot be read or written."""

    code = "storage-failed"


class NoSuchUpload(LaconicError, LookupError):
    """A path or a job names an upload that is not known here, has expired, or is somebody else's."""

    code = "no-such-upload"


class UploadConflict(LaconicError):
    """An upload stands elsewhere than the request says."""

    code = "upload-conflict"


class UploadLocked(LaconicError):
    """Another request is at work on the upload; `retry_after` is in seconds."""

    code = "upload-locked"
    retry_after = 1


class ChecksumMismatch(LaconicError):
    """The bytes that came have another checksum than Upload-Checksum says; they are thrown away."""

    code = "checksum-mismatch"


class WrongProtocol(LaconicError):
    """Tus-Resumable names no version of the upload protocol that is spoken here; `headers` say which are."""

    code = "wrong-protocol"

    def __init__(self, message: str, versions: str) -> None:
        super().__init__(message)
        self.headers = {"Tus-Version": versions}


@dataclass(frozen=True)
class Problem:
    """An HTTP status and the title that goes with an error class."""

    status: int
    title: str


PROBLEMS: dict[type[BaseException], Problem] = {
    BadRequest: Problem(400, "The request is malformed"),
    CorruptMedia: Problem(400, "The media file is damaged"),
    CorruptStream: Problem(400, "The .lcn file is damaged"),
    TruncatedStream: Problem(400, "The .lcn file ends too early"),
    Unauthenticated: Problem(401, "A key is needed"),
    Forbidden: Problem(403, "The key does not allow this"),
    NoSuchCodec: Problem(404, "No such codec"),
    NoSuchJob: Problem(404, "No such job"),
    NoSuchUpload: Problem(404, "No such upload"),
    NotAcceptable: Problem(406, "No acceptable output format"),
    BodyTimeout: Problem(408, "The body came too slowly"),
    HeaderTimeout: Problem(408, "The headers came too slowly"),
    JobNotDone: Problem(409, "The job is not done"),
    JobCancelled: Problem(409, "The job was cancelled"),
    UploadConflict: Problem(409, "The upload stands elsewhere"),
    JobExpired: Problem(410, "The result has expired"),
    WrongProtocol: Problem(412, "Another version of the upload protocol is spoken here"),
    LimitExceeded: Problem(413, "The input is too large"),
    UnsupportedMedia: Problem(415, "Unsupported media"),
    RangeNotSatisfiable: Problem(416, "The range is not in the result"),
    InvalidSettings: Problem(422, "Invalid settings"),
    IdempotencyMismatch: Problem(422, "The Idempotency-Key belongs to another request"),
    JobNeeded: Problem(422, "This takes a job"),
    WeightsMissing: Problem(422, "Weights that this needs are not installed here"),
    WeightsMismatch: Problem(422, "The weights installed here are not the ones that this needs"),
    UploadLocked: Problem(423, "Another request is at work on the upload"),
    QueueFull: Problem(429, "Too many requests"),
    RateLimited: Problem(429, "The key has used its share"),
    ReplicasFull: Problem(429, "Too many requests"),
    ChecksumMismatch: Problem(460, "The checksum does not match"),
    ClientGone: Problem(499, "The client closed the connection"),
    Exception: Problem(500, "Internal error"),
    JobLost: Problem(500, "The service died while the job ran"),
    JobsOff: Problem(501, "Jobs are off here"),
    Cancelled: Problem(503, "The work was cancelled"),
    DeviceUnavailable: Problem(503, "The device is not available"),
    MemoryError: Problem(503, "Out of memory"),
    StorageFailed: Problem(503, "The jobs' storage failed"),
    Unavailable: Problem(503, "The service is not available"),
    RequestTimeout: Problem(504, "The work took too long"),
}


HINTS = {404: "there is nothing here; GET / lists what there is", 405: "the Allow header lists the methods of this path"}


def describe(error: BaseException) -> tuple[Problem, str, str]:
    """Return the problem of an error, its stable code and what may be told about it."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        detail = HINTS.get(error.status_code, str(error.detail))
        return Problem(error.status_code, phrase), phrase.lower().replace(" ", "-"), detail
    kind = next(cls for cls in type(error).__mro__ if cls in PROBLEMS)
    if isinstance(error, LaconicError):
        return PROBLEMS[kind], error.code, str(error)
    code = PROBLEMS[kind].title.lower().replace(" ", "-")
    return PROBLEMS[kind], code, "the service's log has the details under this request id"


def members(error: BaseException, instance: str, request_id: str) -> dict[str, object]:
    """Return the members of the error's problem."""
    problem, code, detail = describe(error)
    members: dict[str, object] = {
        "type": f"urn:laconic:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
    }
    if isinstance(error, LimitExceeded | QueueFull):
        members |= {"limit": error.allowed, "actual": error.actual, "setting": _setting(error.setting)}
        members["detail"] = detail.replace(error.setting, _setting(error.setting))
    return members


def answer(error: BaseException, instance: str, request_id: str) -> Response:
    """Return the error as `application/problem+json`, whatever it is."""
    status = describe(error)[0].status
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull | RateLimited | ReplicasFull | Unavailable | JobNotDone | UploadLocked):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.length}"
    if isinstance(error, HTTPException | Unauthenticated | Forbidden | RateLimited | WrongProtocol) and error.headers:
        headers.update(error.headers)
    if status in (408, 413):  # the body was not read to its end
        headers["Connection"] = "close"
    return Response(json.dumps(members(error, instance, request_id)), status, headers, MEDIA_TYPE)


def _setting(name: str) -> str:
    """Name the setting as whoever runs the service would: by its variable."""
    field = name.rpartition(".")[2].lower()
    return variable(field) if field in ServiceSettings.model_fields else name
