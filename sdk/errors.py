"""The errors of `laconic.codecs.errors`, those that only a client meets, and the exit code of each.

LaconicError                            see laconic.codecs.errors for the tree
└── ServiceError (ConnectionError)      the service cannot be reached, or answers what it should not
    ├── NoSuchJob (LookupError)         the service does not know the job, or no longer
    ├── JobNotDone (TimeoutError)       the job still waits or runs
    ├── JobExpired                      the job's result is no longer kept
    ├── Unauthenticated                 the service wants a key, or does not know this one
    └── Forbidden                       the key has not the scope that this needs
"""

from __future__ import annotations

from .codecs.errors import (
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

__all__ = [
    "EXIT_CODES",
    "Cancelled",
    "CorruptMedia",
    "CorruptStream",
    "DeviceUnavailable",
    "Forbidden",
    "InvalidSettings",
    "JobExpired",
    "JobNotDone",
    "LaconicError",
    "LimitExceeded",
    "NoSuchJob",
    "ServiceError",
    "TruncatedStream",
    "Unauthenticated",
    "UnsupportedMedia",
    "WeightsMismatch",
    "WeightsMissing",
    "exit_code",
]


class ServiceError(LaconicError, ConnectionError):
    """The service cannot be reached, is overloaded after every retry, or answers what the client does not understand.

    `status` is the HTTP status, or None where no answer came; `request_id` finds the request in the service's log,
    `retry_after` is in seconds, where the service was busy to the end.
    """

    code = "service-error"
    retry_after: float | None = None

    def __init__(self, message: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status, self.request_id = status, request_id


class NoSuchJob(ServiceError, LookupError):
    """The service does not know the job: it never did, has forgotten it, or it is somebody else's."""

    code = "no-such-job"


class JobNotDone(ServiceError, TimeoutError):
    """The job still waits or runs."""

    code = "job-not-done"


class JobExpired(ServiceError):
    """The job's result is no longer kept."""

    code = "job-expired"


class Unauthenticated(ServiceError):
    """The service wants a key (`Client(url, api_key=...)`), or this one is unknown, revoked or expired."""

    code = "unauthenticated"


class Forbidden(ServiceError):
    """The service knows the key, which has not the scope that the message names."""

    code = "forbidden"


# What the command line exits with; a class that is not listed takes its nearest ancestor's code.
EXIT_CODES: dict[type[BaseException], int] = {
    BaseException: 1,
    KeyboardInterrupt: 130,
    Cancelled: 130,
    InvalidSettings: 2,
    CorruptStream: 3,
    CorruptMedia: 3,
    LimitExceeded: 4,
    WeightsMissing: 5,
    WeightsMismatch: 5,
    ServiceError: 6,
}


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error.

    >>> exit_code(TruncatedStream("the file ends early")), exit_code(FileNotFoundError("a.png"))
    (3, 1)
    """
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
