"""Search for the setting that meets a target in few trials: the secant method, kept between the nearest on either side.

What is looked for (a size's logarithm, a PSNR) is nearly straight over the setting, so that a few such steps arrive where
bisection would need a trial for every bit of the answer. Of an end that stays while the other moves, the gap counts half as
much every time (the Illinois method: Dowell and Jarratt 1971), or a curve would be approached from one side in small steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["approach", "slope_between"]

MARGIN = 0.05  # of the interval between the nearest settings: a trial beside one of them tells little
FLATTEST = 0.25  # of the slope that is expected: noise may make it less, or negative


def approach(
    gap: Callable[[float], float],
    start: float,
    slope: float,
    limits: tuple[float, float],
    bounds: tuple[float, float],
    *,
    closest: float,
    trials: int,
) -> None:
    """Call `gap(setting)`, which grows with the setting, until it is within `bounds`, or else at most `trials` times.

    The search begins at `start` with an expected `slope` (above 0), stays within `limits` (both inclusive), and also ends where
    the nearest settings on either side are closer than `closest`, and where a gap comes again, as then there is no finer step.
    Gaps may be infinite. Where all missed on one side, the last trial, and one after a gap that came again, is the limit on the
    other: what can be met is met.
    """
    least, most = bounds
    aim, at = (least + most) / 2, min(max(start, limits[0]), limits[1])
    met: list[tuple[float, float]] = []
    below, above = (limits[0], -math.inf), (limits[1], math.inf)  # settings and their gaps
    for left in range(trials - 1, -1, -1):
        found = gap(at)
        again = any(found == known for _, known in met)
        met.append((at, found))
        if least <= found <= most:
            return
        one_sided = len(met) > 1 and (met[-2][1] < aim) == (found < aim)
        if found < aim:
            below, above = (at, found), (above[0], aim + (above[1] - aim) / (2 if one_sided else 1))
        else:
            below, above = (below[0], aim + (below[1] - aim) / (2 if one_sided else 1)), (at, found)
        both_sides = math.isfinite(above[1] - below[1])
        if above[0] - below[0] < closest or (again and both_sides):
            return
        low, high, span = below[0], above[0], above[0] - below[0]
        if both_sides:
            slope = (above[1] - below[1]) / span
            low, high = low + MARGIN * span, high - MARGIN * span
        elif left == 1 or again:
            slope = 0.0
        else:
            slope = slope_between(met[-2:], slope, closest)
        step = (aim - found) / slope if slope else math.copysign(math.inf, aim - found)
        at = min(max(at + step, low), high)


def slope_between(points: Sequence[tuple[float, float]], expected: float, closest: float) -> float:
    """Return the slope over settings and their gaps, at least a quarter of the expected one, which it is where they tell none.

    Gaps that are infinite do not count, nor settings that are not `closest` apart.
    """
    finite = sorted(point for point in points if math.isfinite(point[1]))
    if len(finite) < 2 or finite[-1][0] - finite[0][0] < closest:
        return expected
    return max((finite[-1][1] - finite[0][1]) / (finite[-1][0] - finite[0][0]), FLATTEST * expected)
