"""Changes of the sampling rate in parts: every output sample depends on its place alone, not on how the sound was cut.

soxr does not serve here: a part that it resamples differs in most samples' last bits from the same place of the whole, even
where both rates have a sample at its start, and what a seek decodes must be what decoding everything gives.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Resampling", "resampling"]

CROSSINGS = 20  # zero crossings of the filter on either side, at the lower of both rates
ROLLOFF = 0.95  # of the lower rate's half: where the filter has fallen by half
BETA = 9.0  # of the Kaiser window
MAX_PHASES = 4096  # whose filters are kept

Floats = NDArray[np.float32]


class Resampling:
    """From `source` to `target` samples a second by a windowed sinc: output sample n lies at input n * source / target."""

    def __init__(self, source: int, target: int) -> None:
        divisor = math.gcd(source, target)
        self.up, self.down = target // divisor, source // divisor
        self.cutoff = ROLLOFF * min(1.0, target / source)
        self.reach = math.ceil(CROSSINGS / min(1.0, target / source))  # input samples on either side
        self._kept = self._filters(np.arange(self.up)) if self.up <= MAX_PHASES else None

    def _filters(self, phases: NDArray[np.int64]) -> Floats:
        """Return the weights (phases, 2 reach) of the input samples from floor - reach + 1 to floor + reach."""
        away = np.arange(1 - self.reach, self.reach + 1) - phases[:, None] / self.up
        window = np.i0(BETA * np.sqrt(np.clip(1 - (away / self.reach) ** 2, 0, 1))) / np.i0(BETA)
        weights = np.sinc(away * self.cutoff) * window
        filters: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        return filters

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the input samples [first, last) that the output samples start .. stop - 1 depend on; some lie outside."""
        return start * self.down // self.up - self.reach + 1, (stop - 1) * self.down // self.up + self.reach + 1

    def __call__(self, samples: Floats, start: int, stop: int) -> Floats:
        """Return output samples (C, stop - start) from the input samples (C, n) of `span(start, stop)`."""
        first = self.span(start, stop)[0]
        places = np.arange(start, stop, dtype=np.int64) * self.down
        at, phases = places // self.up - self.reach + 1 - first, places % self.up
        filters = self._filters(phases) if self._kept is None else self._kept[phases]
        windows = np.lib.stride_tricks.sliding_window_view(samples, 2 * self.reach, axis=1)
        return np.stack([np.einsum("nk,nk->n", channel[at], filters) for channel in windows])


@cache
def resampling(source: int, target: int) -> Resampling:
    """Return the change from one rate to another."""
    return Resampling(source, target)
