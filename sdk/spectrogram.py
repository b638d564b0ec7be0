"""Spectrograms as pictures: time from left to right, frequency from below to half the sampling rate, levels as colours."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from .codecs.audio.rvq_packets import float_samples
from .codecs.signals import Audio

__all__ = ["COLUMNS", "ROWS", "error_picture", "level_picture", "levels"]

COLUMNS, ROWS = 800, 200
WINDOW_SECONDS = 0.032
FLOOR, SPAN = -100.0, 90.0  # dB of full scale that is black, and dB from there to the brightest
ERROR_SPAN = 30.0  # dB of difference that is brightest
STEPS = 90  # colours: one for each dB
ANCHORS = ((0, 0, 4), (60, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))  # dark to bright


def levels(sound: Audio) -> NDArray[np.float32]:
    """Return the levels (ROWS, columns) in dB of full scale, the highest frequency first, of the mean of the channels' powers.

    There are as many columns as the sound has windows, `COLUMNS` at most; a sine at full scale has 0 dB.
    """
    samples = float_samples(sound.array, sound.bits)
    size = 2 ** max(6, round(math.log2(WINDOW_SECONDS * sound.rate)))
    count = max(1, min(COLUMNS, samples.shape[1] // (size // 4)))
    starts = np.linspace(0, samples.shape[1], count, endpoint=False).astype(np.int64)
    padded = np.pad(samples, ((0, 0), (size // 2, size)))
    window = np.hanning(size)
    power = np.zeros((count, size // 2))
    for channel in padded:
        frames = np.lib.stride_tricks.sliding_window_view(channel, size)[starts] * window
        power += np.abs(np.fft.rfft(frames)[:, 1:]) ** 2 / len(padded)
    power *= (2 / window.sum()) ** 2
    edges = np.linspace(0, size // 2, ROWS + 1)
    rows = [power[:, int(low) : max(int(low) + 1, int(high))].max(1) for low, high in pairwise(edges)]
    found: NDArray[np.float32] = (10 * np.log10(np.maximum(np.stack(rows[::-1]), 1e-12))).astype(np.float32)
    return found


def level_picture(found: NDArray[np.float32]) -> bytes:
    """Return levels as a PNG."""
    return _png((np.maximum(found, FLOOR) - FLOOR) / SPAN)


def error_picture(one: NDArray[np.float32], other: NDArray[np.float32]) -> bytes:
    """Return the absolute difference of two sounds' levels as a PNG; what is below the floor in both is equal."""
    return _png(np.abs(np.maximum(one, FLOOR) - np.maximum(other, FLOOR)) / ERROR_SPAN)


def _png(parts: NDArray[np.floating[Any]]) -> bytes:
    """Return values of 0 to 1 as a picture of few colours, which packs small."""
    places = np.linspace(0, len(ANCHORS) - 1, STEPS + 1)
    colours = np.stack([np.interp(places, range(len(ANCHORS)), channel) for channel in zip(*ANCHORS, strict=True)], 1)
    picture = PIL.Image.fromarray(np.rint(np.clip(parts, 0, 1) * STEPS).astype(np.uint8))
    picture.putpalette(np.rint(colours).astype(np.uint8).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
