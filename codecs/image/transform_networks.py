"""Networks of the `image-transform` codec: lapped transforms, hyperprior, spatial and channel context.

The analysis transform starts as a Karhunen-Loeve transform (KLT) of 16x16x3 blocks widened to overlapping
24x24 kernels; nonlinear depthwise branches beside it start at zero. The entropy model is a scale hyperprior
(Balle et al. 2018, "Variational image compression with a scale hyperprior") with a spatial context of four
phases (He et al. 2021, "Checkerboard context model"; Li et al. 2023, DCVC-DC, section 3.3) and uneven channel
groups (He et al. 2022, ELIC, section 3.2). One model covers all rates through per-channel gains interpolated
between anchor rates (Cui et al. 2021, "Asymmetric gained deep image compression").

Every layer from pixels to symbols and from symbols to probability tables is a `FixedPointConv2d`: trained in
floating point, rounded to integers for export, so that the codec can run it exactly (see `laconic.entropy.integer_network`).
Only the synthesis transform is ordinary floating point.

Units: pixels enter as (x - 128) / 64; latents are in those units; quantised latents are in quantisation steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fixed_point import HIDDEN_BITS, HIDDEN_MAX, FixedPointBlock, FixedPointConv2d, bound_through, relu_conv, round_through
from .transform_context import (
    INDEX_STEP,
    SCALE_COUNT,
    SYMBOL_BITS,
    UNIT_BITS,
    ChannelTables,
    Context,
    normalised,
    scale_of_index,
    to_symbol_grid,
    walk,
)
from .transform_regions import RegionAdaptive, zeroed
from .transform_spec import TransformSpec

PIXEL_UNIT = 64.0  # grey levels per unit of the networks
GAIN_BITS = 16  # fractional bits of the integer gains
LATENT_BITS = 10  # fractional bits of the analysis transform's output
LATENT_MAX = 2**22  # clamp of each part of the analysis transform's output, in units of 2**-LATENT_BITS
HYPER_MAX = 255  # clamp of hyper-latents
QUALITY_MAX = 100
LAMBDA_MIN, LAMBDA_MAX = 0.0012, 1.0  # rate-distortion weights of quality 0 and 100, per squared grey level


def lambda_of_quality(quality: Tensor) -> Tensor:
    """Return the rate-distortion weight of qualities 0..100 (geometric): bits per pixel that a squared grey level is worth."""
    return LAMBDA_MIN * torch.exp(quality * (math.log(LAMBDA_MAX / LAMBDA_MIN) / QUALITY_MAX))


def quality_rows(table: Tensor) -> Tensor:
    """Interpolate rows (rates, C) to one row per quality (101, C), in float64."""
    position = torch.arange(QUALITY_MAX + 1, dtype=torch.float64) * ((table.shape[0] - 1) / QUALITY_MAX)
    low = position.floor().clamp(0, table.shape[0] - 2).long()
    part = (position - low).unsqueeze(1)
    return table[low].double() * (1 - part) + table[low + 1].double() * part


class Analysis(nn.Module):
    """Pixels (B, 3, H, W), H and W multiples of 16, to latents (B, C, H/16, W/16)."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        out = {"out_bits": LATENT_BITS, "out_range": (-LATENT_MAX, LATENT_MAX)}
        self.lapped = FixedPointConv2d(192, spec.latent, 3, stride=2, padding=0, in_max=128, weight_bits=10, **out)  # type: ignore[arg-type]
        self.limit = HIDDEN_MAX * 2.0**-spec.branch_bits
        self.enter = FixedPointConv2d(192, spec.branch, in_max=128, out_bits=spec.branch_bits)
        self.blocks = Branch(
            [FixedPointBlock(spec.branch, spec.branch_bits, float32=spec.region > 0) for _ in range(spec.blocks)],
            RegionAdaptive(spec.branch, spec.region, spec.branch_bits) if spec.region else None,
        )
        self.leave = FixedPointConv2d(
            spec.branch,
            spec.latent,
            3,
            stride=2,
            padding=0,
            zero=True,
            in_bits=spec.branch_bits,
            **out,  # type: ignore[arg-type]
        )

    def forward(self, x: Tensor, condition: Tensor | None = None, regions: Tensor | None = None) -> Tensor:
        """Analyse pixels; `condition` (B, branch, 1, 1) says the quality, `regions` (B, H/8+1, W/8+1) the segments."""
        u = F.pixel_unshuffle(F.pad(x, (4, 4, 4, 4), mode="replicate"), 8)  # (B, 192, H/8+1, W/8+1)
        t = self.enter(u)
        if condition is not None:
            t = (t + condition).clamp(-self.limit, self.limit)
        return cast(Tensor, self.lapped(u) + self.leave(self.blocks(t, regions)))


class Branch(nn.Sequential):
    """Residual blocks; a region-adaptive layer, where there is one, comes after the first half of them."""

    def __init__(self, blocks: Sequence[nn.Module], regional: RegionAdaptive | None) -> None:
        super().__init__(*blocks)
        self.regional = regional

    def forward(self, x: Tensor, regions: Tensor | None = None) -> Tensor:
        blocks = [module for module in self if module is not self.regional]
        for number, block in enumerate(blocks):
            if self.regional is not None and number == len(blocks) // 2:
                x = self.regional(x, regions)
            x = block(x)
        return x


class Block(nn.Module):
    """The floating-point counterpart of `FixedPointBlock`, used in the synthesis transform."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = zeroed(nn.Conv2d(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.project(F.leaky_relu(self.expand(self.spatial(x)), 0.1)))


class Synthesis(nn.Module):
    """Dequantised latents (B, C, h, w) to pixels (B, 3, 16h, 16w) in the units of the analysis transform."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.lapped = nn.ConvTranspose2d(spec.latent, 192, 3, stride=2)
        self.enter_latent = nn.Conv2d(spec.latent, 4 * spec.branch, 1)
        self.enter = nn.Conv2d(192, spec.branch, 1)
        self.blocks = Branch(
            [Block(spec.branch) for _ in range(spec.synthesis_blocks)],
            RegionAdaptive(spec.branch, spec.region, None) if spec.region else None,
        )
        self.leave = zeroed(nn.Conv2d(spec.branch, 192, 1))
        self.branch, self.finish = spec.branch, Finish(spec.finish) if spec.finish else None

    def forward(self, y: Tensor, condition: Tensor | None = None, regions: Tensor | None = None) -> Tensor:
        """Synthesise pixels; `condition` (B, branch + finish, 1, 1) says the quality, `regions` (B, 2h+1, 2w+1) segments."""
        u = self.lapped(y)  # (B, 192, 2h+1, 2w+1)
        # the upsampled latent sits half a cell off the lapped grid; each cell of the latter takes the one below right of it
        t = self.enter(u) + F.pad(F.pixel_shuffle(self.enter_latent(y), 2), (0, 1, 0, 1), mode="replicate")
        t = t if condition is None else t + condition[:, : self.branch]
        pixels = F.pixel_shuffle(u + self.leave(self.blocks(t, regions)), 8)
        if self.finish is not None and condition is not None:
            pixels = self.finish(pixels, condition[:, self.branch :])
        return pixels[:, :, 4:-4, 4:-4]


class Finish(nn.Module):
    """A filter at half the pixels' size, which blocks of 8x8 pixels taken for channels cannot be; starts as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(12, channels, 3, padding=1)
        self.block = Block(channels)
        self.leave = zeroed(nn.Conv2d(channels, 12, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Filter pixels (B, 3, H, W); `condition` (B, channels, 1, 1) says the quality."""
        t = F.leaky_relu(self.enter(F.pixel_unshuffle(x, 2)) + condition, 0.1)
        return x + F.pixel_shuffle(self.leave(F.leaky_relu(self.block(t), 0.1)), 2)


class HyperAnalysis(nn.Module):
    """Normalised latents (B, 2 C, h, w), h and w multiples of 4, to hyper-latents (B, hyper, h/4, w/4)."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.enter = relu_conv(2 * spec.latent, spec.hyper_features)
        self.down1 = relu_conv(spec.hyper_features, spec.hyper_features, 3, stride=2)
        self.down2 = FixedPointConv2d(spec.hyper_features, spec.hyper, 3, stride=2, out_bits=SYMBOL_BITS)

    def forward(self, y: Tensor) -> Tensor:
        return cast(Tensor, self.down2(self.down1(self.enter(y))))


class HyperSynthesis(nn.Module):
    """Rounded hyper-latents (B, hyper, h/4, w/4) to features (B, hyper_features, h, w)."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.up1 = relu_conv(spec.hyper, 4 * spec.hyper, 3, in_bits=0, in_max=HYPER_MAX)
        self.up2 = relu_conv(spec.hyper, 4 * spec.hyper_features, 3)

    def forward(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(self.up2(F.pixel_shuffle(self.up1(z), 2)), 2)


class Coded(NamedTuple):
    """Output of a training pass: reconstruction, bits of latents and hyper-latents per picture."""

    reconstruction: Tensor
    latent_bits: Tensor
    hyper_bits: Tensor


class _LogisticBits(torch.autograd.Function):
    """See `symbol_bits`; derivatives are written out, as this is a quarter of a training step otherwise."""

    @staticmethod
    def forward(ctx: Any, offset: Tensor, index: Tensor) -> Tensor:
        inverse = 1 / scale_of_index(index)
        size = torch.floor(offset + 0.5).abs()
        upper, lower = (0.5 - size) * inverse, (0.5 + size) * inverse
        # with a = (1/2 - |x|) / s and b = (1/2 + |x|) / s the bin's probability is sigmoid(a) sigmoid(b) (1 - exp(-1/s)),
        # which stays accurate in the tail
        nats = F.logsigmoid(upper) + F.logsigmoid(lower) + torch.log1p(-torch.exp(-inverse))
        by_log_scale = upper * torch.sigmoid(-upper) + lower * torch.sigmoid(-lower) + inverse / torch.expm1(inverse)
        noisy = offset + torch.rand_like(offset) - 0.5
        magnitude = noisy.abs()
        by_offset = torch.sigmoid((magnitude + 0.5) * inverse) - torch.sigmoid((0.5 - magnitude) * inverse)
        ctx.save_for_backward(
            by_offset * torch.sign(noisy) * (inverse / math.log(2)), by_log_scale * (INDEX_STEP / math.log(2))
        )
        return nats * (-1 / math.log(2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        by_offset, by_index = ctx.saved_tensors
        return gradients[0] * by_offset, gradients[0] * by_index


def symbol_bits(offset: Tensor, index: Tensor) -> Tensor:
    """Bits of rounding `offset` (latents minus means) under zero-mean logistic distributions, by table `index`.

    Value and gradient for the index are those of the rounded symbol, which is what gets coded; the gradient for latents and
    means is that of additive uniform noise. Noise alone would overrate nearly silent channels by tenths of a bit each.
    """
    return cast(Tensor, _LogisticBits.apply(offset, index))  # type: ignore[no-untyped-call]


class TransformModel(nn.Module):
    """All networks, gains and hyper-latent scales, with the training pass."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.spec = spec
        self.analysis, self.synthesis = Analysis(spec), Synthesis(spec)
        self.hyper_analysis, self.hyper_synthesis = HyperAnalysis(spec), HyperSynthesis(spec)
        self.context = Context(spec)
        self.log_gain = nn.Parameter(torch.zeros(spec.rates, spec.latent))
        self.log_inverse_gain = nn.Parameter(torch.zeros(spec.rates, spec.latent))
        self.log_unit: Tensor
        self.register_buffer("log_unit", torch.zeros(spec.rates, spec.latent))  # fixed: see `normalised`
        self.quantised = False
        self.log_scale = nn.Parameter(torch.zeros(spec.rates, spec.latent))  # of the logistic, over SCALE_MIN
        self.log_hyper_scale = nn.Parameter(torch.full((spec.rates, spec.hyper), 1.5))
        if spec.conditioned:
            self.analysis_condition = nn.Parameter(torch.zeros(spec.rates, spec.branch))
            self.synthesis_condition = nn.Parameter(torch.zeros(spec.rates, spec.branch + spec.finish))

    def at_quality(self, table: Tensor, quality: Tensor) -> Tensor:
        """Interpolate rows of `table` (rates, C) at qualities (B,) of 0..100; returns (B, C, 1, 1)."""
        position = quality * ((self.spec.rates - 1) / QUALITY_MAX)
        low = position.floor().clamp(0, self.spec.rates - 2).long()
        part = (position - low).unsqueeze(1)
        return (table[low] * (1 - part) + table[low + 1] * part)[:, :, None, None]

    def index_at_quality(self, log_scale: Tensor, quality: Tensor) -> Tensor:
        """Return table indices (B, C, 1, 1) at qualities (B,), on the integer grid when grids are on."""
        index = self.at_quality(log_scale, quality) / INDEX_STEP
        return round_through(index) if self.quantised else index

    def quantise_grids(self, on: bool) -> None:
        """Switch all fixed-point layers to their integer grids, or back."""
        self.quantised = on
        for module in self.modules():
            if isinstance(module, FixedPointConv2d | RegionAdaptive):
                module.quantised = on

    def conditions(self, quality: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return what analysis and synthesis are told of qualities (B,): (B, branch, 1, 1), (B, branch + finish, 1, 1)."""
        if not self.spec.conditioned:
            return None, None
        analysis = self.at_quality(self.analysis_condition, quality)
        if self.quantised:
            analysis = round_through(analysis * 2.0**self.spec.branch_bits) * 2.0**-self.spec.branch_bits
        return analysis, self.at_quality(self.synthesis_condition, quality)

    def forward(self, x: Tensor, quality: Tensor, regions: Tensor | None = None) -> Coded:
        """Code pictures `x` (B, 3, H, W), H and W multiples of 64, in units of 64 grey levels, at integer qualities (B,).

        `regions` (B, H/8+1, W/8+1) are numbers of segments; without them regions are the cells of the grid.
        """
        analysed, synthesised = self.conditions(quality)
        y = self.analysis(x, analysed, regions)
        y = to_symbol_grid((y * torch.exp(self.at_quality(self.log_gain, quality))).double())
        unit = torch.round(torch.exp(self.at_quality(self.log_unit, quality)) * 2.0**UNIT_BITS) * 2.0**-UNIT_BITS
        z = self.hyper_analysis(normalised(y, unit))
        hyper_index = bound_through(self.index_at_quality(self.log_hyper_scale, quality), 0, SCALE_COUNT - 1)
        hyper_bits = symbol_bits(z, hyper_index.expand_as(z)).sum((1, 2, 3))
        features = self.hyper_synthesis(round_through(z))
        plane = (quality * 2.0**-HIDDEN_BITS).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])
        tables = ChannelTables(self.index_at_quality(self.log_scale, quality), unit)
        y_hat, bits = self.code_latents(y, torch.cat([features, plane], 1), tables)
        y_hat = y_hat * torch.exp(self.at_quality(self.log_inverse_gain, quality))
        pixels = self.synthesis(y_hat, synthesised, regions)
        return Coded(pixels, bits, hyper_bits)

    def code_latents(self, y: Tensor, hyper: Tensor, tables: ChannelTables) -> tuple[Tensor, Tensor]:
        """Quantise latents phase by phase and group by group; returns them and the bits (B,)."""
        offsets, indices = [], []

        def code(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
            offset = y[:, start : start + mean.shape[1], phase[0] :: 2, phase[1] :: 2] - mean
            offsets.append(offset.flatten(1))
            indices.append(index.flatten(1))
            return round_through(offset)

        y_hat = walk(self.context, hyper, tables, (y.shape[2], y.shape[3]), code)
        return y_hat, symbol_bits(torch.cat(offsets, 1), torch.cat(indices, 1)).sum(1)
