"""What the lossless benchmarks of pictures and of sound share: rows coded, decoded, compared, timed, kept, told.

Each row of a table has a coder: it turns a signal into bytes and gives what decodes these to samples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from .image import processor
from .image_points import Cache, J, P, run_jobs, versions
from .pictures import set_threads

__all__ = [
    "Coder",
    "against",
    "check_rows",
    "collect",
    "digest_of",
    "facts_of_run",
    "options",
    "speeds",
    "timed",
    "write_results",
]

S = TypeVar("S")
Coder = Callable[[S], tuple[bytes, Callable[[bytes], NDArray[Any]]]]

_warm: set[str] = set()  # rows that this process has run before


def check_rows(rows: Sequence[str] | None, known: Iterable[str]) -> None:
    """Raise `InvalidSettings` for rows that there are not."""
    known = list(known)
    if unknown := sorted(set(rows or ()) - set(known)):
        raise InvalidSettings(f"there are no rows {', '.join(unknown)}; there are {', '.join(known)}")


def digest_of(*facts: object) -> str:
    """Return the name in the cache of what depends on these facts."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def collect(
    work: Sequence[J], kind: type[P], out: Path, measure: Callable[[J], P], jobs: int, progress: Progress | None
) -> list[P]:
    """Return the points of all work, measured in `jobs` processes of one thread or known from `out/points.jsonl`."""
    names = {job.key: _told(job) for job in work}
    out.mkdir(parents=True, exist_ok=True)
    points: list[P] = []
    for point in run_jobs(work, Cache(out / "points.jsonl", kind), measure, jobs, set_threads, 1):
        points.append(point)
        if progress is not None:
            progress(len(points) / len(work), names[point.key])
    return points


def _told(job: object) -> str:
    """Return a job's fields but its key, of files the name."""
    fields = {name: value for name, value in vars(job).items() if name != "key"}
    return " ".join(value.name if isinstance(value, Path) else str(value) for value in fields.values())


def timed(
    name: str, coder: Coder[S], file: Path, signal: S, samples: NDArray[Any], warm: Iterable[S], clock: Callable[[], float]
) -> tuple[int, float, float]:
    """Return the bytes that the coder of the row `name` gives, and the seconds by `clock` of coding and decoding.

    `signal` is the content of `file`. In each process the signals `warm` are coded first, which compiles kernels and loads
    libraries. Raises RuntimeError where `samples` do not come back.
    """
    if name not in _warm:
        for first in warm:
            data, decode = coder(first)
            decode(data)
        _warm.add(name)
    started = clock()
    data, decode = coder(signal)
    encoded = clock()
    decoded = decode(data)
    done = clock()
    if not np.array_equal(decoded, samples):
        raise RuntimeError(f"{name} does not give {file.name} back")
    return len(data), round(encoded - started, 7), round(done - encoded, 7)


def speeds(amount: float, points: Sequence[Any]) -> tuple[float, float]:
    """Return how much of `amount` was encoded, and decoded, in a second."""
    encode, decode = (sum(getattr(point, f"{way}_seconds") for point in points) for way in ("encode", "decode"))
    return amount / encode, amount / decode


def against(size: float, reference: float | None, otherwise: str) -> str:
    """Return how much more a size is than a reference; `otherwise` where there is none."""
    return f"{100 * (size / reference - 1):+.1f} %" if reference else otherwise


def facts_of_run(jobs: int) -> dict[str, Any]:
    """Return when, where and how a run was made."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "processes": jobs,
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def write_results(out: Path, facts: Mapping[str, Any], rows: Sequence[Any], points: Sequence[Any], table: str) -> None:
    """Write `results.json` and `table.md`."""
    content = {**facts, "rows": [asdict(row) for row in rows], "points": [asdict(point) for point in points]}
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table, encoding="utf-8")


def options(name: str, about: str | None, rows: Iterable[str], limit: str) -> argparse.ArgumentParser:
    """Return a parser of the options that both benchmarks have; `limit` tells which files `--limit` takes."""
    parser = argparse.ArgumentParser(prog=f"laconic bench {name}", description=about.partition("\n")[0] if about else None)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results and the cache")
    parser.add_argument("--row", action="append", dest="rows", help=f"measure this row (repeat): {', '.join(rows)}")
    parser.add_argument("--limit", type=int, help=limit)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--docs", type=Path, help="Markdown file whose marked section is replaced")
    return parser
