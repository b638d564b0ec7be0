"""Files in and out for the command line: `-` is a standard stream, an output appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .codecs.errors import InvalidSettings, LimitExceeded, UnsupportedMedia
from .codecs.limits import Limits

if TYPE_CHECKING:
    from .codecs.signals import Signal

__all__ = [
    "DEFAULT_ENDINGS",
    "LIMITS",
    "STANDARD",
    "check_output",
    "format_for",
    "holds",
    "output_path",
    "place_name",
    "read_input",
    "write_output",
    "write_signal",
]

Content = bytes | Callable[[BinaryIO], None]

STANDARD = "-"
LIMITS = Limits(max_input_bytes=2**31)  # whoever types a command may have longer videos than whoever sends them
DEFAULT_ENDINGS = {
    "image": ".png",
    "video": ".mp4",
    "audio": ".wav",
}  # of files that are written, by the kind of signal in them


def output_path(source: str, output: str | None, ending: str, as_json: bool) -> str:
    """Return where the result goes: by default beside the input, or to standard output if that came from standard input."""
    if output is None:
        output = STANDARD if source == STANDARD else str(Path(source).with_suffix("")) + ending
    if output == STANDARD and as_json:
        raise InvalidSettings("--json prints to standard output, where the result would go too: name a file with -o")
    return output


def place_name(path: str) -> str:
    """Return what to call an output in a message."""
    return "standard output" if path == STANDARD else path


def format_for(path: str, kind: str) -> str:
    """Return the name of the media format that an output's name asks for, of standard output the default of the kind of signal.

    Raises `UnsupportedMedia` for one that does not hold that kind.
    """
    from .codecs import media
    from .codecs.saving import format_of  # imports what reads pictures

    name = f"x{DEFAULT_ENDINGS[kind]}" if path == STANDARD else path
    form = format_of(name)
    if not holds(name, kind):
        held = {"image": "pictures", "video": "videos", "audio": "sound"}[media.FORMATS[form].signal]
        what = f"{media.WORDS[kind]}; {DEFAULT_ENDINGS[kind]} would do"
        raise UnsupportedMedia(f"{Path(name).suffix} files hold {held}, and this is {what}")
    return form


def holds(path: str, kind: str) -> bool:
    """Say whether the media format that a name asks for holds a kind of signal; raises `UnsupportedMedia` for none."""
    from .codecs import media
    from .codecs.audio import writers as sounds
    from .codecs.saving import format_of
    from .codecs.video import writers

    written: dict[str, Collection[str]] = {"image": media.WRITERS, "video": writers.WRITERS, "audio": sounds.WRITERS}
    return format_of(path) in written[kind]


def read_input(path: str, max_bytes: int) -> bytes:
    """Return a file's bytes, or standard input's for `-`; reads at most `max_bytes` and raises `LimitExceeded` above.

    A folder, a missing file and the like raise the `OSError` that says so.
    """
    if path == STANDARD:
        content = sys.stdin.buffer.read(max_bytes + 1)
        size = len(content)
    else:
        with open(path, "rb") as file:
            # A device file may have no size and no end, so what counts is what can be read.
            content = file.read(max_bytes + 1)
            size = max(len(content), os.fstat(file.fileno()).st_size)
    if size > max_bytes:
        raise LimitExceeded("the input's length in bytes", max_bytes, size, "max_input_bytes")
    return content


def check_output(path: str, force: bool) -> None:
    """Refuse, before any work is done, an output that would be refused after it.

    `FileExistsError` for a file that exists, `InvalidSettings` for a terminal; `force` allows both.
    """
    if path == STANDARD:
        if sys.stdout.isatty() and not force:
            raise InvalidSettings("standard output is a terminal; name a file with -o, or send bytes there with -f")
        return
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}")
    if not force and _is_regular(target):
        raise FileExistsError(f"{path} exists; -f overwrites it")


def write_output(path: str, content: Content, force: bool, times_of: str | None = None) -> None:
    """Write bytes to a file, whole or not at all, or to standard output for `-`; `content` may be what writes them to a file.

    A regular input file named by `times_of` gives the output its modification time, as compressors do.
    """
    from .codecs.saving import replace_file  # imports what reads pictures

    check_output(path, force)
    if path == STANDARD:
        _write_through(sys.stdout.buffer, content)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not _is_regular(target):
        with open(target, "wb") as device:  # or a pipe, which a rename would replace
            _write_through(device, content)
        return
    replace_file(target, content)
    if times_of is not None and times_of != STANDARD and _is_regular(Path(times_of)):
        times = os.stat(times_of)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def write_signal(path: str, signal: Signal, form: str, force: bool, times_of: str | None) -> int:
    """Write a signal as a media file, as `write_output` does, a video a frame at a time; returns the file's bytes."""
    from .codecs.saving import write_to

    written = 0

    def write(file: BinaryIO) -> None:
        nonlocal written
        write_to(signal, form, file)
        written = file.tell()

    write_output(path, write, force, times_of)
    return written


def _write_through(file: BinaryIO, content: Content) -> None:
    """Write what needs a file that seeks to one that may not, by way of the disk."""
    if not callable(content):
        file.write(content)
        return
    with tempfile.TemporaryFile() as whole:
        content(whole)
        whole.seek(0)
        shutil.copyfileobj(whole, file)


def _is_regular(path: Path) -> bool:
    return path.exists() and stat.S_ISREG(path.stat().st_mode)
