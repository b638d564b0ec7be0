"""One rate-distortion point: a picture through a codec to bytes and back, in this process or a pool, kept in a cache.

The rate is of real bytes and the distortion is of the picture decoded from them, never an estimate. Peers are charged for
their own file format alone (`payload_only`), Laconic's codecs for the whole .lcn file.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, Protocol, TypeVar, cast

import numpy as np

from ..codecs import compress, container
from ..codecs.metrics import psnr
from ..codecs.orphans import end_with_parent
from ..codecs.registry import codec_class, open_codec
from ..codecs.settings import make_settings
from ..codecs.signals import Image
from .pictures import load_picture, set_threads

__all__ = [
    "Cache",
    "Job",
    "Point",
    "PointCache",
    "Scalar",
    "file_digest",
    "imported_files",
    "make_job",
    "measure",
    "measure_all",
    "run_jobs",
    "source_digest",
    "versions",
    "weights_digests",
]

Scalar = int | float | str | bool
PACKAGES = ("laconic", "numpy", "Pillow", "imagecodecs", "torch", "constriction", "numba")
LOSSLESS_PSNR = 100.0  # dB that equal pictures count as, so that averages stay finite


@dataclass(frozen=True)
class Job:
    """One picture, one codec, one setting; `key` names the result in the cache."""

    picture: Path
    codec: str
    settings: dict[str, Scalar]
    payload_only: bool
    device: str
    key: str


@dataclass(frozen=True)
class Point:
    """What one job measured.

    `bytes` is what the rate counts, `file_bytes` the size of the .lcn file; `psnr` is in dB over 8-bit RGB;
    `ideal_bits` is the sum of -log2 p over the coded symbols, for codecs that report it.
    """

    key: str
    codec: str
    settings: dict[str, Scalar]
    picture: str
    pixels: int
    bytes: int
    file_bytes: int
    psnr: float
    ideal_bits: float | None

    @property
    def bpp(self) -> float:
        """Bits per pixel of the bytes counted."""
        return 8 * self.bytes / self.pixels


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide sizes and pixels."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a plain folder
            found[package] = "not installed"
    return found


@cache
def source_digest(codec: str, own_modules_only: bool) -> str:
    """Return a digest of the code that decides a codec's bytes.

    That is its module and what this imports from its folder, or all that it imports from Laconic, directly or not, with what is
    common to all codecs.
    """
    module = inspect.getmodule(codec_class(codec))
    folder = module.__name__.rpartition(".")[0] if module else ""
    modules = [module, *(inspect.getmodule(value) for value in vars(module).values())]
    files = {Path(found.__file__).resolve() for found in modules if found and folder in found.__name__ and found.__file__}
    if module is not None and not own_modules_only:
        root = Path(container.__file__).resolve().parent
        files |= imported_files(module.__name__) | {*root.glob("*.py"), *(root.parent / "entropy").glob("*.py")}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def imported_files(module: str) -> set[Path]:
    """Return the source files of a module of this package, and of all those of the package that it imports, directly or not."""
    package, found, waiting = module.partition(".")[0], dict[str, Path](), [module]
    while waiting:
        name = waiting.pop()
        spec = None if name in found else find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin).resolve()
        parent = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(found[name].read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                source = resolve_name("." * node.level + (node.module or ""), parent)
                waiting += [source] if node.module else [f"{source}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
                waiting.append(node.module or "")
    return set(found.values())


@cache
def weights_digests(codec: str, device: str) -> tuple[str, ...]:
    """Return the digests of the weights that the codec's streams name, from a small picture; empty without weights."""
    probe = compress.encode(Image(np.zeros((16, 16, 3), np.uint8)), codec, device=device)
    return tuple(digest.hex() for digest in container.read(probe.data).weights)


@cache
def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def make_job(picture: Path, codec: str, settings: Mapping[str, Scalar], payload_only: bool, device: str = "cpu") -> Job:
    """Return the job with its key: a digest of everything that the measured point depends on."""
    facts = {
        "codec": codec,
        "settings": dict(settings),
        "payload_only": payload_only,
        "device": device,
        "picture": file_digest(picture),
        "weights": weights_digests(codec, device),
        "source": source_digest(codec, payload_only),
        "versions": versions(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return Job(picture, codec, dict(settings), payload_only, device, key)


def measure(job: Job) -> Point:
    """Encode, decode from the bytes, compare; raises `LaconicError` if the codec refuses the setting."""
    picture = load_picture(job.picture)
    encoded = compress.encode(picture, job.codec, job.settings, device=job.device)
    decoded = compress.decode(encoded.data, device=job.device)
    payload = sum(len(chunk) for chunk in container.read(encoded.data).chunks)
    return Point(
        key=job.key,
        codec=job.codec,
        settings=job.settings,
        picture=job.picture.name,
        pixels=picture.pixels,
        bytes=payload if job.payload_only else len(encoded.data),
        file_bytes=len(encoded.data),
        psnr=min(psnr(picture, decoded), LOSSLESS_PSNR),
        ideal_bits=_ideal_bits(job, picture),
    )


def _ideal_bits(job: Job, picture: Image) -> float | None:
    """Return the sum of -log2 p, which takes a second encoding; not of efforts, as the same coder writes their symbols."""
    codec = open_codec(job.codec, job.device)
    count = None if "effort" in job.settings else getattr(codec, "ideal_bits", None)
    return None if count is None else float(count(picture, make_settings(type(codec), job.settings)))


class Keyed(Protocol):
    """A dataclass with the key that names it in a cache."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> str:
        """The digest of everything that the point depends on."""
        ...


P = TypeVar("P", bound=Keyed)
J = TypeVar("J", bound=Keyed)


class Cache(Generic[P]):
    """Points already measured, one JSON object a line, so that an interrupted run continues where it stopped."""

    def __init__(self, path: Path, kind: type[P]) -> None:
        self.path = path
        self._points: dict[str, P] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    point = kind(**json.loads(line))
                except (ValueError, TypeError):  # a line cut short by the interruption, or of another version
                    continue
                self._points[point.key] = point

    def get(self, key: str) -> P | None:
        """Return the point with this key, if it is there."""
        return self._points.get(key)

    def add(self, point: P) -> None:
        """Keep the point, in memory and on disk."""
        self._points[point.key] = point
        with self.path.open("a+b") as file:
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")
            file.write(json.dumps(asdict(cast(Any, point))).encode() + b"\n")


class PointCache(Cache[Point]):
    """Rate-distortion points."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Point)


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def measure_all(jobs: Sequence[Job], known: PointCache, processes: int, threads: int) -> Iterator[Point]:
    """Yield the point of every job, measured in `processes` new processes with `threads` threads each."""
    return run_jobs(jobs, known, measure, processes, set_threads, threads)


def run_jobs(
    jobs: Sequence[J], known: Cache[P], work: Callable[[J], P], processes: int, start: Callable[..., None], *given: object
) -> Iterator[P]:
    """Yield the point of every job, known ones first, and keep new ones in the cache.

    The work is done in `processes` new processes, each of which calls `start(*given)` first; this one keeps its own settings.
    """
    points = {job.key: known.get(job.key) for job in jobs}
    yield from (point for point in points.values() if point is not None)
    new = [job for job in jobs if points[job.key] is None]
    if not new:
        return
    context = multiprocessing.get_context("spawn")  # torch and numba do not survive a fork with threads
    with ProcessPoolExecutor(processes, mp_context=context, initializer=partial(_start, start, *given)) as pool:
        futures = [pool.submit(work, job) for job in new]
        try:
            for future in as_completed(futures):
                point = future.result()
                known.add(point)
                yield point
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(start: Callable[..., None], *given: object) -> None:
    end_with_parent()
    start(*given)
