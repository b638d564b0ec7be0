"""One fit at many rates: its networks quantised as coarsely as quality, size or PSNR ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InvalidSettings
from ..metrics import psnr
from ..signals import ArrayFrames, Samples, Video
from .inr_fit import Fitted
from .inr_frames import shown_network
from .inr_networks import render
from .inr_quantise import coarseness_of_slope, requantise
from .inr_sensitivity import Sensitivity, sensitivity
from .inr_spec import Spec
from .inr_stream import Layout, Network, pack_group

__all__ = ["Ladder", "elasticity_of", "slope_of"]

BITS_PER_PARAMETER = 4.5  # about, as networks are sized for
HIGHEST_DB = 60.0  # that a fit's PSNR counts as, so that equal frames can be coded too
KEPT = 16  # networks whose sensitivity is kept: some megabytes each
TRIALS = 14  # quantisations of a search, each of which halves the interval in the logarithm of the elasticity
FINEST, COARSEST = 1e-4, 100.0  # elasticities
CLOSE_DB, CLOSE_PART = 0.02, 0.005  # of a target, which a search ends within


def elasticity_of(quality: int) -> float:
    """Return how many per cent of squared error a per cent of bits is worth at a quality of 0..100."""
    return math.exp2((50 - quality) / 12) / 8


def slope_of(elasticity: float, psnr: float, spec: Spec) -> float:
    """Return what a bit is worth in mean squared error where a network of so many dB takes about 4.5 bits per parameter."""
    return elasticity * 10 ** (-min(psnr, HIGHEST_DB) / 10) / (BITS_PER_PARAMETER * spec.parameters)


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

    def at(self, elasticity: float) -> list[bytes]:
        """Return the groups' payloads where a per cent of bits is worth so many per cent of squared error."""
        payloads = []
        for group in range(self.layout.groups):
            networks = self._quantised(group, elasticity)
            self._tick("coding")
            payloads.append(pack_group(self.layout.spec_of(group), networks))
        return payloads

    def of_size(self, most: int) -> list[bytes]:
        """Return the payloads of the largest file of at most so many bytes; raises `InvalidSettings` with the smallest size."""
        sizes: dict[int, list[bytes]] = {}

        def fits(elasticity: float) -> bool:
            payloads = self.at(elasticity)
            size = self._size_of(payloads)
            sizes[size] = payloads
            self._tick(f"coded to {size:,} bytes")
            return size <= most

        coarse = _bisected(fits, lambda: max((s for s in sizes if s <= most), default=0) >= (1 - CLOSE_PART) * most)
        if coarse is None:
            raise InvalidSettings(
                f"the target of {most:,} bytes cannot be met: the smallest file has {min(sizes):,} bytes; fewer parameters, "
                "or more frames that share them, make it smaller"
            )
        return sizes[max(size for size in sizes if size <= most)]

    def of_psnr(self, least: float) -> list[bytes]:
        """Return the payloads of the smallest file of at least so many dB; raises `InvalidSettings` with the best reached."""
        reached: dict[float, float] = {}

        def falls_short(elasticity: float) -> bool:
            reached[elasticity] = self._psnr(elasticity)
            self._tick(f"quantised to {reached[elasticity]:.2f} dB")
            return reached[elasticity] < least

        def close() -> bool:
            return any(0 <= value - least < CLOSE_DB for value in reached.values())

        _bisected(falls_short, close)
        met = [elasticity for elasticity, value in reached.items() if value >= least]
        if not met:
            raise InvalidSettings(
                f"the target of {least:g} dB cannot be met: this fit reaches {max(reached.values()):.2f} dB; "
                "more seconds and more parameters reach more"
            )
        return self.at(max(met))

    def _psnr(self, elasticity: float) -> float:
        """Return the mean PSNR of all frames as they would be decoded."""
        layout, total = self.layout, 0.0
        for group in range(layout.groups):
            frames, spec = self._frames_of(group), layout.spec_of(group)
            bit_depth = 8 * frames.dtype.itemsize
            for number, network in enumerate(self._quantised(group, elasticity)):
                original = frames[number * spec.frames : (number + 1) * spec.frames]
                show = shown_network(spec, network, bit_depth, self._device, layout.exact)
                for index, frame in enumerate(original):
                    self._tick("measuring")
                    total += min(psnr(Video(ArrayFrames(frame[None])), Video(ArrayFrames(show([index])))), 100.0)
        return total / layout.frames

    def _quantised(self, group: int, elasticity: float) -> list[Network]:
        """Return a group's networks with the steps at which a per cent of bits is worth so many per cent of squared error."""
        spec, networks = self.layout.spec_of(group), []
        for number, one in enumerate(self._fitted[group]):
            self._tick("quantising")
            coarseness = coarseness_of_slope(slope_of(elasticity, one.psnr, spec))
            arrays = {name: tensor.numpy() for name, tensor in one.tensors.items()}
            networks.append(requantise(arrays, spec.tensors(), self._sensitivity_of(group, number), coarseness))
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


def _bisected(coarse_enough: Callable[[float], bool], close: Callable[[], bool]) -> float | None:
    """Try elasticities until one is close or the finest that will do is known; return it, None where no one does."""
    low, high = math.log(FINEST), math.log(COARSEST)
    if not coarse_enough(math.exp(high)):
        return None
    for _ in range(TRIALS):
        if close():
            break
        middle = (low + high) / 2
        if coarse_enough(math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.exp(high)
