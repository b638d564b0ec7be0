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

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_BITS = 6  # fractional bits of hidden activations and of pixels
LATENT_BITS = 10  # fractional bits of the analysis transform's output
SYMBOL_BITS = 4  # fractional bits of means and of quantised latents (1/16 of a step)
HIDDEN_MAX = 4095  # clamp of hidden activations, in units of 2**-HIDDEN_BITS
MEAN_MAX = 8191  # clamp of means and context inputs, in units of 2**-SYMBOL_BITS
SCALE_COUNT = 64  # tables of the shipped set
SCALE_MIN, SCALE_MAX = 0.08, 160.0  # logistic scale of the first and last table, in steps
QUALITY_MAX = 100
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # order in which the four positions of each 2x2 cell are coded


def scale_of_index(index: Tensor) -> Tensor:
    """Return the logistic scale (in steps) that table `index` (real, 0..63) stands for."""
    ratio = torch.log(torch.tensor(SCALE_MAX / SCALE_MIN)) / (SCALE_COUNT - 1)
    return SCALE_MIN * torch.exp(index * ratio.to(index.device))


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
    return cast(Tensor, _RoundThrough.apply(x))


class FixedPointConv2d(nn.Module):
    """A convolution whose weights, input and output lie on binary grids.

    With `quantised` off it is an ordinary convolution followed by a clamp. With it on, weights are rounded to
    `weight_bits`-bit integers times a power of two per output channel, the bias to the accumulator's grid and the output
    to multiples of 2**-out_bits: the values are then those that the integer runner computes, bit for bit.
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
        out_bits: int = HIDDEN_BITS,
        out_range: tuple[int, int] = (-HIDDEN_MAX, HIDDEN_MAX),
        weight_bits: int = 8,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.padding = kernel // 2 if padding is None else padding
        self.in_bits, self.out_bits, self.out_range, self.weight_bits = in_bits, out_bits, out_range, weight_bits
        self.quantised = False
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def weight_shift(self) -> Tensor:
        """Return, per output channel, the power of two that maps real weights to integers."""
        largest = self.weight.detach().abs().amax((1, 2, 3)).clamp_min(1e-12)
        limit = float(2 ** (self.weight_bits - 1) - 1)
        # at least as many bits as make the rescaling shift non-negative, at most what keeps biases small
        return torch.floor(torch.log2(limit / largest)).clamp(max(0, self.out_bits - self.in_bits), 20)

    def integer_weight(self) -> Tensor:
        """Return the weights as integers (real dtype, straight-through gradient)."""
        return round_through(self.weight * torch.exp2(self.weight_shift()).view(-1, 1, 1, 1))

    def integer_bias(self) -> Tensor:
        """Return the bias in units of the accumulator."""
        return round_through(self.bias * torch.exp2(self.weight_shift() + self.in_bits))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.quantised:
            scale = torch.exp2(-self.weight_shift())
            weight = self.integer_weight() * scale.view(-1, 1, 1, 1)
            bias = self.integer_bias() * scale * 2.0**-self.in_bits
        y = F.conv2d(x, weight, bias, self.stride, self.padding, 1, self.groups)
        if self.quantised:
            y = round_through(y * 2.0**self.out_bits) * 2.0**-self.out_bits
        return y.clamp(self.out_range[0] * 2.0**-self.out_bits, self.out_range[1] * 2.0**-self.out_bits)


def _relu_conv(inputs: int, outputs: int, kernel: int = 1, **options: int) -> FixedPointConv2d:
    """A fixed-point convolution whose output clamp is a rectifier."""
    return FixedPointConv2d(inputs, outputs, kernel, out_range=(0, HIDDEN_MAX), **options)  # type: ignore[arg-type]


class FixedPointBlock(nn.Module):
    """Depthwise 3x3, expand x2, rectify, project, add (an inverted residual, as in EVC)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = FixedPointConv2d(channels, channels, 3, groups=channels)
        self.expand = _relu_conv(channels, 2 * channels)
        self.project = FixedPointConv2d(2 * channels, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        limit = HIDDEN_MAX * 2.0**-HIDDEN_BITS
        return (x + self.project(self.expand(self.spatial(x)))).clamp(-limit, limit)


class Analysis(nn.Module):
    """Pixels (B, 3, H, W), H and W multiples of 16, to latents (B, C, H/16, W/16)."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        out = {"out_bits": LATENT_BITS, "out_range": (-(2**23), 2**23)}
        self.lapped = FixedPointConv2d(192, spec.latent, 3, stride=2, padding=0, weight_bits=10, **out)  # type: ignore[arg-type]
        self.enter = FixedPointConv2d(192, spec.branch)
        self.blocks = nn.Sequential(*[FixedPointBlock(spec.branch) for _ in range(spec.blocks)])
        self.leave = FixedPointConv2d(spec.branch, spec.latent, 3, stride=2, padding=0, zero=True, **out)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        u = F.pixel_unshuffle(F.pad(x, (4, 4, 4, 4), mode="replicate"), 8)  # (B, 192, H/8+1, W/8+1)
        return self.lapped(u) + self.leave(self.blocks(self.enter(u)))


class Block(nn.Module):
    """The floating-point counterpart of `FixedPointBlock`, used in the synthesis transform."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.leaky_relu(self.expand(self.spatial(x)), 0.1))


class Synthesis(nn.Module):
    """Dequantised latents (B, C, h, w) to pixels (B, 3, 16h, 16w) in the units of the analysis transform."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.lapped = nn.ConvTranspose2d(spec.latent, 192, 3, stride=2)
        self.enter_latent = nn.Conv2d(spec.latent, 4 * spec.branch, 1)
        self.enter = nn.Conv2d(192, spec.branch, 1)
        self.blocks = nn.Sequential(*[Block(spec.branch) for _ in range(spec.blocks)])
        self.leave = nn.Conv2d(spec.branch, 192, 1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, y: Tensor) -> Tensor:
        u = self.lapped(y)  # (B, 192, 2h+1, 2w+1)
        # the upsampled latent sits half a cell off the lapped grid; each cell of the latter takes the one below right of it
        t = self.enter(u) + F.pad(F.pixel_shuffle(self.enter_latent(y), 2), (0, 1, 0, 1), mode="replicate")
        u = u + self.leave(self.blocks(t))
        return F.pixel_shuffle(u, 8)[:, :, 4:-4, 4:-4]


class HyperAnalysis(nn.Module):
    """Latents in steps (B, C, h, w), h and w multiples of 4, to hyper-latents (B, hyper, h/4, w/4)."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        latent_range = {"in_bits": SYMBOL_BITS}
        self.enter = _relu_conv(spec.latent, spec.hyper_features, **latent_range)
        self.down1 = _relu_conv(spec.hyper_features, spec.hyper_features, 3, stride=2)
        self.down2 = FixedPointConv2d(spec.hyper_features, spec.hyper, 3, stride=2, out_bits=SYMBOL_BITS)

    def forward(self, y: Tensor) -> Tensor:
        return cast(Tensor, self.down2(self.down1(self.enter(y))))


class HyperSynthesis(nn.Module):
    """Rounded hyper-latents (B, hyper, h/4, w/4) to features (B, hyper_features, h, w)."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.up1 = _relu_conv(spec.hyper, 4 * spec.hyper, 3, in_bits=0)
        self.up2 = _relu_conv(spec.hyper, 4 * spec.hyper_features, 3)

    def forward(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(self.up2(F.pixel_shuffle(self.up1(z), 2)), 2)


class Head(nn.Module):
    """Means and table indices of one channel group, given features and the groups before it at the same place."""

    def __init__(self, spec: TransformSpec, before: int, size: int) -> None:
        super().__init__()
        self.features = FixedPointConv2d(spec.width, spec.width)
        self.before = FixedPointConv2d(before, spec.width, in_bits=SYMBOL_BITS) if before else None
        self.mix = _relu_conv(spec.width, spec.width)
        self.mean = FixedPointConv2d(spec.width, size, out_bits=SYMBOL_BITS, out_range=(-MEAN_MAX, MEAN_MAX), zero=True)
        self.index = FixedPointConv2d(spec.width, size, out_bits=0, out_range=(0, SCALE_COUNT - 1))
        nn.init.normal_(self.index.weight, std=0.01)

    def forward(self, features: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        t = self.features(features)
        if self.before is not None:
            t = t + self.before(before)
        t = self.mix(t.clamp(0, HIDDEN_MAX * 2.0**-HIDDEN_BITS))
        return self.mean(t), self.index(t)


class Context(nn.Module):
    """Entropy parameters of the latents of one phase from hyper features and the phases already coded."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.squeeze = _relu_conv(spec.latent, spec.squeeze, in_bits=SYMBOL_BITS)
        self.neighbours = nn.ModuleList(
            FixedPointConv2d(spec.squeeze, spec.width, 3, stride=2, padding=0) for _ in PHASES[1:]
        )
        self.hyper = nn.ModuleList(FixedPointConv2d(spec.hyper_features + 1, spec.width) for _ in PHASES)
        self.mix = _relu_conv(spec.width, spec.width)
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
            padded = F.pad(squeezed, (1 - j, j, 1 - i, i))
            t = t + self.neighbours[phase - 1](padded)
        return cast(Tensor, self.mix(t.clamp(0, HIDDEN_MAX * 2.0**-HIDDEN_BITS)))


class Coded(NamedTuple):
    """Output of a training pass: reconstruction, bits of latents and hyper-latents per picture."""

    reconstruction: Tensor
    latent_bits: Tensor
    hyper_bits: Tensor


def logistic_bits(x: Tensor, scale: Tensor) -> Tensor:
    """Bits of the unit bin around `x` under a zero-mean logistic distribution (computed in the smaller tail)."""
    x = x.abs()
    p = torch.sigmoid((0.5 - x) / scale) - torch.sigmoid((-0.5 - x) / scale)
    return -torch.log2(p.clamp_min(2.0**-22))


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
        self.hyper_index = nn.Parameter(torch.full((spec.rates, spec.hyper), 21.0))

    def at_quality(self, table: Tensor, quality: Tensor) -> Tensor:
        """Interpolate rows of `table` (rates, C) at qualities (B,) of 0..100; returns (B, C, 1, 1)."""
        position = quality * ((self.spec.rates - 1) / QUALITY_MAX)
        low = position.floor().clamp(0, self.spec.rates - 2).long()
        part = (position - low).unsqueeze(1)
        return (table[low] * (1 - part) + table[low + 1] * part)[:, :, None, None]

    def quantise_grids(self, on: bool) -> None:
        """Switch all fixed-point layers to their integer grids, or back."""
        for module in self.modules():
            if isinstance(module, FixedPointConv2d):
                module.quantised = on

    def forward(self, x: Tensor, quality: Tensor) -> Coded:
        """Code pictures `x` (B, 3, H, W), H and W multiples of 64, in units of 64 grey levels, at integer qualities (B,)."""
        quantised = self.context.mix.quantised
        y = self.analysis(x) * torch.exp(self.at_quality(self.log_gain, quality))
        if quantised:
            y = round_through(y * 2.0**SYMBOL_BITS) * 2.0**-SYMBOL_BITS
        limit = MEAN_MAX * 2.0**-SYMBOL_BITS
        z = self.hyper_analysis(y.clamp(-limit, limit))
        hyper_scale = scale_of_index(self.at_quality(self.hyper_index, quality).clamp(0, SCALE_COUNT - 1))
        hyper_bits = logistic_bits(z + torch.rand_like(z) - 0.5, hyper_scale).sum((1, 2, 3))
        features = self.hyper_synthesis(round_through(z))
        plane = (quality * 2.0**-HIDDEN_BITS).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])
        y_hat, bits = self.code_latents(y, torch.cat([features, plane], 1))
        pixels = self.synthesis(y_hat * torch.exp(self.at_quality(self.log_inverse_gain, quality)))
        return Coded(pixels, bits, hyper_bits)

    def code_latents(self, y: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise latents phase by phase and group by group; returns them and the bits (B,)."""
        limit = MEAN_MAX * 2.0**-SYMBOL_BITS
        y_hat = torch.zeros_like(y)
        squeezed = y.new_zeros(y.shape[0], self.spec.squeeze, *y.shape[2:])
        bits = y.new_zeros(y.shape[0])
        for phase, (i, j) in enumerate(PHASES):
            t = self.context.phase_features(phase, squeezed, hyper)
            done = y.new_zeros(y.shape[0], 0, *t.shape[2:])
            start = 0
            for head, size in zip(self.context.heads, self.spec.groups, strict=True):
                mean, index = head(t, done.clamp(-limit, limit))
                offset = y[:, start : start + size, i::2, j::2] - mean
                noisy = offset + torch.rand_like(offset) - 0.5
                bits = bits + logistic_bits(noisy, scale_of_index(index)).sum((1, 2, 3))
                done = torch.cat([done, round_through(offset) + mean], 1)
                start += size
            y_hat = place(y_hat, done, i, j)
            squeezed = place(squeezed, self.context.squeeze(done.clamp(-limit, limit)), i, j)
        return y_hat, bits


def place(whole: Tensor, part: Tensor, i: int, j: int) -> Tensor:
    """Return `whole` (B, C, h, w) with `part` (B, C, h/2, w/2) at positions (i::2, j::2)."""
    whole = whole.clone()
    whole[:, :, i::2, j::2] = part
    return whole
