"""Quantisation of fitted networks: what the theory promises is measured on a small network, rates are met, training works."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconic.codecs.errors import Cancelled
from laconic.codecs.video.inr_parameters import QuantisedTensor, Shapes, decode_parameters, encode_parameters
from laconic.codecs.video.inr_quantise import coarseness_of_slope, requantise
from laconic.codecs.video.inr_sensitivity import Sensitivity, sensitivity
from laconic.codecs.video.inr_training import Quantiser, estimated_bits, polish

FRAMES = 8
SHAPES: Shapes = (
    ("embedding", (FRAMES, 4, 4, 5), "embedding"),
    ("stem_weight", (12, 4, 1, 1), "weight"),
    ("stem_bias", (12,), "bias"),
    ("stage_weight", (40, 12, 3, 3), "weight"),
    ("stage_bias", (40,), "bias"),
    ("head_weight", (3, 10, 3, 3), "weight"),
    ("head_bias", (3,), "bias"),
)
PARAMETERS = sum(int(np.prod(shape)) for _, shape, _ in SHAPES)
INDICES = torch.arange(FRAMES)


def shown(tensors: Mapping[str, Tensor], indices: Tensor) -> Tensor:
    x = F.gelu(F.conv2d(tensors["embedding"][indices], tensors["stem_weight"], tensors["stem_bias"]))
    x = F.conv2d(x, tensors["stage_weight"], tensors["stage_bias"], padding=1)
    x = F.gelu(F.pixel_shuffle(x, 2))
    return 0.5 + F.conv2d(x, tensors["head_weight"], tensors["head_bias"], padding=1)


@lru_cache(maxsize=1)
def network() -> tuple[dict[str, Tensor], Tensor, Sensitivity]:
    """Return a network near the frames it shows, those frames, and its sensitivity."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape, role in SHAPES:
        scale = 0.05 if role == "bias" else 1.0 if role == "embedding" else float(np.prod(shape[1:])) ** -0.5
        rows = torch.exp(0.5 * torch.randn((shape[0], *[1] * (len(shape) - 1)), generator=generator))
        tensors[name] = torch.randn(shape, generator=generator) * scale * (rows if role == "weight" else 1)
    tensors["head_weight"] *= 0.2
    frames = shown(tensors, INDICES) + 0.01 * torch.randn((FRAMES, 3, 8, 10), generator=generator)
    return tensors, frames, sensitivity(shown, tensors, INDICES)


def arrays() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in network()[0].items()}


def loss(tensors: Mapping[str, np.ndarray]) -> float:
    """Return the mean squared difference to the network's own frames."""
    with torch.no_grad():
        frames = shown({name: torch.from_numpy(array) for name, array in tensors.items()}, INDICES)
        return float(((frames.clamp(0, 1) - shown(network()[0], INDICES).clamp(0, 1)) ** 2).mean())


def coarseness_of_loss(loss: float, parameters: int) -> float:
    """Return the coarseness at which the mean squared error of a network of so many parameters should grow by about `loss`."""
    return float(8.0 * np.log2(np.sqrt(12.0 * loss / parameters)))


def decoded(quantised: dict[str, QuantisedTensor]) -> tuple[int, float]:
    """Return the bits of the integers and what the frames lose by them, both from bytes."""
    coded = encode_parameters(SHAPES, quantised)
    return 8 * len(coded), loss({name: t.dequantised() for name, t in decode_parameters(coded, SHAPES).items()})


def test_sensitivity_foretells_the_loss_of_a_change() -> None:
    tensors, _, found = network()
    generator = torch.Generator().manual_seed(1)
    for name, shape, _ in SHAPES:
        assert found.diagonal[name].shape == shape
        lost, size = [], 0.01 * float(tensors[name].std())
        for _ in range(12):
            change = size * torch.randn(shape, generator=generator)
            lost.append(loss({n: (t + change if n == name else t).numpy() for n, t in tensors.items()}))
        assert np.mean(lost) == pytest.approx(found.diagonal[name].sum() * size**2, rel=0.45), name
    assert set(found.moments) == {"stem_weight", "stage_weight", "head_weight"}
    moments = found.moments["stage_weight"]
    assert moments.shape == (109, 109) and np.allclose(moments, moments.T) and moments[-1, -1] == pytest.approx(1)


def test_embeddings_of_single_frames_are_measured_apart() -> None:
    tensors, _, _ = network()
    found = sensitivity(shown, tensors, torch.tensor([3]))
    rows = found.diagonal["embedding"].reshape(FRAMES, -1).sum(1)
    assert rows[3] > 0 and rows.sum() == rows[3]


def test_coarseness_is_the_loss() -> None:
    for wanted in (1e-6, 1e-5):
        coarseness = coarseness_of_loss(wanted, PARAMETERS)
        assert 0.6 * wanted < decoded(requantise(arrays(), SHAPES, network()[2], coarseness))[1] < 1.5 * wanted


def test_slope_is_what_a_bit_is_worth() -> None:
    coarseness = coarseness_of_slope(2e-9)
    finer, coarser = (decoded(requantise(arrays(), SHAPES, network()[2], coarseness + c)) for c in (-6, 6))
    assert (coarser[1] - finer[1]) / (finer[0] - coarser[0]) == pytest.approx(2e-9, rel=0.5)


def test_feedback_and_steps_of_rows_and_columns_pay() -> None:
    found, coarseness = network()[2], coarseness_of_loss(1e-5, PARAMETERS)
    flat = Sensitivity({name: np.full_like(s, s.mean()) for name, s in found.diagonal.items()}, {})
    costs = []
    for used in (flat, Sensitivity(found.diagonal, {}), found):
        bits, lost = decoded(requantise(arrays(), SHAPES, used, coarseness))
        costs.append(bits / PARAMETERS + 0.5 * np.log2(lost / 1e-5))  # bits per parameter at that loss
    assert costs[2] < costs[1] - 0.1 < costs[0]


@pytest.mark.parametrize("coarseness", [-110.0, -90.0])
def test_the_estimate_of_bits_is_near_the_bits(coarseness: float) -> None:
    quantised = requantise(arrays(), SHAPES, network()[2], coarseness)
    estimate = sum(float(estimated_bits(torch.from_numpy(t.values).float())) for t in quantised.values())
    assert estimate == pytest.approx(8 * len(encode_parameters(SHAPES, quantised)), rel=0.1)


def test_the_quantiser_rounds_and_passes_gradients() -> None:
    tensors, _, found = network()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    quantiser = Quantiser(leaves, SHAPES, found, -60.0)
    rounded, bits = quantiser(leaves, False)
    assert bits is None
    for name, tensor in quantiser.quantised(leaves).items():
        assert np.allclose(rounded[name].detach().numpy(), tensor.dequantised(), rtol=1e-5, atol=1e-7)
    sum(tensor.sum() for tensor in rounded.values()).backward()
    assert all(torch.allclose(leaf.grad, torch.ones_like(leaf)) for leaf in leaves.values() if leaf.grad is not None)
    _, bits = quantiser(leaves, True)
    assert bits is not None
    for leaf in leaves.values():
        leaf.grad = None
    bits.backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None and (leaf.grad * leaf.sign() >= 0).all(), f"more of {name} costs more"


def test_polishing_moves_integers_to_where_frames_call_for_them() -> None:
    """One layer whose frames have become brighter since its parameters were fitted."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn((8, 1, 12, 12), generator=generator) + 0.5 * torch.randn((8, 8, 12, 12), generator=generator)
    shapes: Shapes = (("weight", (6, 8, 3, 3), "weight"), ("bias", (6,), "bias"))
    tensors = {name: 0.03 * torch.randn(shape, generator=generator) for name, shape, _ in shapes}

    def layer(tensors: Mapping[str, Tensor], indices: Tensor) -> Tensor:
        return 0.5 + F.conv2d(inputs[indices], tensors["weight"], tensors["bias"], padding=1)

    target, found = (layer(tensors, INDICES) + 0.03).clamp(0, 1), sensitivity(layer, tensors, INDICES)
    quantiser = Quantiser(tensors, shapes, Sensitivity(found.diagonal, {}), coarseness_of_loss(3e-4, 438))

    def lost(quantised: dict[str, QuantisedTensor]) -> float:
        parameters = {name: torch.from_numpy(tensor.dequantised()) for name, tensor in quantised.items()}
        return float((layer(parameters, INDICES).clamp(0, 1) - target).square().mean())

    before = quantiser.quantised(quantiser.start(tensors))
    after = polish(layer, tensors, quantiser, target, 40, learning_rate=0.3)
    assert lost(after) < 0.8 * lost(before)


def test_polishing_keeps_what_it_cannot_better() -> None:
    tensors, _, found = network()
    quantiser = Quantiser(tensors, SHAPES, found, coarseness_of_loss(1e-5, PARAMETERS))
    target = shown(tensors, INDICES).clamp(0, 1)
    before = decoded(quantiser.quantised(quantiser.start(tensors)))
    assert decoded(polish(shown, tensors, quantiser, target, 20, learning_rate=1.0)) == before


def test_polishing_is_stopped_by_its_progress_and_repeats() -> None:
    tensors, _, found = network()
    target = shown(tensors, INDICES).clamp(0, 1)
    quantiser = Quantiser(tensors, SHAPES, found, -60.0)
    seen: list[float] = []
    first = polish(shown, tensors, quantiser, target, 4, progress=seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert decoded(first) == decoded(polish(shown, tensors, quantiser, target, 4))

    def stop(part: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        polish(shown, tensors, quantiser, target, 4, progress=stop)
