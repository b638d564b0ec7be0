"""The search of single latents in fits of `image-overfit`: it mends what is wrong, and knows what each step costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from laconic.codecs.image import overfit_rdoq
from laconic.codecs.image.overfit_dense import Floats
from laconic.codecs.image.overfit_fit import LONGER, Fit
from laconic.codecs.image.overfit_loss import Loss
from laconic.codecs.image.overfit_parameters import initial_networks
from laconic.codecs.image.overfit_rdoq import improve_latents
from laconic.codecs.image.overfit_spec import HALF_TAPS, LEVELS
from laconic.codecs.image.overfit_stream import encode_latents
from laconic.codecs.image.overfit_upsampling import double, doubling
from laconic.codecs.signals import Image

from .pictures import photograph, smooth

WEIGHT = 1e-3
Tensors = dict[str, Floats]


def target_of(image: Image) -> Floats:
    return np.ascontiguousarray(image.array.transpose(2, 0, 1), np.float32) / np.float32(255)


def fitted(height: int = 70, width: int = 93, steps: int = 120) -> tuple[Fit, Loss, Tensors, Tensors]:
    """Return a fit, its loss with latents rounded, its networks, and room for gradients."""
    initial = initial_networks().entries[initial_networks().nearest(WEIGHT)]
    fit = Fit(target_of(Image(photograph().array[:height, :width].copy())), WEIGHT, initial, steps)
    network = fit.advance(None, lambda part, stage: None).network
    fit.picture.round()
    return fit, fit.picture.loss, network.tensors(), network.spec.views(np.zeros(network.spec.count, np.float32))


def improve(loss: Loss, tensors: Tensors, room: Tensors, part: float = 1.0) -> int:
    return improve_latents(loss, tensors, room, part, lambda: None)


@pytest.mark.parametrize(("k", "most"), [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.8), (4, 0.8)])
def test_latents_put_wrong_are_put_right(k: int, most: float) -> None:
    """Coarse ones are put right by half only: coarser planes, which are tried before, take it upon themselves."""
    _, loss, tensors, room = fitted()
    while improve(loss, tensors, room):
        pass
    least, kept = loss.cost(tensors, 0), [loss.inside(i).copy() for i in range(LEVELS)]
    damage = left = 0.0
    for place in np.random.default_rng(k).integers(0, loss.shapes[k], (8, 2)):
        loss.inside(k)[tuple(place)] += 1
        damage += loss.cost(tensors, 0) - least
        improve(loss, tensors, room)
        left += loss.cost(tensors, 0) - least
        for i in range(LEVELS):
            loss.inside(i)[...] = kept[i]
    assert damage > 0 and left < most * damage


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (64, 1), (33, 70)], ids=str)
def test_what_is_rendered_on_the_way_is_what_a_decoder_renders(size: tuple[int, int]) -> None:
    """Windows at all edges: after many steps, kept and taken back, the picture is that of the latents."""
    _, loss, tensors, room = fitted(*size, steps=20)
    rng = np.random.default_rng(0)
    for k in range(LEVELS):
        loss.inside(k)[...] += rng.integers(-1, 2, loss.shapes[k])
    cost = loss.cost(tensors, 0)
    moved = improve(loss, tensors, room)
    missed = loss.renderer.samples.copy()
    assert loss.cost(tensors, 0) < cost or not moved
    assert np.allclose(missed, loss.renderer.samples, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 16)], ids=str)
def test_one_axis_doubles_as_a_plane_does(size: tuple[int, int]) -> None:
    rng, out = np.random.default_rng(1), np.zeros(size, np.float32)
    taps = rng.standard_normal(HALF_TAPS).astype(np.float32)
    plane = rng.standard_normal([(n + 1) // 2 for n in size]).astype(np.float32)
    double(plane, taps, out)
    assert np.allclose(doubling(size[0], taps) @ plane @ doubling(size[1], taps).T, out, atol=1e-5)


def test_all_bits_that_a_step_changes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the search of a plane, the bits that it kept are those of its latents and of the finer plane's, counted anew."""
    tried, compared = overfit_rdoq._try_latents, 0

    def checked(k: int, trials: Any, planes: Any, context: Any, *others: Any) -> int:
        nonlocal compared
        kept = tried(k, trials, planes, context, *others)
        for number, plane in enumerate(planes[: 1 if k == 0 else 2]):
            fresh = plane._replace(bits=np.zeros_like(plane.bits))
            overfit_rdoq._set_bits(fresh, k - number, context)
            assert np.allclose(plane.bits, fresh.bits, atol=1e-3)
        compared += kept
        return int(kept)

    _, loss, tensors, room = fitted()
    for k in range(LEVELS):
        loss.inside(k)[...] += np.random.default_rng(k).integers(-1, 2, loss.shapes[k])
    monkeypatch.setattr(overfit_rdoq, "_try_latents", checked)
    improve(loss, tensors, room)
    assert compared > 100


def test_the_coder_takes_less_for_less() -> None:
    """The loss of the bytes themselves, whose decisions have floors that the fit's probabilities do not have."""
    fit, loss, tensors, room = fitted()
    network = fit.advance(None, lambda part, stage: None).network
    loss.inside(0)[::9, ::11] += 2  # dear: hardly anything is expected in this plane
    found = []
    for _ in range(2):
        latents = [loss.inside(k).astype(np.int32) for k in range(LEVELS)]
        found.append(loss.measure(tensors).error * loss.target[0].size + WEIGHT * 8 * len(encode_latents(network, latents)))
        improve(loss, tensors, room)
    assert found[1] < 0.97 * found[0]


def test_a_part_of_the_search_is_its_best_part() -> None:
    gains = []
    for part in (0.0, 0.1, 1.0):
        _, loss, tensors, room = fitted()
        loss.inside(1)[::3, ::5] += 1
        cost = loss.cost(tensors, 0)
        improve(loss, tensors, room, part)
        gains.append(cost - loss.cost(tensors, 0))
    assert gains[0] == 0 and 0.15 * gains[2] < gains[1] < gains[2]


def test_a_plane_that_has_nothing_to_do_never_appears() -> None:
    initial = initial_networks().entries[0]
    fit = Fit(target_of(smooth(64, 96, 3)), 0.02, initial, steps=30)
    assert fit.steps == round(LONGER * 30)
    fit.advance(None, lambda part, stage: None)
    assert not fit.picture.symbols()[0].any()
    assert Fit(target_of(photograph(64, 96)), 1e-4, initial, steps=30).steps == 30
