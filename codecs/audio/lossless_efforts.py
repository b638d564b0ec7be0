"""What each effort of `audio-lossless` spends: on disk for ever, as files only name the effort."""

from __future__ import annotations

from dataclasses import dataclass

from .lossless_coder import Model, new_model
from .lossless_predictor import Filter, Predictor, SquaresFit, new_predictor

__all__ = ["EFFORTS", "Effort"]


@dataclass(frozen=True)
class Effort:
    """Predictors, and the distributions (see `new_model`), and the number of contexts and sets of weights."""

    fits: tuple[SquaresFit, ...]
    filters: tuple[Filter, ...]
    distributions: tuple[tuple[int, float], ...]
    contexts: int
    sets: int

    def predictor(self, channels: int) -> Predictor:
        """Return the state of the predictors before the first sample."""
        return new_predictor(channels, self.fits, self.filters)

    def model(self, channels: int) -> Model:
        """Return the state of the coder before the first sample."""
        return new_model(channels, self.distributions, self.contexts, self.sets)


BLEND, NARROW, CASCADE = (0, 1.0), (0, 2.2), (1, 1.0)  # distributions; those of least squares have the numbers from 2
FIRST, SECOND, THIRD, FOURTH, FIFTH = ((2 + k, 1.0) for k in range(5))
SHORT = (Filter(32, 0.02), Filter(16, 0.02))
LONG = (Filter(256, 0.02), *SHORT)
LONGER = (Filter(1024, 0.02), Filter(256, 0.02), Filter(16, 0.02))
LONGEST = (Filter(2048, 0.02), *LONG)
THREE = (SquaresFit(16, 16, 0.998, 8), SquaresFit(8, 4, 0.98, 8), SquaresFit(2, 1, 0.9, 1))
FOUR = (SquaresFit(20, 16, 0.999, 8), SquaresFit(16, 8, 0.995, 8), SquaresFit(8, 4, 0.98, 4), SquaresFit(3, 1, 0.93, 1))
FIVE = (*FOUR, SquaresFit(32, 16, 0.9998, 16))

EFFORTS = {
    1: Effort((SquaresFit(8, 4, 0.998, 32),), SHORT[1:], (BLEND,), 0, 1),
    2: Effort((SquaresFit(12, 12, 0.998, 32),), SHORT, (BLEND, NARROW), 0, 1),
    3: Effort((SquaresFit(16, 16, 0.998, 32),), (Filter(256, 0.02), Filter(16, 0.02)), (BLEND, NARROW, FIRST), 2, 1),
    4: Effort((SquaresFit(16, 16, 0.998, 16), SquaresFit(2, 1, 0.9, 1)), LONG, (BLEND, NARROW, CASCADE, FIRST, SECOND), 4, 2),
    5: Effort(THREE, LONG, (BLEND, NARROW, CASCADE, FIRST, SECOND, THIRD), 6, 3),
    6: Effort(THREE, LONGER, (BLEND, NARROW, CASCADE, FIRST, SECOND, THIRD), 6, 3),
    7: Effort(FOUR, LONG, (BLEND, NARROW, CASCADE, FIRST, SECOND, THIRD, FOURTH), 6, 3),
    8: Effort(FOUR, LONGER, (BLEND, NARROW, CASCADE, FIRST, SECOND, THIRD, FOURTH), 6, 3),
    9: Effort(FIVE, LONGEST, (BLEND, NARROW, CASCADE, FIRST, SECOND, THIRD, FOURTH, FIFTH), 6, 3),
}
