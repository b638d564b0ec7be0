"""IDX files of small grey pictures, the form that MNIST and its likes come in."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptMedia

__all__ = ["read_idx"]

MAGIC, HEAD = b"\0\0\x08\x03", 16  # unsigned bytes in three dimensions


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the pictures (N, H, W) of an IDX file, gzipped or not; raises `CorruptMedia` for other files.

    For files that one trusts: their size is not limited.
    """
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    shape = cast("list[int]", np.frombuffer(raw[4:HEAD].ljust(HEAD - 4, b"\0"), ">u4").tolist())
    if raw[:4] != MAGIC or 0 in shape or len(raw) != HEAD + int(np.prod(shape)):
        raise CorruptMedia(f"{path} is no IDX file of pictures of unsigned bytes")
    return np.frombuffer(raw, np.uint8, offset=HEAD).reshape(shape).copy()
