"""Networks from frame numbers to frames, built from a `Spec`: five architectures over the same blocks.

- NeRV (Chen et al. 2021): the frame number's sines and cosines give the first grid; convolutions and pixel shuffles follow.
- HNeRV (Chen et al. 2023): every frame has a learned embedding instead. The paper's encoder, which is not transmitted, only
  finds these embeddings; here they are parameters and are fitted directly.
- NeRV++ (Ghorbel et al. 2024): separable residual blocks around every stage and a bilinear shortcut past it.
- NIRVANA (Maiya et al. 2023): coordinates of patches through a sine network, then stages that give all frames of a small group.
- Boost (Zhang et al. 2024, with the feature grids of HiNeRV, Kwan et al. 2023): stages scaled and shifted by
  the frame number, and learned volumes of low resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inr_spec import TIME_FREQUENCIES, Spec, TensorShape

__all__ = ["Decoder", "initial_tensors", "render"]

ENCODING_BASE = 1.25  # ratio of the frequencies of a frame number's encoding

Function = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, Function] = {"gelu": F.gelu, "swish": F.silu, "sine": torch.sin}


class Decoder(nn.Module):
    """The network of a spec with its parameters, which carry the names of `Spec.tensors`."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        """Start from `initial_tensors` of a seed."""
        super().__init__()
        self.spec = spec
        for name, tensor in initial_tensors(spec, seed).items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, indices: Tensor) -> Tensor:
        """Return the frames of numbers [n], int64, as floats [n, 3, H, W]: samples are 0..1, and not clamped."""
        return render(self.spec, dict(self.named_parameters()), indices)


def initial_tensors(spec: Spec, seed: int) -> dict[str, Tensor]:
    """Return the float32 tensors that a fit starts from; the same for a seed on every machine with the same torch."""
    generator = torch.Generator().manual_seed(seed)
    return {tensor.name: _initial(spec, tensor, generator) for tensor in spec.tensors()}


def _initial(spec: Spec, tensor: TensorShape, generator: torch.Generator) -> Tensor:
    name, shape, role = tensor
    if role == "bias" or name.startswith("affine"):
        return torch.zeros(shape)
    if role == "embedding":
        return torch.randn(shape, generator=generator) * (1.0 if name == "embedding" else 0.1)
    fan_in = math.prod(shape[1:])
    if name.startswith("head"):
        gain = 0.3
    elif name.endswith("pointwise_weight"):
        gain = 0.5  # the residual branches start small
    elif name.startswith("stem0") and spec.stem == "coordinates":
        gain = 2.0
    else:
        gain = {"gelu": 1.4, "swish": 1.6, "sine": 1.4}[spec.activation]
    return torch.randn(shape, generator=generator) * (gain / math.sqrt(fan_in))


def render(spec: Spec, tensors: Mapping[str, Tensor], indices: Tensor) -> Tensor:
    """Return the frames of numbers [n], int64, that the tensors of a spec stand for: float [n, 3, H, W], not clamped."""
    act = FUNCTIONS[spec.activation]
    moments = indices.to(tensors["head_weight"].dtype) / max(spec.frames - 1, 1)
    x = _stem(spec, tensors, moments, act)
    time = (
        act(F.linear(_waves(moments, TIME_FREQUENCIES), tensors["time_weight"], tensors["time_bias"]))
        if spec.time_hidden
        else None
    )
    for i, stride in enumerate(spec.strides):
        x = _with_grid(x, tensors, i, moments)
        if spec.residual == "separable":
            x = _separable(x, tensors, f"before{i}", act)
        y = _conv(x, tensors, f"stage{i}")
        y = F.pixel_shuffle(y, stride) if spec.enlargement == "shuffle" else _enlarged(y, stride)
        if spec.skip == "bilinear":
            y = y + _enlarged(_conv(x, tensors, f"skip{i}"), stride)
        if time is not None:
            scale, shift = F.linear(time, tensors[f"affine{i}_weight"], tensors[f"affine{i}_bias"])[:, :, None, None].chunk(
                2, 1
            )
            y = y * (1 + scale) + shift
        x = act(y)
        if spec.residual != "none":
            x = _separable(x, tensors, f"after{i}", act)
    return _head(spec, tensors, _with_grid(x, tensors, len(spec.strides), moments), indices)


def _with_grid(x: Tensor, tensors: Mapping[str, Tensor], stage: int, moments: Tensor) -> Tensor:
    if f"grid{stage}" not in tensors:
        return x
    volume = _at(tensors[f"grid{stage}"], moments)
    return x + F.pad(volume, (0, 0, 0, 0, 0, x.shape[1] - volume.shape[1]))


def _stem(spec: Spec, tensors: Mapping[str, Tensor], moments: Tensor, act: Function) -> Tensor:
    height, width = spec.base
    if spec.stem == "embedding":
        return act(_conv(_at(tensors["embedding"], moments), tensors, "stem"))
    if spec.stem == "encoding":
        x = _waves(moments, spec.stem_size)
        if spec.stem_hidden:
            x = act(F.linear(x, tensors["stem0_weight"], tensors["stem0_bias"]))
        x = act(F.linear(x, tensors["stem_weight"], tensors["stem_bias"]))
        return x.view(-1, spec.widths[0], height, width)
    rows, columns = ((torch.arange(n, device=moments.device, dtype=moments.dtype) + 0.5) / n for n in (height, width))
    down = _waves(rows, spec.stem_size).T[None, :, :, None].expand(1, -1, height, width)
    across = _waves(columns, spec.stem_size).T[None, :, None, :].expand(1, -1, height, width)
    x = torch.sin(_conv(torch.cat([down, across], 1), tensors, "stem0"))
    x = torch.sin(_conv(x, tensors, "stem1"))
    return act(_conv(x, tensors, "stem"))


def _head(spec: Spec, tensors: Mapping[str, Tensor], x: Tensor, indices: Tensor) -> Tensor:
    weight, bias = tensors["head_weight"], tensors["head_bias"]
    if spec.stem == "coordinates":  # one set of features; every frame has its own rows of the head
        weight, bias = (part.view(spec.frames, -1, *part.shape[1:])[indices].flatten(0, 1) for part in (weight, bias))
        x = F.conv2d(x, weight, bias, padding=spec.head_kernel // 2).view(len(indices), -1, *x.shape[2:])
    else:
        x = F.conv2d(x, weight, bias, padding=spec.head_kernel // 2)
    x = F.pixel_shuffle(x, spec.head_stride)[:, :, : spec.height, : spec.width]
    return 0.5 + 0.5 * torch.tanh(x) if spec.output == "tanh" else 0.5 + 0.5 * x


def _conv(x: Tensor, tensors: Mapping[str, Tensor], name: str, groups: int = 1) -> Tensor:
    weight = tensors[f"{name}_weight"]
    return F.conv2d(x, weight, tensors[f"{name}_bias"], padding=weight.shape[-1] // 2, groups=groups)


def _separable(x: Tensor, tensors: Mapping[str, Tensor], name: str, act: Function) -> Tensor:
    return x + _conv(act(_conv(x, tensors, f"{name}_depthwise", x.shape[1])), tensors, f"{name}_pointwise")


def _enlarged(x: Tensor, stride: int) -> Tensor:
    return F.interpolate(x, scale_factor=stride, mode="bilinear", align_corners=False) if stride > 1 else x


def _waves(x: Tensor, count: int) -> Tensor:
    """Return sines and cosines [n, 2 count] of values of 0..1 in frequencies pi * 1.25^i."""
    angles = x[:, None] * (math.pi * ENCODING_BASE ** torch.arange(count, device=x.device, dtype=x.dtype))
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


def _at(volume: Tensor, moments: Tensor) -> Tensor:
    """Return a volume [T, C, h, w] at moments [n] of 0..1, interpolated linearly between its own: [n, C, h, w]."""
    last = volume.shape[0] - 1
    if last == 0:
        return volume.expand(len(moments), -1, -1, -1)
    position = moments * last
    low = position.floor().clamp(max=last - 1).long()
    part = (position - low)[:, None, None, None]
    return volume[low] * (1 - part) + volume[low + 1] * part
