"""Bjontegaard delta rate (Bjontegaard 2001, VCEG-M33), with monotone cubic interpolation of log rate over quality.

The interpolation is PCHIP as Fritsch and Butland (1984, "A method for constructing local monotone piecewise cubic
interpolants") define its slopes, which is what SciPy and the package `bjontegaard` use; the integrals are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BdRate", "RateCurve", "bd_rate"]

Reals = NDArray[np.float64]


def _end_slope(near: float, far: float, near_slope: float, far_slope: float) -> float:
    """Return PCHIP's slope at an end from the widths and secant slopes of the two intervals nearest to it."""
    slope = ((2 * near + far) * near_slope - near * far_slope) / (near + far)
    if np.sign(slope) != np.sign(near_slope):
        return 0.0
    if np.sign(near_slope) != np.sign(far_slope) and abs(slope) > 3 * abs(near_slope):
        return 3 * near_slope
    return slope


def _slopes(x: Reals, y: Reals) -> Reals:
    """Return the slope at every knot: a weighted harmonic mean of the secants, 0 where they change sign."""
    width, secant = np.diff(x), np.diff(y) / np.diff(x)
    if len(x) == 2:
        return np.array([secant[0], secant[0]])
    first, second = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    slopes = np.zeros_like(x)
    monotone = secant[:-1] * secant[1:] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (first + second) / (first / secant[:-1] + second / secant[1:])
    slopes[1:-1] = np.where(monotone, mean, 0.0)
    slopes[0] = _end_slope(width[0], width[1], secant[0], secant[1])
    slopes[-1] = _end_slope(width[-1], width[-2], secant[-1], secant[-2])
    return slopes


@dataclass(frozen=True)
class RateCurve:
    """Rate as a smooth function of quality.

    `psnr` (dB) is strictly increasing, `log_rate` is the natural logarithm of the rate there, `slope` its derivative.
    """

    psnr: Reals
    log_rate: Reals
    slope: Reals

    @classmethod
    def of(cls, rate: Sequence[float] | ArrayLike, psnr: Sequence[float] | ArrayLike) -> RateCurve:
        """Build from points in any order; of points with the same PSNR the cheapest counts.

        Raises `ValueError` for fewer than two different qualities, or rates that are not positive.
        """
        rates, qualities = np.asarray(rate, np.float64), np.asarray(psnr, np.float64)
        if rates.shape != qualities.shape or rates.ndim != 1:
            raise ValueError(f"rates and qualities are two lists of one length, not {rates.shape} and {qualities.shape}")
        order = np.lexsort((rates, qualities))
        x, first = np.unique(qualities[order], return_index=True)
        if len(x) < 2 or not np.isfinite(x).all() or not (rates > 0).all():
            raise ValueError("a curve needs two or more different finite qualities and positive rates")
        y = np.log(rates[order][first])
        return cls(x, y, _slopes(x, y))

    def log_rate_at(self, psnr: ArrayLike) -> Reals:
        """Return the interpolated log rate at `psnr`, which lies within the curve's range."""
        at = np.asarray(psnr, np.float64)
        k = np.clip(np.searchsorted(self.psnr, at, side="right") - 1, 0, len(self.psnr) - 2)
        width = self.psnr[k + 1] - self.psnr[k]
        t = (at - self.psnr[k]) / width
        rise = (1 + 2 * t) * (1 - t) ** 2 * self.log_rate[k] + t**2 * (3 - 2 * t) * self.log_rate[k + 1]
        bend = t * (1 - t) ** 2 * self.slope[k] - t**2 * (1 - t) * self.slope[k + 1]
        return np.asarray(rise + width * bend, np.float64)

    def rate_at(self, psnr: float) -> float | None:
        """Return the interpolated rate at `psnr`, or None outside the measured range."""
        if not self.psnr[0] <= psnr <= self.psnr[-1]:
            return None
        return float(np.exp(self.log_rate_at(psnr)))

    def integral(self, low: float, high: float) -> float:
        """Return the integral of log rate from `low` to `high` dB, both within the curve's range."""
        inside = self.psnr[(self.psnr > low) & (self.psnr < high)]
        edges = np.concatenate([[low], inside, [high]])
        left, right = edges[:-1], edges[1:]
        ends = self.log_rate_at(left) + self.log_rate_at(right)
        middle = self.log_rate_at((left + right) / 2)
        return float(np.sum((right - left) / 6 * (ends + 4 * middle)))  # Simpson's rule is exact for cubics


@dataclass(frozen=True)
class BdRate:
    """Mean difference of rate at equal quality, in percent (negative: fewer bits), over `low` to `high` dB."""

    percent: float
    low: float
    high: float


def bd_rate(anchor: RateCurve, test: RateCurve) -> BdRate | None:
    """Return the delta rate of `test` against `anchor` over their common PSNR range, or None if they share none."""
    low = float(max(anchor.psnr[0], test.psnr[0]))
    high = float(min(anchor.psnr[-1], test.psnr[-1]))
    if high <= low:
        return None
    mean = (test.integral(low, high) - anchor.integral(low, high)) / (high - low)
    return BdRate(float(100 * np.expm1(mean)), low, high)
