"""Region-adaptive layers of the `image-transform` branches (Liu et al. 2024, "Region-adaptive transform with segmentation
prior for image compression", SegPIC).

A picture's features are averaged over each of its regions; from a region's averages a small network makes depthwise kernels
for just that region. While training, regions are segments of the picture (class-agnostic masks, privileged information). The
codec takes the cells of a fixed grid instead, so that no masks are sent; and as both transforms take averages of what they
have themselves, no averages are sent either (the paper codes them as side information).
"""

from __future__ import annotations

import functools
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fixed_point import HIDDEN_MAX, FixedPointConv2d, relu_conv, round_through

KERNEL_BITS = 8  # fractional bits of adaptive kernels
KERNEL_MAX = 255  # clamp of their weights: sums of 9 products with activations stay below 2**24
SCALE_BITS = 6  # fractional bits of the scale affine layer's scales
SCALE_MAX = 63


class RegionAdaptive(nn.Module):
    """Depthwise 3x3 kernels that depend on the region, for the first half of the channels, then scales and offsets that depend
    on the place for all (the paper's scale affine layer); starts as identity.

    With `bits` all layers are fixed-point, with that many fractional bits, and exact once grids are on; with None ordinary
    floating point. `cell` is the side of the grid's cells.
    """

    def __init__(self, channels: int, cell: int, bits: int | None) -> None:
        super().__init__()
        self.cell, self.bits, self.quantised = cell, bits, False
        self.filtered = channels // 2
        inner, narrow = channels // 2, channels // 4
        if bits is None:
            self.describe: nn.Module = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU())
            self.kernels: nn.Module = zeroed(nn.Conv2d(inner, 9 * self.filtered, 1))
            self.enter: nn.Module = nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.ReLU())
            self.scale: nn.Module = zeroed(nn.Conv2d(narrow, channels, 1))
            self.offset: nn.Module = zeroed(nn.Conv2d(narrow, channels, 1))
            return
        grid = {"in_bits": bits, "out_bits": bits, "float32": True}
        kernel_grid = {"in_bits": bits, "out_bits": KERNEL_BITS, "out_range": (-KERNEL_MAX, KERNEL_MAX), "float32": True}
        scale_grid = {"in_bits": bits, "out_bits": SCALE_BITS, "out_range": (-SCALE_MAX, SCALE_MAX), "float32": True}
        self.describe = relu_conv(channels, inner, **grid)
        self.kernels = FixedPointConv2d(inner, 9 * self.filtered, zero=True, **kernel_grid)  # type: ignore[arg-type]
        self.enter = relu_conv(channels, narrow, **grid)
        self.scale = FixedPointConv2d(narrow, channels, zero=True, **scale_grid)  # type: ignore[arg-type]
        self.offset = FixedPointConv2d(narrow, channels, zero=True, **grid)  # type: ignore[arg-type]

    def forward(self, x: Tensor, regions: Tensor | None = None) -> Tensor:
        """Filter `x` (B, C, h, w); `regions` (B, h, w) are numbers of segments, None stands for the grid's cells."""
        averages, places = self._averages(x, regions)
        kernels = self.kernels(self.describe(self._on_grid(averages)))  # (B, 9 C/2, rows, columns)
        filtered = x[:, : self.filtered]
        filtered = self._bounded(filtered + self._on_grid(adaptive_depthwise(filtered, kernels, places)))
        x = torch.cat([filtered, x[:, self.filtered :]], 1)
        t = self.enter(x)
        return self._bounded(self._on_grid(x * (1 + self.scale(t))) + self.offset(t))

    def _averages(self, x: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return averages of each region (B, C, rows, columns), and to which of them each position belongs, (B, h w)."""
        batch, _, height, width = x.shape
        if regions is None:
            rows, columns = -(-height // self.cell), -(-width // self.cell)
            whole = (0, columns * self.cell - width, 0, rows * self.cell - height)
            inside = x.new_ones(1, 1, height, width, dtype=torch.float32)
            sums, counts = (F.avg_pool2d(F.pad(t, whole), self.cell, divisor_override=1) for t in (x.float(), inside))
            row, column = (torch.arange(n, device=x.device) // self.cell for n in (height, width))
            places = (row[:, None] * columns + column).view(1, -1).expand(batch, -1)
        else:
            rows, columns, places = 1, int(regions.max()) + 1, regions.flatten(1)
            member = F.one_hot(places, columns).float()  # (B, h w, regions)
            sums = (x.float().flatten(2) @ member).unsqueeze(2)
            counts = member.sum(1).clamp_min(1)[:, None, None]
        # sums of grid values are exact in float32; the division is one IEEE division of float64 numbers
        return (sums.double() / counts.double()).to(x.dtype), places

    def _on_grid(self, x: Tensor) -> Tensor:
        """Round to the grid of activations where grids are on."""
        if self.bits is None or not self.quantised:
            return x
        return round_through(x * 2.0**self.bits) * 2.0**-self.bits

    def _bounded(self, x: Tensor) -> Tensor:
        if self.bits is None or not self.quantised:
            return x
        return x.clamp(-HIDDEN_MAX * 2.0**-self.bits, HIDDEN_MAX * 2.0**-self.bits)


def adaptive_depthwise(x: Tensor, kernels: Tensor, places: Tensor) -> Tensor:
    """Convolve each channel of `x` (B, C, h, w) with its region's 3x3 kernel: `kernels` (B, 9 C, rows, columns), tap by tap.

    `places` (B, h w) names each position's region.
    """
    batch, channels, height, width = x.shape
    taps = kernels.flatten(2).transpose(1, 2).reshape(-1, 9, channels)  # of all regions of the batch
    first = torch.arange(batch, device=x.device)[:, None] * (kernels.shape[2] * kernels.shape[3])
    index = (places + first).view(batch, height, width)
    around = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    products = (
        around[:, i : i + height, j : j + width] * F.embedding(index, taps[:, 3 * i + j]) for i in range(3) for j in range(3)
    )
    return functools.reduce(torch.add, products).permute(0, 3, 1, 2)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with zeros for parameters."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer
