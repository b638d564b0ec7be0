"""What a fit makes small: the squared error, or a mix of absolute error and structural similarity."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES"]

WINDOW, DEVIATION = 11, 1.5  # of the similarity's Gaussian window (Wang et al. 2004)
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
SIMILARITY_SHARE = 0.3  # beside 0.7 of absolute error, as NeRV mixes them


def _l2(shown: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    error = (shown - wanted).square().mean()
    return error, error.detach()


def _l1_ssim(shown: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    difference = shown - wanted
    loss = (1 - SIMILARITY_SHARE) * difference.abs().mean() + SIMILARITY_SHARE * (1 - _similarity(shown, wanted))
    return loss, difference.detach().square().mean()


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity of pictures [n, 3, H, W] of 0..1; windows beyond the edge are left out."""
    size = min(WINDOW, *a.shape[2:])
    offsets = torch.arange(size, device=a.device, dtype=a.dtype) - (size - 1) / 2
    line = torch.softmax(-0.5 * (offsets / DEVIATION).square(), 0)
    window = (line[:, None] * line)[None, None].expand(3, 1, size, size)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=3)

    mean_a, mean_b = blurred(a), blurred(b)
    variance = blurred(a * a) + blurred(b * b) - mean_a.square() - mean_b.square()
    covariance = blurred(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a.square() + mean_b.square() + LUMINANCE)
    return (luminance * (2 * covariance + CONTRAST) / (variance + CONTRAST)).mean()


# each takes frames shown and wanted, float [n, 3, H, W] of 0..1, and returns the loss and the mean squared error
LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {"l2": _l2, "l1-ssim": _l1_ssim}
