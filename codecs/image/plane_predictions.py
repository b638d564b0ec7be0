"""Predictions of a sample beside least squares, their blend, and what it missed in similar contexts."""

from __future__ import annotations

from ...entropy.kernels import inlined
from .plane_model import BIAS_CONTEXTS, BIASES, LEVELS, MARGIN, Integers, Model, Planes, level

__all__ = ["account", "activity_of", "blend", "predict_by_formulas", "prepare_row", "textures", "unbias"]


@inlined
def predict_by_formulas(model: Model, first: int, s: Planes, p: int, before: Integers, y: int, x: int) -> None:
    """Predict by formulas: the median edge detector (LOCO-I), and two that use the plane before or wider neighbours."""
    west, north, north_west, north_east = s[p, y, x - 1], s[p, y - 1, x], s[p, y - 1, x - 1], s[p, y - 1, x + 1]
    plane = west + north - north_west
    model.predictions[first] = min(max(plane, min(west, north)), max(west, north))
    if before.size > 0:
        q = before[0]
        here, left, over = s[q, y, x], s[q, y, x - 1], s[q, y - 1, x]
        model.predictions[first + 1] = 0.5 * (west + north) + here - 0.5 * (left + over)
        model.predictions[first + 2] = plane + 0.75 * (here - (left + over - s[q, y - 1, x - 1]))
    else:
        model.predictions[first + 1] = 0.5 * (west + north) + 0.25 * (north_east - north_west)
        model.predictions[first + 2] = north + 0.5 * (north_east - s[p, y - 2, x + 1]) + 0.25 * (west - north_west)


@inlined
def activity_of(model: Model, k: int, row: int, x: int) -> float:
    """Return the weighted sum of a prediction's absolute errors at the neighbours, weights summing to 7."""
    here, above = model.errors[k, row], model.errors[k, 1 - row]
    activity: float = 2.0 * (here[x - 1] + above[x]) + above[x - 1] + above[x + 1] + here[x - 2]
    return activity


@inlined
def blend(model: Model, highest: int, row: int, x: int) -> float:
    """Return the mean of the predictions, weighted by the inverse fourth power of their errors nearby."""
    total = weight = 0.0
    for k in range(model.predictions.size - 1):
        model.predictions[k] = min(max(model.predictions[k], 0.0), float(highest))
        activity = activity_of(model, k, row, x)
        model.levels[k] = level(activity * (4.0 / 7.0))
        share = 1.0 / ((activity + 0.6) * (activity + 0.6))
        share *= share
        weight += share
        total += share * model.predictions[k]
    return total / weight


@inlined
def textures(s: Planes, p: int, before: Integers, y: int, x: int, mean: float) -> tuple[int, int]:
    """Return which of 6 and of 4 neighbours exceed the prediction (or, in the plane before, the sample there)."""
    west, north, north_west, north_east = s[p, y, x - 1], s[p, y - 1, x], s[p, y - 1, x - 1], s[p, y - 1, x + 1]
    six = (north > mean) | (west > mean) << 1 | (north_west > mean) << 2 | (north_east > mean) << 3
    six |= (s[p, y, x - 2] > mean) << 4 | (s[p, y - 2, x] > mean) << 5
    if before.size > 0:
        q = before[0]
        here = s[q, y, x]
        four = (
            (s[q, y - 1, x] > here) | (s[q, y, x - 1] > here) << 1 | (s[q, y, x + 1] > here) << 2 | (s[q, y + 1, x] > here) << 3
        )
    else:
        four = (2 * north - s[p, y - 2, x] > mean) | (2 * west - s[p, y, x - 2] > mean) << 1
        four |= (west + north - north_west > mean) << 2 | (s[p, y - 1, x + 2] > mean) << 3
    return six, four


@inlined
def unbias(model: Model, mean: float, six: int, four: int, activity: int, missed: int) -> float:
    """Return the mean plus the average of what it missed in five contexts."""
    model.bias_at[0] = six * 8 + min(activity >> 1, 7)
    model.bias_at[1] = missed
    model.bias_at[2] = four * LEVELS + activity
    model.bias_at[3] = min(int(mean) >> 1, BIAS_CONTEXTS - 1)
    model.bias_at[4] = six * 16 + four
    total = 0.0
    for b in range(BIASES):
        total += model.bias_sum[b, model.bias_at[b]] / (model.bias_count[b, model.bias_at[b]] + 2.0)
    return mean + total / BIASES


@inlined
def prepare_row(model: Model, s: Planes, p: int, y: int, width: int) -> None:
    """Fill the margins beside row `y` and those of the row above from known samples."""
    row = y & 1
    for j in range(MARGIN):
        s[p, y, j] = s[p, y - 1, MARGIN]
        s[p, y - 1, width + MARGIN + j] = s[p, y - 1, width + MARGIN - 1]
        model.missed[row, j] = 0.0
        for k in range(model.predictions.size):
            above = model.errors[k, 1 - row]
            model.errors[k, row, j] = above[MARGIN]
            above[width + MARGIN + j] = above[width + MARGIN - 1]


@inlined
def account(model: Model, value: int, mean: float, row: int, x: int) -> None:
    """Note how well the predictions did."""
    for k in range(model.predictions.size):
        error, at = abs(value - model.predictions[k]), model.levels[k]
        model.errors[k, row, x] = error
        model.scale_sum[k, at] += error
        model.scale_count[k, at] += 1.0
        if model.scale_count[k, at] > 400.0:
            model.scale_sum[k, at] *= 0.5
            model.scale_count[k, at] *= 0.5
    model.missed[row, x] = value - model.predictions[model.predictions.size - 1]
    for b in range(BIASES):
        at = model.bias_at[b]
        model.bias_sum[b, at] += value - mean
        model.bias_count[b, at] += 1.0
        if model.bias_count[b, at] > 120.0:
            model.bias_sum[b, at] *= 0.5
            model.bias_count[b, at] *= 0.5
