"""Save signals as media files by the name's extension, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from . import media
from .audio import writers as sounds
from .errors import UnsupportedMedia
from .signals import Audio, Signal, Video
from .video import writers as videos

__all__ = ["format_of", "replace_file", "save", "write_to"]

OTHER_EXTENSIONS = {".jpeg": "jpeg", ".pgm": "ppm", ".pnm": "ppm", ".m4v": "mp4", ".wave": "wav", ".oga": "ogg"}


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the name of the format that a file name's extension asks for.

    >>> format_of("holiday.JPG")
    'jpeg'

    Raises `UnsupportedMedia` that lists the extensions.
    """
    extension = Path(path).suffix.lower()
    written = {form.extension: form.name for form in media.FORMATS.values() if form.writes}
    name = (written | OTHER_EXTENSIONS).get(extension)
    if name is None:
        what = f"{extension} files are not" if extension else "a file without extension is not"
        raise UnsupportedMedia(f"{what} written; {', '.join(written)} are")
    return name


def save(signal: Signal, path: str | os.PathLike[str], quality: int | None = None) -> None:
    """Write a signal as the file that the extension asks for, as `write_to`; `quality` as of `media.write`."""
    form = format_of(path)
    replace_file(path, lambda file: write_to(signal, form, file, quality))


def write_to(signal: Signal, form: str, file: BinaryIO, quality: int | None = None) -> None:
    """Write a signal to an open file that seeks, a video a frame and sound a block at a time; raises as `media.write`."""
    if isinstance(signal, Video):
        videos.write_to(signal, form, file, quality)
    elif isinstance(signal, Audio):
        sounds.write_to(signal, form, file, quality)
    else:
        file.write(media.write(signal, form, quality))


def replace_file(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], None], mode: int = 0o666) -> None:
    """Write a file by way of a temporary one in the same folder, so that no reader ever sees a part of it.

    `content` is what it holds, or writes that to the open file. `mode` are its permissions, less the process's umask.
    """
    target = Path(path).resolve()  # through a symbolic link, to keep the link
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
