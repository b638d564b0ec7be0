"""One fit at many rates: its networks quantised as coarsely as quality, size or PSNR ask for.

The end of a fit trains the network for one rung of this ladder, whose integers are kept: rounding anew at the same rate would
cost some tenths of a dB. The rungs just below have the same steps and more integers that are rounded towards 0, all others
steps of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidSettings
from ..metrics import psnr
from ..signals import ArrayFrames, Samples, Video
from .inr_frames import shown_network
from .inr_group import TRAINED, Grown, lengthened, one_thread, slope_of
from .inr_networks import render
from .inr_quantise import coarseness_of_slope, requantise
from .inr_sensitivity import Sensitivity, sensitivity
from .inr_stream import Layout, Network, pack_group
from .inr_training import Quantiser, polish

__all__ = ["Ladder", "Rung", "rung_of"]

POLISHING = 2  # passes over the frames
KEPT = 16  # networks whose sensitivity is kept: some megabytes each
TRIALS = 12  # quantisations of a search, each of which halves what it searches
FINEST, COARSEST = 1e-4, 100.0  # elasticities
MOST_TRIMMED = 0.25  # of a step
CLOSE_DB, CLOSE_PART = 0.02, 0.005  # of a target, which a search ends within
EQUAL_FRAME = 100.0  # dB


class Rung(NamedTuple):
    """How coarse a quantisation is: what a per cent of bits is worth in per cents of squared error.

    Where that is 0 it is the steps that were trained with, and `trimmed` by how much of a step more than half of one they
    are rounded towards 0.
    """

    elasticity: float = 0.0
    trimmed: float = 0.0


def rung_of(quality: int) -> Rung:
    """Return the rung of a quality of 0..100: at 50 that which fits are trained for."""
    return Rung() if quality == 50 else Rung(TRAINED * math.exp2((50 - quality) / 12))


class Ladder:
    """The networks of all groups at one rate or another.

    `grown` are the networks of each group, `frames_of(g)` its frames. `size_of` tells the size of a file with such payloads.
    `tick` is called often, with what is being done, and may raise to stop.
    """

    def __init__(
        self,
        layout: Layout,
        grown: Sequence[Sequence[Grown]],
        frames_of: Callable[[int], Samples],
        device: str,
        size_of: Callable[[Sequence[bytes]], int],
        tick: Callable[[str], None],
    ) -> None:
        self.layout, self._grown, self._frames_of = layout, grown, frames_of
        self._device, self._size_of, self._tick = device, size_of, tick
        self._sensitivity: dict[tuple[int, int], Sensitivity] = {}

    @property
    def float_psnr(self) -> float:
        """The mean PSNR of all frames before quantisation, in dB."""
        total = 0.0
        for group, networks in enumerate(self._grown):
            left = self.layout.span(group)[1] - self.layout.span(group)[0]
            for one in networks:
                total += one.psnr * min(left, self.layout.spec.frames)
                left -= self.layout.spec.frames
        return total / self.layout.frames

    @property
    def parameters(self) -> int:
        """The number of parameters of all networks."""
        return sum(len(networks) * self.layout.spec_of(group).parameters for group, networks in enumerate(self._grown))

    @property
    def fit_seconds(self) -> float:
        """The seconds that the fits took, one after the other."""
        return sum(one.seconds for networks in self._grown for one in networks)

    def at(self, rung: Rung, polished: bool = False) -> list[bytes]:
        """Return the groups' payloads at a rung, `polished`: fitted to its steps, where they are not those trained with."""
        payloads = []
        for group in range(self.layout.groups):
            networks = self._polished(group, rung) if polished and rung.elasticity else self._quantised(group, rung)
            self._tick("coding")
            payloads.append(pack_group(self.layout.spec_of(group), networks))
        return payloads

    def of_size(self, most: int) -> list[bytes]:
        """Return the payloads of the largest file of at most so many bytes; raises `InvalidSettings` with the smallest size."""
        tried: dict[int, list[bytes]] = {}

        def fits(rung: Rung) -> bool:
            payloads = self.at(rung)
            size = self._size_of(payloads)
            tried[size] = payloads
            self._tick(f"coded to {size:,} bytes")
            return size <= most

        self._search(fits, lambda: any((1 - CLOSE_PART) * most <= size <= most for size in tried))
        met = [size for size in tried if size <= most]
        if not met:
            raise InvalidSettings(
                f"the target of {most:,} bytes cannot be met: the smallest file has {min(tried):,} bytes; fewer parameters, "
                "or more frames that share them, make it smaller"
            )
        return tried[max(met)]

    def of_psnr(self, least: float) -> list[bytes]:
        """Return the payloads of the smallest file of at least so many dB; raises `InvalidSettings` with the best reached."""
        reached: dict[Rung, float] = {}

        def falls_short(rung: Rung) -> bool:
            reached[rung] = self._psnr(rung)
            self._tick(f"quantised to {reached[rung]:.2f} dB")
            return reached[rung] < least

        self._search(falls_short, lambda: any(0 <= value - least < CLOSE_DB for value in reached.values()))
        met = [rung for rung, value in reached.items() if value >= least]
        if not met:
            raise InvalidSettings(
                f"the target of {least:g} dB cannot be met: this fit reaches {max(reached.values()):.2f} dB; "
                "more seconds and more parameters reach more"
            )
        return self.at(min(met, key=lambda rung: reached[rung]))

    def _search(self, coarse_enough: Callable[[Rung], bool], close: Callable[[], bool]) -> None:
        """Try rungs until one is close, or the finest that is coarse enough is found."""
        if coarse_enough(Rung()):  # something finer
            if not close():
                _bisect(math.log(FINEST), math.log(TRAINED), lambda x: coarse_enough(Rung(math.exp(x))), close)
        elif coarse_enough(Rung(trimmed=MOST_TRIMMED)):
            _bisect(0.0, MOST_TRIMMED, lambda x: coarse_enough(Rung(trimmed=x)), close)
        elif coarse_enough(Rung(COARSEST)):
            _bisect(math.log(TRAINED), math.log(COARSEST), lambda x: coarse_enough(Rung(math.exp(x))), close)

    def _psnr(self, rung: Rung) -> float:
        """Return the mean PSNR of all frames as they would be decoded."""
        layout, total = self.layout, 0.0
        for group in range(layout.groups):
            frames, spec = self._frames_of(group), layout.spec_of(group)
            bit_depth = 8 * frames.dtype.itemsize
            for number, network in enumerate(self._quantised(group, rung)):
                original = frames[number * spec.frames : (number + 1) * spec.frames]
                show = shown_network(spec, network, bit_depth, self._device, layout.exact)
                for index, frame in enumerate(original):
                    self._tick("measuring")
                    reached = psnr(Video(ArrayFrames(frame[None])), Video(ArrayFrames(show([index]))))
                    total += min(reached, EQUAL_FRAME)
        return total / layout.frames

    def _quantised(self, group: int, rung: Rung) -> list[Network]:
        """Return a group's networks at a rung."""
        spec, networks = self.layout.spec_of(group), []
        for number, one in enumerate(self._grown[group]):
            self._tick("quantising")
            if rung.elasticity:
                coarseness = coarseness_of_slope(slope_of(rung.elasticity, one.psnr, spec))
                arrays = {name: tensor.numpy() for name, tensor in one.tensors.items()}
                networks.append(requantise(arrays, spec.tensors(), self._sensitivity_of(group, number), coarseness))
            else:
                networks.append(_trimmed(one, rung.trimmed) if rung.trimmed else one.trained)
        return networks

    def _polished(self, group: int, rung: Rung) -> list[Network]:
        """Return a group's networks at a rung of its own steps, after a few more passes over its frames."""
        spec, networks, frames = self.layout.spec_of(group), [], self._frames_of(group)
        for number, one in enumerate(self._grown[group]):
            placed = {name: tensor.to(self._device) for name, tensor in one.tensors.items()}
            coarseness = coarseness_of_slope(slope_of(rung.elasticity, one.psnr, spec))
            quantiser = Quantiser(placed, spec.tensors(), self._sensitivity_of(group, number), coarseness)
            shown = lengthened(frames[number * spec.frames : (number + 1) * spec.frames], spec.frames)
            levels = torch.from_numpy(shown).to(self._device).permute(0, 3, 1, 2) / float(np.iinfo(shown.dtype).max)
            steps = POLISHING * -(-spec.frames // 2)
            with one_thread(self._device):
                networks.append(
                    polish(
                        partial(render, spec),
                        placed,
                        quantiser,
                        levels,
                        steps,
                        rate=1.0,
                        progress=lambda part: self._tick("polishing"),
                    )
                )
        return networks

    def _sensitivity_of(self, group: int, number: int) -> Sensitivity:
        """Return how a network's frames depend on its parameters; that of the last few networks is kept."""
        if (group, number) not in self._sensitivity:
            spec, tensors = self.layout.spec_of(group), self._grown[group][number].tensors
            while len(self._sensitivity) >= KEPT:
                del self._sensitivity[next(iter(self._sensitivity))]

            def ticking(placed: Mapping[str, Tensor], indices: Tensor) -> Tensor:
                self._tick("quantising")
                return render(spec, placed, indices)

            placed = {name: tensor.to(self._device) for name, tensor in tensors.items()}
            frames = torch.arange(spec.frames, device=self._device)
            self._sensitivity[group, number] = sensitivity(ticking, placed, frames)
        return self._sensitivity[group, number]


def _trimmed(grown: Grown, part: float) -> Network:
    """Return the integers that were trained, rounded towards 0 where they are not nearer than that to the next by `part`."""
    network = {}
    for name, trained in grown.trained.items():
        scaled = grown.tensors[name].numpy().astype(np.float64) / trained.steps()
        values = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5 - part)
        network[name] = replace(trained, values=values.clip(-np.abs(trained.values), np.abs(trained.values)).astype(np.int32))
    return network


def _bisect(low: float, high: float, coarse_enough: Callable[[float], bool], close: Callable[[], bool]) -> None:
    """Try what halves an interval whose upper end is coarse enough, and whose lower end is not."""
    for _ in range(TRIALS):
        if close():
            break
        middle = (low + high) / 2
        if coarse_enough(middle):
            high = middle
        else:
            low = middle
