"""A reversible map from pictures to residuals, which the circuit for pictures of any size has as its base distribution.

All of it is integer arithmetic modulo 256. First a colour transform; then each sample less its prediction: several simple
predictors, each weighted by how well it has done around the sample (Seemann and Tischer 1997, "Generalized locally adaptive
DPCM"; JPEG XL's weighted predictor works alike), and the mean error that the same surroundings have had so far (CALIC, Wu and
Memon 1997). Residuals are stored about 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["TRANSFORMS", "best_transform", "from_residuals", "merge_colours", "split_colours", "to_residuals"]

Bytes = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

TRANSFORMS = 4  # none; green subtracted; YCoCg-R; red subtracted
PREDICTORS, CONTEXTS = 8, 512
FRACTION = 3  # bits of predictions below one level


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def split_colours(rgb: Bytes, transform: int) -> Bytes:
    """Return planes (3, H, W) of RGB (3, H, W) under a transform 0..3; differences are about 128."""
    red, green, blue = rgb
    if transform == 1:
        return np.stack([green, red - green + np.uint8(128), blue - green + np.uint8(128)])
    if transform == 2:
        orange = red - blue  # modulo 256; halved as the signed number it stands for
        middle = blue + (orange.view(np.int8) >> 1).view(np.uint8)
        tint = green - middle
        return np.stack([middle + (tint.view(np.int8) >> 1).view(np.uint8), tint + np.uint8(128), orange + np.uint8(128)])
    if transform == 3:
        return np.stack([red, green - red + np.uint8(128), blue - green + np.uint8(128)])
    return rgb.copy()


def merge_colours(planes: Bytes, transform: int) -> Bytes:
    """Undo `split_colours`."""
    first, second, third = planes
    if transform == 1:
        return np.stack([second + first - np.uint8(128), first, third + first - np.uint8(128)])
    if transform == 2:
        tint, orange = second - np.uint8(128), third - np.uint8(128)
        middle = first - (tint.view(np.int8) >> 1).view(np.uint8)
        blue = middle - (orange.view(np.int8) >> 1).view(np.uint8)
        return np.stack([orange + blue, tint + middle, blue])
    if transform == 3:
        green = second + first - np.uint8(128)
        return np.stack([first, green, third + green - np.uint8(128)])
    return planes.copy()


def best_transform(rgb: Bytes) -> int:
    """Return the transform whose residuals have the smallest entropy, by the middle quarter of the rows."""
    height = rgb.shape[1]
    middle = rgb[:, height * 3 // 8 : max(height * 5 // 8, height * 3 // 8 + 1)]
    costs = []
    for transform in range(TRANSFORMS):
        residuals = to_residuals(split_colours(middle, transform))
        counts = np.array([np.bincount(plane.ravel(), minlength=256) for plane in residuals])
        costs.append(-float((counts * np.log2(np.maximum(counts, 1) / counts.sum(1, keepdims=True))).sum()))
    return int(np.argmin(costs))


@_compiled
def _predict(
    x: Bytes, before: Bytes, joint: bool, i: int, j: int, guesses: NDArray[np.int64], errors: NDArray[np.int32]
) -> tuple[int, int]:
    """Return the prediction of sample (i, j) in 1/8 levels and its context; fills in each predictor's guess, in levels."""
    width = x.shape[1]
    n = np.int64(x[i - 1, j]) if i > 0 else (np.int64(x[i, j - 1]) if j > 0 else np.int64(128))
    w = np.int64(x[i, j - 1]) if j > 0 else n
    nw = np.int64(x[i - 1, j - 1]) if i > 0 and j > 0 else n
    ne = np.int64(x[i - 1, j + 1]) if i > 0 and j + 1 < width else n
    nn = np.int64(x[i - 2, j]) if i > 1 else n
    ww = np.int64(x[i, j - 2]) if j > 1 else w
    nne = np.int64(x[i - 2, j + 1]) if i > 1 and j + 1 < width else ne
    guesses[0] = min(n, w) if nw >= max(n, w) else (max(n, w) if nw <= min(n, w) else n + w - nw)
    guesses[1] = w + ne - n
    guesses[2] = n + ne - nne
    guesses[3] = 2 * n - nn
    guesses[4] = (w + n) // 2 + (ne - nw) // 4
    guesses[5] = w + (ne - nw) // 2 if abs(w - ww) < abs(n - nn) else n + (w - nw) // 2
    if joint:  # the plane before has this sample already
        here = np.int64(before[i, j])
        guesses[6] = w + here - (np.int64(before[i, j - 1]) if j > 0 else here)
        guesses[7] = n + here - (np.int64(before[i - 1, j]) if i > 0 else here)
    else:
        guesses[6] = 2 * w - ww
        guesses[7] = (2 * w + n + ne) // 4
    total, mean, least = np.int64(0), np.int64(0), np.int64(1 << 30)
    for k in range(PREDICTORS):
        guesses[k] = min(255, max(0, guesses[k]))
        spent = np.int64(errors[k, i, j + 2]) * 2 + errors[k, i + 1, j + 1] * 2 + errors[k, i, j + 1] + errors[k, i, j + 3]
        spent += errors[k, i + 1, j]
        least = min(least, spent)
        weight = (np.int64(1) << 24) // (1 + spent * spent)
        total += weight
        mean += weight * guesses[k]
    prediction = ((mean << FRACTION) + total // 2) // total
    level = prediction >> FRACTION
    context = (n > level) * 1 + (w > level) * 2 + (nw > level) * 4 + (ne > level) * 8
    context += (2 * n - nn > level) * 16 + (2 * w - ww > level) * 32
    energy = 0
    while energy < 7 and least >> (energy + 2):
        energy += 1
    return int(prediction), int(context) + 64 * energy


@_compiled
def _map(x: Bytes, before: Bytes, joint: bool, residuals: Bytes, forward: bool) -> None:
    """Fill in the residuals of a plane, or the plane from its residuals; `before` is the plane coded before."""
    height, width = x.shape
    errors = np.zeros((PREDICTORS, height + 1, width + 4), dtype=np.int32)
    guesses = np.zeros(PREDICTORS, dtype=np.int64)
    sums, counts = np.zeros(CONTEXTS, dtype=np.int64), np.zeros(CONTEXTS, dtype=np.int64)
    for i in range(height):
        for j in range(width):
            prediction, context = _predict(x, before, joint, i, j, guesses, errors)
            corrected = prediction + (sums[context] // counts[context] if counts[context] > 0 else 0)
            level = min(255, max(0, (corrected + (1 << (FRACTION - 1))) >> FRACTION))
            if forward:
                residuals[i, j] = (np.int64(x[i, j]) - level + 128) & 255
            else:
                x[i, j] = (np.int64(residuals[i, j]) + level - 128) & 255
            value = np.int64(x[i, j])
            for k in range(PREDICTORS):
                errors[k, i + 1, j + 2] = abs(guesses[k] - value)
            sums[context] += (value << FRACTION) - prediction
            counts[context] += 1
            if counts[context] >= 128:
                sums[context] >>= 1
                counts[context] >>= 1


def to_residuals(planes: Bytes) -> Bytes:
    """Return the residuals (C, H, W) of planes."""
    residuals = np.empty_like(planes)
    for c, plane in enumerate(planes):
        _map(plane, planes[max(c - 1, 0)], c > 0, residuals[c], True)
    return residuals


def from_residuals(residuals: Bytes) -> Bytes:
    """Undo `to_residuals`."""
    planes = np.zeros_like(residuals)
    for c, plane in enumerate(planes):
        _map(plane, planes[max(c - 1, 0)], c > 0, residuals[c], False)
    return planes
