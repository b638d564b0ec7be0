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


EFFORTS = {
    1: Effort((SquaresFit(8, 4, 0.998, 32),), (Filter(16, 0.005),), 1, 0, 1),
    2: Effort((SquaresFit(12, 4, 0.998, 32),), (Filter(32, 0.005),), 2, 2, 1),
    3: Effort((SquaresFit(16, 8, 0.998, 32),), (Filter(32, 0.005), Filter(16, 0.005)), 2, 2, 1),
    4: Effort((SquaresFit(16, 8, 0.998, 16),), (Filter(256, 0.005), Filter(32, 0.005), Filter(16, 0.005)), 3, 4, 2),
    5: Effort((SquaresFit(16, 8, 0.998, 8),), (Filter(256, 0.005), Filter(32, 0.005), Filter(16, 0.005)), 4, 6, 3),
    6: Effort((SquaresFit(24, 8, 0.999, 8),), (Filter(256, 0.005), Filter(32, 0.005), Filter(16, 0.005)), 4, 6, 3),
    7: Effort((SquaresFit(32, 16, 0.999, 8),), (Filter(256, 0.005), Filter(32, 0.005), Filter(16, 0.005)), 4, 6, 3),
    8: Effort(
        (SquaresFit(32, 16, 0.9995, 8), SquaresFit(16, 8, 0.998, 8)),
        (Filter(256, 0.005), Filter(32, 0.005), Filter(16, 0.005)),
        5,
        6,
        3,
    ),
    9: Effort(
        (SquaresFit(32, 16, 0.9995, 4), SquaresFit(16, 8, 0.998, 4)),
        (Filter(1024, 0.005), Filter(256, 0.005), Filter(32, 0.005), Filter(16, 0.005)),
        5,
        6,
        3,
    ),
}
