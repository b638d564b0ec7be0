"""Fitting a network to its own quantisation: parameters seen through rounding, and a smooth estimate of the bits they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .inr_parameters import LARGEST, QuantisedTensor, Shapes
from .inr_quantise import requantise
from .inr_sensitivity import Sensitivity

__all__ = ["Quantiser", "estimated_bits"]

SPREAD = 0.72  # scale of a logistic distribution whose mean magnitude is 1


class Quantiser:
    """Tensors as they would be decoded, with gradients straight through the rounding (Bengio et al. 2013).

    Steps are those that `requantise` chooses for the tensors and the coarseness given; they stay, as finding them anew in every
    step would move all integers. `quantised` gives the integers in the end. What a bit costs the mean squared error at this
    coarseness is `slope_of_coarseness`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        shapes: Shapes,
        sensitivity: Sensitivity,
        coarseness: float,
        offsets: Mapping[str, int] | None = None,
    ) -> None:
        floats = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        self._start = requantise(floats, shapes, sensitivity, coarseness, offsets, thrift=0.0)
        self._steps = {
            name: torch.from_numpy(np.array(tensor.steps())).to(tensors[name].device, torch.float32)
            for name, tensor in self._start.items()
        }

    def __call__(self, tensors: Mapping[str, Tensor], rate: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the tensors rounded, and if `rate` the bits they take, a scalar; both with gradients for `tensors`."""
        rounded: dict[str, Tensor] = {}
        bits = []
        for name, tensor in tensors.items():
            scaled = tensor / self._steps[name]
            away = (scaled.round().clamp(-LARGEST, LARGEST) - scaled).detach()
            rounded[name] = (scaled + away) * self._steps[name]
            if rate:
                bits.append(estimated_bits(scaled))
        return rounded, torch.stack(bits).sum() if rate else None

    def parameters(self) -> Iterable[Tensor]:
        """Return what is fitted along with the network: nothing."""
        return ()

    def quantised(self, tensors: Mapping[str, Tensor]) -> dict[str, QuantisedTensor]:
        """Return the integers and steps that `tensors` are rounded to."""
        result = {}
        for name, start in self._start.items():
            values = (tensors[name].detach() / self._steps[name]).round().clamp(-LARGEST, LARGEST)
            result[name] = QuantisedTensor(values.to(torch.int32).cpu().numpy(), start.exponent, start.rows, start.columns)
        return result


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
