"""Rate and distortion of a picture under latents and networks, and their gradients, on several threads.

Work is cut into the same pieces whatever the number of threads, each sums by itself, and their sums are added in one order: the
same latents give the same gradients on one thread or ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .overfit_dense import Floats
from .overfit_rate import rate_rows
from .overfit_render import BAND, Renderer, Run, Tensors
from .overfit_spec import CONTEXT, HALF_TAPS, HIDDEN, INPUTS, LEVELS, MARGIN, plane_shapes
from .overfit_synthesis import convolve_back, convolve_gradient, fold_edges, pixels_backwards, subtract_rows
from .overfit_upsampling import double_backwards

__all__ = ["Loss", "Measure"]


class Measure(NamedTuple):
    """Bits of the latents, and the mean squared error per sample, of samples in 0..1."""

    bits: float
    error: float


class _RatePiece(NamedTuple):
    """Rows of a plane, and room for what they add to gradients: of planes, and of the context network's layers."""

    plane: int
    rows: tuple[int, int]
    dplane: Floats
    dparent: Floats
    gradients: tuple[Floats, Floats, Floats, Floats, Floats, Floats]


def _room() -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Return room for the gradients of the context network's layers, the last with two rows more."""
    first, second = np.zeros(CONTEXT, np.float32), np.zeros((CONTEXT, INPUTS), np.float32)
    third, fourth = np.zeros(CONTEXT, np.float32), np.zeros((CONTEXT, CONTEXT), np.float32)
    return first, second, third, fourth, np.zeros(4, np.float32), np.zeros((4, CONTEXT), np.float32)


class Loss:
    """The loss of one picture: (squared error of a pixel's mean channel + weight x bits), summed over the picture.

    `target` is float32 [3, H, W] in 0..1. Write rounded latents into `inside(k)` of each plane; `backwards` leaves their
    gradients in `gradient(k)`.
    """

    def __init__(self, target: Floats, weight: float, run: Run = map) -> None:
        self.target, self.weight, self._run = target, weight, run
        height, width = target.shape[1:]
        self.shapes = plane_shapes(height, width)
        self.planes = [np.zeros((h + MARGIN, w + 2 * MARGIN), np.float32) for h, w in self.shapes]
        self._dplanes = [np.zeros_like(plane) for plane in self.planes]
        top = ((self.shapes[-1][0] + 1) // 2, (self.shapes[-1][1] + 1) // 2)  # beyond the coarsest plane there are zeros
        self.parents = [np.zeros((h + 2, w + 2), np.float32) for h, w in [*self.shapes[1:], top]]
        self._pieces = [piece for k in range(LEVELS) for piece in self._rate_pieces(k)]
        self._padded_bands = [(first, min(first + BAND, height + 2)) for first in range(0, height + 2, BAND)]
        self.renderer = Renderer(height, width, run)
        self._dfull = np.zeros((LEVELS, height, width), np.float32)
        self._dstages = [[np.zeros(shape, np.float32) for shape in self.shapes[1 : k + 1]] for k in range(LEVELS)]
        self._dbefore, self._dbetween = (np.zeros((3, height + 2, width + 2), np.float32) for _ in range(2))

    def inside(self, k: int) -> Floats:
        """Return plane k without its margins."""
        return self.planes[k][MARGIN:, MARGIN : MARGIN + self.shapes[k][1]]

    def gradient(self, k: int) -> Floats:
        """Return the gradient of plane k."""
        return self._dplanes[k][MARGIN:, MARGIN : MARGIN + self.shapes[k][1]]

    def measure(self, tensors: Tensors, finest: int = 0) -> Measure:
        """Return rate and distortion, where planes finer than `finest` are zero."""
        return Measure(self._rate(tensors, finest), self._error(tensors))

    def cost(self, tensors: Tensors, more_bits: float) -> float:
        """Return the loss, with so many bits besides those of the latents."""
        bits, error = self.measure(tensors)
        return float(error * self.target[0].size + self.weight * (bits + more_bits))

    def backwards(self, tensors: Tensors, gradient: Tensors, finest: int = 0) -> Measure:
        """Return rate and distortion, and set all gradients; those of the parameters are in `gradient`.

        Planes finer than `finest` must be zero: they take no bits, and their gradients are those of the error only.
        """
        measure = self.measure(tensors, finest)
        for part in (*gradient.values(), *self._dplanes):
            part[...] = 0
        self._collect_rate(gradient, finest)
        self._synthesis_backwards(tensors, gradient)
        self._upsampling_backwards(tensors, gradient)
        return measure

    def _rate_pieces(self, k: int) -> list[_RatePiece]:
        h, w = self.shapes[k]
        return [
            _RatePiece(
                k,
                (first, min(first + BAND, h)),
                np.zeros((min(BAND, h - first) + MARGIN, w + 2 * MARGIN), np.float32),
                np.zeros(((min(BAND, h - first) + 1) // 2 + 2, self.parents[k].shape[1]), np.float32),
                _room(),
            )
            for first in range(0, h, BAND)
        ]

    def _rate(self, tensors: Tensors, finest: int) -> float:
        for k in range(1, LEVELS):
            h, w = self.shapes[k]
            self.parents[k - 1][1 : 1 + h, 1 : 1 + w] = self.inside(k)
        bias2, weight2 = np.zeros(4, np.float32), np.zeros((4, CONTEXT), np.float32)
        bias2[:2], weight2[:2] = tensors["context.2.bias"], tensors["context.2.weight"]
        layers = (tensors["context.0.weight"], tensors["context.1.bias"], tensors["context.1.weight"], bias2, weight2)

        def work(piece: _RatePiece) -> float:
            k = piece.plane
            size = self.shapes[k][1], piece.rows, tensors["context.0.bias"][k]
            return rate_rows(self.planes[k], self.parents[k], *size, *layers, piece.dplane, piece.dparent, piece.gradients)

        return float(sum(self._run(work, [piece for piece in self._pieces if piece.plane >= finest])))

    def _error(self, tensors: Tensors) -> float:
        samples = self.renderer.render([self.inside(k) for k in range(LEVELS)], tensors)
        squares = self._run(lambda rows: subtract_rows(samples, self.target, rows), self.renderer.bands)
        return float(sum(squares)) / samples.size

    def _collect_rate(self, gradient: Tensors, finest: int) -> None:
        """Add what the pieces left."""
        for k, (first, last), dplane, dparent, parts in (piece for piece in self._pieces if piece.plane >= finest):
            self._dplanes[k][first : last + MARGIN] += self.weight * dplane
            if k + 1 < LEVELS:
                h, w = self.shapes[k + 1]
                above = first // 2 - 1  # row of the coarser plane that `dparent` begins with
                lower, upper = max(above, 0), min(above + dparent.shape[0], h)
                self.gradient(k + 1)[lower:upper] += self.weight * dparent[lower - above : upper - above, 1 : 1 + w]
            gradient["context.0.bias"][k] += self.weight * parts[0]
            gradient["context.0.weight"] += self.weight * parts[1]
            gradient["context.1.bias"] += self.weight * parts[2]
            gradient["context.1.weight"] += self.weight * parts[3]
            gradient["context.2.bias"] += self.weight * parts[4][:2]
            gradient["context.2.weight"] += self.weight * parts[5][:2]

    def _synthesis_backwards(self, tensors: Tensors, gradient: Tensors) -> None:
        room = self.renderer
        missed = room.samples
        missed *= np.float32(2 / 3)
        self._convolution_backwards(room.between, missed, "synthesis.3", tensors, gradient, self._dbetween)
        rectified = self._dbetween[:, 1:-1, 1:-1] * (room.between[:, 1:-1, 1:-1] > 0)
        self._convolution_backwards(room.before, rectified, "synthesis.2", tensors, gradient, self._dbefore)
        self._dbefore[:, 1:-1, 1:-1] += missed
        weight0, weight1 = np.zeros((HIDDEN, LEVELS + 1), np.float32), np.zeros((4, HIDDEN), np.float32)
        weight0[:, :LEVELS], weight1[:3] = tensors["synthesis.0.weight"], tensors["synthesis.1.weight"]

        def work(rows: tuple[int, int]) -> tuple[Floats, Floats, Floats, Floats]:
            parts = (np.zeros(HIDDEN, np.float32), np.zeros_like(weight0), np.zeros(4, np.float32), np.zeros_like(weight1))
            bias0 = tensors["synthesis.0.bias"]
            pixels_backwards(room.full, bias0, weight0, weight1, self._dbefore, self._dfull, parts, rows)
            return parts

        for db0, dw0, db1, dw1 in self._run(work, room.bands):
            gradient["synthesis.0.bias"][:] += db0
            gradient["synthesis.0.weight"][:] += dw0[:, :LEVELS]
            gradient["synthesis.1.bias"][:] += db1[:3]
            gradient["synthesis.1.weight"][:] += dw1[:3]

    def _convolution_backwards(
        self, x: Floats, dout: Floats, name: str, tensors: Tensors, gradient: Tensors, dx: Floats
    ) -> None:
        def weights(rows: tuple[int, int]) -> tuple[Floats, Floats]:
            dbias, dweight = np.zeros(3, np.float32), np.zeros((3, 3, 3, 3), np.float32)
            convolve_gradient(x, dout, dbias, dweight, rows)
            return dbias, dweight

        for dbias, dweight in self._run(weights, self.renderer.bands):
            gradient[f"{name}.bias"][:] += dbias
            gradient[f"{name}.weight"][:] += dweight
        weight = tensors[f"{name}.weight"]
        list(self._run(lambda rows: convolve_back(dout, weight, dx, rows), self._padded_bands))
        fold_edges(dx)

    def _upsampling_backwards(self, tensors: Tensors, gradient: Tensors) -> None:
        taps, stages = tensors["upsampling"], self.renderer.stages

        def work(k: int) -> Floats:
            dtaps, dout = np.zeros((LEVELS - 1, HALF_TAPS), np.float32), self._dfull[k]
            sources: Sequence[Floats] = [*stages[k], self.inside(k)]
            for stage in range(k):  # from plane `stage + 1` to `stage`
                double_backwards(sources[stage], taps[stage], dout, self._dstages[k][stage], dtaps[stage])
                dout = self._dstages[k][stage]
            return dtaps

        for dtaps in self._run(work, range(1, LEVELS)):
            gradient["upsampling"][:] += dtaps
        for k in range(LEVELS):
            self.gradient(k)[...] += self._dstages[k][-1] if k else self._dfull[0]
