"""Networks by architecture and size: the widths that make a number of parameters, and the presets' sizes and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..errors import InvalidSettings
from .inr_spec import Spec

__all__ = ["ARCHITECTURES", "PRESETS", "Preset", "hnerv_width", "spec_for"]


class Preset(NamedTuple):
    """A network and how it is fitted: its architecture and parameters, passes over a group's frames, frames of a step."""

    architecture: str
    parameters: int
    epochs: int
    batch: int
    learning_rate: float


PRESETS = {
    "paper-0.35m": Preset("hnerv", 350_000, 300, 2, 1e-3),
    "paper-0.75m": Preset("hnerv", 750_000, 300, 2, 1e-3),
    "paper-1.5m": Preset("hnerv", 1_500_000, 300, 2, 1e-3),
    "paper-3m": Preset("hnerv", 3_000_000, 300, 2, 1e-3),
    "tiny": Preset("boost", 20_000, 500, 1, 1e-2),
}

# strides of stages; a frame takes those with which the first grid is nearest to a paper's and little is cropped
LADDERS = (
    (5, 4, 4, 2, 2),
    (5, 4, 3, 2, 2),
    (4, 4, 2, 2, 2),
    (5, 4, 2, 2),
    (4, 4, 2, 2),
    (4, 2, 2, 2),
    (4, 2, 2),
    (2, 2, 2),
    (2, 2),
)
EMBEDDING_AREA, ENCODING_AREA = 8, 128  # of the first grid: HNeRV has 2 x 4 for 640 x 1280, NeRV 8 x 16
BOOST_CHANNELS = (6.0, 3.0, 2.0)  # beside each other: of the stem's embedding and the volumes before the second and third stage
BOOST_INTERVALS = ((6, 2), (20, 1), (60, 1))  # frames from one of their moments to the next, and the fewest moments
BOOST_TIME = 8
CROPPING = 2.0  # how much more a doubling of the area by what is cropped counts than one of the first grid


def spec_for(architecture: str, parameters: int, frames: int, height: int, width: int) -> Spec:
    """Return the network of an architecture, of about so many parameters, for a group of frames of any size.

    It has at least one channel a stage, so small budgets may be exceeded. Raises `InvalidSettings` for an unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidSettings(f"no architecture is called {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](parameters, frames, height, width)


def hnerv_width(parameters: int, strides: tuple[int, ...], reduction: float = 1.2, embedding: int = 16) -> int:
    """Return the width after the stem at which HNeRV's decoder has so many parameters (section 3.2 of the paper).

    The count is taken as a quadratic of the width, as if no stage were at the floor of 12 channels and without biases.
    """
    kernels = _kernels(len(strides))
    square = sum(reduction ** (-2 * i - 1) * (s * k) ** 2 for i, (s, k) in enumerate(zip(strides, kernels, strict=True)))
    root = (math.sqrt(embedding**2 + 4 * square * max(parameters, 1)) - embedding) / (2 * square)
    return max(int(root), 2)


def _kernels(stages: int) -> tuple[int, ...]:
    return tuple(min(1 + 2 * i, 5) for i in range(stages))


def _widths(first: int, stages: int, reduction: float, floor: int) -> tuple[int, ...]:
    widths = [first]
    for _ in range(stages):
        widths.append(max(round(widths[-1] / reduction), min(floor, first)))
    return tuple(widths)


def _strides(height: int, width: int, wanted: int) -> tuple[int, ...]:
    """Return the strides for a frame whose first grid should have about so many places."""

    def misfit(strides: tuple[int, ...]) -> float:
        factor = math.prod(strides)
        area = math.ceil(height / factor) * math.ceil(width / factor)
        return abs(math.log2(area / wanted)) + CROPPING * math.log2(area * factor**2 / (height * width))

    return min(LADDERS, key=misfit)


def _solved(make: Callable[[int], Spec], parameters: int) -> Spec:
    """Return the widest of the specs `make(width)` that has at most so many parameters, or the narrowest."""
    low, high = 1, 4096
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if make(middle).parameters <= parameters else (low, middle - 1)
    return make(low)


def _hnerv(parameters: int, frames: int, height: int, width: int) -> Spec:
    strides = _strides(height, width, EMBEDDING_AREA)
    stages = len(strides)

    def make(first: int) -> Spec:
        return Spec(
            frames, height, width, "embedding", 16, frames, 0, _widths(first, stages, 1.2, 12), strides, _kernels(stages),
            3, 1, "gelu", "none", "none", "tanh", 0,
        )  # fmt: skip

    base = make(1).base
    spec = make(hnerv_width(parameters - 16 * frames * base[0] * base[1], strides))
    return spec if spec.parameters < 1.1 * parameters else _solved(make, parameters)


def _nerv_like(parameters: int, frames: int, height: int, width: int, residual: str, skip: str) -> Spec:
    strides = _strides(height, width, ENCODING_AREA)

    def make(first: int) -> Spec:
        stages = len(strides)
        return Spec(
            frames, height, width, "encoding", 40, 0, 0, _widths(first, stages, 2, 12), strides, (3,) * stages,
            3, 1, "swish", residual, skip, "tanh", 0,
        )  # fmt: skip

    return _solved(make, parameters)


def _nerv(parameters: int, frames: int, height: int, width: int) -> Spec:
    return _nerv_like(parameters, frames, height, width, "none", "none")


def _nerv_plus_plus(parameters: int, frames: int, height: int, width: int) -> Spec:
    return _nerv_like(parameters, frames, height, width, "separable", "bilinear")


def _nirvana(parameters: int, frames: int, height: int, width: int) -> Spec:
    def make(first: int) -> Spec:
        return Spec(
            frames, height, width, "coordinates", 16, 0, first, (first, first, first), (4, 2), (3, 3),
            3, 2, "gelu", "none", "none", "tanh", 0,
        )  # fmt: skip

    return _solved(make, parameters)


def _boost(parameters: int, frames: int, height: int, width: int) -> Spec:
    # half of the parameters are embeddings: the coarse ones have many moments, the fine ones few and fewer channels
    moments = [min(frames, max(least, round(frames / interval))) for interval, least in BOOST_INTERVALS]

    def make(channels: float, first: int) -> Spec:
        stem, *volumes = (round(channels * share) for share in BOOST_CHANNELS)
        grids = tuple((i + 1, min(c, first), m) for i, (c, m) in enumerate(zip(volumes, moments[1:], strict=True)) if c)
        return Spec(
            frames, height, width, "embedding", max(1, stem), moments[0], 0, (first,) * 4, (4, 2, 2), (1, 3, 3),
            3, 2, "gelu", "none", "none", "tanh", BOOST_TIME, grids,
        )  # fmt: skip

    def embedded(channels: float) -> int:
        return sum(math.prod(t.shape) for t in make(channels, 4096).tensors() if t.role == "embedding")

    channels = max((0.1 * i for i in range(1, 1000) if embedded(0.1 * i) <= parameters / 2), default=0.1)
    return _solved(lambda first: make(channels, first), parameters)


ARCHITECTURES: dict[str, Callable[[int, int, int, int], Spec]] = {
    "nerv": _nerv,
    "hnerv": _hnerv,
    "nerv++": _nerv_plus_plus,
    "nirvana": _nirvana,
    "boost": _boost,
}
