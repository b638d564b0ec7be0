"""Bits that a plane of latents takes under the context network, and their gradients: the float twin of `overfit_context`.

A latent y has a Laplace distribution whose centre and scale the context network gives, integrated over y - 1/2 .. y + 1/2.
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import LANES, LOG2E, Floats, add_outer, dense, exp2, fast, log2, part, pass_rectified
from .overfit_spec import CONTEXT, INPUTS, LEFT, LOG_SCALES, MARGIN, OWN, UP

__all__ = ["rate_rows"]

FLOOR = np.float32(2.0**-28)  # added to probabilities; with much more the dearest latents have no gradient and stay
LN2 = np.float32(0.6931471805599453)
Y, DY, INVERSE, FAR, NEAR, P, LENGTH = range(7)  # channels of what a latent's bits need


@part
def _gather(plane: Floats, parent: Floats, row: int, start: int, count: int, x: Floats) -> None:
    for i in range(OWN):
        at = start + MARGIN - LEFT[i]
        source = plane[row + MARGIN - UP[i], at : at + count]
        for lane in range(count):
            x[i * LANES + lane] = source[lane]
    side = 1 if row & 1 else -1
    near, far, other = parent[(row >> 1) + 1], parent[(row >> 1) + 1 + side], parent[(row >> 1) + 1 - side]
    first = OWN * LANES
    for lane in range(count):
        column = start + lane
        at = (column >> 1) + 1
        beside = 1 if column & 1 else -1
        x[first + lane] = near[at]
        x[first + LANES + lane] = near[at + beside]
        x[first + 2 * LANES + lane] = far[at]
        x[first + 3 * LANES + lane] = far[at + beside]
        x[first + 4 * LANES + lane] = near[at - beside]
        x[first + 5 * LANES + lane] = other[at]
    for i in range(INPUTS):
        for lane in range(count, LANES):
            x[i * LANES + lane] = 0


@part
def _scatter(dplane: Floats, dparent: Floats, row: int, first: int, start: int, count: int, dx: Floats) -> None:
    for i in range(OWN):
        at = start + MARGIN - LEFT[i]
        target = dplane[row - first + MARGIN - UP[i], at : at + count]
        for lane in range(count):
            target[lane] += dx[i * LANES + lane]
    side = 1 if row & 1 else -1
    above = (row >> 1) - (first >> 1) + 1
    near, far, other = dparent[above], dparent[above + side], dparent[above - side]
    channel = OWN * LANES
    for lane in range(count):
        column = start + lane
        at = (column >> 1) + 1
        beside = 1 if column & 1 else -1
        near[at] += dx[channel + lane]
        near[at + beside] += dx[channel + LANES + lane]
        far[at] += dx[channel + 2 * LANES + lane]
        far[at + beside] += dx[channel + 3 * LANES + lane]
        near[at - beside] += dx[channel + 4 * LANES + lane]
        other[at] += dx[channel + 5 * LANES + lane]


@part
def _laplace_bits(out: Floats, count: int, dout: Floats, room: Floats, bits: np.ndarray) -> float:
    """Return the bits of latents, channel Y of `room`, and set the gradients, DY, and `dout` of the network's outputs."""
    half, low, high = np.float32(0.5), np.float32(LOG_SCALES[0]), np.float32(LOG_SCALES[1])
    for lane in range(LANES):
        room[FAR * LANES + lane] = -min(max(out[LANES + lane], low), high)
    exp2(room, FAR, bits, INVERSE)
    for lane in range(LANES):
        d = abs(room[Y * LANES + lane] - out[lane])
        slope = room[INVERSE * LANES + lane] * LOG2E
        room[LENGTH * LANES + lane] = -abs(d - half) * slope
        room[P * LANES + lane] = -(d + half) * slope
    exp2(room, LENGTH, bits, NEAR)
    exp2(room, P, bits, FAR)
    for lane in range(LANES):
        difference, inverse = room[Y * LANES + lane] - out[lane], room[INVERSE * LANES + lane]
        near, far, log_scale = room[NEAR * LANES + lane], room[FAR * LANES + lane], out[LANES + lane]
        d = abs(difference)
        inside = d < half
        plus, minus = half * (near + far), half * (near - far)
        probability = FLOOR + (np.float32(1) - plus if inside else minus)
        room[P * LANES + lane] = probability
        a, b = half * near * abs(d - half), half * far * (d + half)
        weight = np.float32(-1.4426950408889634) / probability * inverse
        slope = -minus * weight * (np.float32(1) if difference >= 0 else np.float32(-1))
        spread = (-(a + b) if inside else a - b) * weight * LN2
        clipped = log_scale < low or log_scale > high
        # a scale at its limit may only come back
        if clipped and (spread > 0) == (log_scale < low):
            spread = np.float32(0)
        valid = np.float32(1) if lane < count else np.float32(0)
        room[DY * LANES + lane] = slope * valid
        dout[lane] = -slope * valid
        dout[LANES + lane] = spread * valid
    log2(room, P, bits, LENGTH)
    total = np.float32(0)
    for lane in range(LANES):
        total -= room[LENGTH * LANES + lane] if lane < count else np.float32(0)
    return float(total)


@fast
def rate_rows(
    plane: Floats,
    parent: Floats,
    width: int,
    rows: tuple[int, int],
    bias0: Floats,
    weight0: Floats,
    bias1: Floats,
    weight1: Floats,
    bias2: Floats,
    weight2: Floats,
    dplane: Floats,
    dparent: Floats,
    gradients: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
) -> float:
    """Return the bits of rows [first, last) of a plane and set the gradients of all that they depend on.

    `plane` has MARGIN zeros above, left and right, `parent` one on each side. `first` is even. `dplane` starts MARGIN rows
    above `first`, `dparent` one above its parent. The last layer has two more rows, of zeros.
    """
    x, dx = np.zeros(INPUTS * LANES, np.float32), np.zeros(INPUTS * LANES, np.float32)
    h0, h1 = np.zeros(CONTEXT * LANES, np.float32), np.zeros(CONTEXT * LANES, np.float32)
    d0, d1 = np.zeros(CONTEXT * LANES, np.float32), np.zeros(CONTEXT * LANES, np.float32)
    out, dout = np.zeros(4 * LANES, np.float32), np.zeros(4 * LANES, np.float32)
    room, bits = np.zeros(7 * LANES, np.float32), np.zeros(LANES, np.int32)
    back0, back1, back2 = weight0.T.copy(), weight1.T.copy(), weight2.T.copy()
    nothing = np.zeros(INPUTS, np.float32)  # biases of the way back
    db0, dw0, db1, dw1, db2, dw2 = gradients
    dplane[:] = 0
    dparent[:] = 0
    db0[:], dw0[:], db1[:], dw1[:], db2[:], dw2[:] = 0, 0, 0, 0, 0, 0
    total = 0.0
    first, last = rows
    for row in range(first, last):
        latents, gradient = plane[row + MARGIN], dplane[row - first + MARGIN]
        for start in range(0, width, LANES):
            count = min(LANES, width - start)
            _gather(plane, parent, row, start, count, x)
            dense((CONTEXT, INPUTS), weight0, bias0, x, h0, True)
            dense((CONTEXT, CONTEXT), weight1, bias1, h0, h1, True)
            dense((4, CONTEXT), weight2, bias2, h1, out, False)
            for lane in range(count):
                room[Y * LANES + lane] = latents[start + MARGIN + lane]
            total += _laplace_bits(out, count, dout, room, bits)
            add_outer((4, CONTEXT), dout, h1, dw2, db2)
            dense((CONTEXT, 4), back2, nothing, dout, d1, False)
            pass_rectified(CONTEXT, h1, d1)
            add_outer((CONTEXT, CONTEXT), d1, h0, dw1, db1)
            dense((CONTEXT, CONTEXT), back1, nothing, d1, d0, False)
            pass_rectified(CONTEXT, h0, d0)
            add_outer((CONTEXT, INPUTS), d0, x, dw0, db0)
            dense((INPUTS, CONTEXT), back0, nothing, d0, dx, False)
            for lane in range(count):
                gradient[start + MARGIN + lane] += room[DY * LANES + lane]
            _scatter(dplane, dparent, row, first, start, count, dx)
    return total
