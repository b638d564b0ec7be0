"""Sizes of the `image-transform` networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformSpec:
    """Sizes of the networks; stored in the weights file.

    `groups` are the sizes of the latent's channel groups in coding order and sum to `latent`.
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
