"""A network run on integers: the same frames on every machine, device, number of threads and batch.

Weights become 16-bit integers times a power of two for each output channel, activations are 16-bit multiples of 2**-10 and
their functions tables (`inr_tables`). Layers are those of `laconic.entropy.integer_network`, whose sums are exact in float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...entropy.errors import InexactDevice, NetworkInvalid
from ...entropy.integer_network import ConvSpec, IntegerConv2d, self_test
from ..errors import CorruptStream, DeviceUnavailable
from .inr_spec import Spec
from .inr_tables import GRID_BITS, LARGEST, activation_table, sample_table

__all__ = ["ExactNetwork", "why_not_exact"]

WEIGHT_MAX = 2**15 - 1
HEAD_BITS, HEAD_MAX = 12, 2**15  # the head's values reach +-8, where tanh is 1 to 22 bits
ROWS = 64  # of a layer at a time: its products are many times its input
MAX_WEIGHT_SHIFT = 30


def why_not_exact(spec: Spec) -> str | None:
    """Return what of a network has no integer form yet, None where all has."""
    if spec.stem != "embedding" or spec.stem_times != spec.frames:
        return "a stem that is no embedding of each frame"
    if spec.residual != "none" or spec.skip != "none" or spec.enlargement != "shuffle":
        return "more in its stages than a convolution and a shuffle"
    if spec.time_hidden or spec.grids:
        return "stages that depend on the frame number"
    return None


class ExactNetwork:
    """The network of a spec on a device; `tensors` float32 by name, as decoded. `render` gives frames.

    Raises `CorruptStream` for parameters that are too large to be added up exactly, and for specs that `why_not_exact`
    explains; `DeviceUnavailable` where the device does not add exactly.
    """

    def __init__(self, spec: Spec, tensors: Mapping[str, Tensor], device: str = "cpu") -> None:
        if why_not_exact(spec):
            raise CorruptStream(f"the network has {why_not_exact(spec)}, which the exact profile does not")
        try:
            self_test(device)
        except InexactDevice as error:
            raise DeviceUnavailable(str(error)) from error
        self.spec, self.device = spec, device
        self._embedding = _on_grid(tensors["embedding"].double(), GRID_BITS).clamp(-LARGEST, LARGEST)
        try:
            self._layers = [_layer(tensors, name, device, GRID_BITS, LARGEST) for name in self._names()]
            self._head = _layer(tensors, "head", device, HEAD_BITS, HEAD_MAX)
        except NetworkInvalid as error:
            raise CorruptStream(f"the network does not run exactly: {error}") from error
        self._activation = torch.from_numpy(activation_table(spec.activation).astype(np.float32)).to(device)

    def _names(self) -> list[str]:
        return ["stem", *(f"stage{i}" for i in range(len(self.spec.strides)))]

    @torch.inference_mode()
    def render(self, indices: Tensor, bit_depth: int) -> Tensor:
        """Return the samples of frames [n]: integers [n, 3, H, W] as float32, 0 to 255 or 65535."""
        spec = self.spec
        x = self._embedding[indices].to(self.device)
        for layer, stride in zip(self._layers, (1, *spec.strides), strict=True):
            x = self._activation[(_in_strips(layer, x, stride) + LARGEST).long()]
        levels = (_in_strips(self._head, x, spec.head_stride)[:, :, : spec.height, : spec.width] + HEAD_MAX).long()
        samples = torch.from_numpy(sample_table(spec.output, HEAD_BITS, HEAD_MAX, 2**bit_depth - 1).astype(np.float32))
        return samples.to(self.device)[levels]


def _on_grid(values: Tensor, bits: int) -> Tensor:
    """Return float64 values in units of 2**-bits, rounded half up: one exact product and one exact sum each."""
    return torch.floor(values * 2.0**bits + 0.5)


def _layer(tensors: Mapping[str, Tensor], name: str, device: str, out_bits: int, limit: int) -> IntegerConv2d:
    weight, bias = tensors[f"{name}_weight"].double(), tensors[f"{name}_bias"].double()
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise CorruptStream("the network has a parameter that is no number")
    largest = weight.abs().amax((1, 2, 3))
    exponent = torch.frexp(largest).exponent.long()  # largest < 2**exponent
    shift = (15 - exponent).clamp(0, MAX_WEIGHT_SHIFT) * (largest > 0)
    shift = torch.maximum(shift, torch.tensor(max(0, out_bits - GRID_BITS)))
    scale = torch.tensor([2.0**s for s in shift.tolist()], dtype=torch.float64)
    integers = torch.floor(weight * scale.view(-1, 1, 1, 1) + 0.5).clamp(-WEIGHT_MAX, WEIGHT_MAX)
    offsets = torch.floor(bias * scale * 2.0**GRID_BITS + 0.5).clamp(-(2.0**50), 2.0**50)
    kernel = weight.shape[-1]
    spec = ConvSpec(GRID_BITS, out_bits, LARGEST, -limit, limit, padding=kernel // 2)
    return IntegerConv2d(integers.long(), shift, offsets.long(), spec, device)


def _in_strips(layer: IntegerConv2d, x: Tensor, stride: int) -> Tensor:
    """Return the layer's output, shuffled, computed in strips of rows so that it takes little memory."""
    halo, height = layer.spec.padding, x.shape[2]
    parts = []
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        first, last = max(top - halo, 0), min(bottom + halo, height)
        strip = layer(x[:, :, first:last])[:, :, top - first : bottom - first]
        parts.append(F.pixel_shuffle(strip, stride))
    return torch.cat(parts, 2)
