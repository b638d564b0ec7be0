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
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .fixed_point import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    FixedPointBlock,
    FixedPointConv2d,
    bound_through,
    parts_of,
    relu_conv,
    round_through,
    within,
)
from .transform_bits import symbol_bits
from .transform_context import (
    INDEX_STEP,
    SCALE_COUNT,
    SYMBOL_BITS,
    UNIT_BITS,
    ChannelTables,
    Context,
    normalised,
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
MANY_ROWS = 64  # of the branches: from there on gradients cost a second pass in place of memory
STRIP, FINISH_REACH = 128, 6  # pixel rows that the filter at the end takes at once, and those beyond them that it reads
LAMBDA_MIN, LAMBDA_MAX = 0.0012, 1.0  # rate-distortion weights of quality 0 and 100, per squared grey level


Corrections = Sequence[Tensor | None] | None  # of the last layer, one for each picture of a batch


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
    """Pixels (B, 3, H, W), H and W multiples of 16, to latents (B, C, H/16, W/16).

    `limits` (2 branch + C,) are those of its branch (see `Synthesis`), on the branch's grids.
    """

    limits: Tensor

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
        self.limited = (spec.branch, spec.branch, spec.latent)
        self.register_buffer("limits", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None, regions: Tensor | None = None) -> Tensor:
        """Analyse pixels; `condition` (B, branch, 1, 1) says the quality, `regions` (B, H/8+1, W/8+1) the segments."""
        u = F.pixel_unshuffle(F.pad(x, (4, 4, 4, 4), mode="replicate"), 8)  # (B, 192, H/8+1, W/8+1)
        t = self.enter(u)
        if condition is not None:
            t = (t + condition).clamp(-self.limit, self.limit)
        first, second, last = parts_of(self.limits, *self.limited)
        t = within(self.blocks(within(t, first), regions), second)
        return cast(Tensor, self.lapped(u) + within(self.leave(t), last))


class Branch(nn.Sequential):
    """Residual blocks; a region-adaptive layer, where there is one, comes after the first half of them."""

    def __init__(self, blocks: Sequence[nn.Module], regional: RegionAdaptive | None) -> None:
        super().__init__(*blocks)
        self.regional = regional

    def forward(self, x: Tensor, regions: Tensor | None = None) -> Tensor:
        blocks = [module for module in self if module is not self.regional]
        large = x.shape[2] > MANY_ROWS
        for number, block in enumerate(blocks):
            if self.regional is not None and number == len(blocks) // 2:
                x = frugally(self.regional, x, regions) if large else self.regional(x, regions)
            x = frugally(block, x) if large else block(x)
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
    """Dequantised latents (B, C, h, w) to pixels (B, 3, 16h, 16w) in the units of the analysis transform.

    `limits` (2 branch + 192,), where there are any, are the largest magnitudes, by channel, that photographs bring to the
    blocks, out of them, and out of the branch. Beyond them it would have to extrapolate: it answered black and white lines, of
    a pixel each, with what undid the linear transform.
    """

    limits: Tensor

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
        self.register_buffer("limits", torch.empty(0), persistent=False)

    def forward(
        self, y: Tensor, condition: Tensor | None = None, regions: Tensor | None = None, corrections: Corrections = None
    ) -> Tensor:
        """Synthesise pixels; `condition` (B, branch + finish, 1, 1) says the quality, `regions` (B, 2h+1, 2w+1) segments.

        `corrections` are those of the last layer (see `Finish`).
        """
        pixels = self.unfinished(y, condition, regions)
        if self.finish is not None and condition is not None:
            pixels = self.finish(pixels, condition[:, self.branch :], corrections)
        return inner(pixels)

    def unfinished(self, y: Tensor, condition: Tensor | None = None, regions: Tensor | None = None) -> Tensor:
        """Return pixels before the filter, (B, 3, 16h+8, 16w+8): 4 more on each side than there are."""
        u = self.lapped(y)  # (B, 192, 2h+1, 2w+1)
        # the upsampled latent sits half a cell off the lapped grid; each cell of the latter takes the one below right of it
        t = self.enter(u) + F.pad(F.pixel_shuffle(self.enter_latent(y), 2), (0, 1, 0, 1), mode="replicate")
        t = t if condition is None else t + condition[:, : self.branch]
        first, second, last = parts_of(self.limits, self.branch, self.branch, 192)
        t = within(self.blocks(within(t, first), regions), second)
        return F.pixel_shuffle(u + within(self.leave(t), last), 8)


def inner(pixels: Tensor) -> Tensor:
    """Return pixels without the 4 on each side that only the transforms see."""
    return pixels[:, :, 4:-4, 4:-4]


class Finish(nn.Module):
    """A filter at half the pixels' size, which blocks of 8x8 pixels taken for channels cannot be; starts as identity.

    High pictures pass in strips, so that what lies between the layers takes little memory. `corrections`, for each picture
    (12, channels + 12, 3, 3), are added to the weights of the last layer, which then sees the pixels, too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(12, channels, 3, padding=1)
        self.block = Block(channels)
        self.leave = zeroed(nn.Conv2d(channels, 12, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor, corrections: Corrections = None) -> Tensor:
        """Filter pixels (B, 3, H, W); `condition` (B, channels, 1, 1) says the quality."""
        height = x.shape[2]
        if height <= STRIP + 2 * FINISH_REACH:
            return self._strip(x, condition, corrections)
        strips = []
        for top in range(0, height, STRIP):
            above, bottom = min(top, FINISH_REACH), min(top + STRIP, height)
            strip = x[:, :, top - above : bottom + FINISH_REACH]
            strips.append(frugally(self._strip, strip, condition, corrections)[:, :, above : above + bottom - top])
        return torch.cat(strips, 2)

    def inputs(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return what the last layer sees, (B, channels + 12, H / 2, W / 2): the layer before it, and the pixels."""
        u = F.pixel_unshuffle(x, 2)
        return torch.cat([self._hidden(u, condition), u], 1)

    def _hidden(self, u: Tensor, condition: Tensor) -> Tensor:
        t = F.leaky_relu(self.enter(u) + condition, 0.1)
        return F.leaky_relu(self.block(t), 0.1)

    def _strip(self, x: Tensor, condition: Tensor, corrections: Corrections) -> Tensor:
        if corrections is None:
            return x + F.pixel_shuffle(self.leave(self._hidden(F.pixel_unshuffle(x, 2), condition)), 2)
        inputs = self.inputs(x, condition)
        each = [self.last(inputs[i : i + 1], correction) for i, correction in enumerate(corrections)]
        return x + F.pixel_shuffle(torch.cat(each), 2)

    def last(self, inputs: Tensor, correction: Tensor | None) -> Tensor:
        """Return what the last layer makes of its inputs, (B, 12, H / 2, W / 2)."""
        channels = self.leave.in_channels
        if correction is None:
            return cast(Tensor, self.leave(inputs[:, :channels]))
        weight = correction.to(inputs.device)
        weight = torch.cat([weight[:, :channels] + self.leave.weight, weight[:, channels:]], 1)
        return F.conv2d(inputs, weight, self.leave.bias, padding=1)


def frugally(function: Callable[..., Tensor], *inputs: Tensor | Corrections) -> Tensor:
    """Return what `function` makes of its inputs; for gradients it is computed again, so that nothing need be kept."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


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
