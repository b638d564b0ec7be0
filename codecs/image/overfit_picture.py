"""A picture's latents while they are fitted: where they begin, how they are rounded, and how they move."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .overfit_dense import Floats
from .overfit_latents import adam, round_hard, round_soft
from .overfit_loss import Loss
from .overfit_render import Run
from .overfit_spec import LARGEST, LEVELS

__all__ = ["BETAS", "FEATURES", "FILTERED", "Moments", "Picture", "block_means", "features"]

BETAS = (0.7, 0.9)  # a short memory: with so few steps Adam's usual one is the memory of another picture
WINDOW = 5  # means of blocks that a latent begins from, in rows and columns
FEATURES = 3 * WINDOW**2 + 1
FILTERED = 2  # finest plane that begins from filters: latents that begin at zero stay few, and finer planes need few


class Moments(NamedTuple):
    """Values and what Adam keeps of them."""

    values: Floats
    first: Floats
    second: Floats

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """Return values at rest."""
        return cls(values, np.zeros_like(values), np.zeros_like(values))

    def copy(self) -> Moments:
        """Return a copy of the values, at rest."""
        return Moments.of(self.values.copy())

    def rest(self) -> None:
        """Forget how the values moved."""
        self.first[...], self.second[...] = 0, 0


class Picture:
    """A picture `target` float32 [3, H, W] in 0..1 and latents for it; `weight` (lambda) is that of its bits.

    `filters` [LEVELS, FEATURES] give the latents to begin with from the picture; without them they are zeros.
    """

    def __init__(self, target: Floats, weight: float, filters: Floats | None = None, run: Run = map) -> None:
        self.loss, self._run = Loss(target, weight, run), run
        self.latents = [Moments.of(np.zeros(shape, np.float32)) for shape in self.loss.shapes]
        if filters is not None:
            for k in range(FILTERED, LEVELS):
                self.latents[k].values[...] = features(target, k) @ filters[k]
        self._slopes = [np.ones(shape, np.float32) for shape in self.loss.shapes]

    def copy(self) -> Picture:
        """Return the picture with a copy of its latents, at rest; the loss is the same one."""
        picture = copy.copy(self)
        picture.latents = [moments.copy() for moments in self.latents]
        return picture

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(self.loss.target[0].size)

    def round_softly(self, temperature: float, strength: float, seed: int, finest: int = 0) -> None:
        """Write noisy latents, from plane `finest` on, into the loss."""

        def work(k: int) -> None:
            values, inside = self.latents[k].values, self.loss.inside(k)
            round_soft(values, temperature, strength, seed * LEVELS + k, inside, self._slopes[k])

        list(self._run(work, range(finest, LEVELS)))

    def round(self) -> None:
        """Write rounded latents into the loss."""
        for k in range(LEVELS):
            round_hard(self.latents[k].values, self.loss.inside(k))

    def take_rounded(self) -> None:
        """Set the latents to those in the loss."""
        for k in range(LEVELS):
            self.latents[k].values[...] = self.loss.inside(k)

    def move(self, rate: float, step: int, finest: int = 0) -> None:
        """Move the latents, from plane `finest` on, against the gradient that the loss has left."""

        def work(k: int) -> None:
            gradient = self.loss.gradient(k) * self._slopes[k]
            values, first, second = self.latents[k]
            adam(values.ravel(), first.ravel(), second.ravel(), gradient.ravel(), rate, BETAS, step, LARGEST)

        list(self._run(work, range(finest, LEVELS)))

    def symbols(self) -> list[NDArray[np.int32]]:
        """Return the rounded latents, finest plane first."""
        self.round()
        return [self.loss.inside(k).astype(np.int32) for k in range(LEVELS)]


def block_means(target: Floats, k: int) -> Floats:
    """Return the means [3, h, w] of blocks of 2**k x 2**k pixels; beyond the edge it repeats."""
    size = 1 << k
    padded = np.pad(target, ((0, 0), (0, -target.shape[1] % size), (0, -target.shape[2] % size)), mode="edge")
    return np.asarray(padded.reshape(3, padded.shape[1] // size, size, -1, size).mean((2, 4)), np.float32)


def features(target: Floats, k: int) -> Floats:
    """Return what the latents of plane k begin from [h, w, FEATURES]: means of 2**k x 2**k pixels nearby, and 1."""
    means = block_means(target, k) - np.float32(0.5)
    h, w = means.shape[1:]
    around = np.pad(means, ((0, 0), (WINDOW // 2, WINDOW // 2), (WINDOW // 2, WINDOW // 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, (WINDOW, WINDOW), (1, 2))  # [3, h, w, WINDOW, WINDOW]
    flat = windows.transpose(1, 2, 0, 3, 4).reshape(h, w, -1)
    return np.concatenate([flat, np.ones((h, w, 1), np.float32)], 2)
