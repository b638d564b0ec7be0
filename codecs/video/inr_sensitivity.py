"""How much a network's frames change with its parameters: what quantisation needs to know of a network.

Near a fit's end the mean squared error of the frames is about a quadratic form of the errors of the parameters. Its diagonal
comes from backward passes of random signs (Hutchinson's estimator); inside a layer, errors of one output channel's weights add
up as the second moments of the layer's inputs say (Frantar et al. 2023, "GPTQ").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Render", "Sensitivity", "sensitivity"]

Render = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # tensors and frame numbers [n] to frames, samples of 0..1
POSITIONS = 4096  # of a layer's outputs that count towards its moments, per frame


class Sensitivity(NamedTuple):
    """The quadratic form, for the mean squared error of samples of 0..1.

    `diagonal[name]` has a tensor's shape. `moments[name]`, of weights [out, in, ...] that a plain layer applies, is
    [n + 1, n + 1] where n is the number of weights of an output channel: means of products of the inputs that these weights
    multiply, and last those with the constant 1, which the bias multiplies.
    """

    diagonal: dict[str, NDArray[np.float64]]
    moments: dict[str, NDArray[np.float64]]


def sensitivity(
    render: Render, tensors: Mapping[str, Tensor], indices: Tensor, *, seed: int = 0, batch: int = 1
) -> Sensitivity:
    """Return how the frames `indices` [n] depend on float32 `tensors`, by one forward and backward pass.

    A tensor that only some frames use is measured on those, so `indices` should be all frames where there are such.
    """
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    squares = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in leaves.items()}
    layers = _Layers(leaves)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        with layers:
            frames = render(leaves, part)
        signs = torch.randint(0, 2, frames.shape, generator=generator).to(frames.device, frames.dtype) * 2 - 1
        visible = signs * ((frames > 0) & (frames < 1))
        shown = (frames * visible).sum() / frames[0].numel() ** 0.5
        gradients = torch.autograd.grad(shown, [*leaves.values()], allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.double() ** 2
    diagonal = {name: (square / len(indices)).cpu().numpy() for name, square in squares.items()}
    return Sensitivity(diagonal, layers.moments())


class _Layers(TorchFunctionMode):
    """Watches the convolutions and linear layers that apply given weights, and sums the products of their inputs."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function in (F.conv2d, torch.conv2d, F.linear) and options.get("groups", 1) == 1 and id(args[1]) in self._names:
            with torch.no_grad():
                self._watch(self._names[id(args[1])], args[0].detach(), args[1], options.get("padding", 0))
        return function(*args, **options)

    def _watch(self, name: str, inputs: Tensor, weight: Tensor, padding: int) -> None:
        if weight.ndim == 4:
            stride = max(round((inputs.shape[2] * inputs.shape[3] / POSITIONS) ** 0.5), 1)
            unfolded = F.unfold(inputs, (weight.shape[2], weight.shape[3]), padding=padding, stride=stride)
            columns = unfolded.transpose(1, 2).flatten(0, 1)  # [positions, n]
        else:
            columns = inputs.reshape(-1, weight.shape[1])
        columns = torch.cat([columns, columns.new_ones(columns.shape[0], 1)], 1).float()
        products, count = (columns.T @ columns).double(), columns.shape[0]
        if name in self._sums:
            products, count = products + self._sums[name][0], count + self._sums[name][1]
        self._sums[name] = products, count

    def moments(self) -> dict[str, NDArray[np.float64]]:
        """Return the means of products."""
        return {name: (product / count).cpu().numpy() for name, (product, count) in self._sums.items()}
