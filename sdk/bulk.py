"""`laconic bulk`: a folder of media to a folder of .lcn files, or back, in as many processes as there are cores.

What is there already is left alone, and every file appears whole or not at all: so a run that was interrupted is simply started
again. Inputs are the regular files of the folder and of those within it; symbolic links and hidden names are not followed.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from .codecs.errors import InvalidSettings, LaconicError
from .files import DEFAULT_ENDINGS, LIMITS, format_for, holds, read_input, write_output, write_signal

if TYPE_CHECKING:
    from .codecs.codec import Progress
    from .codecs.targets import Target

__all__ = ["Encoding", "Failure", "Summary", "bulk", "files_in", "output_of"]

ENDING = ".lcn"
START_BYTES = 2**17  # of a file, in which its header is


@dataclass(frozen=True)
class Encoding:
    """How files are encoded."""

    codec: str
    settings: dict[str, object]
    target: Target | None


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

    def fail(self, file: Path, error: BaseException) -> None:
        """Note a file that failed."""
        text = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        self.failures.append(Failure(file.as_posix(), text or type(error).__name__))

    def facts(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return asdict(self)


def bulk(
    source: Path,
    destination: Path,
    encoding: Encoding | None,
    *,
    forms: Sequence[str] = (),
    patterns: Sequence[str] = (),
    jobs: int = 1,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Encode the files of a folder, or decode them where `encoding` is None; `jobs` processes, each with one thread.

    A file is decoded to the first of the extensions `forms` that its kind of signal is written as, else to .png, .mp4 or .wav.
    `patterns` are shell patterns of names; without any, all files but `.lcn` files are encoded, and `.lcn` files decoded.
    Raises `InvalidSettings` and `OSError` for what concerns all files; what concerns one is in the summary.
    """
    if not source.is_dir():
        raise NotADirectoryError(f"{source} is not a folder")
    if encoding is not None:
        _check(encoding)
    destination.mkdir(parents=True, exist_ok=True)
    began, summary = time.perf_counter(), Summary()
    ending = (lambda name: ENDING) if encoding is not None else partial(_ending_of, source, forms)
    tasks = _tasks(source, destination, encoding is not None, ending, patterns, force, summary)
    pending = [_Task(source / name, target, encoding, device, force) for name, target in tasks.items()]
    _run(pending, source, jobs, summary, progress)
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


def files_in(folder: Path, without: Path | None = None) -> Iterator[Path]:
    """Yield the regular files below a folder, relative to it and in order; none of `without`, a folder in it."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (here / name).is_symlink())
        if without is not None and without.is_dir():
            folders[:] = [name for name in folders if not (here / name).samefile(without)]
        for name in sorted(names):
            if not name.startswith(".") and stat.S_ISREG(os.lstat(here / name).st_mode):
                yield (here / name).relative_to(folder)


def output_of(name: Path, ending: str) -> Path:
    """Return the name of a file's output: nothing is lost from it, so that no two files encoded share one.

    >>> output_of(Path("a/b.jpg"), ".lcn"), output_of(Path("a/b.jpg.lcn"), ".png"), output_of(Path("b.png.lcn"), ".png")
    (PosixPath('a/b.jpg.lcn'), PosixPath('a/b.jpg.png'), PosixPath('b.png'))
    """
    bare = name.with_suffix("") if ending != ENDING and name.suffix.lower() == ENDING else name
    return bare if bare.suffix.lower() == ending else bare.with_name(bare.name + ending)


def _ending_of(source: Path, forms: Sequence[str], name: Path) -> str:
    """Return the extension of what a file is decoded to; one that says nothing of itself fails later, as a picture."""
    from .codecs.container import read_header

    try:
        with open(source / name, "rb") as file:
            header = read_header(file.read(START_BYTES), LIMITS)
        kind = "video" if header.video else "audio" if header.audio else "image"
    except LaconicError:
        kind = "image"
    fitting = [f".{form}" for form in forms if holds(f"x.{form}", kind)]
    return [*fitting, DEFAULT_ENDINGS[kind]][0]


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path
    encoding: Encoding | None
    device: str
    force: bool


def _tasks(
    source: Path,
    destination: Path,
    encode: bool,
    ending_of: Callable[[Path], str],
    patterns: Sequence[str],
    force: bool,
    summary: Summary,
) -> dict[Path, Path]:
    """Return the output of every file that is to be coded; files that need not be, or cannot, are counted."""
    root = destination.resolve()
    taken: set[Path] = set()
    tasks: dict[Path, Path] = {}
    for name in files_in(source, without=destination):
        if not _wanted(name.name, encode, patterns):
            continue
        summary.files += 1
        try:
            target = destination / output_of(name, ending_of(name))
            if target in taken:
                raise InvalidSettings(f"another file is decoded to {target.name} already")
            taken.add(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink() or not target.parent.resolve().is_relative_to(root):
                raise InvalidSettings(f"a symbolic link leads from {target} elsewhere")
            if target.exists() and not force:
                summary.skipped += 1
            else:
                tasks[name] = target
        except (OSError, LaconicError) as error:
            summary.fail(name, error)
    return tasks


def _wanted(name: str, encode: bool, patterns: Sequence[str]) -> bool:
    if patterns:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    return name.lower().endswith(ENDING) != encode


def _run(pending: list[_Task], source: Path, jobs: int, summary: Summary, progress: Progress | None) -> None:
    """Run the tasks, a process for each at a time; one that dies takes the files in work with it, and the others go on."""
    total, waiting = len(pending), list(reversed(pending))
    while waiting:
        running: dict[Future[tuple[int, int]], _Task] = {}
        with ProcessPoolExecutor(min(jobs, len(waiting)), get_context("spawn"), _start) as pool:
            broken = False
            try:
                while running or (waiting and not broken):
                    while waiting and not broken and len(running) < jobs:
                        task = waiting.pop()
                        running[pool.submit(_code, task)] = task
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        broken |= _note(future, running.pop(future).source.relative_to(source), summary)
                        done = total - len(waiting) - len(running)
                        if progress:
                            progress(done / total, f"{done:,} of {total:,}")
            except BaseException:  # Ctrl-C: what is in work ends, nothing else begins
                pool.shutdown(cancel_futures=True)
                raise


def _note(future: Future[tuple[int, int]], name: Path, summary: Summary) -> bool:
    """Count what became of a file; True if its process died."""
    try:
        before, after = future.result()
    except BrokenProcessPool:
        summary.failures.append(Failure(name.as_posix(), "a process died while this was in work, for want of memory perhaps"))
        return True
    except (LaconicError, OSError, MemoryError) as error:
        summary.fail(name, error)
        return False
    summary.coded += 1
    summary.input_bytes += before
    summary.output_bytes += after
    return False


def _start() -> None:
    """Make a process ready: one thread, and Ctrl-C is for whoever started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # read when torch and numba are imported, which is later


def _code(task: _Task) -> tuple[int, int]:
    """Code one file; returns the bytes before and after."""
    from .api import read_media
    from .codecs import compress
    from .codecs.container import is_laconic
    from .codecs.errors import UnsupportedMedia

    content = read_input(str(task.source), LIMITS.max_input_bytes)
    if task.encoding is None:
        signal, path = compress.decode(content, LIMITS, task.device, whole=False), str(task.target)
        return len(content), write_signal(path, signal, format_for(path, signal.kind), task.force, str(task.source))
    if is_laconic(content):
        raise UnsupportedMedia("it is an .lcn file already")
    how = task.encoding
    result = compress.encode(read_media(content, how.codec, LIMITS), how.codec, how.settings, how.target, task.device).data
    write_output(str(task.target), result, task.force, times_of=str(task.source))
    return len(content), len(result)
