"""Doubling a plane's size with a mirrored separable kernel of 8 taps, and its gradients.

Value i of a row lies at 2 i + 1/2 of the doubled one. Sample 2 i is the sum of taps a0 .. a3 of the values i - 2 .. i + 1, and
sample 2 i + 1 the sum of a3 .. a0 of i - 1 .. i + 2; beyond an edge its value repeats. Rows first, then columns. Forwards there
is nothing but float32 products and sums in one order, so that every machine gets the same samples.
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import Floats, exact, fast, part
from .overfit_spec import HALF_TAPS

__all__ = ["double", "double_backwards", "doubling"]


@part
def _rows_between(x: Floats, taps: Floats, r: int, out: Floats) -> None:
    """Set out[2 : 2 + w] to row `r` of the plane doubled in height, and repeat its ends."""
    h, w = x.shape
    i, odd = r >> 1, r & 1
    a0, a1, a2, a3 = (taps[3], taps[2], taps[1], taps[0]) if odd else (taps[0], taps[1], taps[2], taps[3])
    x0, x1 = x[min(max(i - 2 + odd, 0), h - 1)], x[min(max(i - 1 + odd, 0), h - 1)]
    x2, x3 = x[min(i + odd, h - 1)], x[min(i + 1 + odd, h - 1)]
    for c in range(w):
        out[2 + c] = (a0 * x0[c] + a1 * x1[c]) + (a2 * x2[c] + a3 * x3[c])
    out[0] = out[1] = out[2]
    out[w + 2] = out[w + 3] = out[w + 1]


@exact
def double(x: Floats, taps: Floats, out: Floats) -> None:
    """Set `out` [H, W] to `x` [ceil(H / 2), ceil(W / 2)] doubled with `taps` [4]."""
    height, width = out.shape
    w = x.shape[1]
    a0, a1, a2, a3 = taps[0], taps[1], taps[2], taps[3]
    t, even, odd = np.empty(w + 4, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
    for r in range(height):
        _rows_between(x, taps, r, t)
        for c in range(w):
            even[c] = (a0 * t[c] + a1 * t[c + 1]) + (a2 * t[c + 2] + a3 * t[c + 3])
        for c in range(w):
            odd[c] = (a3 * t[c + 1] + a2 * t[c + 2]) + (a1 * t[c + 3] + a0 * t[c + 4])
        row = out[r]
        for c in range(width >> 1):
            row[2 * c] = even[c]
            row[2 * c + 1] = odd[c]
        if width & 1:
            row[width - 1] = even[w - 1]


def doubling(size: int, taps: Floats) -> Floats:
    """Return the matrix [size, ceil(size / 2)] by which `double` doubles one axis."""
    matrix, at = np.zeros((size, (size + 1) // 2), np.float32), np.arange(size)
    for j in range(HALF_TAPS):
        source = np.clip((at >> 1) - 2 + (at & 1) + j, 0, matrix.shape[1] - 1)
        np.add.at(matrix, (at, source), taps[np.where(at & 1, HALF_TAPS - 1 - j, j)])
    return matrix


@fast
def double_backwards(x: Floats, taps: Floats, dout: Floats, dx: Floats, dtaps: Floats) -> None:
    """Set `dx` to the gradient of `x`, and add that of `taps` to `dtaps`, for the gradient `dout` of what `double` made."""
    height, width = dout.shape
    h, w = x.shape
    a0, a1, a2, a3 = taps[0], taps[1], taps[2], taps[3]
    t, dt = np.zeros(w + 4, np.float32), np.zeros(w + 4, np.float32)
    even, odd = np.zeros(w, np.float32), np.zeros(w, np.float32)
    dx[:] = 0
    for r in range(height):
        row = dout[r]
        for c in range(width >> 1):
            even[c] = row[2 * c]
            odd[c] = row[2 * c + 1]
        if width & 1:
            even[w - 1] = row[width - 1]
            odd[w - 1] = 0
        _rows_between(x, taps, r, t)
        s0 = s1 = s2 = s3 = np.float32(0)
        for c in range(w):
            s0 += even[c] * t[c] + odd[c] * t[c + 4]
            s1 += even[c] * t[c + 1] + odd[c] * t[c + 3]
            s2 += even[c] * t[c + 2] + odd[c] * t[c + 2]
            s3 += even[c] * t[c + 3] + odd[c] * t[c + 1]
        dt[:] = 0
        for c in range(w):
            dt[c] += a0 * even[c]
        for c in range(w):
            dt[c + 1] += a1 * even[c] + a3 * odd[c]
        for c in range(w):
            dt[c + 2] += a2 * even[c] + a2 * odd[c]
        for c in range(w):
            dt[c + 3] += a3 * even[c] + a1 * odd[c]
        for c in range(w):
            dt[c + 4] += a0 * odd[c]
        dt[2] += dt[0] + dt[1]
        dt[w + 1] += dt[w + 2] + dt[w + 3]
        i, o = r >> 1, r & 1
        v0, v1, v2, v3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(4):
            source = min(max(i - 2 + o + j, 0), h - 1)
            a = taps[3 - j] if o else taps[j]
            xr, dr = x[source], dx[source]
            s = np.float32(0)
            for c in range(w):
                dr[c] += a * dt[2 + c]
                s += dt[2 + c] * xr[c]
            k = 3 - j if o else j
            if k == 0:
                v0 += s
            elif k == 1:
                v1 += s
            elif k == 2:
                v2 += s
            else:
                v3 += s
        dtaps[0] += s0 + v0
        dtaps[1] += s1 + v1
        dtaps[2] += s2 + v2
        dtaps[3] += s3 + v3
