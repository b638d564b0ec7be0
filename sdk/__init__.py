"""Laconic: small, exact files from learned and conventional codecs.

    >>> import laconic, numpy
    >>> picture = numpy.full((48, 64, 3), 200, numpy.uint8)
    >>> stream = laconic.encode(picture, codec="webp", lossless=True)
    >>> laconic.inspect(stream).codec
    'webp'
    >>> bool((laconic.decode(stream).array == picture).all())
    True

Names are imported when first used, so that `import laconic` is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    Cancelled,
    CorruptMedia,
    CorruptStream,
    DeviceUnavailable,
    Forbidden,
    InvalidSettings,
    JobExpired,
    JobNotDone,
    LaconicError,
    LimitExceeded,
    NoSuchJob,
    ServiceError,
    TruncatedStream,
    Unauthenticated,
    UnsupportedMedia,
    WeightsMismatch,
    WeightsMissing,
)

if TYPE_CHECKING:
    from .api import decode, encode, inspect
    from .client import AsyncClient, Client
    from .codecs.audio.rvq import Tokens
    from .codecs.signals import Audio, Image, Video
    from .jobs import AsyncJob, Job, JobStatus
    from .sound_tokens import from_tokens, tokens

    __version__: str

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Audio",
    "Cancelled",
    "Client",
    "CorruptMedia",
    "CorruptStream",
    "DeviceUnavailable",
    "Forbidden",
    "Image",
    "InvalidSettings",
    "Job",
    "JobExpired",
    "JobNotDone",
    "JobStatus",
    "LaconicError",
    "LimitExceeded",
    "NoSuchJob",
    "ServiceError",
    "Tokens",
    "TruncatedStream",
    "Unauthenticated",
    "UnsupportedMedia",
    "Video",
    "WeightsMismatch",
    "WeightsMissing",
    "__version__",
    "decode",
    "encode",
    "from_tokens",
    "inspect",
    "tokens",
]

_LAZY = {
    "AsyncClient": ".client",
    "AsyncJob": ".jobs",
    "Audio": ".codecs.signals",
    "Client": ".client",
    "Image": ".codecs.signals",
    "Job": ".jobs",
    "JobStatus": ".jobs",
    "Tokens": ".codecs.audio.rvq",
    "Video": ".codecs.signals",
    "decode": ".api",
    "encode": ".api",
    "from_tokens": ".sound_tokens",
    "inspect": ".api",
    "tokens": ".sound_tokens",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("laconic")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attribute = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = attribute
    return attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
