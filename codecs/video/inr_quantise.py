"""Quantisation of a fitted network without further fitting: steps and rounding.

Near a fit's end the frames' squared error grows by `s * e**2` for an error e of a parameter (`inr_sensitivity`). A uniform
quantiser of step t makes an error of t**2 / 12 in the mean, and a bit per parameter halves the step, so the cheapest error
of a given size has steps in proportion to s**-0.5 everywhere: one number, the coarseness, makes a ladder of rates. Rounding
goes from column to column of a layer, and the weights not yet rounded make up for the errors so far (Frantar et al. 2023,
"GPTQ").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .inr_parameters import LARGEST, MAX_EXPONENT, QuantisedTensor, Shapes
from .inr_sensitivity import Sensitivity

__all__ = ["coarseness_of_slope", "requantise", "slope_of_coarseness"]

Doubles = NDArray[np.float64]

GRID = 2  # of the exponents of rows and columns, in eighths of an octave
DAMPING = 0.003  # of the mean square of a layer's inputs, added to each
LEAST = 1e-4  # of the mean sensitivity: that of rows and columns which do nothing
SLOPE = np.log(2.0) / 6.0  # squared error a bit is worth, in squares of the step at sensitivity 1


def coarseness_of_slope(slope: float) -> float:
    """Return the coarseness at which a bit changes the mean squared error (of samples of 0..1) by `slope`."""
    return float(8.0 * np.log2(np.sqrt(slope / SLOPE)))


def slope_of_coarseness(coarseness: float) -> float:
    """Return by how much a bit changes the mean squared error (of samples of 0..1) at a coarseness."""
    return float(SLOPE * 2.0 ** (coarseness / 4.0))


class _Plan(NamedTuple):
    """What a tensor [A, n] is rounded by: exponents of steps, feedback (upper, [n + 1, n + 1])."""

    tensor: int
    rows: NDArray[np.int32] | None
    columns: NDArray[np.int32] | None
    feedback: Doubles | None


def requantise(
    tensors: Mapping[str, NDArray[np.float32]], shapes: Shapes, sensitivity: Sensitivity, coarseness: float
) -> dict[str, QuantisedTensor]:
    """Quantise float32 tensors with steps 2**(coarseness / 8) / sqrt(sensitivity)."""
    quantised: dict[str, QuantisedTensor] = {}
    biases: dict[str, Doubles] = {}
    for name, shape, role in shapes:
        floats = np.asarray(tensors[name], np.float64)
        if role == "bias" and name in biases:
            floats = biases[name]
        bias = _bias_of(name, shapes) if role == "weight" and name in sensitivity.moments else None
        moments = sensitivity.moments.get(name) if role == "weight" else None
        plan = _plan(floats, sensitivity.diagonal[name], moments, coarseness)
        values, errors = _round(floats.reshape(shape[0], -1), plan, shape)
        if bias is not None and plan.feedback is not None:
            biases[bias] = np.asarray(tensors[bias], np.float64) + errors
        quantised[name] = QuantisedTensor(values.reshape(shape), plan.tensor, plan.rows, plan.columns)
    return quantised


def _bias_of(name: str, shapes: Shapes) -> str | None:
    """Return the name of the bias that belongs to a weight: the tensor after it."""
    names = [shape[0] for shape in shapes]
    after = names.index(name) + 1
    if after == len(shapes) or shapes[after][2] != "bias" or shapes[after][1] != shapes[after - 1][1][:1]:
        return None
    return names[after]


def _plan(floats: Doubles, diagonal: Doubles, moments: Doubles | None, coarseness: float) -> _Plan:
    """Choose steps; `moments` are those of the inputs of a layer whose weights the tensor holds."""
    flat = diagonal.reshape(diagonal.shape[0], -1)
    inner = floats.shape[1] if floats.ndim > 1 else 1
    feedback = None
    if moments is not None:
        power = np.diagonal(moments)[:-1]
        rows = flat.sum(1) / max(float(power.sum()), 1e-30)
        damped = moments + DAMPING * max(float(power.mean()), 1e-12) * np.eye(len(moments))
        feedback = np.linalg.cholesky(np.linalg.inv(damped)).T
        along = 1.0 / np.diagonal(feedback)[:-1] ** 2
        columns = np.exp(np.log(along).reshape(inner, -1).mean(1))
    else:
        weight = _raised(flat)
        rows = weight.mean(1)
        columns = (weight / rows[:, None]).reshape(len(weight), inner, -1).mean((0, 2))
    row_exponents, column_exponents = coarseness - 4.0 * np.log2(_raised(rows)), -4.0 * np.log2(_raised(columns))
    middle = float(np.median(column_exponents))
    tensor, row_factors = _factors(row_exponents + middle, len(flat) * inner)
    column_factors = _relative(column_exponents - middle)
    return _Plan(tensor, row_factors, column_factors, feedback)


def _raised(sensitivity: Doubles) -> Doubles:
    """Return sensitivities with the smallest raised, so that steps are bounded."""
    return np.maximum(sensitivity, max(LEAST * float(sensitivity.mean()), 1e-30))


def _factors(exponents: Doubles, count: int) -> tuple[int, NDArray[np.int32] | None]:
    """Return an exponent for all, and those relative to it."""
    tensor = int(np.clip(np.round(np.median(exponents)), -MAX_EXPONENT, MAX_EXPONENT))
    return tensor, _relative(exponents - tensor) if count > 1 else None


def _relative(exponents: Doubles) -> NDArray[np.int32] | None:
    """Return exponents on a coarser grid, None where all are 0."""
    rounded = np.clip(GRID * np.round(exponents / GRID), -MAX_EXPONENT, MAX_EXPONENT).astype(np.int32)
    return rounded if rounded.any() else None


def _round(floats: Doubles, plan: _Plan, shape: tuple[int, ...]) -> tuple[NDArray[np.int32], Doubles]:
    """Round [A, n] to integers. Returns also what the layer's biases should change by, [A]."""
    steps = QuantisedTensor(np.zeros(shape, np.int32), plan.tensor, plan.rows, plan.columns).steps()
    steps = np.ascontiguousarray(np.broadcast_to(steps, shape)).reshape(floats.shape)
    if plan.feedback is None:
        return _nearest(floats / steps), np.zeros(len(floats))
    left = np.concatenate([floats, np.zeros((len(floats), 1))], 1)
    values = np.zeros(floats.shape, np.int32)
    for j in range(floats.shape[1]):
        values[:, j] = _nearest(left[:, j] / steps[:, j])
        error = (left[:, j] - values[:, j] * steps[:, j]) / plan.feedback[j, j]
        left[:, j + 1 :] -= error[:, None] * plan.feedback[j, j + 1 :]
    return values, left[:, -1]


def _nearest(scaled: Doubles) -> NDArray[np.int32]:
    return np.clip(np.round(scaled), -LARGEST, LARGEST).astype(np.int32)
