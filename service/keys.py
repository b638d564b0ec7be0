"""Keys that may use the service: a JSON file with, for each, whose it is, what it opens, and the SHA-256 of its secret.

A key reads `lcn_ID_SECRET`. The id finds the entry; the secret is 256 random bits. Nobody guesses or searches those, so a plain
SHA-256 protects them at rest: slow hashes are for passwords, which people choose from few, and cost every request their time.
A name may have several keys at once, which is how one is replaced without a pause.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ..codecs.errors import InvalidSettings
from ..codecs.saving import replace_file
from .logs import Log
from .problems import Unauthenticated

__all__ = ["SCOPES", "Key", "Keys", "Scope", "change_keys", "new_key", "read_keys"]

Scope = Literal["encode", "decode", "jobs", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
LARGEST_FILE = 2**20  # bytes; some three thousand keys
LOOK_S = 1.0  # seconds between two looks at whether the file has changed

_BEARER = re.compile(r"bearer +lcn_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.IGNORECASE | re.ASCII)
_NOBODY = "0" * 64  # compared with where no key has the id, so that this takes as long


class Key(BaseModel):
    """One key as the file has it. `requests_per_minute` and `bytes_per_hour` (of bodies) are None where nothing limits them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = Field(min_length=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**9)
    bytes_per_hour: int | None = Field(default=None, ge=1, le=10**15)


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have the same id")
        return self


def new_key(
    name: str,
    scopes: Sequence[str],
    expires_days: float | None = None,
    requests_per_minute: int | None = None,
    bytes_per_hour: int | None = None,
) -> tuple[Key, str]:
    """Return a new entry and the key itself, which nothing keeps; raises `InvalidSettings` for values that do not fit."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        key = Key(
            name=name,
            id=identity,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            scopes=tuple(dict.fromkeys(scopes)),  # type: ignore[arg-type]  # checked by the model
            created=now,
            expires=None if expires_days is None else now + timedelta(days=expires_days),
            requests_per_minute=requests_per_minute,
            bytes_per_hour=bytes_per_hour,
        )
    except (ValidationError, OverflowError) as error:
        raise InvalidSettings(f"no such key can be made: {_reason(error)}") from error
    return key, f"lcn_{identity}_{secret}"


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file; raises `InvalidSettings` where it is absent, damaged, too large, or others may write it."""
    return _read(path)[0]


def _read(path: Path) -> tuple[tuple[Key, ...], tuple[int, ...]]:
    """Return the keys and what tells this state of the file from others."""
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InvalidSettings(f"the keys file {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if state.st_mode & 0o022:
        raise InvalidSettings(f"the keys file {path} can be changed by other users: chmod 600 it")
    if len(content) > LARGEST_FILE:
        raise InvalidSettings(f"the keys file {path} has more than {LARGEST_FILE:,} bytes")
    try:
        return _KeysFile.model_validate_json(content).keys, _signature(state)
    except ValidationError as error:
        raise InvalidSettings(f"the keys file {path} is damaged: {_reason(error)}") from error


def _signature(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False)[0]  # never the input: it is a keys file
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def change_keys(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    """Replace the file's keys by what `change` makes of them; a file that is absent is made, for its owner alone (0600).

    The file changes whole or not at all, and two changes at once come one after the other. Owner and permissions of a file
    that exists stay. Raises `InvalidSettings` as `read_keys` does, and `OSError`.
    """
    with _alone(path.resolve().parent):
        before = path.stat() if path.exists() else None
        keys = change(() if before is None else read_keys(path))
        replace_file(path, _KeysFile(keys=keys).model_dump_json(indent=2).encode() + b"\n", 0o600)
        if before is not None:
            with contextlib.suppress(PermissionError):  # only root gives files away
                os.chown(path, before.st_uid, before.st_gid)
            os.chmod(path, before.st_mode & 0o777)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, not on the file: that is replaced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Keys:
    """The keys in force. A changed file is noticed within a second; one that does not read is logged, and the old keys stay."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path, self._log = path, log
        keys, self._seen = _read(path)
        self._by_id = {key.id: key for key in keys}
        self._look_at = time.monotonic() + LOOK_S

    def authenticate(self, headers: Sequence[str]) -> Key:
        """Return the key of a request's Authorization headers; raises `Unauthenticated`."""
        self._notice_changes()
        if not headers:
            raise Unauthenticated("send a key: Authorization: Bearer lcn_...; `laconic keys add` makes one")
        match = _BEARER.fullmatch(headers[0].strip())
        if match is None or len(headers) > 1:
            raise Unauthenticated("the Authorization header is not one 'Bearer lcn_...'", refused=True)
        key = self._by_id.get(match[1])
        digest = hashlib.sha256(match[2].encode()).hexdigest()
        same = hmac.compare_digest(digest, _NOBODY if key is None else key.sha256)
        if key is None or not same:
            raise Unauthenticated("this key is not known here; it may have been revoked", refused=True)
        if key.expires is not None and key.expires <= datetime.now(UTC):
            raise Unauthenticated(f"this key of {key.name} expired at {key.expires:%Y-%m-%d %H:%M} UTC", refused=True)
        return key

    def _notice_changes(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_S
        try:
            seen = _signature(os.stat(self._path))
        except OSError:
            seen = ()  # reading it says what is wrong
        if seen == self._seen:
            return
        try:
            keys, self._seen = _read(self._path)
        except InvalidSettings as error:
            self._seen = seen  # one line in the log for each state of the file
            self._log.error("keys not read", reason=str(error), kept=len(self._by_id))
            return
        self._by_id = {key.id: key for key in keys}
        self._log.info("keys read", keys=len(keys))
