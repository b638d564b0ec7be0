"""`laconic bulk`: a folder, or object storage, of media to one of .lcn files, or back, in many processes or on a cluster.

What is there already is left alone, and every file appears whole or not at all: so a run that was interrupted is simply started
again. What a place holds and takes is in `places`; here is what becomes of a file and who does it, on a cluster `bulk_ray`.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from .codecs.errors import InvalidSettings, LaconicError
from .codecs.orphans import end_with_parent
from .files import DEFAULT_ENDINGS, LIMITS, format_for, holds, write_output, write_signal
from .places import Place, place_of

if TYPE_CHECKING:
    from .codecs.codec import Progress
    from .codecs.targets import Target

__all__ = [
    "DIED",
    "ONE_THREAD",
    "Encoding",
    "Engine",
    "Failure",
    "Outcome",
    "Summary",
    "Task",
    "Work",
    "attempt",
    "bulk",
    "output_of",
]

ENDING = ".lcn"
START_BYTES = 2**17  # of a file, in which its header is
READERS = 16  # of headers at a time
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # read when torch and numba are imported, which is later
DIED = "a process died while this was in work, for want of memory perhaps"


@dataclass(frozen=True)
class Encoding:
    """How files are encoded."""

    codec: str
    settings: dict[str, object]
    target: Target | None


@dataclass(frozen=True)
class Work:
    """What is the same for all files: the places' addresses, how to encode (None: decode), device, whether to overwrite."""

    source: str
    destination: str
    encoding: Encoding | None
    device: str
    force: bool


@dataclass(frozen=True)
class Task:
    """A file, and its output: relative paths in their places."""

    name: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a file: its bytes before and after, or why it failed."""

    task: Task
    before: int = 0
    after: int = 0
    reason: str = ""


Engine = Callable[[Work, Sequence[Task]], Iterator[Outcome]]


@dataclass(frozen=True)
class Failure:
    """A file that has no output, and why; `file` is relative to the source folder."""

    file: str
    reason: str


@dataclass
class Summary:
    """What became of the files; bytes are those of the files coded in this run."""

    files: int = 0
    coded: int = 0
    skipped: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def note(self, outcome: Outcome) -> None:
        """Count what became of a file."""
        if outcome.reason:
            self.failures.append(Failure(outcome.task.name.as_posix(), outcome.reason))
            return
        self.coded += 1
        self.input_bytes += outcome.before
        self.output_bytes += outcome.after

    def facts(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return asdict(self)


def bulk(
    source: str | Path,
    destination: str | Path,
    encoding: Encoding | None,
    *,
    forms: Sequence[str] = (),
    patterns: Sequence[str] = (),
    jobs: int = 1,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Summary:
    """Encode the files of a folder or of `s3://bucket/prefix` into another, or decode them where `encoding` is None.

    `jobs` processes do it, each with one thread, or else `engine`. A file is decoded to the first of the extensions `forms`
    that its kind of signal is written as, else to .png, .mp4 or .wav. `patterns` are shell patterns of names; without any, all
    files but `.lcn` files are encoded, and `.lcn` files decoded. Raises `InvalidSettings` and `OSError` for what concerns all
    files; what concerns one is in the summary.
    """
    here, there = place_of(str(source)), place_of(str(destination))
    if encoding is not None:
        _check(encoding)
    began, summary = time.perf_counter(), Summary()
    wanted = [name for name in here.names(without=there) if _wanted(name.name, encoding is not None, patterns)]
    there.prepare()
    tasks = list(_tasks(here, there, wanted, encoding is not None, forms, force, summary))
    work = Work(here.address, there.address, encoding, device, force)
    for done, outcome in enumerate(engine(work, tasks) if engine else _in_processes(work, tasks, jobs), 1):
        summary.note(outcome)
        if progress:
            progress(done / len(tasks), f"{done:,} of {len(tasks):,}")
    summary.failures.sort(key=lambda failure: failure.file)
    summary.seconds = round(time.perf_counter() - began, 3)
    return summary


def _check(encoding: Encoding) -> None:
    """Refuse, before any work is done, settings that the codec, or each that `auto` may take, refuses."""
    from .codecs.compress import AUTO, LOSSLESS
    from .codecs.registry import codec_class, codec_ids
    from .codecs.settings import is_lossless, make_settings

    every = [name for name in LOSSLESS if name in codec_ids()] if is_lossless(encoding.settings) else codec_ids()
    refused: list[InvalidSettings] = []
    names = every if encoding.codec == AUTO else [encoding.codec]
    for name in names:
        try:
            make_settings(codec_class(name), encoding.settings)
        except InvalidSettings as error:
            refused.append(error)
    if len(refused) == len(names):
        raise refused[0]


def output_of(name: Path, ending: str) -> Path:
    """Return the name of a file's output: nothing is lost from it, so that no two files encoded share one.

    >>> output_of(Path("a/b.jpg"), ".lcn"), output_of(Path("a/b.jpg.lcn"), ".png"), output_of(Path("b.png.lcn"), ".png")
    (PosixPath('a/b.jpg.lcn'), PosixPath('a/b.jpg.png'), PosixPath('b.png'))
    """
    bare = name.with_suffix("") if ending != ENDING and name.suffix.lower() == ENDING else name
    return bare if bare.suffix.lower() == ending else bare.with_name(bare.name + ending)


def _ending_of(source: Place, forms: Sequence[str], name: Path) -> str:
    """Return the extension of what a file is decoded to; one that says nothing of itself fails later, as a picture."""
    from .codecs.container import read_header

    try:
        header = read_header(source.start(name, START_BYTES), LIMITS)
        kind = "video" if header.video else "audio" if header.audio else "image"
    except (OSError, LaconicError):
        kind = "image"
    fitting = [f".{form}" for form in forms if holds(f"x.{form}", kind)]
    return [*fitting, DEFAULT_ENDINGS[kind]][0]


def _tasks(
    source: Place, destination: Place, names: Sequence[Path], encode: bool, forms: Sequence[str], force: bool, summary: Summary
) -> Iterator[Task]:
    """Yield what is to be done; files that need not be coded, or cannot, are counted."""
    taken: set[Path] = set()
    with ThreadPoolExecutor(READERS) as pool:  # of headers: storage answers late, and to many at once
        endings = repeat(ENDING) if encode else pool.map(partial(_ending_of, source, forms), names)
        for name, ending in zip(names, endings, strict=False):
            summary.files += 1
            target = output_of(name, ending)
            try:
                if target in taken:
                    raise InvalidSettings(f"another file is decoded to {target.name} already")
                taken.add(target)
                if destination.claim(target) and not force:
                    summary.skipped += 1
                else:
                    yield Task(name, target)
            except (OSError, LaconicError) as error:
                summary.failures.append(Failure(name.as_posix(), _reason(error)))


def _wanted(name: str, encode: bool, patterns: Sequence[str]) -> bool:
    if patterns:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    return name.lower().endswith(ENDING) != encode


def _in_processes(work: Work, tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Do the tasks, a process for each at a time; one that dies takes the files in work with it, and the others go on."""
    waiting = list(reversed(tasks))
    while waiting:
        running: dict[Future[Outcome], Task] = {}
        with ProcessPoolExecutor(min(jobs, len(waiting)), get_context("spawn"), _start) as pool:
            broken = False
            try:
                while running or (waiting and not broken):
                    while waiting and not broken and len(running) < jobs:
                        task = waiting.pop()
                        running[pool.submit(attempt, work, task)] = task
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        task = running.pop(future)
                        try:
                            yield future.result()
                        except BrokenProcessPool:
                            broken = True
                            yield Outcome(task, reason=DIED)
            except BaseException:  # Ctrl-C: what is in work ends, nothing else begins
                pool.shutdown(cancel_futures=True)
                raise


def _start() -> None:
    """Make a process ready: one thread, Ctrl-C is for whoever started it, and it ends with that one."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= ONE_THREAD


def attempt(work: Work, task: Task) -> Outcome:
    """Code one file; whatever goes wrong is its outcome, so that the others go on."""
    try:
        return Outcome(task, *_code(work, task))
    except Exception as error:
        return Outcome(task, reason=_reason(error))


def _reason(error: Exception) -> str:
    """Return what went wrong, in words that can be written down; what nobody foresaw is named."""
    text = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    if not isinstance(error, LaconicError | OSError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    return (text or type(error).__name__).encode(errors="backslashreplace").decode()


def _code(work: Work, task: Task) -> tuple[int, int]:
    """Code one file; returns the bytes before and after."""
    from .api import read_media
    from .codecs import compress
    from .codecs.container import is_laconic
    from .codecs.errors import UnsupportedMedia

    source, destination = _place(work.source), _place(work.destination)
    content, origin = source.read(task.name, LIMITS.max_input_bytes), source.path_of(task.name)
    times_of = None if origin is None else str(origin)
    if work.encoding is None:
        signal = compress.decode(content, LIMITS, work.device, whole=False)
        with destination.output(task.target) as path:
            form = format_for(str(path), signal.kind)
            return len(content), write_signal(str(path), signal, form, work.force, times_of)
    if is_laconic(content):
        raise UnsupportedMedia("it is an .lcn file already")
    how = work.encoding
    result = compress.encode(read_media(content, how.codec, LIMITS), how.codec, how.settings, how.target, work.device).data
    with destination.output(task.target) as path:
        write_output(str(path), result, work.force, times_of)
    return len(content), len(result)


_place = cache(place_of)  # a process opens each once
