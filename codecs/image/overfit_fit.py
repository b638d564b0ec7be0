"""Fitting latents and networks to one picture: to the same result on any number of threads, resumable and cancellable.

First latents are rounded softly with noise that shrinks, and everything moves; then they are rounded hard and stay, but for
fine planes that cost more than they mend, which are emptied, and the networks move alone. Then their parameters are put on
grids (`overfit_quantise`). Latents move by Adam, networks by SOAP (`overfit_soap`). Schedules after Cool-chic 4 (Blard et al.
2024, section III) and C3 (Kim et al. 2024, section 3), but latents move fifteen times faster and Adam forgets sooner, as there
are ten times fewer steps, and rounding ends harder: what is fitted to soft latents loses when they are rounded. Gradients
straight through hard rounding, which both use at last, made files larger.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..checkpoint import load_checkpoint, save_checkpoint
from .overfit_dense import Floats
from .overfit_loss import Measure
from .overfit_parameters import Initial
from .overfit_picture import Picture, block_means
from .overfit_quantise import Quantised, quantise
from .overfit_rdoq import improve_latents
from .overfit_render import Run, Tensors
from .overfit_soap import Soap

__all__ = [
    "HARD_RATE",
    "LARGEST_PARAMETER",
    "LATENT_RATE",
    "STRENGTHS",
    "TEMPERATURES",
    "Fit",
    "between",
    "falling",
]

SOFT = 0.97  # part of all steps; in the rest latents are rounded hard and only the networks move
TEMPERATURES, STRENGTHS = (0.3, 0.05), (0.25, 0.1)  # of soft rounding and its noise, at first and at last
LATENT_RATE, NETWORK_RATE = 0.15, 0.03
HARD_RATE = 0.1  # of the networks' rate, once rounding is hard
LARGEST_PARAMETER = 7.9
AGAIN, AGAIN_STEPS, AGAIN_RATE = 0.25, 100, 0.4  # steps (part and least) and learning rates of a fit that goes on from another
WARM_UP = 0.02  # of all steps
APPEAR = 0.2  # of the soft steps: when the finest plane appears where it has little to do
NEVER = 0.3  # of a bit's weight: with less fine detail than this, the finest plane does not appear at all
LONGER = 4 / 3  # steps of a fit without the finest plane, each of which takes less time
SEARCH_STEPS = 2000  # of a fit that tries all promising latents one by one; shorter ones try fewer, for steps bring more there
FINE = 2  # planes that may be emptied at the end of the soft steps
PRICE, NEAR = 6.0, 0.02  # bits of a parameter for each doubling of its distance from the initial one, beyond this
SAVE_SECONDS, REPORT_SECONDS = 5.0, 0.25

Report = Callable[[float, str], None]


def between(ends: tuple[float, float], part: float) -> float:
    """Return what is `part` (0..1) of the way from one end to the other."""
    return ends[0] + (ends[1] - ends[0]) * part


def falling(part: float) -> float:
    """Return the learning rate `part` of the way, beside that at first: half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * part))


def _finest_detail(target: Floats) -> float:
    """Return the mean squared difference between a picture and its means of 2 x 2 pixels: what only the finest plane can hold.

    Where it is less than the weight of a bit, few bits will go there, and a plane that is there from the first step takes what
    others can say with fewer; where it is more, networks that begin without the plane learn the wrong things.
    """
    height, width = target.shape[1:]
    return float(np.square(target - block_means(target, 1).repeat(2, 1).repeat(2, 2)[:, :height, :width]).mean())


class Fit:
    """A fit under way, of `target` float32 [3, H, W] in 0..1, with the weight (lambda) of a bit per pixel beside the error."""

    def __init__(self, target: Floats, weight: float, initial: Initial, steps: int, run: Run = map) -> None:
        self.initial, self.step = initial.network, 0
        self.picture = Picture(target, weight, initial.filters, run)
        self.parameters, self._start = self.initial.floats(), self.initial.floats()
        self._gradient, self._soap = np.zeros_like(self.parameters), Soap(self.initial.spec)
        detail = _finest_detail(target) / weight
        self._pace, self._appear = 1.0, 1.0 if detail < NEVER else APPEAR if detail < 1 else 0.0
        self.steps = round(LONGER * steps) if detail < NEVER else steps
        self._measured = Measure(0.0, 1.0)

    def again(self, weight: float) -> Fit:
        """Return a shorter fit with another weight that goes on from where this one is, and leaves this one there.

        So fits of several weights that go on from one compare. They share its room: only the last one made can go on.
        """
        fit = copy.copy(self)
        fit.picture, fit.parameters, fit._soap = self.picture.copy(), self.parameters.copy(), Soap(self.initial.spec)
        fit.steps, fit.step, fit._pace = max(AGAIN_STEPS, round(AGAIN * self.steps)), 0, AGAIN_RATE
        fit._appear = 0.0
        fit.picture.loss.weight = weight
        return fit

    def advance(self, checkpoint: Path | None, report: Report) -> Quantised:
        """Go on to the end, and return the quantised network; `report(part, stage)` may raise to stop."""
        self._restore(checkpoint)
        soft = round(SOFT * self.steps)
        saved = told = time.monotonic()
        while self.step < self.steps:
            if self.step == soft:
                self._empty_planes()
                self._search(self.initial.spec.views(self.parameters), report)
            if self.step < soft:
                self._move_softly(self.step / soft)
            else:
                self._move((self.step - soft) / (self.steps - soft))
            now = time.monotonic()
            if now - told > REPORT_SECONDS:
                told = now
                report(self.step / self.steps, self._stage())
            if checkpoint is not None and now - saved > SAVE_SECONDS:
                saved = now
                self._save(checkpoint)
        self.picture.round()
        quantised = quantise(self.picture.loss, self.initial, self.parameters, lambda: report(1.0, "coding the networks"))
        self._search(quantised.network.tensors(), report)
        report(1.0, self._stage())
        return quantised

    def _stage(self) -> str:
        bits, error = self._measured
        return f"fitting {-10 * math.log10(max(error, 1e-10)):.2f} dB at {bits / self.picture.pixels:.3f} bpp"

    def _move_softly(self, part: float) -> None:
        """Take one step with noise, `part` (0..1) of the way through these."""
        finest = 1 if part < self._appear else 0
        self.picture.round_softly(between(TEMPERATURES, part), between(STRENGTHS, part), self.step, finest)
        self._move_all(self._pace * falling(part) * min(1.0, (self.step + 1) / (WARM_UP * self.steps)), finest)

    def _empty_planes(self) -> None:
        """Empty the fine planes whose latents, rounded hard, cost more in bits than they mend.

        Where a plane has next to nothing to do, noise leaves a few latents behind: dear ones, as none is expected there.
        """
        loss, tensors = self.picture.loss, self.initial.spec.views(self.parameters)
        self.picture.round()
        least = loss.cost(tensors, 0)
        for k in range(FINE):
            kept = loss.inside(k).copy()
            loss.inside(k)[...] = 0
            if (cost := loss.cost(tensors, 0)) < least:
                least = cost
                self.picture.latents[k].values[...] = 0
            else:
                loss.inside(k)[...] = kept

    def _search(self, tensors: Tensors, report: Report) -> None:
        """Move single latents, rounded hard, to where they cost less."""
        part, room = min(1.0, self.steps / SEARCH_STEPS), self.initial.spec.views(self._gradient)
        self.picture.round()
        improve_latents(self.picture.loss, tensors, room, part, lambda: report(self.step / self.steps, "moving single latents"))
        self.picture.take_rounded()

    def _move(self, part: float) -> None:
        """Take one step of the networks with latents rounded hard; these stay, as rounded ones have no useful gradient."""
        self.picture.round()
        self._move_all(HARD_RATE * falling(part), latents=False)

    def _move_all(self, rate: float, finest: int = 0, latents: bool = True) -> None:
        """Take a step of the networks, and of the latents of planes from `finest` on."""
        self._measured = self.picture.loss.backwards(
            self.initial.spec.views(self.parameters), self.initial.spec.views(self._gradient), finest
        )
        self.step += 1
        if latents:
            self.picture.move(rate * LATENT_RATE, self.step, finest)
        mean = (self._gradient + self._price()) / np.float32(self.picture.pixels)
        self._soap.move(self.parameters, mean, rate * NETWORK_RATE, self.step, LARGEST_PARAMETER)

    def _price(self) -> Floats:
        """Return the gradient of what the parameters' code takes, about: PRICE log2(1 + distance / NEAR) bits each."""
        away = self.parameters - self._start
        slope = np.sign(away) / (np.abs(away) + np.float32(NEAR))
        return np.asarray(slope * (self.picture.loss.weight * PRICE / math.log(2)), np.float32)

    def _arrays(self) -> dict[str, Floats]:
        latents = {
            f"latents.{k}.{field}": array
            for k, moments in enumerate(self.picture.latents)
            for field, array in moments._asdict().items()
        }
        return {"parameters": self.parameters} | self._soap.arrays | latents

    def _save(self, checkpoint: Path) -> None:
        arrays = self._arrays() | {"step": np.array([self.step], np.int64)}
        save_checkpoint(checkpoint, {name: torch.from_numpy(array) for name, array in arrays.items()})

    def _restore(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint, if there is one that opens and fits."""
        found = {} if checkpoint is None else load_checkpoint(checkpoint)
        arrays = self._arrays()
        if any(name not in found or tuple(found[name].shape) != array.shape for name, array in arrays.items()):
            return
        for name, array in arrays.items():
            array[...] = found[name].numpy()
        self.step = int(found["step"][0])
