"""How this project compiles kernels that decide probabilities: for speed, with nothing that could change a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["inlined", "kernel"]

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function that allocates nothing, without fast-math; it releases the interpreter's lock.

    Without reference counting (`_nrt`), as its atomic operations would cost a third of the time where arrays are passed on.
    numba's cache does not notice when a kernel in another file changes: delete the `__pycache__` folders then.
    """
    return _compiled(function, forceinline=False)


def inlined(function: Function) -> Function:
    """Compile a part of kernels, which becomes part of their code: a call that passes a model would cost more than its work."""
    return _compiled(function, forceinline=True)


def _compiled(function: Function, forceinline: bool) -> Function:
    compiled = numba.njit(  # type: ignore[call-overload]
        cache=True, nogil=True, error_model="numpy", forceinline=forceinline, _nrt=False
    )
    return cast(Function, compiled(function))
