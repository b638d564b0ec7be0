"""The tensors of a fitted network as integers and steps, and those as bytes.

A parameter is an integer times a step. Steps are powers of two in eighths of an octave: the tensor's, and where it pays a
factor for each index of the first axis (output channels; moments of an embedding) and of the second (input channels; channels
of an embedding): both axes of a layer need scales of their own, as in NVRC (Kwan et al. 2024). Bytes and integers determine
each other exactly: no floating-point network is in the way (see `inr_weight_model` for the model).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    POSITION,
    Bytes,
    Integers,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
)
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from .inr_weight_model import code_values
from .inr_weight_state import LARGEST, Model, code_integer, new_model

__all__ = ["LARGEST", "MAX_EXPONENT", "QuantisedTensor", "Shapes", "decode_parameters", "encode_parameters", "powers"]

Shapes = Sequence[tuple[str, tuple[int, ...], str]]  # name, shape and role: weight, bias, embedding or grid

EIGHTHS = np.array([float.fromhex(x) for x in (
    "0x1p0", "0x1.172b83c7d517bp0", "0x1.306fe0a31b715p0", "0x1.4bfdad5362a27p0",
    "0x1.6a09e667f3bcdp0", "0x1.8ace5422aa0dbp0", "0x1.ae89f995ad3adp0", "0x1.d5818dcfba487p0",
)])  # fmt: skip
MAX_EXPONENT = 256  # of steps and factors, in eighths of an octave: 2**-32 to 2**32
MAX_PARAMETERS = 1 << 28
ROLES = {"weight": 0, "bias": 1, "embedding": 2}  # roles that are modelled apart; others share a model
OTHER = 3
EXPONENT, SCALE, SCALED, FACTOR = 0, 1, 2, 3  # kinds of side values; a kind of factors for each axis
KINDS = FACTOR + 2
NO_REFERENCE = np.zeros((0, 0, 0, 0))


def powers(exponents: NDArray[np.signedinteger[Any]] | int) -> NDArray[np.float64]:
    """Return 2**(e / 8), the same doubles on every machine."""
    e = np.asarray(exponents, np.int64)
    return np.asarray(np.ldexp(EIGHTHS[e & 7], (e >> 3).astype(np.int32)), np.float64)


@dataclass(frozen=True, eq=False)
class QuantisedTensor:
    """A tensor of integers (at most 2**20 in magnitude) and its steps.

    Exponents are in eighths of an octave, -256..256: of the tensor, and, if there are any, relative to it of the indices of its
    first axis (`rows`, int32 [shape[0]]) and of its second (`columns`, int32 [shape[1]]).
    """

    values: NDArray[np.int32]
    exponent: int
    rows: NDArray[np.int32] | None = None
    columns: NDArray[np.int32] | None = None

    def steps(self) -> NDArray[np.float64]:
        """Return the steps, in a shape that broadcasts with the values."""
        a, b, _, _ = _folded(self.values.shape)
        steps: NDArray[np.float64] = powers(self.exponent) * np.ones((1, 1, 1, 1))
        if self.rows is not None:
            steps = steps * powers(self.rows).reshape(a, 1, 1, 1)
        if self.columns is not None:
            steps = steps * powers(self.columns).reshape(1, b, 1, 1)
        shape = (steps.shape[0], steps.shape[1], *[1] * len(self.values.shape))
        return steps.reshape(shape[: self.values.ndim])

    def dequantised(self) -> NDArray[np.float32]:
        """Return the parameters, the same float32 on every machine."""
        return (self.values * self.steps()).astype(np.float32)


def _folded(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a tensor's shape in four dimensions."""
    first, second, *rest = (*shape, 1, 1)[: max(len(shape), 2)]
    return first, second, prod(rest[:-1]), rest[-1] if rest else 1


def encode_parameters(
    shapes: Shapes, quantised: Mapping[str, QuantisedTensor], reference: Mapping[str, QuantisedTensor] | None = None
) -> bytes:
    """Code the tensors that `shapes` names, in that order.

    Those of `reference`, which decoding needs too, predict those of the same name and shape. Raises ValueError for tensors that
    cannot be coded.
    """
    for name, shape, _ in shapes:
        _check(name, shape, quantised[name])
    out = np.zeros(1024 + 5 * sum(prod(shape) for _, shape, _ in shapes), np.uint8)
    coder = start_encoding()
    model = new_model(KINDS)
    for name, shape, role in shapes:
        _code_tensor(model, shape, role, quantised[name], (reference or {}).get(name), coder, out, False)
    length = finish_encoding(coder, out)
    return out[:length].tobytes()


def decode_parameters(
    coded: bytes, shapes: Shapes, reference: Mapping[str, QuantisedTensor] | None = None
) -> dict[str, QuantisedTensor]:
    """Return the tensors that `encode_parameters` coded with the same shapes and reference; raises `CorruptStream`."""
    if sum(prod(shape) for _, shape, _ in shapes) > MAX_PARAMETERS:
        raise CorruptStream(f"a network of more than {MAX_PARAMETERS:,} parameters")
    array = np.frombuffer(bytearray(coded), np.uint8)  # a copy: the kernel is typed for bytes that it may write
    coder, model = start_decoding(array), new_model(KINDS)
    tensors = {}
    for name, shape, role in shapes:
        tensors[name] = _code_tensor(model, shape, role, None, (reference or {}).get(name), coder, array, True)
    try:
        finish_decoding(coder, array)
    except SymbolsCorrupt as error:
        raise CorruptStream(str(error)) from None
    return tensors


def _check(name: str, shape: tuple[int, ...], tensor: QuantisedTensor) -> None:
    """Raise ValueError unless a tensor can be coded."""
    if tensor.values.shape != tuple(shape) or tensor.values.dtype != np.int32:
        raise ValueError(f"{name} must be int32 {tuple(shape)}, not {tensor.values.dtype} {tensor.values.shape}")
    if not shape or tensor.values.size == 0:
        raise ValueError(f"{name} is empty or has no dimensions")
    if np.abs(tensor.values.astype(np.int64)).max() > LARGEST:
        raise ValueError(f"{name} has magnitudes above {LARGEST:,}")
    for axis, exponents in enumerate((np.array([tensor.exponent]), tensor.rows, tensor.columns)):
        if exponents is None:
            continue
        if axis > 0 and exponents.shape != _folded(shape)[axis - 1 : axis]:
            raise ValueError(f"{name} needs a factor for each index of axis {axis - 1}")
        if np.abs(exponents).max() > MAX_EXPONENT:
            raise ValueError(f"{name} has steps beyond 2**(+-{MAX_EXPONENT // 8})")


def _bounded(exponent: int) -> int:
    if abs(exponent) > MAX_EXPONENT:
        raise CorruptStream(f"a step of 2**({exponent} / 8)")
    return exponent


def _code_factors(
    side: Callable[[int, int], int], axis: int, given: NDArray[np.int32] | None, count: int
) -> NDArray[np.int32] | None:
    """Code the factors of an axis, if there are any, each by its difference from the one before."""
    if not side(SCALED, int(given is not None)):
        return None
    factors, before = np.zeros(count, np.int32), 0
    for i in range(count):
        before = _bounded(before + side(FACTOR + axis, 0 if given is None else int(given[i]) - before))
        factors[i] = before
    return factors


def _code_tensor(
    model: Model,
    shape: tuple[int, ...],
    role: str,
    tensor: QuantisedTensor | None,
    reference: QuantisedTensor | None,
    coder: Integers,
    coded: Bytes,
    decoding: bool,
) -> QuantisedTensor:
    """Code a tensor's steps, then its values; `tensor` is None when decoding."""

    def side(kind: int, value: int) -> int:
        return int(code_integer(model, kind, value, coder, coded, decoding))

    four = _folded(shape)
    if decoding and coder[POSITION] > coded.size + 16:
        raise CorruptStream("coded symbols are corrupt: the bytes end too early")
    exponent = _bounded(side(EXPONENT, tensor.exponent if tensor else 0))
    factors: list[NDArray[np.int32] | None] = []
    for axis, given in enumerate((tensor.rows, tensor.columns) if tensor else (None, None)):
        factors.append(_code_factors(side, axis, given, four[axis]))
    values = np.zeros(four, np.int32) if tensor is None else np.array(tensor.values).reshape(four)
    magnitude = float(np.abs(values).mean()) if tensor else 0.0
    scale = side(SCALE, int(np.clip(round(4 * np.log2(magnitude + 1e-3)), -40, 80)))
    coded_tensor = QuantisedTensor(values.reshape(shape), exponent, factors[0], factors[1])
    rows = np.ones(four[0]) if factors[0] is None else powers(factors[0])
    columns = np.ones(four[1]) if factors[1] is None else powers(factors[1])
    before = NO_REFERENCE
    if reference is not None and reference.values.shape == tuple(shape):
        before = (reference.values * reference.steps() / powers(exponent)).reshape(four)
    sums = np.zeros((2, max(four[1], four[2] * four[3])))
    expected = float(powers(2 * min(max(scale, -40), 80)))
    code_values(
        model, values, rows, columns, before, np.zeros(four), np.zeros(four), sums,
        ROLES.get(role, OTHER), expected, coder, coded, decoding,
    )  # fmt: skip
    return coded_tensor
