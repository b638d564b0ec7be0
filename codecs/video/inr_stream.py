"""The payload of one group of frames, and how header and groups say which network shows which frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ...entropy.digest import symbol_digest
from ..codec import Stream
from ..errors import CorruptStream, LimitExceeded
from ..varint import read_varint, varint
from .inr_exact import why_not_exact
from .inr_parameters import QuantisedTensor, decode_parameters, encode_parameters
from .inr_spec import Spec

__all__ = [
    "PARAM_EXACT",
    "PARAM_SPEC",
    "Layout",
    "Network",
    "check_memory",
    "layout_of",
    "pack_group",
    "split_group",
    "unpack_network",
]

PARAM_SPEC, PARAM_EXACT = 16, 17  # header keys
DIGEST_BYTES = 2
MAX_MACS_PER_PIXEL = 2**22  # of hostile networks: more than three times the largest published
SLACK_MACS = 2**32  # that small frames may take as well
MAX_ACTIVATIONS = 2**29  # values of the largest layer, of 4 bytes each
PARAMETERS_PER_BYTE, SLACK_PARAMETERS = 4096, 2**20  # of the longest payload: far more than can be coded in it
Network = dict[str, QuantisedTensor]


@dataclass(frozen=True)
class Layout:
    """Which frames are in which group, and in which of its networks.

    Group g of `groups` holds the frames g T // groups up to the next group's first, and of these each network shows
    `spec.frames`, the last one what is left. In a group of fewer frames than that its one network is made for as many.
    """

    spec: Spec
    frames: int
    groups: int
    exact: bool = False

    @property
    def starts(self) -> tuple[int, ...]:
        """First frame of each group."""
        return tuple(group * self.frames // self.groups for group in range(self.groups))

    def span(self, group: int) -> tuple[int, int]:
        """Return the first frame of a group and the one after its last."""
        return group * self.frames // self.groups, (group + 1) * self.frames // self.groups

    def spec_of(self, group: int) -> Spec:
        """Return the networks' spec in a group."""
        start, stop = self.span(group)
        return _shortened(self.spec, stop - start) if stop - start < self.spec.frames else self.spec

    def networks(self, group: int) -> int:
        """Return the number of a group's networks."""
        start, stop = self.span(group)
        return -(-(stop - start) // self.spec.frames)


def _shortened(spec: Spec, frames: int) -> Spec:
    """Return the spec for fewer frames: with one moment for each where it had that, and no more moments than frames."""

    def moments(count: int) -> int:
        return frames if count == spec.frames else min(count, frames)

    grids = tuple((stage, channels, moments(times)) for stage, channels, times in spec.grids)
    return replace(spec, frames=frames, stem_times=moments(spec.stem_times), grids=grids)


def layout_of(stream: Stream) -> Layout:
    """Return the layout that a header describes; raises `CorruptStream` where it makes no sense."""
    numbers, exact = stream.params.get(PARAM_SPEC), stream.params.get(PARAM_EXACT, False)
    if type(numbers) is not list or type(exact) is not bool:
        raise CorruptStream("the header has no description of a network")
    spec = Spec.from_params(numbers)
    if len(stream.shape) != 4 or stream.weights or (spec.height, spec.width) != stream.shape[1:3]:
        raise CorruptStream("the network is not one for the video's frames")
    layout = Layout(spec, stream.shape[0], len(stream.chunks), exact)
    if layout.groups > layout.frames or spec.frames > -(-layout.frames // layout.groups):
        raise CorruptStream("the groups do not fit the number of frames")
    if spec.macs_per_pixel * spec.height * spec.width > MAX_MACS_PER_PIXEL * spec.height * spec.width + SLACK_MACS:
        raise CorruptStream("the network takes more work than its frames call for")
    if spec.parameters > PARAMETERS_PER_BYTE * max(map(len, stream.chunks)) + SLACK_PARAMETERS:
        raise CorruptStream(f"no payload is long enough for a network of {spec.parameters:,} parameters")
    if exact and (reason := why_not_exact(spec)):
        raise CorruptStream(f"the network has {reason}, which the exact profile does not")
    check_memory(spec)
    return layout


def check_memory(spec: Spec) -> None:
    """Raise `LimitExceeded` where a layer of a network is too large for memory."""
    if spec.activations > MAX_ACTIVATIONS:
        raise LimitExceeded("the number of values of a network's layer", MAX_ACTIVATIONS, spec.activations, "another codec")


def pack_group(spec: Spec, networks: Sequence[Network]) -> bytes:
    """Return the payload of a group's networks, each coded with its checksum; the first predicts all others."""
    shapes, codes = spec.tensors(), []
    for number, network in enumerate(networks):
        reference = networks[0] if number else None
        codes.append(encode_parameters(shapes, network, reference) + _digest(spec, network))
    return b"".join(varint(len(code)) for code in codes[:-1]) + b"".join(codes)


def unpack_network(code: bytes, spec: Spec, first: Network | None) -> Network:
    """Return the network of one of the codes that `split_group` returns; all but the first need that, decoded.

    Raises `CorruptStream`.
    """
    network = decode_parameters(code[:-DIGEST_BYTES], spec.tensors(), first)
    if _digest(spec, network) != code[-DIGEST_BYTES:]:
        raise CorruptStream("the decoded parameters do not have the checksum of their group")
    return network


def _digest(spec: Spec, network: Network) -> bytes:
    """Return the checksum of all integers and exponents of a network, in the order of its tensors."""
    parts = []
    for name, _, _ in spec.tensors():
        tensor = network[name]
        exponents = [np.array([tensor.exponent], np.int32), tensor.rows, tensor.columns, tensor.values]
        parts += [part for part in exponents if part is not None]
    return symbol_digest(*parts)


def split_group(payload: bytes, count: int) -> list[bytes]:
    """Return the codes of a group's networks; raises `CorruptStream`."""
    at, lengths = 0, []
    for _ in range(count - 1):
        length, at = read_varint(payload, at, "the length of a network's code")
        lengths.append(length)
    ends = np.cumsum([at, *lengths]).tolist()
    bounds = [*ends, len(payload)]
    if any(stop - start < DIGEST_BYTES for start, stop in pairwise(bounds)):
        raise CorruptStream("the lengths in a group of frames contradict its size")
    return [payload[start:stop] for start, stop in pairwise(bounds)]
