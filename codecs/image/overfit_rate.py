"""Bits that a plane of latents takes under the context network, and their gradients: the float twin of `overfit_context`.

A latent y has a Laplace distribution whose centre and scale the context network gives, integrated over y - 1/2 .. y + 1/2.
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import LANES, Floats, add_outer, dense, dense_transposed, exp2, fast, log2, part, pass_rectified
from .overfit_spec import CONTEXT, INPUTS, LEFT, LOG_SCALES, MARGIN, OWN, UP

__all__ = ["rate_rows"]

FLOOR = np.float32(2.0**-18)  # added to probabilities, as the coder's escapes do
LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)


@part
def _gather(plane: Floats, parent: Floats, row: int, start: int, count: int, x: Floats) -> None:
    for i in range(OWN):
        at = start + MARGIN - LEFT[i]
        source, out = plane[row + MARGIN - UP[i], at : at + count], x[i]
        for lane in range(count):
            out[lane] = source[lane]
        out[count:] = 0
    side = 1 if row & 1 else -1
    near, far, other = parent[(row >> 1) + 1], parent[(row >> 1) + 1 + side], parent[(row >> 1) + 1 - side]
    for lane in range(count):
        column = start + lane
        at = (column >> 1) + 1
        beside = 1 if column & 1 else -1
        x[OWN, lane] = near[at]
        x[OWN + 1, lane] = near[at + beside]
        x[OWN + 2, lane] = far[at]
        x[OWN + 3, lane] = far[at + beside]
        x[OWN + 4, lane] = near[at - beside]
        x[OWN + 5, lane] = other[at]
    for i in range(OWN, INPUTS):
        for lane in range(count, LANES):
            x[i, lane] = 0


@part
def _scatter(dplane: Floats, dparent: Floats, row: int, first: int, start: int, count: int, dx: Floats) -> None:
    for i in range(OWN):
        at = start + MARGIN - LEFT[i]
        target, source = dplane[row - first + MARGIN - UP[i], at : at + count], dx[i]
        for lane in range(count):
            target[lane] += source[lane]
    side = 1 if row & 1 else -1
    above = (row >> 1) - (first >> 1) + 1
    near, far, other = dparent[above], dparent[above + side], dparent[above - side]
    for lane in range(count):
        column = start + lane
        at = (column >> 1) + 1
        beside = 1 if column & 1 else -1
        near[at] += dx[OWN, lane]
        near[at + beside] += dx[OWN + 1, lane]
        far[at] += dx[OWN + 2, lane]
        far[at + beside] += dx[OWN + 3, lane]
        near[at - beside] += dx[OWN + 4, lane]
        other[at] += dx[OWN + 5, lane]


@part
def _laplace_bits(y: Floats, out: Floats, count: int, dout: Floats, dy: Floats, room: Floats, bits: np.ndarray) -> float:
    """Return the bits of the latents, and set their gradients for the network's outputs and the latents."""
    inverse, far, near, p, length = room[0], room[1], room[2], room[3], room[4]
    half, low, high = np.float32(0.5), np.float32(LOG_SCALES[0]), np.float32(LOG_SCALES[1])
    for lane in range(LANES):
        far[lane] = -min(max(out[1, lane], low), high)
    exp2(far, bits, inverse)
    for lane in range(LANES):
        d = abs(y[lane] - out[0, lane])
        length[lane] = -abs(d - half) * inverse[lane] * LOG2E
        p[lane] = -(d + half) * inverse[lane] * LOG2E
    exp2(length, bits, near)
    exp2(p, bits, far)
    for lane in range(LANES):
        difference = y[lane] - out[0, lane]
        d = abs(difference)
        inside = d < half
        plus, minus = np.float32(0.5) * (near[lane] + far[lane]), np.float32(0.5) * (near[lane] - far[lane])
        probability = FLOOR + (np.float32(1) - plus if inside else minus)
        p[lane] = probability
        slope = -minus * inverse[lane]
        a, b = np.float32(0.5) * near[lane] * abs(d - half), np.float32(0.5) * far[lane] * (d + half)
        spread = (-(a + b) if inside else a - b) * inverse[lane]
        weight = np.float32(-1.4426950408889634) / probability
        slope *= weight * (np.float32(1) if difference >= 0 else np.float32(-1))
        valid = np.float32(1) if lane < count else np.float32(0)
        clipped = out[1, lane] < low or out[1, lane] > high
        spread *= weight * LN2
        # a scale at its limit may only come back
        if clipped and (spread > 0) == (out[1, lane] < low):
            spread = np.float32(0)
        dy[lane] = slope * valid
        dout[0, lane] = -slope * valid
        dout[1, lane] = spread * valid
    log2(p, length)
    total = np.float32(0)
    for lane in range(LANES):
        total -= length[lane] if lane < count else np.float32(0)
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
    x, dx = np.zeros((INPUTS, LANES), np.float32), np.zeros((INPUTS, LANES), np.float32)
    h0, h1 = np.zeros((CONTEXT, LANES), np.float32), np.zeros((CONTEXT, LANES), np.float32)
    d0, d1 = np.zeros((CONTEXT, LANES), np.float32), np.zeros((CONTEXT, LANES), np.float32)
    out, dout = np.zeros((4, LANES), np.float32), np.zeros((4, LANES), np.float32)
    y, dy = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    room, bits = np.zeros((5, LANES), np.float32), np.zeros(LANES, np.int32)
    db0, dw0, db1, dw1, db2, dw2 = gradients
    dplane[:] = 0
    dparent[:] = 0
    db0[:], dw0[:], db1[:], dw1[:], db2[:], dw2[:] = 0, 0, 0, 0, 0, 0
    total = 0.0
    first, last = rows
    for row in range(first, last):
        for start in range(0, width, LANES):
            count = min(LANES, width - start)
            _gather(plane, parent, row, start, count, x)
            dense(weight0, bias0, x, h0, True)
            dense(weight1, bias1, h0, h1, True)
            dense(weight2, bias2, h1, out, False)
            for lane in range(count):
                y[lane] = plane[row + MARGIN, start + MARGIN + lane]
            total += _laplace_bits(y, out, count, dout, dy, room, bits)
            add_outer(dout, h1, dw2, db2)
            dense_transposed(weight2, dout, d1)
            pass_rectified(h1, d1)
            add_outer(d1, h0, dw1, db1)
            dense_transposed(weight1, d1, d0)
            pass_rectified(h0, d0)
            add_outer(d0, x, dw0, db0)
            dense_transposed(weight0, d0, dx)
            for lane in range(count):
                dplane[row - first + MARGIN, start + MARGIN + lane] += dy[lane]
            _scatter(dplane, dparent, row, first, start, count, dx)
    return total
