"""Latents of `image-transform` refined for one picture while encoding: decoder and bit stream stay as they are.

The analysis transform was trained for all photographs; for one picture other symbols take fewer bits at the same error
(Campos et al. 2019, "Content adaptive optimization for neural image compression"; Yang, Bamler and Mandt 2020, "Improving
inference for neural image compression", section 3). Those papers relax symbols to real numbers, descend, and round in the
end. Here they stay integers: each step is a proximal gradient step (Beck and Teboulle 2009, "A fast iterative
shrinkage-thresholding algorithm for linear inverse problems") whose proximal operator is rate-distortion optimised
quantisation.

A latent y is symbol + mean. Minimised is

    bits of every symbol under its own table  +  bits that latents cause in later steps  +  slope x squared error.

The last two are smooth in y. Their gradient g, and the curvature 2 a of the error along one latent, give the target
y - g / 2 a; the next symbols are those of least a (symbol + mean - target)**2 + PRICE x bits. The synthesis is close to
orthogonal, so curvature across latents matters little, and a few steps do what hundreds of stochastic ones with Adam do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .transform_context import SCALE_COUNT
from .transform_model import ExactModel
from .transform_networks import Corrections, lambda_of_quality

__all__ = ["Costs", "Refinement", "Window", "nearest", "slope_of"]

LARGEST = 255  # magnitude up to which the bits of symbols are told apart
DAMPING = 0.3  # part of the way to its new target that a latent goes in the first step
SLOPE = 0.9  # times lambda of the training: about what a squared error costs from one quality to the next
PRICE = 0.6  # of a symbol's bits, in its choice: larger ones tell the symbols after them more, of which slopes see a part


def slope_of(quality: Tensor) -> float:
    """Return what one squared grey level of one sample is worth in bits, at a quality (1,)."""
    return SLOPE * float(lambda_of_quality(quality.double())) / 3


def nearest(offset: Tensor, index: Tensor) -> Tensor:
    """Return the symbols nearest to latents minus means, in steps; table 0 is silent."""
    return torch.floor(offset + 0.5) * (index > 0)


class Costs:
    """Bits of symbols by table, (64, `LARGEST` + 2): for decisions only, as the coder has the integers themselves."""

    def __init__(self, model: ExactModel) -> None:
        sizes = torch.arange(LARGEST + 2).expand(SCALE_COUNT, -1)
        tables = torch.arange(SCALE_COUNT)[:, None].expand_as(sizes)
        bits = torch.from_numpy(model.tables.bits(sizes.numpy(), tables.numpy())).float()
        self.flat = bits.flatten().to(model.device)

    def of(self, symbols: Tensor, tables: Tensor) -> Tensor:
        """Return the bits of symbols (real dtype) under tables (integers)."""
        return self.flat[tables * (LARGEST + 2) + symbols.abs().clamp(max=LARGEST + 1).long()]

    def cheapest(self, offset: Tensor, tables: Tensor, curvature: Tensor) -> Tensor:
        """Return the symbols of least curvature x squared offset + `PRICE` x bits: of the nearest, its neighbours, and zero."""
        size = offset.abs()
        best = torch.floor(size + 0.5)
        least = torch.full_like(size, torch.inf)
        others = [(best - 1).clamp_min(0), torch.zeros_like(best), best + 1]
        for other in (best, *others):
            cost = curvature * (other - size).square() + PRICE * self.of(other, tables)
            best, least = torch.where(cost < least, other, best), torch.minimum(cost, least)
        return best * torch.sign(offset) * (tables > 0)


class _Bits(torch.autograd.Function):
    """Bits of symbols under tables; the gradients are the differences between neighbours on both sides."""

    @staticmethod
    def forward(ctx: Any, symbols: Tensor, index: Tensor, costs: Costs) -> Tensor:
        tables = index.long()
        ctx.costs = costs
        ctx.save_for_backward(symbols, tables)
        return costs.of(symbols, tables)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        symbols, tables = ctx.saved_tensors
        of = ctx.costs.of
        by_symbol = (of(symbols + 1, tables) - of(symbols - 1, tables)) / 2
        by_table = (of(symbols, (tables + 1).clamp_max(SCALE_COUNT - 1)) - of(symbols, (tables - 1).clamp_min(1))) / 2
        return gradients[0] * by_symbol, gradients[0] * by_table, None


@dataclass
class Window:
    """A tile and what surrounds it: what decodes at present, and what it is to look like.

    `latents` (1, C, H, W) are in steps; `pixels` (1, 3, 16 H, 16 W) are the picture's, of which the first `rows` and `columns`
    count, the others being padding; `inner` selects the tile's latents, `corrections` are of the last layer. Of a `grey`
    picture all three channels are the same, and a decoder averages those that it makes.
    """

    latents: Tensor
    pixels: Tensor
    rows: int
    columns: int
    inner: tuple[slice, slice]
    corrections: Corrections = None
    grey: bool = False

    @property
    def tile(self) -> Tensor:
        """The tile's latents."""
        return self.latents[(..., *self.inner)]

    def with_tile(self, y: Tensor) -> Tensor:
        """Return the latents with those of the tile replaced; gradients pass to `y`."""
        whole = self.latents.clone()
        whole[(..., *self.inner)] = y
        return whole

    def error_of(self, pixels: Tensor) -> Tensor:
        """Return the squared error of real pixels, in grey levels, over three channels."""
        counted = (..., slice(self.rows), slice(self.columns))
        found = pixels[counted].mean(1, keepdim=True) if self.grey else pixels[counted]
        return (found - self.pixels[counted]).square().sum()


class _Taken(NamedTuple):
    """What one walk made: latents, and the bits of their symbols without those of hyper-latents."""

    y: Tensor
    bits: Tensor


class Refinement:
    """The latents of one tile on their way down; `best` (1, C, h, w) are those of least bits + slope x squared error so far.

    `y` are the latents as analysed, `z` their hyper-latents, which stay: they take a hundredth of the bits.
    """

    def __init__(self, model: ExactModel, y: Tensor, z: Tensor, quality: Tensor, window: Window) -> None:
        self.model, self.z, self.quality, self.window = model, z, quality, window
        self.size = (y.shape[2], y.shape[3])
        self.target, self.slope, self.costs = y, slope_of(quality), Costs(model)
        self.curvature = self.slope * model.error_per_step(quality)
        self.best, self.least = y, float("inf")
        self.steps = 0

    def step(self) -> None:
        """Quantise towards the target, then move the target a part of the way: less from step to step, as latents do interact.

        The first time symbols are those of efforts that do not refine.
        """
        moves = torch.zeros_like(self.target, requires_grad=True)
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            y, bits = self._walk(moves, as_trained=self.steps == 0)
            pixels = self.model.synthesise(self.window.with_tile(y), self.quality, self.window.corrections)
            (bits + self.slope * self.window.error_of(pixels)).backward()  # type: ignore[no-untyped-call]
        y = y.detach()
        self._note(_Taken(y, bits.detach()), pixels.detach())
        newton = y - cast(Tensor, moves.grad) / (2 * self.curvature)
        self.target = self.target + DAMPING / math.sqrt(1 + self.steps / 2) * (newton - self.target)
        self.steps += 1

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Quantise a last time; returns `best`."""
        taken = self._walk(torch.zeros_like(self.target))
        self._note(taken, self.model.synthesise(self.window.with_tile(taken.y), self.quality, self.window.corrections))
        return self.best

    def _walk(self, moves: Tensor, as_trained: bool = False) -> _Taken:
        """Quantise in coding order; the latents that come out have the gradients of `moves`, which are zero."""
        bits = [moves.new_zeros(())]

        def code(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
            channels = slice(start, start + mean.shape[1])
            places = (slice(None), channels, slice(phase[0], None, 2), slice(phase[1], None, 2))
            fixed, tables = mean.detach(), index.detach().long()
            offset = self.target[places] - fixed
            if as_trained:
                symbols = self.model.quantise(offset, tables)
            else:
                symbols = self.costs.cheapest(offset, tables, self.curvature[:, channels])
            # a mean that moves moves the symbol the other way: the latent, held by its target, stays
            each = cast(Tensor, _Bits.apply(symbols + (fixed - mean), index, self.costs))  # type: ignore[no-untyped-call]
            bits.append((each * (tables > 0)).sum())
            return symbols + fixed + moves[places] - mean

        y = self.model.walk(self.z, self.quality, self.size, code)
        return _Taken(y, torch.stack(bits).sum())

    def _note(self, taken: _Taken, pixels: Tensor) -> None:
        """Keep latents that are better than the best so far, by the pixels that a decoder gives."""
        error = float(self.window.error_of(pixels.round().clamp(0, 255)).double())
        objective = float(taken.bits.double()) + self.slope * error
        if objective < self.least:
            self.best, self.least = taken.y, objective
