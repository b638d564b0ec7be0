"""`laconic keys`: make, list and revoke the keys that a service asks for, in the file that it reads them from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .codecs.errors import InvalidSettings
from .service.keys import Key, change_keys, new_key, read_keys
from .terminal import note, print_table

__all__ = ["run_add", "run_list", "run_revoke"]


def run_add(
    file: Path,
    name: str,
    scopes: Sequence[str],
    expires_days: float | None,
    requests_per_minute: int | None,
    bytes_per_hour: int | None,
) -> None:
    """Add a key and print it on standard output, alone on its line; what it may do goes to standard error."""
    key, text = new_key(name, scopes, expires_days, requests_per_minute, bytes_per_hour)
    change_keys(file, lambda keys: (*keys, key))
    print(text)
    end = "never expires" if key.expires is None else f"expires {key.expires:%Y-%m-%d %H:%M} UTC"
    note(
        f"{name}, id {key.id}: {', '.join(key.scopes)}; {end}. {file} keeps its SHA-256 only: this is the one time you see it."
    )


def run_list(file: Path, as_json: bool) -> None:
    """Print the keys without their digests."""
    keys = read_keys(file)
    if as_json:
        print(json.dumps([key.model_dump(mode="json", exclude={"sha256"}) for key in keys]))
        return
    columns = ("name", "id", "scopes", "created", "expires", "requests/min", "bytes/h")
    print_table("", columns, [_row(key) for key in keys], left=5)


def _row(key: Key) -> tuple[str, ...]:
    end = "never" if key.expires is None else f"{key.expires:%Y-%m-%d}"
    if key.expires is not None and key.expires <= datetime.now(UTC):
        end += " (over)"
    limits = (f"{limit:,}" if limit else "any" for limit in (key.requests_per_minute, key.bytes_per_hour))
    return (key.name, key.id, ", ".join(key.scopes), f"{key.created:%Y-%m-%d}", end, *limits)


def run_revoke(file: Path, name: str, identity: str | None) -> None:
    """Take away a name's keys, or one of them; raises `InvalidSettings` where there is none."""
    gone: list[str] = []

    def without(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        gone.extend(key.id for key in keys if key.name == name and identity in (None, key.id))
        if not gone:
            names = ", ".join(sorted({key.name for key in keys})) or "none"
            raise InvalidSettings(f"{file} has no such key of {name}; it has keys of {names}")
        return tuple(key for key in keys if key.id not in gone)

    change_keys(file, without)
    note(f"{name} lost {len(gone)} key{'s' * (len(gone) != 1)}: {', '.join(gone)}")
