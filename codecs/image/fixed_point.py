"""Layers on binary grids: trained in floating point, exported as integers, run exactly.

Numbers on a grid are multiples of a power of two. While sums stay below what the floating-point format holds, arithmetic on
them is exact, and the integer runner (`laconic.entropy.integer_network`) computes the very same values. Training rounds with
straight-through gradients (Balle, Johnston and Minnen 2019, "Integer networks for data compression with latent-variable
models").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_BITS = 6  # fractional bits of hidden activations
HIDDEN_MAX = 4095  # clamp of hidden activations, in units of 2**-HIDDEN_BITS


class _RoundThrough(torch.autograd.Function):
    """Round half up; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def round_through(x: Tensor) -> Tensor:
    """Round half up with a straight-through gradient."""
    return cast(Tensor, _RoundThrough.apply(x))  # type: ignore[no-untyped-call]


class _BoundThrough(torch.autograd.Function):
    """Clamp; the gradient passes inside the bounds, and outside where it leads back in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x < low), (x > high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        below, above = ctx.saved_tensors
        stuck = (below & (gradients[0] > 0)) | (above & (gradients[0] < 0))
        return gradients[0].masked_fill(stuck, 0.0), None, None


def bound_through(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp without trapping values outside: descent can bring them back."""
    return cast(Tensor, _BoundThrough.apply(x, low, high))  # type: ignore[no-untyped-call]


class FixedPointConv2d(nn.Module):
    """A convolution whose weights, input and output lie on binary grids.

    With `quantised` off it is an ordinary convolution, with a rectifier where the clamp is one. With it on, weights are rounded
    to `weight_bits`-bit integers times a power of two per output channel, the bias to the accumulator's grid and the output
    to multiples of 2**-out_bits: the values are then those that the integer runner computes, bit for bit. `in_max` bounds the
    input's magnitude and `out_range` clamps the output, both in units of their grids. With `float32` weights get no more bits
    than the integer runner needs to work in float32, several times faster than float64.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        in_bits: int = HIDDEN_BITS,
        in_max: int = HIDDEN_MAX,
        out_bits: int = HIDDEN_BITS,
        out_range: tuple[int, int] = (-HIDDEN_MAX, HIDDEN_MAX),
        weight_bits: int = 8,
        gain: float = 1.0,
        zero: bool = False,
        float32: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.padding = kernel // 2 if padding is None else padding
        self.in_bits, self.in_max = in_bits, in_max
        self.out_bits, self.out_range, self.weight_bits = out_bits, out_range, weight_bits
        self.gain = gain  # makes one optimiser step move the output further
        self.quantised, self.float32 = False, float32
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def weight_shift(self) -> Tensor:
        """Return, per output channel, the power of two that maps real weights to integers."""
        largest = (self.weight.detach().abs().amax((1, 2, 3)) * self.gain).clamp_min(1e-12)
        limit = float(2 ** (self.weight_bits - 1) - 1)
        shift = torch.floor(torch.log2(limit / largest))
        if self.float32:
            # sum |w| max|x| + |b| + 2**s, see `laconic.entropy.integer_network`; rounding adds up to 1/2 to every weight
            real = self.weight.detach().abs().sum((1, 2, 3)) * (self.gain * self.in_max)
            real = real + self.bias.detach().abs() * (self.gain * 2.0**self.in_bits) + 2.0 ** (self.in_bits - self.out_bits)
            room = 2.0**24 - 2 - self.in_max * self.weight[0].numel() / 2
            shift = torch.minimum(shift, torch.floor(torch.log2(room / real)))
        # at least as many bits as make the rescaling shift non-negative, at most what keeps biases small
        return shift.clamp(max(0, self.out_bits - self.in_bits), 20)

    def integer_weight(self) -> Tensor:
        """Return the weights as integers (real dtype, straight-through gradient)."""
        return round_through(self.weight * (self.gain * torch.exp2(self.weight_shift())).view(-1, 1, 1, 1))

    def integer_bias(self) -> Tensor:
        """Return the bias in units of the accumulator."""
        return round_through(self.bias * (self.gain * torch.exp2(self.weight_shift() + self.in_bits)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * self.gain, self.bias * self.gain
        if self.quantised:
            scale = torch.exp2(-self.weight_shift())
            weight = self.integer_weight() * scale.view(-1, 1, 1, 1)
            bias = self.integer_bias() * scale * 2.0**-self.in_bits
        y = F.conv2d(x, weight, bias, self.stride, self.padding, 1, self.groups)
        if not self.quantised:  # a rectifier costs less than the clamp, which hardly any value reaches
            return F.relu(y) if self.out_range[0] == 0 else y
        y = round_through(y * 2.0**self.out_bits) * 2.0**-self.out_bits
        return y.clamp(self.out_range[0] * 2.0**-self.out_bits, self.out_range[1] * 2.0**-self.out_bits)


def relu_conv(inputs: int, outputs: int, kernel: int = 1, **options: int) -> FixedPointConv2d:
    """A fixed-point convolution whose output clamp is a rectifier."""
    return FixedPointConv2d(inputs, outputs, kernel, out_range=(0, HIDDEN_MAX), **options)  # type: ignore[arg-type]


class FixedPointBlock(nn.Module):
    """Depthwise 3x3 (where `spatial`), expand x2, rectify, project, add (an inverted residual, as in EVC)."""

    def __init__(self, channels: int, bits: int = HIDDEN_BITS, *, spatial: bool = True, float32: bool = False) -> None:
        super().__init__()
        grid = {"in_bits": bits, "out_bits": bits, "float32": float32}
        self.bits = bits
        self.spatial = FixedPointConv2d(channels, channels, 3, groups=channels, **grid) if spatial else nn.Identity()  # type: ignore[arg-type]
        self.expand = relu_conv(channels, 2 * channels, **grid)
        self.project = FixedPointConv2d(2 * channels, channels, zero=True, **grid)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        limit = HIDDEN_MAX * 2.0**-self.bits
        return cast(Tensor, x + self.project(self.expand(self.spatial(x)))).clamp(-limit, limit)


def rectified(x: Tensor) -> Tensor:
    """Clamp hidden activations to 0..HIDDEN_MAX."""
    return x.clamp(0, HIDDEN_MAX * 2.0**-HIDDEN_BITS)


def within(x: Tensor, limit: Tensor | None) -> Tensor:
    """Return `x` (B, C, h, w) clipped to magnitudes of at most `limit` (C,); exact where limits lie on the grid of `x`."""
    return x if limit is None else x.clamp(-limit[:, None, None], limit[:, None, None])


def parts_of(limits: Tensor, *sizes: int) -> Sequence[Tensor | None]:
    """Return the limits of layers of so many channels, which `limits` holds one after the other; none where it is empty."""
    return torch.split(limits, list(sizes)) if limits.numel() else [None] * len(sizes)
