"""Latents to pixels: upsampling and synthesis, in float32 operations of a fixed order, the same samples on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .overfit_dense import Floats
from .overfit_spec import LEVELS, plane_shapes
from .overfit_synthesis import add_rows, convolve_rows, pixels_rows, rectify_rows, repeat_edges
from .overfit_upsampling import double

__all__ = ["BAND", "Renderer", "Run", "Tensors", "to_samples"]

BAND = 64  # rows of one piece of work, even
Tensors = Mapping[str, Floats]
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # as `map`, perhaps on several threads


class Renderer:
    """Room for a picture of `height` x `width` on its way from latents to samples; what is left there serves gradients.

    `full` [LEVELS, H, W] are the planes at full size, `stages[k]` plane k at the sizes between, finest first, `before` and
    `between` [3, H + 2, W + 2] what goes into the two convolutions, `samples` [3, H, W] the result, in about 0..1.
    """

    def __init__(self, height: int, width: int, run: Run = map) -> None:
        self._run = run
        shapes = plane_shapes(height, width)
        self.bands = [(first, min(first + BAND, height)) for first in range(0, height, BAND)]
        self.full = np.zeros((LEVELS, height, width), np.float32)
        self.stages = [[np.zeros(shape, np.float32) for shape in shapes[1:k]] for k in range(LEVELS)]
        self.before, self.between = (np.zeros((3, height + 2, width + 2), np.float32) for _ in range(2))
        self.samples = np.zeros((3, height, width), np.float32)

    def render(self, planes: Sequence[Floats], tensors: Tensors) -> Floats:
        """Return the samples of latents, finest plane first; the array is used again by the next call."""
        taps = tensors["upsampling"]

        def upsample(k: int) -> None:
            if k == 0:
                self.full[0] = planes[0]
                return
            x = planes[k]
            for stage in range(k - 1, 0, -1):
                double(x, taps[stage], self.stages[k][stage - 1])
                x = self.stages[k][stage - 1]
            double(x, taps[0], self.full[k])

        def pixels(rows: tuple[int, int]) -> None:
            pixels_rows(self.full, *_layer("synthesis.0", tensors), *_layer("synthesis.1", tensors), self.before, rows)

        def first(rows: tuple[int, int]) -> None:
            convolve_rows(self.before, *_layer("synthesis.2", tensors), self.between, 1, rows)
            rectify_rows(self.between, rows)

        def second(rows: tuple[int, int]) -> None:
            convolve_rows(self.between, *_layer("synthesis.3", tensors), self.samples, 0, rows)
            add_rows(self.before, self.samples, rows)

        list(self._run(upsample, range(LEVELS)))
        list(self._run(pixels, self.bands))
        repeat_edges(self.before)
        list(self._run(first, self.bands))
        repeat_edges(self.between)
        list(self._run(second, self.bands))
        return self.samples


def _layer(name: str, tensors: Tensors) -> tuple[Floats, Floats]:
    return tensors[f"{name}.bias"], tensors[f"{name}.weight"]


def to_samples(rendered: Floats) -> NDArray[np.uint8]:
    """Return samples in 0..1 as integers of 8 bits."""
    return np.asarray(np.floor(np.clip(rendered, 0, 1) * np.float32(255) + np.float32(0.5)), np.uint8)
