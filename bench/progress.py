"""Progress on standard error: a bar on a terminal, a line every few percent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..codecs.codec import Progress

__all__ = ["shown_progress"]

LINES = 20  # lines printed for a whole run when there is no terminal


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Yield a function of the part done (0..1) and the stage's name that shows them on standard error."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda done, stage: bar.update(task, completed=done, description=stage)


def _plain() -> Progress:
    last = -1

    def show(done: float, stage: str) -> None:
        nonlocal last
        step = int(done * LINES)
        if step != last:
            last = step
            print(f"{done:4.0%}  {stage}", file=sys.stderr, flush=True)

    return show
