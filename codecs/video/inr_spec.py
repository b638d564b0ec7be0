"""Shapes of the networks that represent a group of frames: settings over shared blocks, and plain numbers in a file.

A network turns frame numbers into frames. Its stem gives features on a small grid; every stage convolves, enlarges by
`strides[i]` through a pixel shuffle, and activates; the head gives pixels. The grid is just large enough to cover a frame,
and what lies beyond the frame is cropped. Everything here is integer arithmetic without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from math import prod
from typing import NamedTuple

from ..errors import CorruptStream

__all__ = ["MAX_PARAMETERS", "Spec", "TensorShape"]

MAX_PARAMETERS = 20_000_000
MAX_SIDE = 65_535
STEMS = ("embedding", "encoding", "coordinates")
ACTIVATIONS = ("gelu", "swish", "sine")
RESIDUALS = ("none", "separable", "after")
SKIPS = ("none", "bilinear")
ENLARGEMENTS = ("shuffle", "bilinear")
OUTPUTS = ("tanh", "linear")
KINDS = {
    "stem": STEMS,
    "activation": ACTIVATIONS,
    "residual": RESIDUALS,
    "skip": SKIPS,
    "enlargement": ENLARGEMENTS,
    "output": OUTPUTS,
}


class TensorShape(NamedTuple):
    """A tensor of a network: its name, its shape and its role: "weight", "bias" or "embedding".

    Weights are [out, in, kernel, kernel] or [out, in]; embeddings are [times, channels, height, width], so that their first
    axis is time.
    """

    name: str
    shape: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class Spec:
    """A network for `frames` frames of `height` x `width` pixels.

    `stem` says where the features on the first grid come from, `stem_size` how large that is:

    - "embedding": a learned volume of `stem_size` channels at `stem_times` moments (interpolated between them; one moment per
      frame leaves every frame its own), through a 1x1 convolution;
    - "encoding": sines and cosines of the frame number in `stem_size` frequencies, through a hidden layer of `stem_hidden`
      (none if 0) and one linear layer that gives the whole grid;
    - "coordinates": sines and cosines of the position on the grid in `stem_size` frequencies, through two hidden layers of
      `stem_hidden`; the head then gives all frames of the group at once.

    `widths` are the channels after the stem and after every stage, `strides` and `kernels` those of the stages. `enlargement`
    "shuffle" makes every stage's convolution give all places of the larger grid, "bilinear" interpolates them. `residual`
    "separable" puts a depthwise-separable residual block before and after every stage, "after" only after it; `skip` "bilinear"
    adds an enlarged copy of a stage's input. `time_hidden`, where not 0, lets the frame number scale and shift every stage's
    output through a hidden layer of that size. `grids` are learned volumes added to the first channels of a stage's input, or
    of the head's (number len(strides)): (stage, channels, moments), interpolated between the moments. `output` is how values
    become samples of 0..1: tanh or as they are.
    """

    frames: int
    height: int
    width: int
    stem: str
    stem_size: int
    stem_times: int
    stem_hidden: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    head_kernel: int
    head_stride: int
    activation: str
    residual: str
    skip: str
    output: str
    time_hidden: int
    grids: tuple[tuple[int, int, int], ...] = ()
    enlargement: str = "shuffle"

    @property
    def base(self) -> tuple[int, int]:
        """Height and width of the first grid."""
        factor = prod(self.strides) * self.head_stride
        return -(-self.height // factor), -(-self.width // factor)

    def size(self, stage: int) -> tuple[int, int]:
        """Return the height and width of the features before a stage; those after the last are number len(strides)."""
        factor = prod(self.strides[:stage])
        return self.base[0] * factor, self.base[1] * factor

    def tensors(self) -> tuple[TensorShape, ...]:
        """Return all tensors of the network, in the order in which they are stored."""
        return (*self._stem(), *self._stages(), *self._layer("head", self.head_channels, self.widths[-1], self.head_kernel))

    @property
    def head_channels(self) -> int:
        """Channels that the head gives: those of a frame, or of all."""
        return 3 * self.head_stride**2 * (self.frames if self.stem == "coordinates" else 1)

    @property
    def parameters(self) -> int:
        """Number of all values of all tensors, embeddings included."""
        return sum(prod(tensor.shape) for tensor in self.tensors())

    @property
    def macs_per_pixel(self) -> float:
        """Multiplications and additions that a frame's convolutions take, per pixel of the frame."""
        total = 0
        for name, shape, role in self.tensors():
            if role == "weight":
                total += prod(shape) * prod(self._positions(name)) // (self.frames if self.stem == "coordinates" else 1)
        return total / (self.height * self.width)

    @property
    def activations(self) -> int:
        """Values of the largest layer for one frame."""
        stages = zip(self.strides, self.widths[1:], range(len(self.strides)), strict=True)
        largest = [prod(self.size(i)) * max(width * stride**2, self.widths[i]) for stride, width, i in stages]
        if self.stem == "coordinates":
            largest.append(prod(self.base) * max(self.stem_hidden, 4 * self.stem_size))
        return max(*largest, prod(self.size(len(self.strides))) * 3 * self.head_stride**2)

    def to_params(self) -> list[int]:
        """Return the spec as numbers of 0 or more; `from_params` takes them."""
        numbers = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in KINDS:
                numbers.append(KINDS[field.name].index(value))
            elif isinstance(value, int):
                numbers.append(value)
            else:
                numbers.append(len(value))
                for part in value:
                    numbers.extend(part if isinstance(part, tuple) else (part,))
        return numbers

    @classmethod
    def from_params(cls, numbers: list[int]) -> Spec:
        """Return the spec of numbers; raises `CorruptStream` unless they describe a network of bounded size."""
        reader = _Reader(numbers)
        values: dict[str, object] = {}
        for field in fields(cls):
            if field.name in KINDS:
                kinds = KINDS[field.name]
                values[field.name] = kinds[reader.next(len(kinds) - 1)]
            elif field.name in ("widths", "strides", "kernels"):
                values[field.name] = tuple(reader.next(4096) for _ in range(reader.next(9)))
            elif field.name == "grids":
                values[field.name] = tuple(
                    (reader.next(9), reader.next(4096), reader.next(MAX_SIDE)) for _ in range(reader.next(9))
                )
            else:
                values[field.name] = reader.next(MAX_SIDE)
        reader.end()
        spec = cls(**values)  # type: ignore[arg-type]
        spec._check()
        return spec

    def _check(self) -> None:
        stages = len(self.strides)
        sound = (
            stages >= 1
            and len(self.widths) == stages + 1
            and len(self.kernels) == stages
            and min(self.frames, self.height, self.width, self.stem_size, self.head_stride, *self.widths, *self.strides) >= 1
            and all(kernel % 2 and kernel <= 11 for kernel in (*self.kernels, self.head_kernel))
            and max(*self.strides, self.head_stride) <= 16
            and max(*self.widths, self.stem_hidden, self.time_hidden, self.stem_size) <= 4096
            and (self.stem != "embedding" or 1 <= self.stem_times <= self.frames)
            and (self.stem != "coordinates" or (self.stem_hidden >= 1 and self.time_hidden == 0 and not self.grids))
            and all(i <= stages and 1 <= c <= self.widths[i] and 1 <= t <= self.frames for i, c, t in self.grids)
            and all(a[0] < b[0] for a, b in pairwise(self.grids))
        )
        if not sound:
            raise CorruptStream("the network's description contradicts itself")
        if self.parameters > MAX_PARAMETERS:
            raise CorruptStream(
                f"a network of {self.parameters:,} parameters is larger than the {MAX_PARAMETERS:,} that are read"
            )
        if self.activations > 2**24 + 192 * self.height * self.width:
            raise CorruptStream("the network's layers are larger than its frames call for")

    def _layer(self, name: str, out: int, into: int, kernel: int) -> tuple[TensorShape, TensorShape]:
        return TensorShape(f"{name}_weight", (out, into, kernel, kernel), "weight"), TensorShape(f"{name}_bias", (out,), "bias")

    def _linear(self, name: str, out: int, into: int) -> tuple[TensorShape, TensorShape]:
        return TensorShape(f"{name}_weight", (out, into), "weight"), TensorShape(f"{name}_bias", (out,), "bias")

    def _stem(self) -> list[TensorShape]:
        height, width = self.base
        if self.stem == "embedding":
            volume = TensorShape("embedding", (self.stem_times, self.stem_size, height, width), "embedding")
            return [volume, *self._layer("stem", self.widths[0], self.stem_size, 1)]
        if self.stem == "encoding":
            hidden, out = self.stem_hidden, self.widths[0] * height * width
            if not hidden:
                return [*self._linear("stem", out, 2 * self.stem_size)]
            return [*self._linear("stem0", hidden, 2 * self.stem_size), *self._linear("stem", out, hidden)]
        return [
            *self._layer("stem0", self.stem_hidden, 4 * self.stem_size, 1),
            *self._layer("stem1", self.stem_hidden, self.stem_hidden, 1),
            *self._layer("stem", self.widths[0], self.stem_hidden, 1),
        ]

    def _stages(self) -> list[TensorShape]:
        shapes: list[TensorShape] = []
        if self.time_hidden:
            shapes += self._linear("time", self.time_hidden, 2 * TIME_FREQUENCIES)
        for stage, channels, times in self.grids:
            shapes.append(TensorShape(f"grid{stage}", (times, channels, *self.size(stage)), "embedding"))
        for i, (stride, kernel) in enumerate(zip(self.strides, self.kernels, strict=True)):
            into, out = self.widths[i], self.widths[i + 1]
            if self.residual == "separable":
                shapes += self._separable(f"before{i}", into)
            shapes += self._layer(f"stage{i}", out * stride**2 if self.enlargement == "shuffle" else out, into, kernel)
            if self.skip == "bilinear":
                shapes += self._layer(f"skip{i}", out, into, 1)
            if self.time_hidden:
                shapes += self._linear(f"affine{i}", 2 * out, self.time_hidden)
            if self.residual != "none":
                shapes += self._separable(f"after{i}", out)
        return shapes

    def _separable(self, name: str, width: int) -> list[TensorShape]:
        depthwise = self._layer(f"{name}_depthwise", width, 1, 3)
        return [*depthwise, *self._layer(f"{name}_pointwise", width, width, 1)]

    def _positions(self, name: str) -> tuple[int, int]:
        """Return on how many rows and columns a weight is applied."""
        kind, number = name.split("_")[0].rstrip("0123456789"), "".join(c for c in name.split("_")[0] if c.isdigit())
        if kind == "stem":
            return (1, 1) if self.stem == "encoding" else self.base
        if kind in ("time", "affine"):
            return 1, 1
        if kind == "head":
            return self.size(len(self.strides))
        return self.size(int(number) + (kind in ("after",)))


TIME_FREQUENCIES = 16


class _Reader:
    """Numbers taken one after the other, each within its bound."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = iter(numbers)

    def next(self, most: int) -> int:
        number = next(self._numbers, None)
        if number is None or not 0 <= number <= most:
            raise CorruptStream("the network's description is malformed")
        return number

    def end(self) -> None:
        if next(self._numbers, None) is not None:
            raise CorruptStream("the network's description is too long")
