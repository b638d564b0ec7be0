"""One fit at many rates: its networks quantised as coarsely as quality, size or PSNR ask for.

How coarse is one number, the elasticity: what a per cent of bits is worth in per cents of squared error. Steps follow from it
and from what frames owe to each parameter; then a few more passes over the frames fit the integers to the steps, which is
worth some tenths of a dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidSettings
from ..metrics import psnr
from ..signals import ArrayFrames, Samples, Video
from ..target_search import approach, slope_between
from .inr_fit import Fitted
from .inr_frames import shown_network
from .inr_group import lengthened, slope_of
from .inr_networks import render
from .inr_quantise import coarseness_of_slope
from .inr_sensitivity import Sensitivity, sensitivity
from .inr_stream import Layout, Network, pack_group
from .inr_training import Quantiser, polish

__all__ = ["Ladder", "elasticity_of"]

MIDDLE = 0.3  # elasticity at quality 50
TRYING, FINISHING = 2, 24  # passes over the frames that fit integers, of a trial and at last
KEPT = 16  # networks whose sensitivity is kept: some megabytes each
TRIALS, LAST_TRIALS = 12, 9  # quantisations of a search, at most, of few passes and of all
FINEST, COARSEST = 1e-4, 100.0  # elasticities
NARROW, APART = 0.01, 0.1  # logarithms of elasticities: an interval that a search ends with, and one that tells a slope
DB_PER_FOLD = 1.0  # more for an elasticity that is less by a factor of e, about
CLOSE_DB, CLOSE_PART = 0.05, 0.01  # of a target, which a search ends within
EQUAL_FRAME = 100.0  # dB


def elasticity_of(quality: int) -> float:
    """Return the elasticity at a quality of 0..100: 0.3 at 50."""
    return MIDDLE * math.exp2((50 - quality) / 12)


class Ladder:
    """The networks of all groups at one rate or another.

    `fitted` are the networks of each group, `frames_of(g)` its frames. `size_of` tells the size of a file with such payloads.
    `tick` is called often, with what is being done, and may raise to stop.
    """

    def __init__(
        self,
        layout: Layout,
        fitted: Sequence[Sequence[Fitted]],
        frames_of: Callable[[int], Samples],
        device: str,
        size_of: Callable[[Sequence[bytes]], int],
        tick: Callable[[str], None],
    ) -> None:
        self.layout, self._fitted, self._frames_of = layout, fitted, frames_of
        self._device, self._size_of, self._tick = device, size_of, tick
        self._sensitivity: dict[tuple[int, int], Sensitivity] = {}

    @property
    def float_psnr(self) -> float:
        """The mean PSNR of all frames before quantisation, in dB."""
        total = 0.0
        for group, networks in enumerate(self._fitted):
            left = self.layout.span(group)[1] - self.layout.span(group)[0]
            for one in networks:
                total += one.psnr * min(left, self.layout.spec.frames)
                left -= self.layout.spec.frames
        return total / self.layout.frames

    @property
    def parameters(self) -> int:
        """The number of parameters of all networks."""
        return sum(len(networks) * self.layout.spec_of(group).parameters for group, networks in enumerate(self._fitted))

    @property
    def fit_seconds(self) -> float:
        """The seconds that the fits took, one after the other."""
        return sum(one.seconds for networks in self._fitted for one in networks)

    def at(self, elasticity: float, passes: int = FINISHING) -> list[bytes]:
        """Return the groups' payloads at an elasticity, after so many passes over the frames."""
        return [self._packed(group, self._quantised(group, elasticity, passes)) for group in range(self.layout.groups)]

    def of_size(self, most: int) -> list[bytes]:
        """Return the payloads of the largest file of at most so many bytes; raises `InvalidSettings` with the smallest size."""

        def trial(elasticity: float, passes: int) -> tuple[float, list[bytes]]:
            payloads = self.at(elasticity, passes)
            size = self._size_of(payloads)
            self._tick(f"coded to {size:,} bytes")
            return size, payloads

        # a bit of each parameter, or half the step, is worth a factor of 4 of the elasticity
        found = _searched(trial, most, self.parameters / (8 * math.log(4)), (-CLOSE_PART * most, 0.0))
        met = [one for one in found if one.reached <= most]
        if not met:
            smallest = int(min(one.reached for one in found))
            raise InvalidSettings(
                f"the target of {most:,} bytes cannot be met: the smallest file has {smallest:,} bytes; fewer parameters, "
                "or more frames that share them, make it smaller"
            )
        return max(met, key=lambda one: one.reached).payloads

    def of_psnr(self, least: float) -> list[bytes]:
        """Return payloads of at least so many dB and few more; raises `InvalidSettings` with the best that is reached."""

        def trial(elasticity: float, passes: int) -> tuple[float, list[bytes]]:
            payloads, total = [], 0.0
            for group in range(self.layout.groups):
                networks = self._quantised(group, elasticity, passes)
                total += self._psnr(group, networks)
                payloads.append(self._packed(group, networks))
            reached = total / self.layout.frames
            self._tick(f"quantised to {reached:.2f} dB")
            return reached, payloads

        found = _searched(trial, least, DB_PER_FOLD, (0.0, CLOSE_DB))
        met = [one for one in found if one.reached >= least]
        if not met:
            raise InvalidSettings(
                f"the target of {least:g} dB cannot be met: this fit reaches {max(one.reached for one in found):.2f} dB; "
                "more seconds and more parameters reach more"
            )
        return min(met, key=lambda one: one.reached).payloads

    def _packed(self, group: int, networks: Sequence[Network]) -> bytes:
        """Return a group's payload."""
        self._tick("coding")
        return pack_group(self.layout.spec_of(group), networks)

    def _psnr(self, group: int, networks: Sequence[Network]) -> float:
        """Return the sum over a group's frames of their PSNR as they would be decoded."""
        frames, spec, total = self._frames_of(group), self.layout.spec_of(group), 0.0
        bit_depth = 8 * frames.dtype.itemsize
        for number, network in enumerate(networks):
            original = frames[number * spec.frames : (number + 1) * spec.frames]
            show = shown_network(spec, network, bit_depth, self._device, self.layout.exact)
            for index, frame in enumerate(original):
                self._tick("measuring")
                reached = psnr(Video(ArrayFrames(frame[None])), Video(ArrayFrames(show([index]))))
                total += min(reached, EQUAL_FRAME)
        return total

    def _quantised(self, group: int, elasticity: float, passes: int) -> list[Network]:
        """Return a group's networks at an elasticity, whose integers are fitted to their steps in so many passes."""
        spec, networks, frames = self.layout.spec_of(group), [], self._frames_of(group)

        def ticking(part: float) -> None:
            self._tick("quantising")

        for number, one in enumerate(self._fitted[group]):
            placed = {name: tensor.to(self._device) for name, tensor in one.tensors.items()}
            coarseness = coarseness_of_slope(slope_of(elasticity, one.psnr, spec))
            quantiser = Quantiser(placed, spec.tensors(), self._sensitivity_of(group, number), coarseness)
            shown = lengthened(frames[number * spec.frames : (number + 1) * spec.frames], spec.frames)
            levels = torch.from_numpy(shown).to(self._device).permute(0, 3, 1, 2).float() / float(np.iinfo(shown.dtype).max)
            steps = passes * -(-spec.frames // 2)
            networks.append(polish(partial(render, spec), placed, quantiser, levels, steps, rate=1.0, progress=ticking))
        return networks

    def _sensitivity_of(self, group: int, number: int) -> Sensitivity:
        """Return how a network's frames depend on its parameters; that of the last few networks is kept."""
        if (group, number) not in self._sensitivity:
            spec, tensors = self.layout.spec_of(group), self._fitted[group][number].tensors
            while len(self._sensitivity) >= KEPT:
                del self._sensitivity[next(iter(self._sensitivity))]

            def ticking(placed: Mapping[str, Tensor], indices: Tensor) -> Tensor:
                self._tick("quantising")
                return render(spec, placed, indices)

            placed = {name: tensor.to(self._device) for name, tensor in tensors.items()}
            frames = torch.arange(spec.frames, device=self._device)
            self._sensitivity[group, number] = sensitivity(ticking, placed, frames)
        return self._sensitivity[group, number]


class _Trial(NamedTuple):
    """What was reached, dB or bytes, at an elasticity of exp(-fineness)."""

    fineness: float
    reached: float
    payloads: list[bytes]


def _searched(
    trial: Callable[[float, int], tuple[float, list[bytes]]], wanted: float, slope: float, bounds: tuple[float, float]
) -> list[_Trial]:
    """Return the trials `trial(elasticity, passes)` of all passes in a search for what is wanted, to within bounds.

    Trials of few passes find about where, and these begin there. `slope` is that of what is reached over fineness, about.
    """

    def approached(passes: int, trials: int, start: float, slope: float) -> list[_Trial]:
        found: list[_Trial] = []

        def gap(fineness: float) -> float:
            found.append(_Trial(fineness, *trial(math.exp(-fineness), passes)))
            return found[-1].reached - wanted

        limits = -math.log(COARSEST), -math.log(FINEST)
        approach(gap, start, slope, limits, bounds, closest=NARROW, trials=trials)
        return found

    middle = -math.log(MIDDLE)
    tried = sorted(approached(TRYING, TRIALS, middle, slope), key=lambda one: abs(one.reached - wanted))
    if not bounds[0] <= tried[0].reached - wanted <= bounds[1]:  # more passes may do what few do not, above all in the middle
        return approached(FINISHING, LAST_TRIALS, middle, slope)
    nearest = [(one.fineness, one.reached) for one in tried[:2]]
    return approached(FINISHING, LAST_TRIALS, tried[0].fineness, slope_between(nearest, slope, APART))
