"""Quantisation of a fitted network without further fitting: steps, rounding, and how many bits each tensor gets.

Near a fit's end the frames' squared error grows by `s * e**2` for an error e of a parameter (`inr_sensitivity`). A uniform
quantiser of step t makes an error of t**2 / 12 in the mean, and a bit per parameter halves the step, so the cheapest error
of a given size has steps in proportion to s**-0.5 everywhere: one number, the coarseness, makes a ladder of rates. Rounding
goes from column to column of a layer, and the weights not yet rounded make up for the errors so far (Frantar et al. 2023,
"GPTQ"); an integer is the one nearer to zero where that saves more bits than it costs error. `allocate` corrects the
steps of whole tensors by what the frames really lose, as layers' errors do not just add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .inr_parameters import LARGEST, MAX_EXPONENT, QuantisedTensor, Shapes, encode_parameters
from .inr_sensitivity import Sensitivity

__all__ = [
    "Measure",
    "allocate",
    "coarseness_of_loss",
    "coarseness_of_slope",
    "requantise",
    "requantise_to_size",
    "slope_of_coarseness",
]

Doubles = NDArray[np.float64]
Measure = Callable[[Mapping[str, NDArray[np.float32]]], float]  # parameters to the mean squared error of samples of 0..1

GRID = 2  # of the exponents of rows and columns, in eighths of an octave
DAMPING = 0.003  # of the mean square of a layer's inputs, added to each
LEAST = 1e-4  # of the mean sensitivity: that of rows and columns which do nothing
COARSENESS = (-240.0, 60.0)  # least and greatest that are tried
SMALLEST_SHARE = 0.005  # of all parameters: tensors with fewer are not allocated
SLOPE = np.log(2.0) / 6.0  # squared error a bit is worth, in squares of the step at sensitivity 1


def coarseness_of_slope(slope: float) -> float:
    """Return the coarseness at which a bit changes the mean squared error (of samples of 0..1) by `slope`."""
    return float(8.0 * np.log2(np.sqrt(slope / SLOPE)))


def slope_of_coarseness(coarseness: float) -> float:
    """Return by how much a bit changes the mean squared error (of samples of 0..1) at a coarseness."""
    return float(SLOPE * 2.0 ** (coarseness / 4.0))


def coarseness_of_loss(loss: float, parameters: int) -> float:
    """Return the coarseness at which the mean squared error of a network of so many parameters grows by about `loss`."""
    return float(8.0 * np.log2(np.sqrt(12.0 * loss / parameters)))


class _Plan(NamedTuple):
    """What a tensor [A, n] is rounded by: exponents of steps, sensitivity of rows and columns, feedback (upper, [n, n])."""

    tensor: int
    rows: NDArray[np.int32] | None
    columns: NDArray[np.int32] | None
    weight: Doubles
    feedback: Doubles | None


def requantise(
    tensors: Mapping[str, NDArray[np.float32]],
    shapes: Shapes,
    sensitivity: Sensitivity,
    coarseness: float,
    offsets: Mapping[str, int] | None = None,
    thrift: float = 0.0,
) -> dict[str, QuantisedTensor]:
    """Quantise float32 tensors with steps 2**(coarseness / 8) / sqrt(sensitivity).

    `offsets` are added to the exponents of whole tensors (see `allocate`). `thrift` is how much rounding minds the bits: 0 not
    at all, 1 as much as the steps do. Errors towards zero add up over layers: at rates worth having thrift costs more than it
    saves.
    """
    quantised: dict[str, QuantisedTensor] = {}
    biases: dict[str, Doubles] = {}
    for name, shape, role in shapes:
        shift = coarseness + (offsets or {}).get(name, 0)
        floats = np.asarray(tensors[name], np.float64)
        if role == "bias" and name in biases:
            floats = biases[name]
        bias = _bias_of(name, shapes) if role == "weight" and name in sensitivity.moments else None
        moments = sensitivity.moments.get(name) if role == "weight" else None
        plan = _plan(floats, sensitivity.diagonal[name], moments, shift)
        values, errors = _round(floats.reshape(shape[0], -1), plan, 2.0 ** (shift / 8), shape, thrift)
        if bias is not None and plan.feedback is not None:
            biases[bias] = np.asarray(tensors[bias], np.float64) + errors
        quantised[name] = QuantisedTensor(values.reshape(shape), plan.tensor, plan.rows, plan.columns)
    return quantised


def requantise_to_size(
    tensors: Mapping[str, NDArray[np.float32]],
    shapes: Shapes,
    sensitivity: Sensitivity,
    size: int,
    offsets: Mapping[str, int] | None = None,
    reference: Mapping[str, QuantisedTensor] | None = None,
) -> tuple[dict[str, QuantisedTensor], bytes, float]:
    """Quantise to at most `size` bytes, and about as many: the integers, their bytes and the coarseness.

    Where not even the coarsest quantisation tried is small enough, that is returned.
    """
    count = sum(prod(shape) for _, shape, _ in shapes)
    coarseness, fine, coarse = coarseness_of_loss(1e-5, count), COARSENESS[0], COARSENESS[1]
    best = None
    for _ in range(12):
        quantised = requantise(tensors, shapes, sensitivity, coarseness, offsets)
        coded = encode_parameters(shapes, quantised, reference)
        if len(coded) <= size:
            coarse = coarseness
            if best is None or len(coded) > len(best[1]):
                best = quantised, coded, coarseness
        else:
            fine = coarseness
        if (best is not None and len(best[1]) >= 0.995 * size) or coarse - fine < 0.02:
            break
        # a bit per parameter is an octave of the step
        guess = coarseness + 8.0 * (8.0 * (len(coded) - 0.997 * size) / count)
        coarseness = guess if fine < guess < coarse else (fine + coarse) / 2
    return best or (quantised, coded, coarseness)


def allocate(
    tensors: Mapping[str, NDArray[np.float32]],
    shapes: Shapes,
    sensitivity: Sensitivity,
    measure: Measure,
    coarseness: float,
    passes: int = 2,
) -> dict[str, int]:
    """Return the offsets of the exponents of tensors at which error and bits are cheapest together.

    A tensor's steps are made finer and coarser by half an octave while all others are as quantised, and what is best at the
    slope of the coarseness stays: the points of the tensor's convex hull of rate and distortion, found where the other tensors'
    errors are there too (Xu et al. 2023 allocate pruning so). Tensors of few parameters are left alone.
    """
    slope, count = slope_of_coarseness(coarseness), sum(prod(shape) for _, shape, _ in shapes)
    offsets: dict[str, int] = {}
    quantised = requantise(tensors, shapes, sensitivity, coarseness)
    for _ in range(passes):
        for i, (name, shape, _role) in enumerate(shapes):
            if prod(shape) < SMALLEST_SHARE * count:
                continue
            layer = shapes[i : i + 1 + (_bias_of(name, shapes) is not None)]
            tried = {}
            for offset in (0, -4, 4):
                shifted = {**offsets, name: offsets.get(name, 0) + offset}
                part = requantise(tensors, layer, sensitivity, coarseness, shifted) if offset else {}
                whole = {**quantised, **part}
                bits = 8 * len(encode_parameters(layer, {n: whole[n] for n, _, _ in layer}))
                error = measure({n: tensor.dequantised() for n, tensor in whole.items()})
                tried[offset] = error + slope * bits, shifted, whole
            _, offsets, quantised = min(tried.values(), key=lambda choice: choice[0])
    return {name: offset for name, offset in offsets.items() if offset}


def _bias_of(name: str, shapes: Shapes) -> str | None:
    """Return the name of the bias that belongs to a weight: the tensor after it."""
    names = [shape[0] for shape in shapes]
    after = names.index(name) + 1
    if after == len(shapes) or shapes[after][2] != "bias" or shapes[after][1] != shapes[after - 1][1][:1]:
        return None
    return names[after]


def _plan(floats: Doubles, diagonal: Doubles, moments: Doubles | None, shift: float) -> _Plan:
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
        weight = _raised(rows)[:, None] * along
        columns = np.exp(np.log(along).reshape(inner, -1).mean(1))
    else:
        weight = _raised(flat)
        rows = weight.mean(1)
        columns = (weight / rows[:, None]).reshape(len(weight), inner, -1).mean((0, 2))
    row_exponents, column_exponents = shift - 4.0 * np.log2(_raised(rows)), -4.0 * np.log2(_raised(columns))
    middle = float(np.median(column_exponents))
    tensor, row_factors = _factors(row_exponents + middle, len(flat) * inner)
    column_factors = _relative(column_exponents - middle)
    return _Plan(tensor, row_factors, column_factors, weight, feedback)


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


def _round(
    floats: Doubles, plan: _Plan, step: float, shape: tuple[int, ...], thrift: float
) -> tuple[NDArray[np.int32], Doubles]:
    """Round [A, n] to integers; `step` is that of sensitivity 1. Returns also what the layer's biases should change by, [A]."""
    steps = QuantisedTensor(np.zeros(shape, np.int32), plan.tensor, plan.rows, plan.columns).steps()
    steps = np.ascontiguousarray(np.broadcast_to(steps, shape)).reshape(floats.shape)
    sizes = np.abs(floats / steps)
    mean = sizes.mean(1)[:, None] * sizes.mean(0) / max(float(sizes.mean()), 1e-9) + 0.02
    saved = -np.log2((np.sqrt(1.0 + mean**2) - 1.0) / mean)  # by an integer nearer to 0: of a two-sided geometric distribution
    threshold = thrift * SLOPE * saved * (step / steps) ** 2 / plan.weight
    if plan.feedback is None:
        return _nearest(floats / steps, threshold), np.zeros(len(floats))
    left = np.concatenate([floats, np.zeros((len(floats), 1))], 1)
    values = np.zeros(floats.shape, np.int32)
    for j in range(floats.shape[1]):
        values[:, j] = _nearest(left[:, j] / steps[:, j], threshold[:, j])
        error = (left[:, j] - values[:, j] * steps[:, j]) / plan.feedback[j, j]
        left[:, j + 1 :] -= error[:, None] * plan.feedback[j, j + 1 :]
    return values, left[:, -1]


def _nearest(scaled: Doubles, threshold: Doubles) -> NDArray[np.int32]:
    """Round to the nearest integer, or to the next one towards 0 where that adds less squared error than `threshold`."""
    nearest = np.clip(np.round(scaled), -LARGEST, LARGEST)
    smaller = nearest - np.sign(nearest)
    added = (scaled - smaller) ** 2 - (scaled - nearest) ** 2
    return np.where(added < threshold, smaller, nearest).astype(np.int32)
