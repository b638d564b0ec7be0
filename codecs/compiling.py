"""Word of numba's kernels while they compile: once on a machine, they take longer than the work that waits for them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from .codec import Progress

__all__ = ["COMPILING", "reported"]

COMPILING = "compiling kernels, once on this machine"


@contextlib.contextmanager
def reported(progress: Progress | None) -> Iterator[Progress | None]:
    """Yield a progress for a codec's work that also says `COMPILING` whenever numba begins to compile within the block.

    Kernels that come from numba's cache are no reason to say anything. What `progress` raises then is left to its next call:
    it may be another thread's work that is being compiled.
    """
    if progress is None or "numba" not in sys.modules:  # a codec that has kernels has imported it by now
        yield progress
        return
    from numba.core import event

    report, done = progress, 0.0

    def noted(part: float, stage: str) -> None:
        nonlocal done
        done = part
        report(part, stage)

    class Compilations(event.Listener):
        def on_start(self, event: object) -> None:
            with contextlib.suppress(Exception):
                report(done, COMPILING)

        def on_end(self, event: object) -> None:
            pass

    with event.install_listener("numba:compile", Compilations()):
        yield noted
