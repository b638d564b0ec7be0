"""Convolutions on integers, bit-exact on every machine, thread count, batch and memory layout.

A layer maps integers x to clamp(floor((sum w x + b) / 2**s + 1/2)), without the 1/2 where s = 0. It runs in ordinary floating
point: if sum |w| * max |x| + |b| + 2**s < 2**24 holds for a channel, every partial sum in whatever order is an integer that
float32 represents, so no operation rounds and the order does not matter; below 2**53 the same holds for float64. The bound is
checked when a layer is made. (Balle, Johnston and Minnen, "Integer networks for data compression with latent-variable models",
ICLR 2019, name the problem and the cure; here the integers live in floating-point registers.)

What could break this is an algorithm that is not a sum of products (Winograd, FFT) or a narrower multiplier (TF32, bfloat16).
So float32 runs on the CPU only, and only while torch is not set to a lower precision; convolutions are matrix products,
except for oneDNN's direct float32 convolution on x86; other devices use float64 matrix products. `self_test` guards the rest.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import google_crc32c
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InexactDevice, NetworkInvalid

__all__ = ["ConvSpec", "IntegerConv2d", "self_test"]

MAX_SHIFT = 40


@dataclass(frozen=True)
class ConvSpec:
    """Geometry and number formats of a layer: what is code rather than weights.

    Inputs are integers of magnitude at most `in_max`, standing for multiples of 2**-in_bits; outputs are integers in
    `low`..`high`, standing for multiples of 2**-out_bits. `groups` is 1, or the number of channels (depthwise).
    """

    in_bits: int
    out_bits: int
    in_max: int
    low: int
    high: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


@cache
def _direct_convolution() -> bool:
    """Whether float32 convolutions on this CPU are oneDNN's direct ones (elsewhere they may be Winograd's)."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _float32_is_exact() -> bool:
    """Whether torch multiplies float32 on the CPU in full precision."""
    mkldnn = torch.backends.mkldnn
    settings = [getattr(mkldnn, name) for name in ("matmul", "conv") if hasattr(mkldnn, name)]
    if not settings:  # before torch 2.9
        return torch.get_float32_matmul_precision() == "highest"
    return all(setting.fp32_precision in ("none", "ieee") for setting in settings)


def _smallest_integer(values: Tensor) -> torch.dtype:
    for dtype in (torch.int8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        if values.numel() == 0 or (int(values.min()) >= limits.min and int(values.max()) <= limits.max):
            return dtype
    return torch.int64


class IntegerConv2d:
    """One layer on one device.

    `weight` integer [out, in / groups, k, k], `weight_shift` integer [out] (the real weight is weight * 2**-weight_shift),
    `bias` integer [out] in units of the accumulator, 2**-(weight_shift + in_bits). The rescaling shift is
    s = weight_shift + in_bits - out_bits >= 0. Raises `NetworkInvalid` if the arrays do not fit together or could overflow.
    """

    def __init__(
        self, weight: Tensor, weight_shift: Tensor, bias: Tensor, spec: ConvSpec, device: torch.device | str = "cpu"
    ) -> None:
        self.spec, self.device = spec, torch.device(device)
        self._check_arrays(weight, weight_shift, bias)
        self.weight, self.weight_shift, self.bias = (t.detach().cpu().to(torch.int64) for t in (weight, weight_shift, bias))
        shift = self.weight_shift + spec.in_bits - spec.out_bits
        if int(shift.min()) < 0 or int(shift.max()) > MAX_SHIFT:
            raise NetworkInvalid(f"rescaling shifts must lie in 0..{MAX_SHIFT}, not {int(shift.min())}..{int(shift.max())}")
        absolute = [float(b) for b in self.weight.abs().to(torch.float64).sum((1, 2, 3))]
        offsets = zip(absolute, self.bias.tolist(), shift.tolist(), strict=True)
        self.bound = int(max(a * spec.in_max + abs(b) + (1 << s) for a, b, s in offsets))
        if self.bound >= 1 << 53:
            raise NetworkInvalid(f"sums of a layer may reach {self.bound}, above 2**53: it would not run exactly")
        dtype = torch.float32 if self.bound < 1 << 24 and self.device.type == "cpu" else torch.float64
        # Scaling by a power of two is exact, so that the layer's division by 2**s is done once, here.
        scale = torch.tensor([2.0**-s for s in shift.tolist()], dtype=torch.float64)
        rounding = torch.tensor([0.5 if s else 0.0 for s in shift.tolist()], dtype=torch.float64)
        self._weight = (self.weight * scale.view(-1, 1, 1, 1)).to(dtype).to(self.device)
        self._bias = (self.bias * scale + rounding).to(dtype).to(self.device)
        self._out_dtype = torch.float32 if max(abs(spec.low), abs(spec.high)) <= 1 << 24 else torch.float64

    def _check_arrays(self, weight: Tensor, weight_shift: Tensor, bias: Tensor) -> None:
        if any(t.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64) for t in (weight, weight_shift, bias)):
            raise NetworkInvalid("weight, shift and bias of a layer must be integers")
        if weight.ndim != 4 or 0 in weight.shape or weight.shape[2] != weight.shape[3]:
            raise NetworkInvalid(f"a layer's weight is [out, in, k, k], not {list(weight.shape)}")
        outputs, inputs = weight.shape[:2]
        if weight_shift.shape != (outputs,) or bias.shape != (outputs,):
            raise NetworkInvalid(f"a layer of {outputs} outputs has as many shifts and biases")
        if self.spec.groups != 1 and (self.spec.groups, inputs) != (outputs, 1):
            raise NetworkInvalid(f"a layer is dense or depthwise, not {self.spec.groups} groups of {inputs}")
        if self.spec.low > self.spec.high or self.spec.in_max < 0 or max(-self.spec.low, self.spec.high) > 1 << 53:
            raise NetworkInvalid(f"no valid ranges: {self.spec}")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Run on integers `x` [B, in, H, W] of any float dtype; returns integers as float32 (float64 if `high` needs it).

        The caller sees to it that magnitudes stay within `in_max`.
        """
        dtype = self._weight.dtype
        if dtype == torch.float32 and not _float32_is_exact():
            dtype = torch.float64
        y = self._convolve(x.to(dtype), self._weight.to(dtype), self._bias.to(dtype))
        return y.floor_().clamp_(self.spec.low, self.spec.high).to(self._out_dtype)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        stride, padding, kernel = self.spec.stride, self.spec.padding, weight.shape[2]
        if x.dtype == torch.float32 and kernel > 1 and _direct_convolution() and torch.backends.mkldnn.enabled:
            return F.conv2d(x, weight, bias, stride, padding, 1, self.spec.groups)
        rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in x.shape[2:])
        if self.spec.groups != 1:
            return _depthwise(F.pad(x, (padding,) * 4), weight, bias, stride, rows, columns)
        if kernel > 1:
            x = F.unfold(x, kernel, 1, padding, stride)
        else:
            x = F.pad(x, (padding,) * 4)[:, :, ::stride, ::stride].flatten(2)
        product = torch.baddbmm(bias.view(1, -1, 1), weight.flatten(1).expand(x.shape[0], -1, -1), x)
        return product.view(x.shape[0], -1, rows, columns)

    def to_tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays under `prefix`.weight, .shift and .bias, each in the smallest integer type, for safetensors."""
        arrays = {"weight": self.weight, "shift": self.weight_shift, "bias": self.bias}
        return {f"{prefix}.{name}": values.to(_smallest_integer(values)).contiguous() for name, values in arrays.items()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], prefix: str, spec: ConvSpec, device: torch.device | str = "cpu"
    ) -> IntegerConv2d:
        """Make a layer from what `to_tensors` returned, on a device that passes `self_test`.

        Raises `NetworkInvalid` if an array is missing or unfit, `InexactDevice`.
        """
        self_test(str(device))
        names = [f"{prefix}.{name}" for name in ("weight", "shift", "bias")]
        if missing := [name for name in names if name not in tensors]:
            raise NetworkInvalid(f"weights lack {', '.join(missing)}")
        weight, shift, bias = (tensors[name] for name in names)
        return cls(weight, shift, bias, spec, device)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, stride: int, rows: int, columns: int) -> Tensor:
    """Convolve each channel of padded `x` by itself, tap by tap."""
    y = bias.view(1, -1, 1, 1).repeat(x.shape[0], 1, rows, columns)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            tap = x[:, :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            y.addcmul_(tap, weight[:, 0, i, j].view(1, -1, 1, 1))
    return y


# CRC-32C of the outputs of the test layers: float32 dense, float64 dense, depthwise.
_TEST_LAYERS = ((511, 1, 0x992A4A1B), (1 << 20, 1, 0x0AA64CDA), (4095, 24, 0x5F2B61CD))


def _checksum(in_max: int, groups: int, device: torch.device) -> int:
    """Return the CRC-32C of what a layer of 24 inputs makes of inputs that reach `in_max`."""
    spec = ConvSpec(in_bits=6, out_bits=6, in_max=in_max, low=-(1 << 23), high=1 << 23, padding=1, groups=groups)
    outputs = 40 if groups == 1 else groups
    weight = (torch.arange(outputs * (24 // groups) * 9) * 7919 % 255 - 127).view(outputs, -1, 3, 3)
    bias, shift = torch.arange(outputs) * 104729 % 4001 - 2000, torch.arange(outputs) % 5 + 3
    pixels = (torch.arange(24 * 33 * 31) * 15485863 % (2 * in_max + 1) - in_max).view(1, 24, 33, 31)
    y = IntegerConv2d(weight, shift, bias, spec, device)(pixels.to(device, torch.float64))
    return int(google_crc32c.value(y.cpu().to(torch.int32).numpy().astype("<i4").tobytes()))


@cache
def self_test(device: str = "cpu") -> None:
    """Compare small layers on `device` ("cpu", "cuda", "cuda:1") with committed checksums; raises `InexactDevice`.

    The outcome is kept per device.
    """
    for in_max, groups, expected in _TEST_LAYERS:
        try:
            found = _checksum(in_max, groups, torch.device(device))
        except (RuntimeError, TypeError, AssertionError) as error:
            raise InexactDevice(f"device {device} cannot run integer networks: {error}") from error
        if found != expected:
            raise InexactDevice(
                f"device {device} does not compute integer convolutions exactly: {found:08x}, not {expected:08x}"
            )
