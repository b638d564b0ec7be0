"""The last layer of `image-transform`'s synthesis, corrected for one picture: fitted by least squares, and sent with it.

The network was trained for all photographs. The filter that ends its synthesis is linear in its last weights, so that those
which suit one picture best solve a linear system. They are sent as steps away from the trained ones, along directions that the
weights file holds: those in which the layer's inputs vary independently and alike in photographs, from strong to weak.
Classical codecs send filters too (Tsai et al. 2013, "Adaptive loop filtering for video coding"), of pixels where these are of
features of a network. Adapting a decoder to a picture: van Rozendaal et al. 2021, "Overfitting for fun and profit".

Shapes: K inputs (channels x 9 taps), 12 outputs (3 colours x 4 pixels of a 2 x 2 block).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...entropy.adaptive_binary import decode_integers, encode_integers
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from ..varint import read_varint, varint
from .transform_networks import PIXEL_UNIT

if TYPE_CHECKING:
    from .transform_model import ExactModel

__all__ = ["Correction", "NormalEquations", "decode_correction", "fit_correction", "gram", "independent_directions"]

Doubles = NDArray[np.float64]

COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
PIXELS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
OUTPUTS = np.kron(COLOURS, PIXELS)  # orthonormal: rows are the combinations of outputs whose weights are sent
MOST_EXPONENT = 63
CHUNK_BYTES = 5  # of the container, for one payload more
LARGEST = 4095  # magnitude of a number that is sent
COARSENESS = 4.0  # of the step, beside that of which one in an average direction is worth a bit
ZERO_BITS, OTHER_BITS, LENGTH_BITS = 0.15, 6.0, 1.5  # of a number: zero; others, and more for each doubling
SWEEPS = 15
STRIP = 16  # rows of inputs at once: memory
MOST_POSITIONS = 2**18  # that a fit looks at, of 2 x 2 pixels: about a second on one core


@dataclass(frozen=True)
class Correction:
    """Steps away from the trained weights: `numbers` (directions, 12) of 2**(-exponent / 2) each, strong directions first."""

    numbers: NDArray[np.int64]
    exponent: int

    def encode(self) -> bytes:
        """Return the payload: exponent, number of directions, and the numbers."""
        values = self.numbers.ravel()
        return varint(self.exponent) + varint(len(self.numbers)) + encode_integers(values, _sets(len(self.numbers)))

    def weights(self, directions: Doubles) -> Tensor:
        """Return what is added to the last layer's weights, (12, K / 9, 3, 3), given `directions` (K, K)."""
        inputs = directions[:, : len(self.numbers)] @ (self.numbers * 2.0 ** (-self.exponent / 2))  # (K, 12)
        return torch.from_numpy((OUTPUTS.T @ inputs.T).astype(np.float32)).view(12, -1, 3, 3)


def _sets(directions: int) -> NDArray[np.int32]:
    """Return which adaptive probabilities each number has: those of its colour and of its direction's octave."""
    octave = np.log2(np.arange(1, directions + 1)).astype(np.int32)
    return (octave[:, None] * 3 + np.arange(12) // 4).astype(np.int32).ravel()


def decode_correction(payload: bytes, most: int) -> Correction:
    """Return what is in a payload, of at most `most` directions; raises `CorruptStream`."""
    exponent, at = read_varint(payload, 0, "the exponent of the correction")
    count, at = read_varint(payload, at, "the size of the correction")
    if exponent > MOST_EXPONENT or count > most:
        raise CorruptStream(f"the correction has {count} directions and an exponent of {exponent}")
    try:
        numbers = decode_integers(payload[at:], 12 * count, _sets(count)).astype(np.int64)
    except SymbolsCorrupt as error:
        raise CorruptStream(f"the correction: {error}") from error
    if (np.abs(numbers) > LARGEST).any():
        raise CorruptStream("a number of the correction is out of range")
    return Correction(numbers.reshape(count, 12), exponent)


class _View(NamedTuple):
    """What is kept of a window: pixels without a correction and as wanted (1, 12, h, w), and the last layer's inputs."""

    found: Tensor
    wanted: Tensor
    inputs: Tensor  # (1, C, h + 2, w + 2)


class NormalEquations:
    """Sums over positions: of products of inputs (K, K), and of inputs with what outputs lack (K, 12), in grey levels."""

    def __init__(self, model: ExactModel, quality: Tensor) -> None:
        self.model, self.quality = model, quality
        size = 9 * (model.spec.finish + 12)
        self.products, self.lacking, self.seen = np.zeros((size, size)), np.zeros((size, 12)), 0
        self._views: list[_View] = []

    def look(self, latents: Tensor, pixels: Tensor, place: tuple[slice, slice], most: int) -> None:
        """Add what is seen of a window: `latents` (1, C, h, w) in steps, for `pixels` (1, 3, 16 h, 16 w).

        `place` are the rows and columns of pixels that count, from even ones on; one more where their number is odd. Of more
        than `most` positions strips are left out.
        """
        (top, bottom), (left, right) = ((s.start, s.stop + (s.stop - s.start) % 2) for s in place)
        found, inputs = self.model.last_layer(latents, self.quality)
        inside = (..., slice(top, bottom), slice(left, right))
        around = (..., slice(top // 2 + 1, bottom // 2 + 3), slice(left // 2 + 1, right // 2 + 3))
        view = _View(
            F.pixel_unshuffle(found[inside], 2),
            F.pixel_unshuffle(pixels.to(found.device).float()[inside], 2),
            inputs[around].contiguous(),
        )
        self._views.append(view)
        self._add(view, -(-view.found[0, 0].numel() // most))

    def _add(self, view: _View, stride: int) -> None:
        lacking = view.wanted - view.found
        # where the decoder clips a correction changes nothing
        counts = ((view.found > 0) & (view.found < 255)).all(1).float()
        for row in range(0, lacking.shape[2], STRIP * stride):
            strip = F.unfold(view.inputs[:, :, row : row + STRIP + 2], 3)[0] * counts[:, row : row + STRIP].flatten(1)
            lacks = lacking[0, :, row : row + STRIP].flatten(1)
            self.seen += strip.shape[1]
            self.products += gram(strip).double().cpu().numpy()
            self.lacking += (strip @ lacks.T).double().cpu().numpy()

    @property
    def positions(self) -> int:
        """Number of positions in all windows."""
        return sum(view.found[0, 0].numel() for view in self._views)

    def error(self, weights: Tensor | None) -> float:
        """Return the squared error of what a decoder makes of the windows, given what is added to the last layer's weights."""
        total = 0.0
        for view in self._views:
            found = view.found
            if weights is not None:
                found = found + F.conv2d(view.inputs, weights.to(found.device)) * PIXEL_UNIT
            total += float((found.round().clamp(0, 255) - view.wanted).square().sum(dtype=torch.float64))
        return total


def gram(x: Tensor) -> Tensor:
    """Return x x^T (K, K) of `x` (K, n), of whose two equal halves only one is computed."""
    size = len(x)
    products, rows = x.new_empty(size, size), -(-size // 4)
    for first in range(0, size, rows):
        some = slice(first, first + rows)
        part = x[some] @ x[first:].T
        products[some, first:], products[first:, some] = part, part.T
    return products


def independent_directions(products: Doubles) -> tuple[Doubles, Doubles]:
    """Return unit eigenvectors (K, K) of mean products of inputs, strongest first, and factors (K,) that make them alike."""
    values, vectors = np.linalg.eigh(products)
    values = np.maximum(values[::-1], values[-1] * 1e-9)
    return vectors[:, ::-1], values**-0.5


def fit_correction(
    sums: NormalEquations, directions: Doubles, slope: float, price: float = 0.0, rival: Correction | None = None
) -> Correction | None:
    """Return the correction of least slope x squared error + bits: that which fits, or `rival`; None where neither is worth it.

    `slope` is what one squared grey level of a sample is worth in bits, and more where not all of the picture was looked at;
    `price` are the bits that a correction must save beyond those that it takes.
    """
    factor = slope * sums.positions / sums.seen
    fitted = _descend(
        directions.T @ sums.products @ directions * (factor * PIXEL_UNIT**2),
        OUTPUTS @ sums.lacking.T @ directions * (factor * PIXEL_UNIT),
    )
    least, best = slope * sums.error(None), None
    for correction in filter(None, (fitted, rival)):
        cost = slope * sums.error(correction.weights(directions)) + 8 * (len(correction.encode()) + CHUNK_BYTES) + price
        if cost < least:
            least, best = cost, correction
    return best


def _descend(products: Doubles, left: Doubles) -> Correction | None:
    """Return the numbers n (12, K) of least n products n - 2 left n + bits, about, all in bits; None for zeros.

    They are chosen one after the other, each the best given the others (coordinate descent), until nothing changes.
    """
    strength = float(np.diagonal(products).mean())
    if not strength > 0:
        return None
    exponent = int(np.clip(np.rint(-2 * np.log2(COARSENESS / np.sqrt(strength))), 0, MOST_EXPONENT))
    step = 2.0 ** (-exponent / 2)
    products, left = products * step**2, left * step
    numbers = np.zeros_like(left)
    for _ in range(SWEEPS):
        changed = False
        for k in range(len(products)):
            curvature = products[k, k]
            if curvature <= 0:
                continue
            best = np.clip(numbers[:, k] + left[:, k] / curvature, -LARGEST, LARGEST)
            tried = np.stack([np.zeros(12), np.floor(best), np.ceil(best)])
            bits = np.where(tried == 0, ZERO_BITS, OTHER_BITS + LENGTH_BITS * np.log2(np.maximum(np.abs(tried), 1)))
            costs = curvature * (tried - best) ** 2 + bits
            moves = tried[costs.argmin(0), np.arange(12)] - numbers[:, k]
            if moves.any():
                left -= moves[:, None] * products[k]
                numbers[:, k] += moves
                changed = True
        if not changed:
            break
    used = np.flatnonzero(numbers.any(0))
    return Correction(numbers[:, : used[-1] + 1].T.astype(np.int64), exponent) if used.size else None
