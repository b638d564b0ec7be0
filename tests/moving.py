"""A small clip whose networks fit in seconds: smooth waves that move."""

from __future__ import annotations

import numpy as np

from laconic.codecs.signals import Video

__all__ = ["moving_waves"]


def moving_waves(frames: int = 24, height: int = 32, width: int = 48, bits: int = 8) -> Video:
    """Return waves that pass over a slope, at 25 frames a second."""
    rows, columns = np.mgrid[:height, :width]
    shots = []
    for time in range(frames):
        red = 128 + 90 * np.sin((columns + 2 * time) / 9)
        green = 128 + 90 * np.cos((rows - time) / 7)
        shots.append(np.stack([red, green, 3 * rows + columns], 2))
    levels = np.rint(np.stack(shots)).clip(0, 255)
    return Video.of(levels.astype(np.uint8) if bits == 8 else (257 * levels).astype(np.uint16))
