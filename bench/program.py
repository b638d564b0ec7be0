"""A measurement as a program: options to `run`, progress and errors on standard error, the table on standard output."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from ..codecs.errors import LaconicError
from .progress import shown_progress

__all__ = ["run_program"]


def run_program(run: Callable[..., object], parser: argparse.ArgumentParser, arguments: Iterable[str] | None) -> int:
    """Call `run` with the options as keywords, print the `table.md` that it wrote into `out`, and return the exit code."""
    options = vars(parser.parse_args(None if arguments is None else list(arguments)))
    try:
        with shown_progress() as progress:
            run(**options, progress=progress)
    except LaconicError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    print((options["out"] / "table.md").read_text(encoding="utf-8"), end="")
    return 0
