"""Where `laconic bulk` reads and writes: a folder, or the objects below `s3://bucket/prefix`."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .codecs.errors import InvalidSettings
from .files import read_input

if TYPE_CHECKING:
    from .codecs.object_storage import Bucket

__all__ = ["Folder", "Objects", "Place", "files_in", "place_of"]


class Place(Protocol):
    """Files by their names, relative paths; what goes wrong with one of them is an `OSError` or a `LaconicError`."""

    @property
    def address(self) -> str:
        """What `place_of` makes this place of again, also in a process elsewhere."""
        ...

    def names(self, without: Place) -> Iterator[Path]:
        """Yield the files that are inputs, in order; none of `without`, a place within this one."""
        ...

    def start(self, name: Path, count: int) -> bytes:
        """Return the first bytes of a file."""
        ...

    def read(self, name: Path, max_bytes: int) -> bytes:
        """Return a file; raises `LimitExceeded` for one of more bytes."""
        ...

    def path_of(self, name: Path) -> Path | None:
        """Return the path of a file whose modification time its output gets; None where there is no such path."""
        ...

    def prepare(self) -> None:
        """Make ready for outputs; raises `OSError` or `InvalidSettings` where there can be none."""
        ...

    def claim(self, name: Path) -> bool:
        """Make ready for an output and return whether it is there already; raises where it may not be written."""
        ...

    def output(self, name: Path) -> AbstractContextManager[Path]:
        """Yield, as a context, the path to write an output to; it appears whole at the end, or not at all."""
        ...


def place_of(text: str) -> Place:
    """Return the place that a command line names; raises `InvalidSettings` for a URL that is not `s3://bucket/prefix`.

    >>> place_of("photos"), place_of("s3://media/photos/")
    (Folder(photos), Objects(s3://media/photos))
    """
    if "://" in text:
        return Objects(text)
    return Folder(Path(text))


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


class Folder:
    """A folder and those within it; symbolic links and hidden names are not followed, nothing is written through a link."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Folder({self.path})"

    @property
    def address(self) -> str:
        """See `Place.address`."""
        return str(self.path.absolute())

    def names(self, without: Place) -> Iterator[Path]:
        """See `Place.names`; raises `NotADirectoryError` where this is no folder."""
        if not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is not a folder")
        return files_in(self.path, without.path if isinstance(without, Folder) else None)

    def start(self, name: Path, count: int) -> bytes:
        """See `Place.start`."""
        with open(self.path / name, "rb") as file:
            return file.read(count)

    def read(self, name: Path, max_bytes: int) -> bytes:
        """See `Place.read`."""
        return read_input(str(self.path / name), max_bytes)

    def path_of(self, name: Path) -> Path | None:
        """See `Place.path_of`."""
        return self.path / name

    def prepare(self) -> None:
        """See `Place.prepare`: makes the folder."""
        self.path.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _root(self) -> Path:
        return self.path.resolve()

    def claim(self, name: Path) -> bool:
        """See `Place.claim`: makes the folders that the output is in."""
        target = self.path / name
        if target.is_symlink() or not target.parent.resolve().is_relative_to(self._root):  # an object's name may hold ".."
            raise InvalidSettings(f"{target} is not in {self.path}: a symbolic link, or its name, leads elsewhere")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.exists()

    @contextmanager
    def output(self, name: Path) -> Iterator[Path]:
        """See `Place.output`: the path itself; who writes there, with `laconic.files`, does so whole or not at all."""
        yield self.path / name


class Objects:
    """The objects below `s3://bucket/prefix`, whose keys are their names; the client is opened when it is first needed."""

    def __init__(self, url: str) -> None:
        if not url.startswith("s3://"):
            raise InvalidSettings(f"{url!r} is neither a folder nor s3://bucket/prefix")
        self.url = url.rstrip("/")

    def __repr__(self) -> str:
        return f"Objects({self.url})"

    @property
    def address(self) -> str:
        """See `Place.address`."""
        return self.url

    @cached_property
    def _bucket(self) -> Bucket:
        from .codecs.object_storage import Bucket

        return Bucket(self.url)

    @cached_property
    def _there(self) -> set[str]:
        return {listed.path for listed in self._bucket.listing()}

    def names(self, without: Place) -> Iterator[Path]:
        """See `Place.names`; empty objects that stand for folders, as consoles make them, are no files."""
        found = {listed.path: listed.size for listed in self._bucket.listing()}
        folders = {str(parent) for path in found for parent in Path(path).parents}
        below = f"{self.url}/"
        outputs = None
        if isinstance(without, Objects) and without.url.startswith(below):
            outputs = f"{without.url.removeprefix(below)}/"
        for path in sorted(found):
            name = Path(path)
            stands_for_folder = found[path] == 0 and (path in folders or not name.suffix)
            is_output = outputs is not None and path.startswith(outputs)
            if not stands_for_folder and not is_output and not any(part.startswith(".") for part in name.parts):
                yield name

    def start(self, name: Path, count: int) -> bytes:
        """See `Place.start`."""
        return b"".join(self._bucket.pieces(name.as_posix(), (0, count)))

    def read(self, name: Path, max_bytes: int) -> bytes:
        """See `Place.read`."""
        return self._bucket.read(name.as_posix(), max_bytes)

    def path_of(self, name: Path) -> Path | None:
        """See `Place.path_of`: there is none."""
        return None

    def prepare(self) -> None:
        """See `Place.prepare`: lists what is there, which tells whether storage and bucket answer."""
        self._there  # noqa: B018

    def claim(self, name: Path) -> bool:
        """See `Place.claim`; an object that has come since `prepare` is not known."""
        return name.as_posix() in self._there

    @contextmanager
    def output(self, name: Path) -> Iterator[Path]:
        """See `Place.output`: the path of a temporary file, which is sent at the end."""
        with tempfile.TemporaryDirectory(prefix="laconic-bulk-") as folder:
            path = Path(folder) / f"output{name.suffix}"
            yield path
            self._bucket.write(name.as_posix(), path)
