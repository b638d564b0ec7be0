"""Pictures of a benchmark, and how many threads work on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import PIL.Image

from ..codecs.signals import Image

__all__ = ["load_picture", "set_threads"]


def load_picture(path: Path) -> Image:
    """Return the picture as 8-bit RGB without metadata."""
    with PIL.Image.open(path) as picture:
        return Image(np.asarray(picture.convert("RGB")))


def set_threads(threads: int) -> None:
    """Make this process compute with `threads` threads; libraries imported later read the environment."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
