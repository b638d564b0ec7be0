"""One fit at many rates: its networks quantised as coarsely as quality, size or PSNR ask for.

How coarse is one number, the elasticity: what a per cent of bits is worth in per cents of squared error. Steps follow from it
and from what frames owe to each parameter; then a few more passes over the frames fit the integers to the steps, which is
worth some tenths of a dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidSettings
from ..metrics import psnr
from ..signals import ArrayFrames, Samples, Video
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
NUDGE, NUDGES = 1.04, 4  # of the elasticity where the last passes have made a file too large, and how often at most
KEPT = 16  # networks whose sensitivity is kept: some megabytes each
TRIALS = 12  # quantisations of a search
FINEST, COARSEST = 1e-4, 100.0  # elasticities
NARROW = 0.01  # interval of the logarithm of elasticities that a search ends with
CLOSE_DB, CLOSE_PART = 0.05, 0.01  # of a target, which a search ends within
DB_PER_BIT = 6.0  # of a parameter, at most
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
        payloads = []
        for group in range(self.layout.groups):
            networks = self._quantised(group, elasticity, passes)
            self._tick("coding")
            payloads.append(pack_group(self.layout.spec_of(group), networks))
        return payloads

    def of_size(self, most: int) -> list[bytes]:
        """Return the payloads of the largest file of at most so many bytes; raises `InvalidSettings` with the smallest size."""
        tried: dict[int, float] = {}

        def surplus(elasticity: float) -> float:
            size = self._size_of(self.at(elasticity, TRYING))
            tried[size] = elasticity
            self._tick(f"coded to {size:,} bytes")
            return 8 * (size - most) / self.parameters

        _search(surplus, -CLOSE_PART * 8 * most / self.parameters, 0.0)
        met = [size for size in tried if size <= most]
        if not met:
            raise InvalidSettings(
                f"the target of {most:,} bytes cannot be met: the smallest file has {min(tried):,} bytes; fewer parameters, "
                "or more frames that share them, make it smaller"
            )
        elasticity = tried[max(met)]
        for _ in range(NUDGES):
            payloads = self.at(elasticity)
            if self._size_of(payloads) <= most:
                return payloads
            elasticity *= NUDGE
        return self.at(tried[max(met)], TRYING)

    def of_psnr(self, least: float) -> list[bytes]:
        """Return the payloads of the smallest file of at least so many dB; raises `InvalidSettings` with the best reached."""
        tried: dict[float, float] = {}

        def surplus(elasticity: float) -> float:
            reached = self._psnr([self._quantised(group, elasticity, FINISHING) for group in range(self.layout.groups)])
            tried[reached] = elasticity
            self._tick(f"quantised to {reached:.2f} dB")
            return (reached - least) / DB_PER_BIT

        _search(surplus, 0.0, CLOSE_DB / DB_PER_BIT)
        met = [reached for reached in tried if reached >= least]
        if not met:
            raise InvalidSettings(
                f"the target of {least:g} dB cannot be met: this fit reaches {max(tried):.2f} dB; "
                "more seconds and more parameters reach more"
            )
        return self.at(tried[min(met)])

    def _psnr(self, networks: Sequence[Sequence[Network]]) -> float:
        """Return the mean PSNR of all frames as they would be decoded."""
        layout, total = self.layout, 0.0
        for group, own in enumerate(networks):
            frames, spec = self._frames_of(group), layout.spec_of(group)
            bit_depth = 8 * frames.dtype.itemsize
            for number, network in enumerate(own):
                original = frames[number * spec.frames : (number + 1) * spec.frames]
                show = shown_network(spec, network, bit_depth, self._device, layout.exact)
                for index, frame in enumerate(original):
                    self._tick("measuring")
                    reached = psnr(Video(ArrayFrames(frame[None])), Video(ArrayFrames(show([index]))))
                    total += min(reached, EQUAL_FRAME)
        return total / layout.frames

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


def _search(surplus: Callable[[float], float], least: float, most: float) -> None:
    """Try elasticities for one at which `surplus`, which falls while they rise, is from `least` to `most`.

    It is about how many bits a parameter has too many, of which each is worth a factor of 4 of the elasticity.
    """
    fine, coarse, at = math.log(FINEST), math.log(COARSEST), math.log(MIDDLE)
    for _ in range(TRIALS):
        bits = surplus(math.exp(at))
        if least <= bits <= most or coarse - fine < NARROW:
            return
        fine, coarse = (at, coarse) if bits > most else (fine, at)
        guess = at + math.log(4) * (bits - (least + most) / 2)
        at = guess if fine < guess < coarse else (fine + coarse) / 2
