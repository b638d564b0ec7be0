"""Bjontegaard delta rate against the package of that name and against the published table."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from laconic.bench.bd_rate import RateCurve, bd_rate
from laconic.bench.image_anchors import load_anchors

PUBLISHED_AGAINST_VTM = {
    "hpcm_large": -20.0,
    "mlic_plus": -13.1,
    "segpic": -9.7,
    "elic": -7.0,
    "cool_chic_5.0": -6.6,
    "vtm": 0.0,
    "c3_adaptive": 3.4,
    "cheng2020_anchor": 3.7,
    "mbt2018": 11.0,
    "av1": 16.2,
    "mbt2018_mean": 21.3,
    "bpg444": 22.0,
    "hyperprior": 30.5,
    "factorized": 68.1,
    "webp": 78.7,
    "jpeg2000": 98.0,
    "jpeg": 208.5,
}
ANCHORS = load_anchors()


def package_value(anchor: str, test: str) -> float:
    """Return what the package `bjontegaard` computes; it wants points in increasing order."""
    bjontegaard = pytest.importorskip("bjontegaard")
    rows = [sorted(zip(ANCHORS[name].psnr, ANCHORS[name].bpp, strict=True)) for name in (anchor, test)]
    (anchor_psnr, anchor_bpp), (test_psnr, test_bpp) = (zip(*row, strict=True) for row in rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(
            bjontegaard.bd_rate(
                anchor_bpp, anchor_psnr, test_bpp, test_psnr, method="pchip", require_matching_points=False, min_overlap=0
            )
        )


def test_every_published_row_is_listed() -> None:
    assert set(ANCHORS) == set(PUBLISHED_AGAINST_VTM)


@pytest.mark.parametrize("name", PUBLISHED_AGAINST_VTM)
def test_published_rows_against_vtm(name: str) -> None:
    result = bd_rate(ANCHORS["vtm"].curve, ANCHORS[name].curve)
    assert result is not None
    assert result.percent == pytest.approx(PUBLISHED_AGAINST_VTM[name], abs=0.06)


@pytest.mark.parametrize("anchor", ["vtm", "jpeg", "jpeg2000"])
@pytest.mark.parametrize("name", PUBLISHED_AGAINST_VTM)
def test_equals_the_package(anchor: str, name: str) -> None:
    result = bd_rate(ANCHORS[anchor].curve, ANCHORS[name].curve)
    assert result is not None
    assert result.percent == pytest.approx(package_value(anchor, name), abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_interpolation_equals_scipy(seed: int) -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    rng = np.random.default_rng(seed)
    psnr = np.cumsum(rng.uniform(0.1, 3, 9)) + 25
    rate = np.exp(rng.normal(0, 1, 9))  # not monotone: slopes of 0 and clipped end slopes
    reference, curve = interpolate.PchipInterpolator(psnr, np.log(rate)), RateCurve.of(rate, psnr)
    at = np.linspace(psnr[0], psnr[-1], 200)
    np.testing.assert_allclose(curve.log_rate_at(at), reference(at), atol=1e-12)
    low, high = psnr[0] + 0.3, psnr[-1] - 0.2
    assert curve.integral(low, high) == pytest.approx(reference.integrate(low, high), abs=1e-12)


def test_constant_ratio_and_range() -> None:
    psnr = [28.0, 31.0, 35.0, 40.0]
    rate = np.array([0.1, 0.3, 0.7, 1.5])
    result = bd_rate(RateCurve.of(rate, psnr), RateCurve.of(0.8 * rate[1:], psnr[1:]))
    assert result is not None
    assert (result.low, result.high) == (31.0, 40.0)
    half = bd_rate(RateCurve.of(rate, psnr), RateCurve.of(0.5 * rate, psnr))
    assert half is not None
    assert half.percent == pytest.approx(-50)


def test_order_and_repeated_qualities_do_not_matter() -> None:
    curve = RateCurve.of([0.4, 0.1, 0.5, 0.2], [34, 28, 34, 31])
    assert curve.psnr.tolist() == [28, 31, 34]
    assert curve.rate_at(34) == pytest.approx(0.4)
    assert curve.rate_at(27.9) is None


def test_no_common_range() -> None:
    assert bd_rate(RateCurve.of([1, 2], [30, 31]), RateCurve.of([1, 2], [32, 33])) is None


@pytest.mark.parametrize(("rate", "psnr"), [([1], [30]), ([1, 2], [30, 30]), ([0, 1], [30, 31]), ([1, 2], [30]), ([], [])])
def test_bad_curves_are_refused(rate: list[float], psnr: list[float]) -> None:
    with pytest.raises(ValueError):
        RateCurve.of(rate, psnr)
