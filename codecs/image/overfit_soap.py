"""SOAP: Adam in the eigenbases of how a tensor's gradients vary (Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo").

A picture's networks are small and badly conditioned: what a fit waits for is that they turn from photographs in general to
this one. A crop of a photograph got further in 2000 steps like this than in 3000 with Adam alone. Cool-chic 5 does the same.
"""

from __future__ import annotations

import numpy as np

from .overfit_dense import Floats
from .overfit_spec import Spec

__all__ = ["Soap"]

BETAS = (0.8, 0.95)  # of the moments; the second also of the preconditioner
EVERY = 2  # steps until the bases follow the preconditioner
DAMPING = 0.02  # of a tensor's root mean square gradient: directions with less than that move less
LARGEST = 1.0  # change of a direction, in steps: bases turn, and what is kept of one direction may meet another
TINY = np.float32(1e-12)


class Soap:
    """What the optimiser keeps of the parameters of networks; `arrays` is all of it, by name, for a checkpoint.

    Tensors of two and more dimensions are taken as matrices of their first against all others; vectors as they are.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.arrays: dict[str, Floats] = {}
        shapes = {name: shape for name, shape, _ in spec.parameters()}
        self._sizes = {name: (shape[0], int(np.prod(shape[1:]))) for name, shape in shapes.items()}
        self._vectors = {name for name, shape in shapes.items() if len(shape) == 1}
        for name, size in self._sizes.items():
            self.arrays[f"{name}.first"], self.arrays[f"{name}.second"] = (np.zeros(size, np.float32) for _ in range(2))
            if name not in self._vectors:
                for side, n in zip(("rows", "columns"), size, strict=True):
                    self.arrays[f"{name}.{side}"], self.arrays[f"{name}.{side}.basis"] = (
                        np.zeros((n, n), np.float32) for _ in range(2)
                    )

    def move(self, values: Floats, gradient: Floats, rate: float, step: int, limit: float) -> None:
        """Move all parameters [count] against their gradient, within ± `limit`; `step` counts from 1."""
        corrections = np.float32(1 / (1 - BETAS[0] ** step)), np.float32(1 / (1 - BETAS[1] ** step))
        tensors, slopes = self._spec.views(values), self._spec.views(gradient)
        for name, size in self._sizes.items():
            value, slope = tensors[name], slopes[name].reshape(size)
            first, second = self.arrays[f"{name}.first"], self.arrays[f"{name}.second"]
            _follow(first, slope, BETAS[0])
            if name in self._vectors:
                _follow(second, slope * slope, BETAS[1])
                change = _damped(first, second, corrections)
            else:
                self._follow_sides(name, slope, step)
                rows, columns = self.arrays[f"{name}.rows.basis"], self.arrays[f"{name}.columns.basis"]
                turned = np.asarray(rows.T @ slope @ columns, np.float32)
                _follow(second, turned * turned, BETAS[1])
                average = np.asarray(rows.T @ first @ columns, np.float32)
                change = np.asarray(rows @ _damped(average, second, corrections) @ columns.T, np.float32)
            value[...] = np.clip(value - np.float32(rate) * change.reshape(value.shape), -limit, limit)

    def _follow_sides(self, name: str, gradient: Floats, step: int) -> None:
        """Let the preconditioner follow the gradient, and now and then the bases the preconditioner."""
        for axis, side in enumerate(("rows", "columns")):
            products, basis = self.arrays[f"{name}.{side}"], self.arrays[f"{name}.{side}.basis"]
            outer = gradient @ gradient.T if axis == 0 else gradient.T @ gradient
            if step == 1:
                products[...] = outer
                basis[...] = np.linalg.eigh(outer)[1][:, ::-1]
                continue
            _follow(products, outer, BETAS[1])
            if step % EVERY == 0:  # one power iteration from the old basis, in the order of what it explains
                turned = products @ basis
                order = np.argsort(-np.einsum("ij,ij->j", basis, turned), kind="stable")
                second = self.arrays[f"{name}.second"]
                second[...] = second[order] if axis == 0 else second[:, order]
                basis[...] = np.linalg.qr(turned[:, order])[0]


def _follow(average: Floats, value: Floats, memory: float) -> None:
    average *= np.float32(memory)
    average += np.float32(1 - memory) * value


def _damped(first: Floats, second: Floats, corrections: tuple[np.float32, np.float32]) -> Floats:
    """Return how far directions move, in steps."""
    variance = second * corrections[1]
    floor = np.float32(DAMPING) * np.sqrt(variance.mean())
    return np.asarray(np.clip(first * corrections[0] / (np.sqrt(variance) + floor + TINY), -LARGEST, LARGEST), np.float32)
