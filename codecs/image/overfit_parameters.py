"""Parameters of the networks as integers: those of the initial networks, and a picture's as multiples of steps away from them.

An initial network is shipped as integers in units of 2**-`FRACTION` of its network. A picture's parameter is the initial one
plus n steps; each of `GROUPS` has a step of its own, a power of two of units. Only the steps' exponents and the numbers n are
coded. What decides probabilities stays an integer throughout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import decode_integers, encode_integers
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from ..weights import load_weights
from .overfit_context import FRACTION
from .overfit_dense import Floats
from .overfit_spec import Spec

__all__ = [
    "GROUPS",
    "MAX_EXPONENT",
    "Initial",
    "InitialNetworks",
    "Integers",
    "Network",
    "apply_steps",
    "decode_network",
    "encode_network",
    "groups_of",
    "initial_networks",
    "units_of",
]

FRACTIONS = {"context": FRACTION, "upsampling": 16, "synthesis": 16}
GROUPS = ("context.weight", "context.bias", "upsampling", "synthesis.weight", "synthesis.bias")
MAX_EXPONENT = 15
LARGEST = 1 << 15  # magnitude of a context parameter in units: sums stay exact by far (`overfit_context`)
LARGEST_FLOAT = 1 << 22  # of the others: exact in float32

Integers = NDArray[np.int64]


@cache
def groups_of(spec: Spec) -> NDArray[np.int32]:
    """Return the number of the group of each parameter, in the order of coding."""
    numbers = []
    for name, shape, network in spec.parameters():
        group = name if network == "upsampling" else f"{network}.{name.rpartition('.')[2]}"
        numbers.append(np.full(int(np.prod(shape)), GROUPS.index(group), np.int32))
    return np.concatenate(numbers)


@cache
def units_of(spec: Spec) -> NDArray[np.float64]:
    """Return the unit of each parameter."""
    fractions = np.array([FRACTIONS[group.partition(".")[0]] for group in GROUPS])
    return np.asarray(2.0 ** -fractions[groups_of(spec)].astype(np.float64))


@dataclass(frozen=True)
class Network:
    """A picture's parameters: all integers in units [count], in the order of coding."""

    spec: Spec
    integers: Integers

    def floats(self) -> Floats:
        """Return the parameters, exactly."""
        return np.asarray(self.integers * units_of(self.spec), np.float32)

    def tensors(self) -> dict[str, Floats]:
        """Return the parameters by name."""
        return self.spec.views(self.floats())

    def integer_tensors(self) -> dict[str, Integers]:
        """Return the integers by name."""
        return self.spec.views(self.integers)


@dataclass(frozen=True, eq=False)
class Initial:
    """Where a fit begins: a network, the weight (lambda) of the rate that it was trained for, and filters for the latents."""

    network: Network
    weight: float
    filters: Floats | None = None


@dataclass(frozen=True)
class InitialNetworks:
    """All that fits may begin from, and the digest of their file."""

    entries: tuple[Initial, ...]
    digest: bytes

    def nearest(self, weight: float) -> int:
        """Return the number of the entry whose rate's weight is nearest."""
        return min(range(len(self.entries)), key=lambda i: abs(np.log(self.entries[i].weight / weight)))


@cache
def initial_networks(digest: bytes | None = None) -> InitialNetworks:
    """Return the shipped ones, or those with the digest that a stream names; raises as `load_weights` does."""
    weights = load_weights("image-overfit", digest)
    hidden, rates = json.loads(weights.metadata["hidden"]), json.loads(weights.metadata["weights"])
    networks, filters = weights.tensors["networks"].astype(np.int64), weights.tensors["filters"].astype(np.float32)
    entries = [Initial(Network(Spec(hidden), networks[i]), rate, filters[i]) for i, rate in enumerate(rates)]
    return InitialNetworks(tuple(entries), weights.digest)


def encode_network(initial: Network, exponents: Sequence[int], numbers: Integers) -> bytes:
    """Return the code of a network: the exponents of its steps [GROUPS], and how many steps each parameter is away."""
    groups = groups_of(initial.spec)
    head = np.array(exponents, np.int64)
    return encode_integers(
        np.concatenate([head, numbers]), np.concatenate([np.full(len(GROUPS), len(GROUPS), np.int32), groups])
    )


def apply_steps(initial: Network, exponents: Sequence[int], numbers: Integers) -> Network:
    """Return the network that lies so many steps away from the initial one."""
    steps = np.int64(1) << np.array(exponents, np.int64)
    return Network(initial.spec, initial.integers + numbers * steps[groups_of(initial.spec)])


def decode_network(code: bytes, initial: Network) -> Network:
    """Return the network of a code; raises `CorruptStream`."""
    groups = groups_of(initial.spec)
    sets = np.concatenate([np.full(len(GROUPS), len(GROUPS), np.int32), groups])
    try:
        values = decode_integers(code, sets.size, sets).astype(np.int64)
    except SymbolsCorrupt as error:
        raise CorruptStream(f"the networks' parameters: {error}") from error
    exponents, numbers = values[: len(GROUPS)].tolist(), values[len(GROUPS) :]
    if min(exponents) < 0 or max(exponents) > MAX_EXPONENT:
        raise CorruptStream("a step of the networks' parameters is out of range")
    network = apply_steps(initial, exponents, numbers)
    largest = np.where(groups < 2, LARGEST, LARGEST_FLOAT)
    if (np.abs(network.integers) > largest).any():
        raise CorruptStream("a parameter of the networks is out of range")
    return network
