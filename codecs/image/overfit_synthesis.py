"""The synthesis: planes of full size to red, green and blue, and its gradients.

Forwards there is nothing but float32 products, sums and comparisons in one order, so that every machine gets the same samples.
Planes between the layers have one more row and column on each side, which repeat the edge.
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import LANES, Floats, add_outer, dense, dense_transposed, exact, fast, pass_rectified
from .overfit_spec import LEVELS

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


# Kernels copy with loops: numba compiles an assignment of one array to another for two seconds, for the words of its error.


@exact
def pixels_rows(
    u: Floats, bias0: Floats, weight0: Floats, bias1: Floats, weight1: Floats, z: Floats, rows: tuple[int, int]
) -> None:
    """Set rows [first, last) of `z` [3, H + 2, W + 2] to the two layers at each pixel of `u` [LEVELS, H, W]."""
    width = u.shape[2]
    h = np.empty(LANES, np.float32)
    for row in range(rows[0], rows[1]):
        for start in range(0, width, LANES):
            end = min(start + LANES, width)
            x0, x1, x2, x3 = u[0, row, start:end], u[1, row, start:end], u[2, row, start:end], u[3, row, start:end]
            x4, x5, x6 = u[4, row, start:end], u[5, row, start:end], u[6, row, start:end]
            out = z[:, row + 1, start + 1 : end + 1]
            z0, z1, z2 = out[0], out[1], out[2]
            for c in range(end - start):
                z0[c], z1[c], z2[c] = bias1[0], bias1[1], bias1[2]
            for o in range(weight0.shape[0]):
                b = bias0[o]
                w0, w1, w2, w3 = weight0[o, 0], weight0[o, 1], weight0[o, 2], weight0[o, 3]
                w4, w5, w6 = weight0[o, 4], weight0[o, 5], weight0[o, 6]
                v0, v1, v2 = weight1[0, o], weight1[1, o], weight1[2, o]
                for c in range(end - start):
                    h[c] = (w0 * x0[c] + w1 * x1[c]) + (w2 * x2[c] + w3 * x3[c])
                for c in range(end - start):
                    h[c] = max((h[c] + (w4 * x4[c] + w5 * x5[c])) + (w6 * x6[c] + b), np.float32(0))
                for c in range(end - start):
                    z0[c] += v0 * h[c]
                    z1[c] += v1 * h[c]
                    z2[c] += v2 * h[c]


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
                for k in range(3):
                    line = d[o, k]
                    w0, w1, w2 = weight[o, i, k, 0], weight[o, i, k, 1], weight[o, i, k, 2]
                    for c in range(width + 2):
                        target[c] += w2 * line[c] + w1 * line[c + 1] + w0 * line[c + 2]


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

    `weight0` [hidden, 8] and `weight1` [4, hidden] have a column and a row more, of zeros, and so have their gradients.
    """
    hidden, width = weight0.shape[0], u.shape[2]
    x, dx = np.zeros((LEVELS + 1, LANES), np.float32), np.zeros((LEVELS + 1, LANES), np.float32)
    h, dh = np.zeros((hidden, LANES), np.float32), np.zeros((hidden, LANES), np.float32)
    d = np.zeros((4, LANES), np.float32)
    db0, dw0, db1, dw1 = gradients
    db0[:], dw0[:], db1[:], dw1[:] = 0, 0, 0, 0
    for row in range(rows[0], rows[1]):
        for start in range(0, width, LANES):
            count = min(LANES, width - start)
            for i in range(LEVELS):
                for lane in range(count):
                    x[i, lane] = u[i, row, start + lane]
            for i in range(3):
                for lane in range(count):
                    d[i, lane] = dz[i, row + 1, start + 1 + lane]
            d[:, count:] = 0
            dense(weight0, bias0, x, h, True)
            add_outer(d, h, dw1, db1)
            dense_transposed(weight1, d, dh)
            pass_rectified(h, dh)
            add_outer(dh, x, dw0, db0)
            dense_transposed(weight0, dh, dx)
            for i in range(LEVELS):
                for lane in range(count):
                    du[i, row, start + lane] = dx[i, lane]
