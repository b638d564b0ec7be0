"""The trained `image-transform` networks as they run in the codec: integers from pixels to probability tables.

`pack` turns a trained `TransformModel` into the tensors of a weights file; `ExactModel` turns those into networks again, in
which every fixed-point layer is an `IntegerConv2d`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from ...entropy.integer_network import ConvSpec, IntegerConv2d
from ...entropy.tables import Tables, load_tables
from .fixed_point import HIDDEN_BITS, FixedPointConv2d
from .transform_context import (
    INDEX_STEP,
    SCALE_COUNT,
    SYMBOL_BITS,
    UNIT_BITS,
    ChannelTables,
    StepCoder,
    normalised,
    to_symbol_grid,
    walk,
)
from .transform_networks import GAIN_BITS, HYPER_MAX, PIXEL_UNIT, Corrections, TransformModel, inner, quality_rows
from .transform_spec import TransformSpec

SIZES = 5  # magnitudes 0 to 3, and 4 or more, have quantiser thresholds of their own

Names = Mapping[str, NDArray]  # type: ignore[type-arg]


class _StraightThrough(torch.autograd.Function):
    """An `ExactConv2d`; the gradient is that of the convolution before rounding, zero where the output is clamped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: ExactConv2d) -> Tensor:
        y = layer.exactly(x)
        low, high = (limit * layer.scale_out for limit in (layer.integer.spec.low, layer.integer.spec.high))
        ctx.layer, ctx.shape = layer, x.shape
        ctx.save_for_backward((y > low) & (y < high))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        layer, spec = ctx.layer, ctx.layer.integer.spec
        weight, gradient = layer.real_weight, (gradients[0] * inside).float()
        x = conv2d_input(ctx.shape, weight, gradient, spec.stride, spec.padding, 1, spec.groups)  # type: ignore[no-untyped-call]
        return x, None


class ExactConv2d(nn.Module):
    """An `IntegerConv2d` between real-valued tensors on binary grids; a drop-in for a quantised `FixedPointConv2d`.

    Inputs may ask for gradients, which pass through the rounding (see `fixed_point`).
    """

    def __init__(self, name: str, layer: FixedPointConv2d, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        super().__init__()
        spec = ConvSpec(
            in_bits=layer.in_bits,
            out_bits=layer.out_bits,
            in_max=layer.in_max,
            low=layer.out_range[0],
            high=layer.out_range[1],
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
        )
        self.integer = IntegerConv2d.from_tensors(tensors, name, spec, device)
        self.scale_in, self.scale_out = 2.0**layer.in_bits, 2.0**-layer.out_bits

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return cast(Tensor, _StraightThrough.apply(x, self))  # type: ignore[no-untyped-call]
        return self.exactly(x)

    def exactly(self, x: Tensor) -> Tensor:
        """Return the layer's output, without a gradient."""
        return self.integer(x * self.scale_in) * self.scale_out

    @cached_property
    def real_weight(self) -> Tensor:
        """The weights as real numbers, for gradients."""
        scale = torch.exp2(-self.integer.weight_shift.double()).view(-1, 1, 1, 1)
        return (self.integer.weight.double() * scale).float().to(self.integer.device)


def index_rows(log_scale: Tensor, least: int) -> Tensor:
    """Return rounded table indices per quality (101, C) of scales per rate (rates, C)."""
    return torch.round(quality_rows(log_scale) / INDEX_STEP).clamp(least, SCALE_COUNT - 1)


def as_integers(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return whole numbers as integers of `dtype`; raises ValueError where one does not fit."""
    limits = torch.iinfo(dtype)
    if values.numel() and (values.min() < limits.min or values.max() > limits.max):
        raise ValueError(f"values of {float(values.min())}..{float(values.max())} do not fit into {dtype}")
    return values.to(dtype)


def pack(model: TransformModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a weights file: integers, float16 for the synthesis transform."""
    tensors: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, FixedPointConv2d):
            width = torch.int8 if layer.weight_bits <= 8 else torch.int16
            tensors[f"{name}.weight"] = as_integers(layer.integer_weight().detach(), width)
            tensors[f"{name}.shift"] = as_integers(layer.weight_shift(), torch.int8)
            tensors[f"{name}.bias"] = as_integers(layer.integer_bias().detach(), torch.int32)
    if model.spec.conditioned:
        rows = quality_rows(model.analysis_condition.detach()) * 2.0**model.spec.branch_bits
        tensors["analysis_condition"] = as_integers(torch.round(rows), torch.int16)
        tensors["synthesis_condition"] = model.synthesis_condition.detach().half()
    for name, parameter in model.synthesis.named_parameters():
        tensors[f"synthesis.{name}"] = parameter.detach().half()
    gains = torch.round(torch.exp(quality_rows(model.log_gain.detach())) * 2.0**GAIN_BITS)
    tensors["gain"] = as_integers(gains, torch.int32)
    tensors["log_inverse_gain"] = model.log_inverse_gain.detach().float()
    units = torch.exp(quality_rows(model.log_unit)) * 2.0**UNIT_BITS
    tensors["unit"] = as_integers(torch.round(units), torch.int32)
    tensors["index"] = as_integers(index_rows(model.log_scale.detach(), -SCALE_COUNT), torch.int8)
    tables = load_tables("logistic")  # until the export fits its own, and thresholds with them
    tensors["tables.radius"] = torch.from_numpy(tables.radius.copy())
    tensors["tables.frequencies"] = torch.from_numpy(tables.frequencies.copy())
    tensors["threshold"] = torch.zeros(SCALE_COUNT, SIZES, dtype=torch.int8)
    tensors["hyper_index"] = as_integers(index_rows(model.log_hyper_scale.detach(), 1), torch.uint8)
    return {k: v.contiguous().cpu() for k, v in tensors.items()}, {"spec": json.dumps(vars(model.spec))}


class ExactModel(nn.Module):
    """The networks of a weights file on a device.

    All tensors between methods are in real units on binary grids (see `transform_networks`) and exact, except `reconstruct`.
    """

    def __init__(self, tensors: Names, spec: TransformSpec, device: str) -> None:
        super().__init__()
        self.spec, self.device = spec, torch.device(device)
        with torch.random.fork_rng(devices=[]):  # its start values are thrown away: leave the caller's generator alone
            model = TransformModel(spec)
        values = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
        model.quantise_grids(True)
        replace_fixed_point(model, values, self.device)
        synthesis = {k.removeprefix("synthesis."): v.float() for k, v in values.items() if k.startswith("synthesis.")}
        model.synthesis.load_state_dict(synthesis)
        if "synthesis_limits" in values:
            model.synthesis.limits = values["synthesis_limits"].float()
        if "analysis_limits" in values:
            model.analysis.limits = values["analysis_limits"].float()
        self.analysis, self.synthesis, self.context = model.analysis, model.synthesis, model.context
        self.hyper_analysis, self.hyper_synthesis = model.hyper_analysis, model.hyper_synthesis
        self.gain = values["gain"].double() * 2.0**-GAIN_BITS
        self.unit = values["unit"].double() * 2.0**-UNIT_BITS
        self.inverse_gain = torch.exp(quality_rows(values["log_inverse_gain"])).float()
        self.conditions: dict[str, Tensor] = {}
        if spec.conditioned:
            self.conditions["analysis"] = values["analysis_condition"].float() * 2.0**-spec.branch_bits
            self.conditions["synthesis"] = quality_rows(values["synthesis_condition"]).float()
        self.index, self.hyper_index = values["index"], values["hyper_index"]
        last = values.get("last_layer", torch.empty(0))
        self.by_quality = quality_rows(last.flatten(1)).float().view(-1, *last.shape[1:]) if last.numel() else last
        self.directions: NDArray[np.float64] | None = None  # of corrections
        if "correction_directions" in tensors:
            self.directions = tensors["correction_directions"].astype(np.float64) * tensors["correction_scale"].astype(
                np.float64
            )
        self.tables = Tables.from_arrays(tensors["tables.radius"], tensors["tables.frequencies"])
        self.threshold = values["threshold"].to(self.device).float() / 2**SYMBOL_BITS
        self.requires_grad_(False)
        self.to(self.device)

    def latents(self, pixels: Tensor, quality: Tensor) -> Tensor:
        """Return latents in steps (B, C, h, w) of uint8 pixels (B, 3, 16h, 16w) at qualities (B,)."""
        y = self.analysis((pixels.to(self.device).float() - 128) / PIXEL_UNIT, self._condition("analysis", quality))
        # on grids of 2**-10 and 2**-16, below 2**13 and 2**12: their product is exact in float64
        scaled = y.double() * self._at(self.gain, quality)
        return to_symbol_grid(scaled)

    def quantise(self, offset: Tensor, index: Tensor) -> Tensor:
        """Return symbols of latents minus means, both in steps, given table indices.

        The nearest integer n, or the next one towards zero where it is nearly as close and saves bits: below
        n - 1/2 + threshold[index, n]. Table 0 is silent, so its symbols are zero.
        """
        size = offset.abs()
        nearest = torch.floor(size + 0.5)
        threshold = self.threshold[index.long(), nearest.long().clamp(max=SIZES - 1)]
        symbols = torch.where(size - nearest + 0.5 < threshold, nearest - 1, nearest).clamp_min(0)
        return symbols * torch.sign(offset) * (index > 0)

    def _at(self, rows: Tensor, quality: Tensor) -> Tensor:
        """Return rows (101, C) at qualities (B,) as (B, C, 1, 1) on the device."""
        return rows[quality.cpu()].to(self.device)[:, :, None, None]

    def _condition(self, transform: str, quality: Tensor) -> Tensor | None:
        """Return what a transform's branch is told of qualities (B,), (B, branch, 1, 1)."""
        rows = self.conditions.get(transform)
        return None if rows is None else self._at(rows, quality)

    def hyper_latents(self, y: Tensor, quality: Tensor) -> Tensor:
        """Return integer hyper-latents (B, hyper, h/4, w/4) of latents (B, C, h, w), h and w multiples of 4."""
        z = self.hyper_analysis(normalised(y, self._at(self.unit, quality)))
        return torch.floor(z + 0.5).clamp(-HYPER_MAX, HYPER_MAX)

    def walk(self, z: Tensor, quality: Tensor, size: tuple[int, int], code: StepCoder) -> Tensor:
        """Visit the latents of tiles of `size` in coding order (see `transform_context.walk`) given hyper-latents `z`."""
        features = self.hyper_synthesis(z.to(self.device))
        plane = (quality.to(self.device) * 2.0**-HIDDEN_BITS).float().view(-1, 1, 1, 1)
        hyper = torch.cat([features, plane.expand(-1, 1, *features.shape[2:])], 1)
        tables = ChannelTables(self._at(self.index, quality), self._at(self.unit, quality))
        return walk(self.context, hyper, tables, size, code)

    def synthesise(self, y: Tensor, quality: Tensor, corrections: Corrections = None) -> Tensor:
        """Return real pixels (B, 3, 16h, 16w), in grey levels, of latents in steps, under corrections of the last layer."""
        with without_tf32():
            condition, all_corrections = self._condition("synthesis", quality), self._corrections(quality, corrections)
            pixels = self.synthesis(self._dequantised(y, quality), condition, None, all_corrections)
            return cast(Tensor, pixels * PIXEL_UNIT + 128)

    def reconstruct(self, y: Tensor, quality: Tensor, corrections: Corrections = None) -> Tensor:
        """Return uint8 pixels (B, 3, 16h, 16w) of latents in steps; floating point, so +-1 between devices."""
        return self.synthesise(y, quality, corrections).round().clamp(0, 255).to(torch.uint8).cpu()

    def last_layer(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Return real pixels (1, 3, 16h, 16w), in grey levels, and the last layer's inputs (1, C, 8h+4, 8w+4)."""
        condition, finish = self._condition("synthesis", quality), self.synthesis.finish
        assert condition is not None and finish is not None
        with without_tf32():
            unfinished = self.synthesis.unfinished(self._dequantised(y, quality), condition)
            inputs = finish.inputs(unfinished, condition[:, self.spec.branch :])
            corrections = self._corrections(quality, None)
            found = unfinished + F.pixel_shuffle(finish.last(inputs, None if corrections is None else corrections[0]), 2)
        return inner(found) * PIXEL_UNIT + 128, inputs

    def _corrections(self, quality: Tensor, corrections: Corrections) -> Corrections:
        """Return the sums of corrections of pictures and of their qualities (B,)."""
        if not self.by_quality.numel():
            return corrections
        own = self.by_quality[quality.cpu()]
        return [row if more is None else row + more for row, more in zip(own, corrections or [None] * len(own), strict=True)]

    def _dequantised(self, y: Tensor, quality: Tensor) -> Tensor:
        y = y.to(self.device) * self._at(self.inverse_gain, quality)
        return y.contiguous(memory_format=torch.channels_last)  # a fifth faster on CPUs

    def error_per_step(self, quality: Tensor) -> Tensor:
        """Return about what a latent that is off by a step adds to the squared error, in grey levels: (B, C, 1, 1).

        This is the energy of the linear part's kernels, which are close to orthogonal; the nonlinear branch adds to it or takes
        away at most a tenth.
        """
        kernels = self.synthesis.lapped.weight.square().sum((1, 2, 3)).view(1, -1, 1, 1)
        return kernels * (self._at(self.inverse_gain, quality) * PIXEL_UNIT).square()


def without_tf32() -> AbstractContextManager[None]:
    """Keep convolutions on GPUs in float32: TF32's 10-bit mantissas would move pixels by several levels."""
    return cast(AbstractContextManager[None], torch.backends.cudnn.flags(enabled=True, allow_tf32=False))


def replace_fixed_point(model: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Put an `ExactConv2d` in the place of every `FixedPointConv2d` of `model`."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, FixedPointConv2d)]
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, ExactConv2d(name, layer, tensors, device))
