"""The context model of `image-transform`: in which order latents are coded, and what their tables depend on.

Latents are visited in four spatial phases (He et al. 2021, "Checkerboard context model for efficient learned image
compression"; Li et al. 2023, DCVC-DC, section 3.3) and, within a phase, in uneven channel groups (He et al. 2022, ELIC,
section 3.2). `walk` is that order, for training, encoder and decoder alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fixed_point import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    FixedPointBlock,
    FixedPointConv2d,
    bound_through,
    rectified,
    relu_conv,
    round_through,
)
from .transform_spec import TransformSpec

SYMBOL_BITS = 4  # fractional bits of means and of latents in steps (1/16 of a step)
UNIT_BITS = 8  # fractional bits of a channel's unit
MEAN_WEIGHT_BITS = 12  # of the last layers before means: with 8, rounding them took 0.6 to 1.4 % more bits
LATENT_LIMIT = 2.0**18  # clamp of latents and means, in steps
SCALE_COUNT = 64  # tables of the shipped set
SCALE_MIN, SCALE_MAX = 0.08, 160.0  # logistic scale of the first and last table, in steps
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # order in which the four positions of each 2x2 cell are coded
INDEX_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_COUNT - 1)  # natural logarithm of the ratio of neighbouring scales


def scale_of_index(index: Tensor) -> Tensor:
    """Return the logistic scale (in steps) that table `index` (real, 0..63) stands for."""
    return SCALE_MIN * torch.exp(index * INDEX_STEP)


class Head(nn.Module):
    """Means and table indices of one channel group, given features and the groups before it at the same place.

    Means are in units of the channel at the quality, indices relative to the channel's own index at the quality.
    """

    def __init__(self, spec: TransformSpec, before: int, size: int) -> None:
        super().__init__()
        self.features = FixedPointConv2d(spec.width, spec.width)
        self.before = FixedPointConv2d(2 * before, spec.width) if before else None
        self.mix = FixedPointConv2d(spec.width, spec.width, zero=True)
        self.mean = FixedPointConv2d(spec.width, size, weight_bits=MEAN_WEIGHT_BITS, zero=True)
        self.index = FixedPointConv2d(spec.width, size, out_bits=0, out_range=(-SCALE_COUNT, SCALE_COUNT), gain=8.0)
        nn.init.normal_(self.index.weight, std=0.003)

    def forward(self, features: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        t = self.features(features)
        if self.before is not None:
            t = t + self.before(before)
        t = rectified(t)
        t = rectified(t + self.mix(t))
        return self.mean(t), self.index(t)


class Context(nn.Module):
    """Entropy parameters of the latents of one phase from hyper features and the phases already coded."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.squeezed, self.first_group = spec.squeeze, spec.groups[0]
        self.squeeze = relu_conv(2 * spec.latent, spec.squeeze)
        self.neighbours = nn.ModuleList(FixedPointConv2d(spec.squeeze, spec.width, 3, stride=2, padding=0) for _ in PHASES[1:])
        self.hyper = nn.ModuleList(FixedPointConv2d(spec.hyper_features + 1, spec.width) for _ in PHASES)
        self.blocks = nn.Sequential(
            *[FixedPointBlock(spec.width, spatial=False, float32=True) for _ in range(spec.context_blocks)]
        )
        self.linear = nn.ModuleList(
            FixedPointConv2d(spec.groups[0], spec.groups[0], 3, stride=2, padding=0, weight_bits=MEAN_WEIGHT_BITS, zero=True)
            for _ in PHASES[1:]
        )
        starts = [sum(spec.groups[:i]) for i in range(len(spec.groups))]
        self.heads = nn.ModuleList(Head(spec, start, size) for start, size in zip(starts, spec.groups, strict=True))

    def phase_features(self, phase: int, squeezed: Tensor, hyper: Tensor) -> Tensor:
        """Return features (B, width, h/2, w/2) of a phase.

        `squeezed` (B, squeeze, h, w) is zero at positions not coded yet; `hyper` (B, hyper_features + 1, h, w) ends with the
        plane of the quality.
        """
        i, j = PHASES[phase]
        t = cast(Tensor, self.hyper[phase](hyper[:, :, i::2, j::2]))
        if phase:
            t = t + self.neighbours[phase - 1](around(squeezed, i, j))
        return rectified(self.blocks(rectified(t)))

    def first_mean(self, phase: int, first: Tensor) -> Tensor:
        """Return what the neighbours' first channel group (B, groups[0], h, w), zero where not coded, predicts linearly."""
        return cast(Tensor, self.linear[phase - 1](around(first, *PHASES[phase])))


def around(x: Tensor, i: int, j: int) -> Tensor:
    """Pad (B, C, h, w) so that 3x3 windows of stride 2 centre on positions (i::2, j::2)."""
    return F.pad(x, (1 - j, j, 1 - i, i))


def normalised(y: Tensor, unit: Tensor) -> Tensor:
    """Return latents in their channels' units and, as further channels, the magnitudes: (B, C, h, w) to (B, 2 C, h, w).

    Brings channels and rates to one scale for the context and hyper networks. The result lies on the grid of hidden
    activations; `y` and `unit` lie on grids too, so that in float64 the quotient is the same on every machine. While
    training, the gradient is that of the division.
    """
    n = torch.floor(y.double() / unit.double() * 2.0**HIDDEN_BITS + 0.5).clamp(-HIDDEN_MAX, HIDDEN_MAX)
    n = (n * 2.0**-HIDDEN_BITS).to(y.dtype)
    if torch.is_grad_enabled():
        smooth = y / unit
        n = smooth + (n - smooth).detach()
    return torch.cat([n, n.abs()], 1)


def to_symbol_grid(x: Tensor) -> Tensor:
    """Round float64 values to multiples of 1/16 step, as float32; the gradient passes."""
    return (round_through(x * 2.0**SYMBOL_BITS) * 2.0**-SYMBOL_BITS).clamp(-LATENT_LIMIT, LATENT_LIMIT).float()


class StepCoder(Protocol):
    """What `walk` asks at each step: code channels `start` onwards of positions (i::2, j::2)."""

    def __call__(self, start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
        """Return the symbols (B, c, h', w') given means in steps and table indices of that shape."""
        ...


class ChannelTables(NamedTuple):
    """What quality and channel alone say, each (B, C, 1, 1): table index, and unit of `normalised`."""

    base: Tensor
    unit: Tensor


def walk(context: Context, hyper: Tensor, tables: ChannelTables, size: tuple[int, int], code: StepCoder) -> Tensor:
    """Visit all latents in coding order, asking `code` for each step's symbols; returns latents in steps (B, C, *size).

    `hyper` (B, hyper_features + 1, h, w) ends with the plane of the quality; its grid may be larger than `size`. Training,
    encoder and decoder all take this way, so that order and tables agree.
    """
    batch, grid = hyper.shape[0], hyper.shape[2:]
    unit = tables.unit
    y = hyper.new_zeros(batch, unit.shape[1], *grid)
    squeezed = hyper.new_zeros(batch, context.squeezed, *grid)
    first = hyper.new_zeros(batch, context.first_group, *grid)
    for phase, (i, j) in enumerate(PHASES):
        rows, columns = len(range(i, size[0], 2)), len(range(j, size[1], 2))
        if not rows or not columns:
            continue
        inside = (slice(None), slice(None), slice(rows), slice(columns))
        features = context.phase_features(phase, squeezed, hyper)[inside]
        done = hyper.new_zeros(batch, 0, rows, columns)
        for head in context.heads:
            start = done.shape[1]
            mean, index = head(features, normalised(done, unit[:, :start]))
            channels = slice(start, start + mean.shape[1])
            if phase and not start:
                mean = mean + context.first_mean(phase, first)[inside]
            mean = to_symbol_grid(mean.double() * unit[:, channels].double())
            index = bound_through(index + tables.base[:, channels], 0, SCALE_COUNT - 1)
            done = torch.cat([done, code(start, (i, j), mean, index) + mean], 1)
        n = normalised(done, unit)
        places = (slice(None), slice(None), slice(i, size[0], 2), slice(j, size[1], 2))
        y, squeezed = placed(y, done, places), placed(squeezed, context.squeeze(n), places)
        first = placed(first, n[:, : context.first_group], places)
    return y[:, :, : size[0], : size[1]]


def placed(whole: Tensor, part: Tensor, places: tuple[slice, ...]) -> Tensor:
    """Return `whole` with `part` at `places`; a copy, because gradients need the tensor before."""
    whole = whole.clone()
    whole[places] = part
    return whole
