"""A finding of `laconic doctor`, and the words it is told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .codecs.errors import DeviceUnavailable, LaconicError, WeightsMismatch, WeightsMissing

__all__ = ["MIB", "REINSTALL", "Finding", "State", "advice_on", "duration_text", "reason_of", "size_text"]

State = Literal["ok", "warning", "failed"]
MIB = 2**20
REINSTALL = "install Laconic again: pip install --force-reinstall --no-deps laconic"


@dataclass(frozen=True)
class Finding:
    """What a check found, and one line that says what to do about it, empty where all is well."""

    check: str
    state: State
    found: str
    advice: str = ""


def reason_of(error: Exception) -> str:
    """Return what an error says, with its class where it is not one of ours."""
    return str(error) if isinstance(error, LaconicError) else f"{type(error).__name__}: {error}"


def advice_on(error: Exception) -> str:
    """Return what to do about an error."""
    if isinstance(error, WeightsMissing | WeightsMismatch):
        return REINSTALL
    if isinstance(error, DeviceUnavailable):
        return "run on another device: LACONIC_DEVICE=cpu, or --device cpu"
    if isinstance(error, ImportError):
        return "install what is missing: pip install --upgrade laconic"
    if isinstance(error, RuntimeError) and "cannot cache function" in str(error):  # numba found no folder to write to
        return "set NUMBA_CACHE_DIR to a folder that can be written"
    return "report it as a bug, with this table"


def duration_text(seconds: float) -> str:
    """Return seconds, or milliseconds below one."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def size_text(count: int) -> str:
    """Return bytes as MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / MIB:.0f} MiB"
