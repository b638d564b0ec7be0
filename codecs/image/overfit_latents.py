"""Latents while they are fitted: rounded softly with noise or hard, and moved by Adam.

Soft rounding with noise between two roundings after C3 (Kim et al. 2024, section 3.1; Agustsson and Theis 2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .overfit_dense import LOG2E, Floats, fast, part, root_of_two

__all__ = ["adam", "round_hard", "round_soft"]


@part
def _soft(x: Floats, inverse: np.float32, norm: np.float32, bits: NDArray[np.int32], out: Floats, slope: Floats) -> None:
    """Set `out` to rows x rounded softly (temperature 1 / inverse; norm = tanh(inverse / 2) * 2), `slope` to the derivative."""
    exp2 = bits.view(np.float32)
    step = np.float32(-2) * inverse * LOG2E
    for c in range(x.size):
        v = step * (x[c] - np.floor(x[c]) - np.float32(0.5))
        whole = np.int32(v + np.float32(126.5)) - np.int32(126)
        f = v - np.float32(whole)
        bits[c] = (whole + 127) << 23
        slope[c] = root_of_two(f)
    for c in range(x.size):
        e = slope[c] * exp2[c]
        t = (np.float32(1) - e) / (np.float32(1) + e)
        out[c] = np.floor(x[c]) + np.float32(0.5) + t / norm
        slope[c] = (np.float32(1) - t * t) * inverse / norm


@fast
def round_soft(latents: Floats, temperature: float, strength: float, seed: int, out: Floats, derivative: Floats) -> None:
    """Set `out` [h, w] to the noisy latents [h, w], and `derivative` to its derivative; `temperature` is 0.02 or more.

    The noise is a sum of four uniform numbers, of standard deviation `strength`, and differs with `seed`.
    """
    h, w = latents.shape
    inverse = np.float32(1 / temperature)
    norm = np.float32(2 * np.tanh(0.5 / temperature))
    scale = np.float32(strength * np.sqrt(3.0) / 256)
    once, twice, bits = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.int32)
    slope, slopes = np.empty(w, np.float32), np.empty(w, np.float32)
    for r in range(h):
        key = np.uint32((seed * 0x9E3779B1 + r * 0x85EBCA77) & 0xFFFFFFFF)
        _soft(latents[r], inverse, norm, bits, once, slope)
        for c in range(w):
            # numba widens sums and products of 32 bits, hence the casts
            x = np.uint32(key + np.uint32(c) * np.uint32(0xC2B2AE3D))
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(12))) * np.uint32(0x297A2D39))
            x = np.uint32(x ^ (x >> np.uint32(15)))
            low = np.int32(x & np.uint32(255)) + np.int32((x >> np.uint32(8)) & np.uint32(255))
            total = low + np.int32((x >> np.uint32(16)) & np.uint32(255)) + np.int32(x >> np.uint32(24))
            once[c] += (np.float32(total) - np.float32(510)) * scale
        _soft(once, inverse, norm, bits, twice, slopes)
        target, product = out[r], derivative[r]
        for c in range(w):
            target[c] = twice[c]
            product[c] = slope[c] * slopes[c]


@fast
def round_hard(latents: Floats, out: Floats) -> None:
    """Set `out` to the rounded latents."""
    h, w = latents.shape
    for r in range(h):
        for c in range(w):
            out[r, c] = np.floor(latents[r, c] + np.float32(0.5))


@fast
def adam(
    values: Floats,
    first: Floats,
    second: Floats,
    gradient: Floats,
    rate: float,
    betas: tuple[float, float],
    step: int,
    limit: float,
) -> None:
    """Move flat `values` against their gradient (Adam: Kingma and Ba 2015); moments are updated, `step` counts from 1."""
    b1, b2 = np.float32(betas[0]), np.float32(betas[1])
    size = np.float32(rate / (1 - betas[0] ** step))
    root = np.float32(1 / np.sqrt(1 - betas[1] ** step))
    for i in range(values.size):
        g = gradient[i]
        m = b1 * first[i] + (np.float32(1) - b1) * g
        v = b2 * second[i] + (np.float32(1) - b2) * g * g
        first[i], second[i] = m, v
        moved = values[i] - size * m / (np.sqrt(v) * root + np.float32(1e-12))
        values[i] = min(max(moved, -limit), limit)
