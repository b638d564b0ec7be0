"""One fit at many rates: its networks quantised as coarsely as quality, size or PSNR ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InvalidSettings
from ..signals import Samples
from .inr_fit import Fitted
from .inr_frames import shown_network
from .inr_networks import render
from .inr_quantise import requantise
from .inr_stream import Layout, Network, pack_group

__all__ = ["Ladder", "elasticity_of"]

TRIALS = 12  # quantisations of a search, which halve the interval in the logarithm of the elasticity
FINEST, COARSEST = 1e-4, 30.0  # elasticities
CLOSE = 0.005  # part of a target that a search ends within


def elasticity_of(quality: int) -> float:
    """Return how many per cent of squared error a per cent of bits is worth at a quality of 0..100."""
    return 2.0 ** ((50 - quality) / 12) / 8


class Ladder:
    """The networks of all groups at one rate or another.

    `fitted` are the networks of each group, `frames_of(g)` its frames; `size_of` tells the size of a file with such payloads;
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
        self._layout, self._fitted, self._frames_of = layout, fitted, frames_of
        self._device, self._size_of, self._tick = device, size_of, tick

    def at(self, elasticity: float) -> list[bytes]:
        """Return the groups' payloads where a per cent of bits is worth so many per cent of squared error."""
        return [pack_group(self._layout.spec_of(g), self._quantised(g, elasticity)) for g in range(self._layout.groups)]

    def of_size(self, most: int) -> list[bytes]:
        """Return the payloads of the largest file of at most so many bytes; raises `InvalidSettings` with the smallest's size."""
        best: list[bytes] = []
        smallest = 0

        def fits(elasticity: float) -> bool:
            nonlocal best, smallest
            payloads = self.at(elasticity)
            size = self._size_of(payloads)
            smallest = min(smallest or size, size)
            if size <= most and (not best or size >= self._size_of(best)):
                best = payloads
            self._tick(f"coded to {size:,} bytes")
            return size <= most

        if not fits(COARSEST):
            raise InvalidSettings(
                f"the target of {most:,} bytes cannot be met: the smallest file has {smallest:,} bytes; "
                "ask for fewer parameters, or for more frames that share them"
            )
        self._bisect(fits, lambda: self._size_of(best) >= (1 - CLOSE) * most)
        return best

    def of_psnr(self, least: float) -> list[bytes]:
        """Return the payloads of the smallest file of at least so many dB; raises `InvalidSettings` with the best reached."""
        best, reached = FINEST, 0.0

        def falls_short(elasticity: float) -> bool:
            nonlocal best, reached
            psnr = self._psnr(elasticity)
            if psnr >= least and (elasticity >= best or reached == 0.0):
                best, reached = elasticity, psnr
            self._tick(f"quantised to {psnr:.2f} dB")
            return psnr < least

        if falls_short(FINEST):
            highest = self._psnr(FINEST)
            raise InvalidSettings(
                f"the target of {least:g} dB cannot be met: the fit reaches {highest:.2f} dB; "
                "more seconds reach more, or more parameters"
            )
        self._bisect(lambda elasticity: not falls_short(elasticity), lambda: 0 <= reached - least < CLOSE)
        return self.at(best)
