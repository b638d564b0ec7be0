"""Rate-distortion optimised quantisation of a fit's latents: each is moved by one where that makes the loss less.

Soft rounding holds latents between two integers' middles ever harder, and its slope at integers vanishes: as networks and
neighbours move on, many latents are left one step away from where they should be. With latents rounded, the gradient tells
which: those where a step of one would bring so many bits (`PROMISES`) if the loss were straight. Each of these is tried, one
after the other: the bits of the latent and of all latents whose contexts it is in, as the coder charges them, and the squared
error of all pixels that it reaches, are computed again, and the step stays if the loss is less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .overfit_dense import LOG2E, Floats, fast, part
from .overfit_loss import Loss
from .overfit_render import Tensors
from .overfit_spec import CONTEXT, HIDDEN, INPUTS, LARGEST, LEFT, LEVELS, LOG_SCALES, MARGIN, OWN, UP
from .overfit_upsampling import doubling

__all__ = ["improve_latents"]

PROMISES = (4.0, 4.0, 6.0, 10.0, 16.0)  # bits, of latents of planes 0 to 4; the others reach far and gain little
LEAST, MOST = np.float32(1 / 65536), np.float32(65535 / 65536)  # probabilities that the coder can give to a decision
CHILDREN = 6  # rows and columns of the finer plane whose contexts a latent may be in
REACHED = OWN + 1 + CHILDREN**2  # latents whose bits may change
EDGE = 4  # of windows: what two convolutions add

Indices = NDArray[np.int64]


class _Layer(NamedTuple):
    """A layer's parameters; weights of those that are applied to one input after the other are [inputs, outputs]."""

    bias: Floats
    weight: Floats


class _Plane(NamedTuple):
    """Latents with their margins, those of the coarser plane with theirs, and the bits of each latent."""

    latents: Floats
    parents: Floats
    bits: Floats


class _Canvas(NamedTuple):
    """A rendered picture with what is between its layers (`Renderer`), what is missed of the target, and room for windows."""

    full: Floats
    before: Floats
    between: Floats
    missed: Floats
    target: Floats
    saved_before: Floats
    saved_between: Floats
    saved_missed: Floats


class _Response(NamedTuple):
    """Along one axis: where what each latent of a plane adds to full size begins, and how much it is [latents, reach]."""

    first: Indices
    values: Floats


class _Trials(NamedTuple):
    """Latents to try, in this order: rows, columns, and steps of one."""

    rows: Indices
    columns: Indices
    steps: Floats


@part
def _coded_bits(centre: np.float32, log_scale: np.float32, value: np.float32) -> np.float32:
    """Return what the coder (`overfit_context`) takes for a latent, with all floors of its decisions."""
    exponent = min(max(log_scale, np.float32(LOG_SCALES[0])), np.float32(LOG_SCALES[1]))
    sharpness = LOG2E * np.exp2(-exponent)
    middle = min(max(np.floor(centre + np.float32(0.5)), np.float32(-LARGEST)), np.float32(LARGEST))
    d = min(max(centre - middle, np.float32(-0.5)), np.float32(0.5))
    half = np.float32(0.5)
    above, below = half * np.exp2((d - half) * sharpness), half * np.exp2((-d - half) * sharpness)
    away = min(max(above + below, LEAST), MOST)
    if value == middle:
        return np.float32(-np.log2(np.float32(1) - away))
    side = (above if value > middle else below) / (above + below)
    further = min(max(np.exp2(-sharpness), LEAST), MOST)
    bits = np.log2(away) + np.log2(min(max(side, LEAST), MOST)) + np.log2(np.float32(1) - further)
    return np.float32(-(bits + (abs(value - middle) - np.float32(1)) * np.log2(further)))


@part
def _bits_of(
    plane: _Plane, row: int, column: int, bias: Floats, net: tuple[_Layer, ...], x: Floats, h0: Floats, h1: Floats
) -> np.float32:
    """Return the bits of a latent; `bias` is its plane's own of the first layer, `x`, `h0`, `h1` room for activations."""
    latents, parents = plane.latents, plane.parents
    for i in range(OWN):
        x[i] = latents[row + MARGIN - UP[i], column + MARGIN - LEFT[i]]
    y, z = (row >> 1) + 1, (column >> 1) + 1
    down, right = (1 if row & 1 else -1), (1 if column & 1 else -1)
    x[OWN], x[OWN + 1], x[OWN + 2] = parents[y, z], parents[y, z + right], parents[y + down, z]
    x[OWN + 3], x[OWN + 4], x[OWN + 5] = parents[y + down, z + right], parents[y, z - right], parents[y - down, z]
    for o in range(CONTEXT):
        h0[o] = bias[o]
        h1[o] = net[1].bias[o]
    for i in range(INPUTS):
        v = x[i]
        if v != 0:
            for o in range(CONTEXT):
                h0[o] += v * net[0].weight[i, o]
    for i in range(CONTEXT):
        v = h0[i]
        if v > 0:
            for o in range(CONTEXT):
                h1[o] += v * net[1].weight[i, o]
    centre, log_scale = net[2].bias[0], net[2].bias[1]
    for i in range(CONTEXT):
        v = max(h1[i], np.float32(0))
        centre += v * net[2].weight[0, i]
        log_scale += v * net[2].weight[1, i]
    return _coded_bits(centre, log_scale, latents[row + MARGIN, column + MARGIN])


@fast
def _set_bits(plane: _Plane, k: int, net: tuple[_Layer, ...]) -> None:
    """Set the bits of all latents of plane `k`."""
    x, h0, h1 = np.zeros(INPUTS, np.float32), np.zeros(CONTEXT, np.float32), np.zeros(CONTEXT, np.float32)
    for row in range(plane.bits.shape[0]):
        for column in range(plane.bits.shape[1]):
            plane.bits[row, column] = _bits_of(plane, row, column, net[0].bias[k], net, x, h0, h1)


@part
def _reached(i: int, row: int, column: int) -> tuple[bool, int, int]:
    """Return whether the i-th latent that may be reached is one of the finer plane, and where it is; row -1: it is not."""
    if i == 0:
        return False, row, column
    if i <= OWN:
        return False, row + UP[i - 1], column + LEFT[i - 1]
    down, right = (i - OWN - 1) // CHILDREN, (i - OWN - 1) % CHILDREN
    y, x = (down >> 1) - 1, (right >> 1) - 1  # of the latent above it, from this one
    corner = y != 0 and x != 0
    facing = (y < 0) == bool(down & 1) and (x < 0) == bool(right & 1)  # contexts have one corner only
    return True, (-1 if corner and not facing else 2 * row - 2 + down), 2 * column - 2 + right


@part
def _repeat_edges(z: Floats, top: int, bottom: int, left: int, right: int) -> None:
    """Repeat the edges of a padded picture beside a window (rows and columns of the picture) that lies at them."""
    height, width = z.shape[1] - 2, z.shape[2] - 2
    for channel in range(3):
        for column in range(left + 1, right + 1):
            if top == 0:
                z[channel, 0, column] = z[channel, 1, column]
            if bottom == height:
                z[channel, height + 1, column] = z[channel, height, column]
        for row in range(0 if top == 0 else top + 1, height + 2 if bottom == height else bottom + 1):
            if left == 0:
                z[channel, row, 0] = z[channel, row, 1]
            if right == width:
                z[channel, row, width + 1] = z[channel, row, width]


@part
def _copy(source: Floats, y: int, x: int, target: Floats, v: int, u: int, rows: int, columns: int) -> None:
    """Copy a window of three channels."""
    for channel in range(3):
        for row in range(rows):
            for column in range(columns):
                target[channel, v + row, u + column] = source[channel, y + row, x + column]


@part
def _convolve(z: Floats, channel: int, row: int, left: int, bias: Floats, weight: Floats, line: Floats, count: int) -> None:
    """Set `count` values of `line` to a row of a 3 x 3 convolution of a padded picture, from column `left` on."""
    for column in range(count):
        line[column] = bias[channel]
    for i in range(3):
        for r in range(3):
            above = z[i, row + r]
            k0, k1, k2 = weight[channel, i, r, 0], weight[channel, i, r, 1], weight[channel, i, r, 2]
            for column in range(count):
                at = left + column
                line[column] += k0 * above[at] + k1 * above[at + 1] + k2 * above[at + 2]


@part
def _render_window(
    canvas: _Canvas, net: tuple[_Layer, ...], window: tuple[int, int, int, int], h: Floats, line: Floats
) -> np.float32:
    """Render what a changed window (top, bottom, left, right) of the planes reaches; returns the change of squared error."""
    full, before, between, missed = canvas.full, canvas.before, canvas.between, canvas.missed
    height, width = full.shape[1:]
    top, bottom, left, right = window
    for row in range(top, bottom):
        for column in range(left, right):
            for o in range(HIDDEN):
                h[o] = net[0].bias[o]
            for i in range(LEVELS):
                v = full[i, row, column]
                for o in range(HIDDEN):
                    h[o] += v * net[0].weight[i, o]
            for channel in range(3):
                total = net[1].bias[channel]
                for o in range(HIDDEN):
                    total += max(h[o], np.float32(0)) * net[1].weight[channel, o]
                before[channel, row + 1, column + 1] = total
    _repeat_edges(before, top, bottom, left, right)
    top, bottom, left, right = max(top - 1, 0), min(bottom + 1, height), max(left - 1, 0), min(right + 1, width)
    for channel in range(3):
        for row in range(top, bottom):
            _convolve(before, channel, row, left, net[2].bias, net[2].weight, line, right - left)
            for column in range(left, right):
                between[channel, row + 1, column + 1] = max(line[column - left], np.float32(0))
    _repeat_edges(between, top, bottom, left, right)
    top, bottom, left, right = max(top - 1, 0), min(bottom + 1, height), max(left - 1, 0), min(right + 1, width)
    change = np.float32(0)
    for channel in range(3):
        for row in range(top, bottom):
            _convolve(between, channel, row, left, net[3].bias, net[3].weight, line, right - left)
            for column in range(left, right):
                v = line[column - left] + before[channel, row + 1, column + 1] - canvas.target[channel, row, column]
                change += v * v - missed[channel, row, column] * missed[channel, row, column]
                missed[channel, row, column] = v
    return change


@part
def _add(canvas: _Canvas, k: int, row: int, column: int, step: float, down: _Response, across: _Response) -> None:
    """Add what a step of a latent gives to its plane at full size."""
    top, left = down.first[row], across.first[column]
    for i in range(down.values.shape[1]):
        v = step * down.values[row, i]
        for j in range(across.values.shape[1]):
            canvas.full[k, top + i, left + j] += v * across.values[column, j]


@fast
def _try_latents(
    k: int,
    trials: _Trials,
    planes: tuple[_Plane, _Plane],
    context: tuple[_Layer, ...],
    canvas: _Canvas,
    synthesis: tuple[_Layer, ...],
    responses: tuple[_Response, _Response],
    weight: float,
) -> int:
    """Try steps of latents of plane `k`, `planes[0]`; `planes[1]` is the finer one. Returns how many stay."""
    x, h0, h1 = np.zeros(INPUTS, np.float32), np.zeros(CONTEXT, np.float32), np.zeros(CONTEXT, np.float32)
    h, found = np.zeros(HIDDEN, np.float32), np.zeros(REACHED, np.float32)
    line = np.zeros(canvas.full.shape[2], np.float32)
    own, finer = planes
    down, across = responses
    height, width = canvas.full.shape[1:]
    kept = 0
    for number in range(trials.rows.size):
        row, column, step = trials.rows[number], trials.columns[number], trials.steps[number]
        own.latents[row + MARGIN, column + MARGIN] += step
        if k > 0:
            finer.parents[row + 1, column + 1] += step
        bits = 0.0
        for i in range(REACHED if k > 0 else OWN + 1):
            is_finer, y, z = _reached(i, row, column)
            plane = finer if is_finer else own
            if 0 <= y < plane.bits.shape[0] and 0 <= z < plane.bits.shape[1]:
                found[i] = _bits_of(plane, y, z, context[0].bias[k - is_finer], context, x, h0, h1)
                bits += found[i] - plane.bits[y, z]
        top, left = down.first[row], across.first[column]
        bottom, right = top + down.values.shape[1], left + across.values.shape[1]
        t, b, u, v = max(top - 2, 0), min(bottom + 2, height), max(left - 2, 0), min(right + 2, width)
        _copy(canvas.before, t + 1, u + 1, canvas.saved_before, 0, 0, b - t, v - u)
        _copy(canvas.between, t + 1, u + 1, canvas.saved_between, 0, 0, b - t, v - u)
        _copy(canvas.missed, t, u, canvas.saved_missed, 0, 0, b - t, v - u)
        _add(canvas, k, row, column, step, down, across)
        change = weight * bits + _render_window(canvas, synthesis, (top, bottom, left, right), h, line) / 3
        if change < 0:
            kept += 1
            for i in range(REACHED if k > 0 else OWN + 1):
                is_finer, y, z = _reached(i, row, column)
                plane = finer if is_finer else own
                if 0 <= y < plane.bits.shape[0] and 0 <= z < plane.bits.shape[1]:
                    plane.bits[y, z] = found[i]
            continue
        own.latents[row + MARGIN, column + MARGIN] -= step
        if k > 0:
            finer.parents[row + 1, column + 1] -= step
        _add(canvas, k, row, column, -step, down, across)
        _copy(canvas.saved_before, 0, 0, canvas.before, t + 1, u + 1, b - t, v - u)
        _copy(canvas.saved_between, 0, 0, canvas.between, t + 1, u + 1, b - t, v - u)
        _copy(canvas.saved_missed, 0, 0, canvas.missed, t, u, b - t, v - u)
        _repeat_edges(canvas.before, t, b, u, v)
        _repeat_edges(canvas.between, t, b, u, v)
    return kept


def _response(size: int, taps: Floats, k: int) -> _Response:
    """Return what latents of plane `k` add to an axis of `size` samples, for the upsampling's `taps`."""
    if k == 0:
        return _Response(np.arange(size), np.ones((size, 1), np.float32))
    whole = doubling(size, taps[0])
    for stage in range(1, k):
        whole = whole @ doubling(whole.shape[1], taps[stage])
    some = whole != 0
    first = some.argmax(0)
    reach = int((size - some[::-1].argmax(0) - first).max())
    first = np.minimum(first, size - reach)
    values = np.take_along_axis(whole.T, first[:, None] + np.arange(reach), 1)
    return _Response(first, np.ascontiguousarray(values, np.float32))


def _trials(loss: Loss, k: int, share: float) -> _Trials:
    """Return the latents of plane `k` whose gradients promise enough, the best `share` of them (0..1), in the order of rows."""
    gradient, latents = loss.gradient(k), loss.inside(k)
    steps = -np.sign(gradient).astype(np.float32)
    promise = np.where(np.abs(latents + steps) <= LARGEST, np.abs(gradient), 0).ravel()
    found = np.flatnonzero(promise > PROMISES[k] * loss.weight)
    if share < 1:
        found = np.sort(found[np.argsort(-promise[found], kind="stable")[: math.ceil(share * found.size)]])
    rows, columns = np.divmod(found, latents.shape[1])
    return _Trials(rows, columns, steps.ravel()[found])


def _layers(tensors: Tensors, network: str, count: int, turned: int) -> tuple[_Layer, ...]:
    """Return a network's layers, the weights of the first `turned` as [inputs, outputs]."""
    pairs = [(tensors[f"{network}.{i}.bias"], tensors[f"{network}.{i}.weight"]) for i in range(count)]
    return tuple(_Layer(bias, np.ascontiguousarray(w.T if i < turned else w)) for i, (bias, w) in enumerate(pairs))


def improve_latents(loss: Loss, tensors: Tensors, room: Tensors, share: float, tick: Callable[[], None]) -> int:
    """Move the rounded latents in `loss` to where they cost less, coarse planes first, and return how many were moved.

    `room` is for gradients of the networks; only a `share` (0..1) of the latents that promise enough are tried, the best ones.
    `tick` is called now and then and may raise to stop.
    """
    loss.backwards(tensors, room)
    trials = [_trials(loss, k, share) for k in range(len(PROMISES))]
    loss.measure(tensors)  # backwards has taken what was missed for its own
    context = _layers(tensors, "context", 3, turned=2)
    synthesis = _layers(tensors, "synthesis", 4, turned=1)
    planes = [_Plane(loss.planes[k], loss.parents[k], np.zeros(loss.shapes[k], np.float32)) for k in range(len(PROMISES))]
    for k in range(len(PROMISES)):
        _set_bits(planes[k], k, context)
    renderer, (height, width), kept = loss.renderer, loss.target.shape[1:], 0
    for k in range(len(PROMISES) - 1, -1, -1):
        tick()
        down, across = _response(height, tensors["upsampling"], k), _response(width, tensors["upsampling"], k)
        window = min(down.values.shape[1] + EDGE, height), min(across.values.shape[1] + EDGE, width)
        saved = [np.zeros((3, *window), np.float32) for _ in range(3)]
        canvas = _Canvas(renderer.full, renderer.before, renderer.between, renderer.samples, loss.target, *saved)
        pair = planes[k], planes[max(k - 1, 0)]
        kept += _try_latents(k, trials[k], pair, context, canvas, synthesis, (down, across), loss.weight)
    return kept
