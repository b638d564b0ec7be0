"""Fitting a network to its own quantisation: parameters seen through rounding, and a smooth estimate of the bits they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .inr_parameters import LARGEST, QuantisedTensor, Shapes
from .inr_quantise import requantise, slope_of_coarseness
from .inr_sensitivity import Render, Sensitivity

__all__ = ["Quantiser", "estimated_bits", "polish"]

SPREAD = 0.72  # scale of a logistic distribution whose mean magnitude is 1
WARM_STEPS = 20  # in which the learning rate rises
RATE_EVERY = 8  # steps: bits change slowly, and estimating them costs time (NVRC, Kwan et al. 2024)


class Quantiser:
    """Tensors as they would be decoded, with gradients straight through the rounding (Bengio et al. 2013).

    Steps are those that `requantise` chooses for the tensors and the coarseness given; they stay, as finding them anew in
    every step would move all integers. `quantised` gives the integers in the end. `steps` are the steps, in shapes that
    broadcast with the tensors; `slope` is what a bit is worth in mean squared error.
    """

    def __init__(self, tensors: Mapping[str, Tensor], shapes: Shapes, sensitivity: Sensitivity, coarseness: float) -> None:
        self.slope = slope_of_coarseness(coarseness)
        floats = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        self._start = requantise(floats, shapes, sensitivity, coarseness)
        self.steps = {
            name: torch.from_numpy(np.array(tensor.steps())).to(tensors[name].device, torch.float32)
            for name, tensor in self._start.items()
        }

    def __call__(self, tensors: Mapping[str, Tensor], rate: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the tensors rounded, and if `rate` the bits they take, a scalar; both with gradients for `tensors`."""
        rounded: dict[str, Tensor] = {}
        bits = []
        for name, tensor in tensors.items():
            scaled = tensor / self.steps[name]
            away = (scaled.round().clamp(-LARGEST, LARGEST) - scaled).detach()
            rounded[name] = (scaled + away) * self.steps[name]
            if rate:
                bits.append(estimated_bits(scaled))
        return rounded, torch.stack(bits).sum() if rate else None

    def start(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors, like those given, at the integers that rounding with feedback finds for the first ones.

        Training from there gets far in a few passes; from plain rounding it first has to find what feedback knows.
        """
        return {name: torch.from_numpy(self._start[name].dequantised()).to(tensor.device) for name, tensor in tensors.items()}

    def quantised(self, tensors: Mapping[str, Tensor]) -> dict[str, QuantisedTensor]:
        """Return the integers and steps that `tensors` are rounded to."""
        result = {}
        for name, start in self._start.items():
            values = (tensors[name].detach() / self.steps[name]).round().clamp(-LARGEST, LARGEST)
            result[name] = QuantisedTensor(values.to(torch.int32).cpu().numpy(), start.exponent, start.rows, start.columns)
        return result


def polish(
    render: Render,
    tensors: Mapping[str, Tensor],
    quantiser: Quantiser,
    frames: Tensor,
    steps: int,
    *,
    batch: int = 2,
    learning_rate: float = 0.03,
    rate: float = 0.0,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, QuantisedTensor]:
    """Fit a quantised network once more, by a few passes over its frames: its integers, those it had if they are no better.

    `frames` [T, 3, H, W] are floats of 0..1 on the tensors' device. What moves are parameters in units of their steps, in which
    all are about equally sensitive; so is `learning_rate`. `rate` is how much bits count, 1 as much as they do in the choice of
    the steps; every eighth step sees them. `progress(part)` is called after every step and may raise to stop.
    """
    units = quantiser.steps
    leaves = {name: (tensor / units[name]).requires_grad_() for name, tensor in quantiser.start(tensors).items()}
    optimiser = torch.optim.Adam(leaves.values(), learning_rate, betas=(0.9, 0.99))
    generator, order = torch.Generator().manual_seed(seed), torch.zeros(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) == 0:
            order = torch.randperm(len(frames), generator=generator)
        part, order = order[:batch].to(frames.device), order[batch:]
        warm = min(1.0, (step + 1) / WARM_STEPS)
        optimiser.param_groups[0]["lr"] = learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        scaled = {name: leaf * units[name] for name, leaf in leaves.items()}
        rounded, bits = quantiser(scaled, rate > 0 and step % RATE_EVERY == 0)
        loss = (render(rounded, part) - frames[part]).square().mean()
        if bits is not None:
            loss = loss + RATE_EVERY * rate * quantiser.slope * bits
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if progress is not None:
            progress((step + 1) / steps)
    after = {name: leaf.detach() * units[name] for name, leaf in leaves.items()}
    before = quantiser.start(tensors)
    costs = [_cost(render, quantiser, each, frames, rate, batch) for each in (before, after)]
    return quantiser.quantised(before if costs[0] <= costs[1] else after)


@torch.no_grad()
def _cost(
    render: Render, quantiser: Quantiser, tensors: Mapping[str, Tensor], frames: Tensor, rate: float, batch: int
) -> float:
    """Return the mean squared error of all frames, and the bits at their price."""
    rounded, bits = quantiser(tensors, rate > 0)
    total = 0.0 if bits is None else rate * quantiser.slope * float(bits)
    for start in range(0, len(frames), batch):
        part = torch.arange(start, min(start + batch, len(frames)), device=frames.device)
        total += float((render(rounded, part).clamp(0, 1) - frames[part]).square().sum()) / frames.numel()
    return total


def estimated_bits(scaled: Tensor) -> Tensor:
    """Return about how many bits a tensor takes that is `scaled` (float, any shape) in units of its steps, before rounding.

    A value is as likely as a logistic distribution says whose scale is that of its row and column, as the coder estimates it.
    The scales have no gradients: where they fit, the likelihood does not change with them.
    """
    values = scaled.reshape(scaled.shape[0], scaled.shape[1] if scaled.ndim > 1 else 1, -1)
    sizes = values.abs()
    with torch.no_grad():
        mean = sizes.mean() + 0.02
        rows, columns = (sizes.mean((1, 2), True) + mean / 8), (sizes.mean((0, 2), True) + mean / 8)
        scale = SPREAD * rows * columns / (1.25 * mean) + 0.05
    inside, outside = (0.5 - sizes) / scale, (-0.5 - sizes) / scale
    likelihood = F.logsigmoid(inside) + F.logsigmoid(-outside) + torch.log(-torch.expm1(-1.0 / scale))
    return -likelihood.sum() / float(np.log(2.0))
