"""The trained networks of `audio-rvq` as the codec runs them: samples to latents, codes to windowed frames."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..weights import Weights
from .rvq_networks import RvqNetwork, RvqSpec, Spectrum
from .rvq_search import CodeSearch
from .rvq_tokens import UNIT, token_model

__all__ = ["RvqModel", "rvq_model"]

WIDE_BAND = 16_000  # the rate of speech

Floats = NDArray[np.float32]


class RvqModel:
    """Networks, codebooks and the points at which they are run.

    `tensors` are those of a weights file, `points` rows of kbit/s, levels, and the squared distance that a bit is worth.
    """

    def __init__(self, spec: RvqSpec, tensors: Mapping[str, NDArray[Any]], points: list[tuple[float, int, float]]) -> None:
        self.spec, self.points = spec, sorted(points)
        self.tokens = token_model(tensors)
        self.search = CodeSearch(self.tokens)
        self.network = RvqNetwork(spec)
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in tensors.items()}
        self.network.load_state_dict({k: v for k, v in weights.items() if k.startswith(("analysis.", "synthesis."))})
        self.network.eval()

    def operating_point(self, kbps: float) -> tuple[int, float]:
        """Return the number of levels and the price of a bit for about `kbps` kbit/s of speech."""
        rates = np.log([rate for rate, _, _ in self.points])
        at = min(max(math.log(kbps), float(rates[0])), float(rates[-1]))
        levels = float(np.interp(at, rates, [levels for _, levels, _ in self.points]))
        price = math.exp(float(np.interp(at, rates, [math.log(price) for _, _, price in self.points])))
        return round(levels), price

    def beams(self, effort: int) -> int:
        """Return how many beginnings of a frame's codes the search keeps: for music half as many, as each takes longer."""
        return effort if self.spec.rate <= WIDE_BAND else (effort + 1) // 2

    @torch.inference_mode()
    def latents(self, samples: Floats) -> Floats:
        """Return the latents (T, D) of samples (hop * (T + 1)) that have been brought to the level of the training."""
        analysis = self.network.analysis
        found: Floats = analysis(analysis.spectrum(torch.from_numpy(samples)[None]))[0].numpy()
        return found

    @torch.inference_mode()
    def frames(self, codes: NDArray[np.int16], gain: Floats, first: int) -> Floats:
        """Return windowed frames (T, 2 hop) of codes (T, levels), frame t times `gain[t]`; the first is number `first`."""
        total = np.zeros((len(codes), self.spec.latent), np.int64)
        for level in range(codes.shape[1]):
            total += self.tokens.vectors[level, codes[:, level]]
        latents = torch.from_numpy((total * 2.0**-UNIT).astype(np.float32))[None]
        spectrum = self.network.synthesis.spectrum(latents, first)
        louder = spectrum.coefficients * torch.from_numpy(gain.astype(np.float32))[:, None]
        found: Floats = self.network.synthesis.frames(Spectrum(louder, spectrum.levels))[0].numpy()
        return found


def rvq_model(weights: Weights) -> RvqModel:
    """Return the networks of a weights file."""
    spec = RvqSpec(**json.loads(weights.metadata["spec"]))
    return RvqModel(spec, weights.tensors, [tuple(point) for point in json.loads(weights.metadata["points"])])
