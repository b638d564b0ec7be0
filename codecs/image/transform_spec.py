"""Sizes of the `image-transform` networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformSpec:
    """Sizes of the networks; stored in the weights file.

    `groups` are the sizes of the latent's channel groups in coding order and sum to `latent`. What a file does not name
    has the value that the first weights had.
    """

    latent: int = 320
    branch: int = 96
    blocks: int = 3
    hyper: int = 64
    hyper_features: int = 128
    squeeze: int = 96
    width: int = 192
    groups: tuple[int, ...] = (16, 64, 240)
    rates: int = 8
    branch_bits: int = 6  # fractional bits of activations in the analysis branch
    synthesis_blocks: int = 3
    region: int = 0  # side of the cells that the region-adaptive layers take for regions, in 8 pixels; 0 leaves the layers out
    conditioned: bool = False  # whether the branches are told the quality
    finish: int = 0  # channels of the filter that ends the synthesis; 0 leaves it out
    context_blocks: int = 0  # residual blocks that every phase's features pass

    @property
    def halo(self) -> int:
        """Latent positions around a tile that its transforms read: beyond their reach, and whole cells of regions."""
        return 8 if self.region else 3


LARGE = TransformSpec(
    branch=192, blocks=4, branch_bits=8, synthesis_blocks=6, region=8, conditioned=True, finish=48, context_blocks=1
)
