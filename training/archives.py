"""The archives of photographs that recipes are trained on."""

from __future__ import annotations

import tarfile
from pathlib import Path

__all__ = ["read_archives"]


def read_archives(folder: Path) -> dict[str, bytes]:
    """Return the files of all .tar archives in a folder by their names, in order of the names."""
    members: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.isfile():
                    members[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return dict(sorted(members.items()))
