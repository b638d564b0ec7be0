"""Objects on storage that speaks S3, below `s3://bucket/prefix`.

The client, obstore, is the extra `[cluster]` and imported only here, when something names such a place. Endpoint, region and
credentials are those of the usual AWS_ variables, or of the role that the machine or pod has.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InvalidSettings, LimitExceeded
from .extras import extra_module

__all__ = ["PIECE", "Bucket", "Listed"]

PIECE = 2**20  # bytes of an object that are read at once
PART = {"chunk_size": 8 * 2**20, "max_concurrency": 4}  # what a large object is sent in: so much of it is in memory
CLIENT = {"allow_http": True}  # where the endpoint says http:// itself
RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
PURPOSE = "s3:// needs obstore"


class Listed(NamedTuple):
    """An object: its path below the prefix, when it was written by the storage's clock, its bytes."""

    path: str
    changed: datetime
    size: int


class Bucket:
    """The objects below `s3://bucket/prefix`; errors are `OSError`, and `FileNotFoundError` where an object is missing.

    Raises `InvalidSettings` for another URL, in which `called` is what the user calls it, and where the extra is missing.
    """

    def __init__(self, url: str, called: str = "the URL") -> None:
        if not url.startswith("s3://"):
            raise InvalidSettings(f"{called} is {url!r}, not s3://bucket or s3://bucket/prefix")
        self._client: Any = extra_module("obstore", "cluster", PURPOSE)
        self._errors: Any = extra_module("obstore.exceptions", "cluster", PURPOSE)
        store: Any = extra_module("obstore.store", "cluster", PURPOSE).S3Store
        try:
            self._store = store.from_url(url, client_options=CLIENT, retry_config=RETRIES)
        except (self._errors.BaseError, ValueError) as error:
            raise InvalidSettings(f"{called} is {url!r}: {_first_line(error)}") from error

    def write(self, path: str, content: bytes | Path) -> None:
        """Write an object whole or not at all: bytes, or what is in a file."""
        with self._told_apart(path):
            self._client.put(self._store, path, content, **PART)

    def write_all(self, path: str, pieces: Iterable[bytes]) -> None:
        """Write an object that comes in pieces; where they break off there is none.

        `put` takes them as well, but draws them from a thread of the client, where they cannot be read from the same storage.
        """
        with self._told_apart(path):
            writer = self._client.open_writer(
                self._store, path, buffer_size=PART["chunk_size"], max_concurrency=PART["max_concurrency"]
            )
        for piece in pieces:
            with self._told_apart(path):
                writer.write(piece)
        with self._told_apart(path):
            writer.close()

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return an object; raises `LimitExceeded`, before reading it, for one of more bytes than that."""
        with self._told_apart(path):
            found = self._client.get(self._store, path)
            if max_bytes is not None and found.meta["size"] > max_bytes:
                raise LimitExceeded("the input's length in bytes", max_bytes, found.meta["size"], "max_input_bytes")
            return bytes(found.bytes())

    def pieces(self, path: str, span: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Open an object and return it, or the bytes of a span of it, in pieces."""
        with self._told_apart(path):
            found = self._client.get(self._store, path, options={} if span is None else {"range": span})

        def stream() -> Iterator[bytes]:
            with self._told_apart(path):
                for piece in found.stream(min_chunk_size=PIECE):
                    yield bytes(piece)

        return stream()

    def copy(self, path: str, target: str) -> None:
        """Copy an object within the storage."""
        with self._told_apart(path):
            self._client.copy(self._store, path, target)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that are not there do not matter."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError), self._told_apart(path):
                self._client.delete(self._store, path)

    def changed(self, path: str) -> datetime:
        """Return when an object was written, by the storage's clock."""
        with self._told_apart(path):
            written: datetime = self._client.head(self._store, path)["last_modified"]
            return written

    def listing(self, prefix: str = "") -> Iterator[Listed]:
        """Yield every object below a prefix."""
        with self._told_apart(prefix):
            for batch in self._client.list(self._store, prefix or None, chunk_size=1000):
                yield from (Listed(entry["path"], entry["last_modified"], entry["size"]) for entry in batch)

    @contextmanager
    def _told_apart(self, path: str) -> Iterator[None]:
        try:
            yield
        except self._errors.NotFoundError as error:
            raise FileNotFoundError(f"{path} is not in the object storage") from error
        except self._errors.BaseError as error:
            raise OSError(f"the object storage: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Return what an error says, without the picture of its insides that follows; of an answer in XML its own words."""
    text = str(error)
    told = re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL)
    return f"{told[2].strip()} ({told[1].strip()})" if told else text.strip().partition("\n")[0]
