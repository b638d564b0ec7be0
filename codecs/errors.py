"""Every error that Laconic raises for bad input, bad settings or a bad environment.

    LaconicError
    ├── CorruptStream (ValueError)          an .lcn file whose bytes contradict themselves
    │   └── TruncatedStream (EOFError)      an .lcn file that ends too early
    ├── CorruptMedia (ValueError)           a picture, sound or video file that does not open
    ├── UnsupportedMedia (ValueError)       input that is no media we read, or that a codec does not take
    ├── LimitExceeded (ValueError)          input larger than a limit allows
    ├── InvalidSettings (ValueError)        an unknown codec, an unknown or contradictory setting, an unmet target
    ├── WeightsMissing (FileNotFoundError)  weights that a stream or codec needs are not installed
    ├── WeightsMismatch (ValueError)        weights are installed but are not the ones asked for
    ├── DeviceUnavailable (RuntimeError)    the device is absent or not exact
    └── Cancelled (RuntimeError)            the caller stopped the work

Nothing else escapes from hostile bytes.
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "CorruptMedia",
    "CorruptStream",
    "DeviceUnavailable",
    "InvalidSettings",
    "LaconicError",
    "LimitExceeded",
    "TruncatedStream",
    "UnsupportedMedia",
    "WeightsMismatch",
    "WeightsMissing",
]


class LaconicError(Exception):
    """Root of the tree; `code` is the stable name used in HTTP problems and JSON output."""

    code = "laconic-error"


class CorruptStream(LaconicError, ValueError):
    """The bytes of an .lcn file contradict the format, a checksum or each other."""

    code = "corrupt-stream"


class TruncatedStream(CorruptStream, EOFError):
    """An .lcn file ends before its content does."""

    code = "truncated-stream"


class CorruptMedia(LaconicError, ValueError):
    """A media file of a known kind does not open."""

    code = "corrupt-media"


class UnsupportedMedia(LaconicError, ValueError):
    """The input is no media that Laconic reads, or the codec does not take this kind of signal."""

    code = "unsupported-media"


class LimitExceeded(LaconicError, ValueError):
    """A limit stops the work before memory is taken.

    `limit` names what is limited, `allowed` and `actual` are in its unit, `setting` is what raises it.
    """

    code = "limit-exceeded"

    def __init__(self, limit: str, allowed: int, actual: int, setting: str) -> None:
        super().__init__(f"{limit} is {actual:,}, more than the {allowed:,} allowed; {setting} raises the limit")
        self.limit, self.allowed, self.actual, self.setting = limit, allowed, actual, setting


class InvalidSettings(LaconicError, ValueError):
    """A codec or setting does not exist, has a bad value, contradicts another, or a target cannot be met."""

    code = "invalid-settings"


class WeightsMissing(LaconicError, FileNotFoundError):
    """Weights that a stream or codec needs are not installed."""

    code = "weights-missing"


class WeightsMismatch(LaconicError, ValueError):
    """Installed weights differ from the pinned or required ones."""

    code = "weights-mismatch"


class DeviceUnavailable(LaconicError, RuntimeError):
    """The device does not exist here or failed the exactness self-test."""

    code = "device-unavailable"


class Cancelled(LaconicError, RuntimeError):
    """The caller asked for the work to stop."""

    code = "cancelled"
