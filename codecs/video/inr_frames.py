"""Frames of decoded networks, made as they are asked for; encoder and decoder both measure and show these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ..codec import Stream
from ..signals import Samples
from .inr_exact import ExactNetwork
from .inr_networks import render
from .inr_spec import Spec
from .inr_stream import Layout, Network, split_group, unpack_network

__all__ = ["Shown", "frames_of_group", "shown_network"]

Shown = Callable[[Sequence[int]], Samples]  # frame numbers of one network to their samples (n, H, W, 3)
PIXELS_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}  # frames that are rendered together have so many pixels, or are one


def shown_network(spec: Spec, network: Network, bit_depth: int, device: str, exact: bool) -> Shown:
    """Return what renders frames of a network: uint8 or uint16 (n, H, W, 3).

    Floating-point samples are rounded at the end and may differ by 1 between devices; those of the exact profile never do.
    """
    tensors = {name: torch.from_numpy(tensor.dequantised()) for name, tensor in network.items()}
    if exact:
        whole = ExactNetwork(spec, tensors, device)
        return lambda numbers: _samples(whole.render(torch.tensor(numbers), bit_depth), bit_depth)
    placed = {name: _placed(tensor, device) for name, tensor in tensors.items()}
    peak = 2**bit_depth - 1

    @torch.inference_mode()
    def show(numbers: Sequence[int]) -> Samples:
        levels = render(spec, placed, torch.tensor(numbers, device=device))
        return _samples(torch.nan_to_num(levels, nan=0.0).clamp_(0, 1).mul_(peak).round_(), bit_depth)

    return show


def _placed(tensor: Tensor, device: str) -> Tensor:
    # Twice as fast on CPUs: channels last is what their convolutions want, and pixel shuffles keep it.
    tensor = tensor.to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _samples(levels: Tensor, bit_depth: int) -> Samples:
    """Return whole-numbered levels [n, 3, H, W] as samples (n, H, W, 3)."""
    array = levels.permute(0, 2, 3, 1).to(torch.uint8 if bit_depth == 8 else torch.int32).cpu().numpy()
    return np.ascontiguousarray(array) if bit_depth == 8 else array.astype(np.uint16)


class _Frames(Sequence[Samples]):
    """The frames of a group: networks are decoded, and frames rendered, a few at a time."""

    def __init__(self, stream: Stream, layout: Layout, group: int, device: str) -> None:
        self._bit_depth, self._device = stream.bit_depth, device
        self._spec, self._exact = layout.spec_of(group), layout.exact
        self._codes = split_group(stream.chunks[group], layout.networks(group))
        self._first: Network | None = None
        start, stop = layout.span(group)
        self._length = stop - start
        self._at_once = max(1, PIXELS_AT_ONCE[device] // (self._spec.height * self._spec.width))
        self._network: tuple[int, Shown] | None = None
        self._ready: dict[int, Samples] = {}

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Samples: ...
    @overload
    def __getitem__(self, index: slice) -> list[Samples]: ...
    def __getitem__(self, index: int | slice) -> Samples | list[Samples]:
        if isinstance(index, slice):
            return [self[number] for number in range(self._length)[index]]
        number = range(self._length)[index]
        if number not in self._ready:
            owner, within = divmod(number, self._spec.frames)
            first = within // self._at_once * self._at_once  # the same batches wherever a reading begins
            last = min(first + self._at_once, self._spec.frames, self._length - owner * self._spec.frames)
            frames = self._shown(owner)(range(first, last))
            self._ready = dict(zip(range(number - within + first, number - within + last), frames, strict=True))
        return self._ready[number]

    def _shown(self, owner: int) -> Shown:
        if self._network is None or self._network[0] != owner:
            if self._first is None:
                self._first = unpack_network(self._codes[0], self._spec, None)
            network = unpack_network(self._codes[owner], self._spec, self._first) if owner else self._first
            self._network = owner, shown_network(self._spec, network, self._bit_depth, self._device, self._exact)
        return self._network[1]


def frames_of_group(stream: Stream, layout: Layout, group: int, device: str) -> Sequence[Samples]:
    """Return a group's frames as a sequence that renders them when they are asked for."""
    return _Frames(stream, layout, group, device)
