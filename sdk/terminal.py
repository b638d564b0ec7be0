"""What the command line shows people: progress and errors on standard error, tables on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .codecs.codec import Progress

__all__ = ["complain", "note", "print_json", "print_table", "progress_bar"]


def complain(message: str) -> None:
    """Print a one-line error."""
    note(f"laconic: {' '.join(message.split())}")


def note(line: str) -> None:
    """Print a line on standard error, where it does not mix with output."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Show a bar on standard error while the block lasts, and yield the function that moves it; None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def show(done: float, stage: str) -> None:
            bar.update(task, completed=done, description=stage)

        yield show


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table on standard output, 110 columns wide where that is not a terminal.

    The first `left` columns are text, the others figures. `*` before the first cell of a row makes the row stand out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index < left else "right", no_wrap=index >= left)
    for row in rows:
        drawn.add_row(*(Text(cell.removeprefix("*")) for cell in row), style="bold" if row[0].startswith("*") else "")
    Console(width=None if sys.stdout.isatty() else 110).print(drawn)


def print_json(**members: object) -> None:
    """Print one JSON object on standard output; bytes are written in hexadecimal."""
    print(json.dumps(members, default=_json_value))


def _json_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")
