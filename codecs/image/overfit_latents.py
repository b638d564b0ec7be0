"""Latents while they are fitted: rounded softly with noise or hard, and moved by Adam.

Soft rounding with noise between two roundings after C3 (Kim et al. 2024, section 3.1; Agustsson and Theis 2020).
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import Floats, fast, part

__all__ = ["adam", "round_hard", "round_soft"]


@part
def _soft(x: np.float32, inverse: np.float32, norm: np.float32) -> tuple[np.float32, np.float32]:
    """Return x rounded softly (temperature 1 / inverse; norm = tanh(inverse / 2) * 2) and the derivative."""
    whole = np.floor(x)
    e = np.exp(np.float32(-2) * inverse * (x - whole - np.float32(0.5)))
    t = (np.float32(1) - e) / (np.float32(1) + e)
    return whole + np.float32(0.5) + t / norm, (np.float32(1) - t * t) * inverse / norm


@fast
def round_soft(latents: Floats, temperature: float, strength: float, seed: int, out: Floats, derivative: Floats) -> None:
    """Set `out` [h, w] to the noisy latents [h, w], and `derivative` to its derivative.

    The noise is a sum of four uniform numbers, of standard deviation `strength`, and differs with `seed`.
    """
    h, w = latents.shape
    inverse = np.float32(1 / temperature)
    norm = np.float32(2 * np.tanh(0.5 / temperature))
    scale = np.float32(strength * np.sqrt(3.0) / 256)
    for r in range(h):
        source, target, slope = latents[r], out[r], derivative[r]
        key = np.uint32((seed * 0x9E3779B1 + r * 0x85EBCA77) & 0xFFFFFFFF)
        for c in range(w):
            # numba widens sums and products of 32 bits, hence the casts
            x = np.uint32(key + np.uint32(c) * np.uint32(0xC2B2AE3D))
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(12))) * np.uint32(0x297A2D39))
            x = np.uint32(x ^ (x >> np.uint32(15)))
            low = np.int32(x & np.uint32(255)) + np.int32((x >> np.uint32(8)) & np.uint32(255))
            total = low + np.int32((x >> np.uint32(16)) & np.uint32(255)) + np.int32(x >> np.uint32(24))
            noise = (np.float32(total) - np.float32(510)) * scale
            v, d0 = _soft(source[c], inverse, norm)
            v, d1 = _soft(v + noise, inverse, norm)
            target[c] = v
            slope[c] = d0 * d1


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
