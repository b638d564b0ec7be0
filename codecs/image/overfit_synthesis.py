"""The synthesis: planes of full size to red, green and blue, and its gradients.

Forwards there is nothing but float32 products, sums and comparisons in one order, so that every machine gets the same samples.
Planes between the layers have one more row and column on each side, which repeat the edge.
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import LANES, Floats, add_outer, dense, exact, fast, part, pass_rectified
from .overfit_spec import HIDDEN, LEVELS

__all__ = [
    "add_rows",
    "convolve_back",
    "convolve_gradient",
    "convolve_rows",
    "fold_edges",
    "pixels_backwards",
    "pixels_rows",
    "rectify_rows",
    "repeat_edges",
    "subtract_rows",
]


@part
def _take_positions(u: Floats, row: int, start: int, count: int, x: Floats) -> None:
    """Set the first lanes of `x` to `count` positions of a row, from `start` on."""
    for k in range(LEVELS):
        source = u[k, row]
        for lane in range(count):
            x[k * LANES + lane] = source[start + lane]


@exact
def pixels_rows(
    u: Floats, bias0: Floats, weight0: Floats, bias1: Floats, weight1: Floats, z: Floats, rows: tuple[int, int]
) -> None:
    """Set rows [first, last) of `z` [3, H + 2, W + 2] to the two layers at each pixel of `u` [LEVELS, H, W]."""
    width = u.shape[2]
    x, y = np.zeros(LEVELS * LANES, np.float32), np.zeros(3 * LANES, np.float32)
    for row in range(rows[0], rows[1]):
        for start in range(0, width, LANES):
            count = min(LANES, width - start)
            _take_positions(u, row, start, count, x)
            for k in range(3):
                for lane in range(LANES):
                    y[k * LANES + lane] = bias1[k]
            for o in range(0, weight0.shape[0], 2):  # two at a time, as samples are read and written less often so
                b, c = bias0[o], bias0[o + 1]
                p, q = weight0[o], weight0[o + 1]
                p0, p1, p2, p3, p4, p5, p6 = p[0], p[1], p[2], p[3], p[4], p[5], p[6]
                q0, q1, q2, q3, q4, q5, q6 = q[0], q[1], q[2], q[3], q[4], q[5], q[6]
                v0, v1, v2 = weight1[0, o], weight1[1, o], weight1[2, o]
                w0, w1, w2 = weight1[0, o + 1], weight1[1, o + 1], weight1[2, o + 1]
                for lane in range(LANES):
                    x0, x1, x2, x3 = x[lane], x[LANES + lane], x[2 * LANES + lane], x[3 * LANES + lane]
                    x4, x5, x6 = x[4 * LANES + lane], x[5 * LANES + lane], x[6 * LANES + lane]
                    g = (((p0 * x0 + p1 * x1) + (p2 * x2 + p3 * x3)) + (p4 * x4 + p5 * x5)) + (p6 * x6 + b)
                    h = (((q0 * x0 + q1 * x1) + (q2 * x2 + q3 * x3)) + (q4 * x4 + q5 * x5)) + (q6 * x6 + c)
                    g, h = max(g, np.float32(0)), max(h, np.float32(0))
                    y[lane] = (y[lane] + v0 * g) + w0 * h
                    y[LANES + lane] = (y[LANES + lane] + v1 * g) + w1 * h
                    y[2 * LANES + lane] = (y[2 * LANES + lane] + v2 * g) + w2 * h
            for k in range(3):
                target = z[k, row + 1]
                for lane in range(count):
                    target[start + 1 + lane] = y[k * LANES + lane]


@exact
def repeat_edges(z: Floats) -> None:
    """Fill the outermost rows and columns of padded planes with what is beside them."""
    height, width = z.shape[1:]
    for channel in range(z.shape[0]):
        plane = z[channel]
        for c in range(width):
            plane[0, c], plane[height - 1, c] = plane[1, c], plane[height - 2, c]
        for row in range(height):
            plane[row, 0], plane[row, width - 1] = plane[row, 1], plane[row, width - 2]


@exact
def convolve_rows(z: Floats, bias: Floats, weight: Floats, out: Floats, margin: int, rows: tuple[int, int]) -> None:
    """Set rows [first, last) of `out`, which has a `margin`, to a 3 x 3 convolution of `z` [3, H + 2, W + 2]."""
    width = z.shape[2] - 2
    for row in range(rows[0], rows[1]):
        for o in range(3):
            target, b = out[o, row + margin, margin : margin + width], bias[o]
            for c in range(width):
                target[c] = b
            for i in range(3):
                above, here, below = z[i, row], z[i, row + 1], z[i, row + 2]
                k = weight[o, i]
                k0, k1, k2, k3, k4, k5, k6, k7, k8 = (
                    k[0, 0],
                    k[0, 1],
                    k[0, 2],
                    k[1, 0],
                    k[1, 1],
                    k[1, 2],
                    k[2, 0],
                    k[2, 1],
                    k[2, 2],
                )
                for c in range(width):
                    target[c] += (
                        (k0 * above[c] + k1 * above[c + 1] + k2 * above[c + 2])
                        + (k3 * here[c] + k4 * here[c + 1] + k5 * here[c + 2])
                        + (k6 * below[c] + k7 * below[c + 1] + k8 * below[c + 2])
                    )


@exact
def rectify_rows(z: Floats, rows: tuple[int, int]) -> None:
    """Set what is negative in rows [first, last) of `z` [3, H + 2, W + 2] to 0."""
    for row in range(rows[0], rows[1]):
        for channel in range(3):
            line = z[channel, row + 1]
            for c in range(line.size):
                line[c] = max(line[c], np.float32(0))


@exact
def add_rows(z: Floats, out: Floats, rows: tuple[int, int]) -> None:
    """Add rows [first, last) of `z` [3, H + 2, W + 2] to those of `out` [3, H, W]."""
    for row in range(rows[0], rows[1]):
        for channel in range(3):
            target, source = out[channel, row], z[channel, row + 1, 1:-1]
            for c in range(target.size):
                target[c] += source[c]


@fast
def subtract_rows(samples: Floats, target: Floats, rows: tuple[int, int]) -> float:
    """Subtract rows [first, last) of `target` [3, H, W] from those of `samples`, and return the sum of squares."""
    total = np.float64(0)
    for channel in range(3):
        for row in range(rows[0], rows[1]):
            a, b = samples[channel, row], target[channel, row]
            part = np.float32(0)
            for c in range(a.size):
                a[c] -= b[c]
                part += a[c] * a[c]
            total += np.float64(part)
    return float(total)


@fast
def convolve_gradient(z: Floats, dout: Floats, dbias: Floats, dweight: Floats, rows: tuple[int, int]) -> None:
    """Add the gradients of a convolution's bias and weights, for rows [first, last) of the gradient `dout` [3, H, W]."""
    width = dout.shape[2]
    for row in range(rows[0], rows[1]):
        for o in range(3):
            d = dout[o, row]
            total = np.float32(0)
            for c in range(width):
                total += d[c]
            dbias[o] += total
            for i in range(3):
                for k in range(3):
                    source = z[i, row + k]
                    s0 = s1 = s2 = np.float32(0)
                    for c in range(width):
                        s0 += d[c] * source[c]
                        s1 += d[c] * source[c + 1]
                        s2 += d[c] * source[c + 2]
                    dweight[o, i, k, 0] += s0
                    dweight[o, i, k, 1] += s1
                    dweight[o, i, k, 2] += s2


@fast
def convolve_back(dout: Floats, weight: Floats, dz: Floats, rows: tuple[int, int]) -> None:
    """Set rows [first, last) of the padded planes `dz` [3, H + 2, W + 2] to the gradient of a convolution's input."""
    height, width = dout.shape[1:]
    d = np.zeros((3, 3, width + 4), np.float32)  # three rows of three channels, with two zeros at both ends
    for row in range(rows[0], rows[1]):
        for k in range(3):
            for o in range(3):
                line = d[o, k, 2 : 2 + width]
                if 0 <= row - k < height:
                    source = dout[o, row - k]
                    for c in range(width):
                        line[c] = source[c]
                else:
                    line[:] = 0
        for i in range(3):
            target = dz[i, row]
            target[:] = 0
            for o in range(3):
                above, here, below, k = d[o, 0], d[o, 1], d[o, 2], weight[o, i]
                a0, a1, a2, b0, b1, b2 = k[0, 0], k[0, 1], k[0, 2], k[1, 0], k[1, 1], k[1, 2]
                c0, c1, c2 = k[2, 0], k[2, 1], k[2, 2]
                for c in range(width + 2):
                    target[c] += (
                        (a2 * above[c] + a1 * above[c + 1] + a0 * above[c + 2])
                        + (b2 * here[c] + b1 * here[c + 1] + b0 * here[c + 2])
                        + (c2 * below[c] + c1 * below[c + 1] + c0 * below[c + 2])
                    )


@fast
def fold_edges(dz: Floats) -> None:
    """Add the gradients of repeated edges to those of what they repeat."""
    height, width = dz.shape[1:]
    for channel in range(dz.shape[0]):
        plane = dz[channel]
        for c in range(width):
            plane[1, c] += plane[0, c]
        for c in range(width):
            plane[height - 2, c] += plane[height - 1, c]
        for row in range(height):
            plane[row, 1] += plane[row, 0]
            plane[row, width - 2] += plane[row, width - 1]


@fast
def pixels_backwards(
    u: Floats,
    bias0: Floats,
    weight0: Floats,
    weight1: Floats,
    dz: Floats,
    du: Floats,
    gradients: tuple[Floats, Floats, Floats, Floats],
    rows: tuple[int, int],
) -> None:
    """Set rows [first, last) of `du`, and the gradients of the two layers' biases and weights, from `dz` [3, H + 2, W + 2].

    `weight0` [HIDDEN, 8] and `weight1` [4, HIDDEN] have a column and a row more, of zeros, and so have their gradients.
    """
    width = u.shape[2]
    x, dx = np.zeros((LEVELS + 1) * LANES, np.float32), np.zeros((LEVELS + 1) * LANES, np.float32)
    h, dh = np.zeros(HIDDEN * LANES, np.float32), np.zeros(HIDDEN * LANES, np.float32)
    d = np.zeros(4 * LANES, np.float32)
    back0, back1 = weight0.T.copy(), weight1.T.copy()
    nothing = np.zeros(HIDDEN, np.float32)  # biases of the way back
    db0, dw0, db1, dw1 = gradients
    db0[:], dw0[:], db1[:], dw1[:] = 0, 0, 0, 0
    for row in range(rows[0], rows[1]):
        for start in range(0, width, LANES):
            count = min(LANES, width - start)
            _take_positions(u, row, start, count, x)
            for k in range(3):
                source = dz[k, row + 1]
                for lane in range(count):
                    d[k * LANES + lane] = source[start + 1 + lane]
                for lane in range(count, LANES):
                    d[k * LANES + lane] = 0
            dense((HIDDEN, LEVELS + 1), weight0, bias0, x, h, True)
            add_outer((4, HIDDEN), d, h, dw1, db1)
            dense((HIDDEN, 4), back1, nothing, d, dh, False)
            pass_rectified(HIDDEN, h, dh)
            add_outer((HIDDEN, LEVELS + 1), dh, x, dw0, db0)
            dense((LEVELS + 1, HIDDEN), back0, nothing, dh, dx, False)
            for k in range(LEVELS):
                target = du[k, row]
                for lane in range(count):
                    target[start + lane] = dx[k * LANES + lane]
