"""Multi-scale structural similarity of videos (Wang, Simoncelli and Bovik 2003) on RGB, as papers on video networks give it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.signals import Samples, Video

__all__ = ["LEAST_SIDE", "ms_ssim"]

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
STABLE = (0.01, 0.03)  # K1 and K2
LEAST_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)  # pixels: the window must fit into the smallest scale


def ms_ssim(reference: Video, decoded: Video) -> float | None:
    """Return the mean over frames, None where a side has fewer than `LEAST_SIDE` pixels."""
    if min(reference.shape[1:3]) < LEAST_SIDE:
        return None
    frames, peak = reference.shape[0], 2**reference.bit_depth - 1
    pairs = zip(reference.source.read(0, frames), decoded.source.read(0, frames), strict=True)
    return sum(_of_frames(_planes(one, peak), _planes(other, peak)) for one, other in pairs) / frames


def _planes(frame: Samples, peak: int) -> Tensor:
    return torch.from_numpy(frame.astype("float32") / peak).permute(2, 0, 1)[:, None]  # channels as a batch


def _of_frames(x: Tensor, y: Tensor) -> float:
    product = torch.ones(x.shape[0])
    for scale, weight in enumerate(SCALE_WEIGHTS):
        similarity, contrast = _ssim(x, y)
        last = scale == len(SCALE_WEIGHTS) - 1
        product *= (similarity if last else contrast).clamp_min(0) ** weight
        x, y = (F.avg_pool2d(z, 2, padding=(z.shape[2] % 2, z.shape[3] % 2)) for z in (x, y))
    return float(product.mean())


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM and its contrast-structure part of each plane [n, 1, H, W]."""
    first, second = (k**2 for k in STABLE)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    contrast = (2 * (_blurred(x * y) - mean_x * mean_y) + second) / (var_x + var_y + second)
    luminance = (2 * mean_x * mean_y + first) / (mean_x**2 + mean_y**2 + first)
    return (luminance * contrast).flatten(1).mean(1), contrast.flatten(1).mean(1)


def _blurred(x: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()
    return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
