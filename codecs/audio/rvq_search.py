"""Which codes `audio-rvq` writes: a beam search over the levels of a frame for the least of distance and bits.

Level by level the best few beginnings are kept, by squared distance to the latent plus a price times the bits that the model
of the tokens asks for (rate-distortion optimised quantisation with the M algorithm: Jelinek and Anderson 1971). Floating
point, for the encoder alone: whatever it chooses, every machine decodes to the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.kernels import inlined, kernel
from .rvq_tokens import LIMIT, LOGIT_BITS, UNIT, WEIGHT_BITS, Space, TokenModel, begin, end, predict, space_of, take

__all__ = ["CodeSearch"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class _Beams(NamedTuple):
    """Two sets of M beginnings, of which the levels read one and write the other."""

    sums: Ints  # 2, M, D: of their code vectors
    residuals: Floats  # 2, M, D
    costs: Floats  # 2, M: distance and price of the bits so far
    codes: NDArray[np.int16]  # 2, M, L
    origins: NDArray[np.int64]  # M: of the next beginnings
    scores: Floats  # C


@inlined
def _offer(beams: _Beams, to: int, found: int, cost: float, origin: int, level: int, code: int) -> int:
    """Insert a beginning by its cost if it is among the best; return how many there are."""
    most = beams.origins.size
    if found == most and cost >= beams.costs[to, most - 1]:
        return found
    at = min(found, most - 1)
    while at > 0 and beams.costs[to, at - 1] > cost:
        beams.costs[to, at] = beams.costs[to, at - 1]
        beams.origins[at] = beams.origins[at - 1]
        beams.codes[to, at, level] = beams.codes[to, at - 1, level]
        at -= 1
    beams.costs[to, at], beams.origins[at], beams.codes[to, at, level] = cost, origin, code
    return min(found + 1, most)


@inlined
def _score(scores: Floats, residual: Floats, book: Floats, norms: Floats) -> None:
    """Set scores to the squared distances of the residual to the codes, less its own square."""
    for i in range(scores.size):
        scores[i] = norms[i]
    for d in range(residual.size):
        row, twice = book[d], np.float32(2.0) * residual[d]
        for i in range(scores.size):
            scores[i] -= row[i] * twice


@kernel
def _choose(
    model: TokenModel,
    space: Space,
    beams: _Beams,
    latents: Floats,
    books: Floats,
    norms: Floats,
    price: float,
    codes: NDArray[np.int16],
) -> None:
    channels, contexts, levels = latents.shape[1], space.context.size, codes.shape[1]
    for t in range(codes.shape[0]):
        begin(model, space, levels)
        live, square = 1, np.float32(0.0)
        for d in range(channels):
            beams.sums[0, 0, d] = 0
            beams.residuals[0, 0, d] = latents[t, d]
            square += latents[t, d] * latents[t, d]
        beams.costs[0, 0] = square
        for level in range(levels):
            here, there, found = level & 1, 1 - (level & 1), 0
            for m in range(live):
                for d in range(channels):
                    space.seen[contexts + d] = min(max(beams.sums[here, m, d] >> model.shifts[d], -LIMIT), LIMIT)
                predict(model, space, level)
                total = 0
                for i in range(beams.scores.size):
                    total += space.tree[beams.scores.size + i]
                base = np.float32(price * (1 << LOGIT_BITS) * (math.log2(float(total)) - WEIGHT_BITS))
                _score(beams.scores, beams.residuals[here, m], books[level], norms[level])
                for i in range(beams.scores.size):
                    bits = base + np.float32(price) * np.float32(space.logits[i])
                    cost = beams.costs[here, m] + beams.scores[i] + bits
                    found = _offer(beams, there, found, cost, m, level, i)
            live = found
            for m in range(live):
                origin, code = beams.origins[m], np.int64(beams.codes[there, m, level])
                for earlier in range(level):
                    beams.codes[there, m, earlier] = beams.codes[here, origin, earlier]
                for d in range(channels):
                    beams.sums[there, m, d] = beams.sums[here, origin, d] + model.vectors[level, code, d]
                    beams.residuals[there, m, d] = beams.residuals[here, origin, d] - books[level, d, code]
        for level in range(levels):
            codes[t, level] = beams.codes[levels & 1, 0, level]
            take(model, space, level, int(codes[t, level]))
        end(space)


class CodeSearch:
    """The search for one model, with its codebooks as floats."""

    def __init__(self, model: TokenModel) -> None:
        self.model = model
        self._books = np.ascontiguousarray((model.vectors.transpose(0, 2, 1) * 2.0**-UNIT).astype(np.float32))  # L, D, C
        self._norms = (self._books**2).sum(1)

    def __call__(self, latents: Floats, levels: int, price: float, beams: int) -> NDArray[np.int16]:
        """Return codes (T, levels) for latents (T, D), a bit being worth `price` of squared distance, `beams` at a time."""
        codes = np.zeros((len(latents), levels), np.int16)
        channels, width = latents.shape[1], self._norms.shape[1]
        space = _Beams(
            np.zeros((2, beams, channels), np.int32),
            np.zeros((2, beams, channels), np.float32),
            np.zeros((2, beams), np.float32),
            np.zeros((2, beams, levels), np.int16),
            np.zeros(beams, np.int64),
            np.zeros(width, np.float32),
        )
        bit = price / 2**LOGIT_BITS
        _choose(self.model, space_of(self.model), space, latents, self._books, self._norms, bit, codes)
        return codes
