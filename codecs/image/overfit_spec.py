"""What the networks of `image-overfit` look like: shapes, the order of their parameters, the neighbours in a latent's context.

A picture of H x W pixels has `LEVELS` planes of latents, plane k of ceil(H / 2**k) x ceil(W / 2**k). Three networks decode it:

context     the distribution of a latent from its causal neighbours and those of the next coarser plane: INPUTS - CONTEXT -
            CONTEXT - 2 with ReLUs; the first layer has a bias of its own for each plane
upsampling  each plane to full size, doubling; a separable kernel of 8 taps, mirrored, for each doubling
synthesis   LEVELS - hidden - 3 at each pixel with a ReLU, plus two 3 x 3 convolutions of these 3 channels with a ReLU between

Structure after Cool-chic (Ladune et al. 2023, ICCV; Leguay et al. 2023, MMSP) and C3 (Kim et al. 2024, CVPR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTEXT",
    "HALF_TAPS",
    "HIDDEN",
    "INPUTS",
    "LARGEST",
    "LEFT",
    "LEVELS",
    "LOG_SCALES",
    "MARGIN",
    "OWN",
    "UP",
    "Parameter",
    "Spec",
    "plane_shapes",
]

Number = TypeVar("Number", np.float32, np.int64)
LEVELS = 7
LARGEST = 255  # magnitude of a latent
NEIGHBOURS = (  # (rows up, columns left) of the causal neighbours, nearest first
    *((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2)),
    *((1, -2), (2, 1), (2, -1), (0, 3), (2, 2), (2, -2), (3, 0)),
)
MARGIN = 3  # rows above and columns beside a plane that its contexts reach
UP, LEFT = (np.array(offsets) for offsets in zip(*NEIGHBOURS, strict=True))
LOG_SCALES = (-5, 8)  # log2 of the smallest and the largest scale of a latent's distribution
OWN = len(NEIGHBOURS)
PARENTS = 6  # of the coarser plane: the one above, three on the latent's side, two on the other
INPUTS = OWN + PARENTS
CONTEXT = 16  # channels of the context network's hidden layers
HIDDEN = 32  # channels of the synthesis of all that is fitted; older files have 16
HALF_TAPS = 4  # of an upsampling kernel; the other half mirrors them


class Parameter(NamedTuple):
    """A tensor of a network: its name, shape, and the network that it belongs to."""

    name: str
    shape: tuple[int, ...]
    network: str


@dataclass(frozen=True)
class Spec:
    """The size of the networks: `hidden` channels of the synthesis, an even number."""

    hidden: int = HIDDEN

    def parameters(self) -> tuple[Parameter, ...]:
        """Return all tensors, in the order in which they are coded."""
        return (
            Parameter("context.0.bias", (LEVELS, CONTEXT), "context"),
            Parameter("context.0.weight", (CONTEXT, INPUTS), "context"),
            Parameter("context.1.bias", (CONTEXT,), "context"),
            Parameter("context.1.weight", (CONTEXT, CONTEXT), "context"),
            Parameter("context.2.bias", (2,), "context"),
            Parameter("context.2.weight", (2, CONTEXT), "context"),
            Parameter("upsampling", (LEVELS - 1, HALF_TAPS), "upsampling"),
            Parameter("synthesis.0.bias", (self.hidden,), "synthesis"),
            Parameter("synthesis.0.weight", (self.hidden, LEVELS), "synthesis"),
            Parameter("synthesis.1.bias", (3,), "synthesis"),
            Parameter("synthesis.1.weight", (3, self.hidden), "synthesis"),
            Parameter("synthesis.2.bias", (3,), "synthesis"),
            Parameter("synthesis.2.weight", (3, 3, 3, 3), "synthesis"),
            Parameter("synthesis.3.bias", (3,), "synthesis"),
            Parameter("synthesis.3.weight", (3, 3, 3, 3), "synthesis"),
        )

    @property
    def count(self) -> int:
        """Number of all parameters."""
        return sum(int(np.prod(parameter.shape)) for parameter in self.parameters())

    def views(self, flat: NDArray[Number]) -> dict[str, NDArray[Number]]:
        """Return the tensors by name as views of all parameters in one array."""
        views: dict[str, NDArray[Number]] = {}
        at = 0
        for name, shape, _ in self.parameters():
            size = int(np.prod(shape))
            views[name] = flat[at : at + size].reshape(shape)
            at += size
        return views


def plane_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the planes' sizes, finest first."""
    return [((height + (1 << k) - 1) >> k, (width + (1 << k) - 1) >> k) for k in range(LEVELS)]
