"""The search for a setting, on curves that are known: few trials, close to the target, at the limits, with noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from laconic.codecs.target_search import approach, slope_between


def tried(curve: Callable[[float], float], wanted: float, trials: int = 12, closest: float = 0.01) -> list[tuple[float, float]]:
    """Return the trials of a search on 0..10 for a curve that is at most 0.05 above what is wanted."""
    found: list[tuple[float, float]] = []

    def gap(setting: float) -> float:
        found.append((setting, curve(setting) - wanted))
        return found[-1][1]

    approach(gap, 3.0, 1.0, (0.0, 10.0), (0.0, 0.05), closest=closest, trials=trials)
    return found


CURVES: dict[str, Callable[[float], float]] = {
    "straight": lambda x: 2 * x,
    "flat, then steep": lambda x: math.exp(x - 7),
    "steep, then flat": lambda x: 20 * (1 - math.exp(-x)),
    "a step": lambda x: 3.0 + x / 100 if x < 6 else 12.0 + x / 100,
}


@pytest.mark.parametrize("name", [name for name in CURVES if name != "a step"])
@pytest.mark.parametrize("wanted", [0.5, 4.0, 17.0])
def test_few_trials_come_close(name: str, wanted: float) -> None:
    found = tried(CURVES[name], wanted, closest=1e-4)
    assert 0 <= found[-1][1] <= 0.05
    assert len(found) <= 11
    assert all(0 <= setting <= 10 for setting, _ in found)


def test_a_step_is_narrowed_from_both_sides() -> None:
    found = tried(CURVES["a step"], 8.0, trials=30, closest=0.1)
    below, above = max(x for x, gap in found if gap < 0), min(x for x, gap in found if gap >= 0)
    assert below < 6 <= above and above - below < 0.1


@pytest.mark.parametrize(("wanted", "limit"), [(50.0, 10.0), (-50.0, 0.0)])
def test_what_is_out_of_reach_ends_at_a_limit(wanted: float, limit: float) -> None:
    found = tried(CURVES["straight"], wanted)
    assert found[-1][0] == limit and len(found) <= 5


def test_the_last_trial_is_the_limit_where_all_others_missed() -> None:
    found = tried(lambda x: min(x / 1000, 0.009) + (x == 10), 1.0, trials=3)
    assert [setting for setting, _ in found][-1] == 10 and found[-1][1] >= 0


def test_no_finer_step_ends_the_search() -> None:
    assert len(tried(lambda x: float(round(x)), 3.5, closest=0.0)) <= 4


def test_a_gap_that_comes_again_on_one_side_does_not_end_it() -> None:
    found = tried(lambda x: x if x > 4 else 3.0, 8.0, trials=12)
    assert 0 <= found[-1][1] <= 0.05


def test_infinite_gaps_are_bisected_away_from() -> None:
    found = tried(lambda x: math.inf if x > 2 else x, 1.0)
    assert 0 <= found[-1][1] <= 0.05


def test_slopes_need_points_apart() -> None:
    assert slope_between([(1.0, 2.0), (3.0, 8.0)], 1.0, 0.1) == 3.0
    assert slope_between([(1.0, 2.0), (1.05, 8.0)], 1.0, 0.1) == 1.0
    assert slope_between([(1.0, 2.0), (3.0, math.inf)], 1.0, 0.1) == 1.0
    assert slope_between([(1.0, 2.0), (3.0, 1.0)], 1.0, 0.1) == 0.25
