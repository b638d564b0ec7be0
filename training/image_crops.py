"""What a training step of `image-transform` sees: random crops, and class-agnostic masks of the photographs.

Masks are privileged information: the recipe has them and the codec has not.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laconic.codecs.image.transform_networks import PIXEL_UNIT

REDUCTION = 4  # masks are made on pictures reduced by this factor
POSITION = 8  # pixels between positions of the transforms' branches


def segments_of(picture: Tensor) -> Tensor:
    """Return the number of the segment of each reduced pixel, int16 (H / 4, W / 4), of a picture (3, H, W) of bytes.

    Segments are Felzenszwalb and Huttenlocher's ("Efficient graph-based image segmentation", 2004), of 48 x 48 pixels at least.
    """
    from skimage.segmentation import felzenszwalb  # only this recipe needs it

    reduced = F.avg_pool2d(picture[None].float(), REDUCTION)[0]
    labels = felzenszwalb(reduced.permute(1, 2, 0).numpy() / 255, scale=200, sigma=0.8, min_size=(48 // REDUCTION) ** 2)
    return torch.from_numpy(labels.astype(np.int16))


def regions_of(segments: Tensor, top: int, left: int, size: int) -> Tensor:
    """Return the numbers 0, 1, ... of segments at a crop's branch positions, (size / 8 + 1, size / 8 + 1)."""
    steps = torch.arange(size // POSITION + 1) * POSITION
    rows, columns = (
        ((start + steps).clamp(max=start + size - 1) // REDUCTION).clamp(max=limit - 1)
        for start, limit in zip((top, left), segments.shape, strict=True)
    )
    _, numbers = torch.unique(segments[rows][:, columns], return_inverse=True)
    return cast(Tensor, numbers)


class Crops(NamedTuple):
    """Crops (B, 3, size, size) in units of 64 grey levels; where masks are at hand, regions (B, size / 8 + 1, size / 8 + 1)."""

    pixels: Tensor
    regions: Tensor | None


def crops(
    pictures: list[Tensor],
    batch: int,
    size: int,
    odds: np.ndarray,
    generator: np.random.Generator,
    masks: list[Tensor] | None = None,
) -> Crops:
    """Return random crops of pictures that are large enough, flipped and turned at random."""
    out: list[Tensor] = []
    regions: list[Tensor] = []
    while len(out) < batch:
        number = int(generator.choice(len(pictures), p=odds))
        height, width = pictures[number].shape[1:]
        if min(height, width) < size:
            continue
        top, left = int(generator.integers(0, height - size + 1)), int(generator.integers(0, width - size + 1))
        crop = pictures[number][:, top : top + size, left : left + size]
        region = crop[0, :1, :1] if masks is None else regions_of(masks[number], top, left, size)
        if generator.random() < 0.5:
            crop, region = crop.flip(2), region.flip(1)
        if generator.random() < 0.5:
            crop, region = crop.transpose(1, 2), region.T
        out.append(crop)
        regions.append(region)
    return Crops((torch.stack(out).float() - 128) / PIXEL_UNIT, None if masks is None else torch.stack(regions))
