"""The probabilistic circuit that is trained: a hidden Chow-Liu tree, its likelihood and its expectation maximisation.

Every variable d (a pixel) has one categorical latent with `states[d]` values; the latents form a tree. With parent p, the
probability of state j of d given state i of p is `transition[d][i, j]` (of the root: `prior`), and

    P(x_d = v | state j) = sum over k of mixing[d][j, k] * dictionary[k, v]

where the `dictionary` of distributions over the values is shared by all variables. It ties the emissions: rare values get
sensible probabilities from few pictures, and the parameters are few. Everything is float32 and runs on any torch device.

Source: Liu, Mandt and Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022 (hidden Chow-Liu trees);
the stepwise form of expectation maximisation is Cappe and Moulines 2009, "On-line EM for latent data models".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Circuit", "Counts", "depth_first", "load_circuit", "pack_circuit"]

TINY = 1e-30


def depth_first(parent: Sequence[int]) -> list[int]:
    """Return the variables from the root (parent -1) down, each before its children."""
    children: list[list[int]] = [[] for _ in parent]
    for d, p in enumerate(parent):
        if p >= 0:
            children[p].append(d)
    order: list[int] = []
    left = [list(parent).index(-1)]
    while left:
        d = left.pop()
        order.append(d)
        left += children[d]
    return order


@dataclass
class Counts:
    """Expected counts of one pass: of `transition`, `mixing` and `dictionary`, and of pictures."""

    transition: list[Tensor]
    mixing: list[Tensor]
    dictionary: Tensor
    pictures: float

    def move(self, other: Counts, step: float) -> None:
        """Go the part `step` (0..1) of the way to the counts of another pass, per picture."""
        scale = step * self.pictures / other.pictures
        pairs = [*zip(self.transition, other.transition, strict=True), *zip(self.mixing, other.mixing, strict=True)]
        for mine, theirs in [*pairs, (self.dictionary, other.dictionary)]:
            mine.mul_(1 - step).add_(theirs, alpha=scale)

    def add(self, other: Counts) -> None:
        """Add the counts of another pass."""
        pairs = [*zip(self.transition, other.transition, strict=True), *zip(self.mixing, other.mixing, strict=True)]
        for mine, theirs in [*pairs, (self.dictionary, other.dictionary)]:
            mine.add_(theirs)
        self.pictures += other.pictures


class Circuit:
    """A hidden Chow-Liu tree; `transition[root]` has one row, the prior."""

    def __init__(self, parent: Sequence[int], transition: list[Tensor], mixing: list[Tensor], dictionary: Tensor) -> None:
        self.parent = list(parent)
        self.order = depth_first(self.parent)
        self.children: list[list[int]] = [[] for _ in self.parent]
        for d in self.order[1:]:
            self.children[self.parent[d]].append(d)
        self.transition, self.mixing, self.dictionary = transition, mixing, dictionary

    @property
    def states(self) -> list[int]:
        """Number of states of each variable's latent."""
        return [len(m) for m in self.mixing]

    @property
    def parameters(self) -> int:
        """Number of probabilities."""
        return sum(t.numel() for t in [*self.transition, *self.mixing]) + self.dictionary.numel()

    def emissions(self) -> list[Tensor]:
        """Return P(value | state) of each variable, (values, states)."""
        every = torch.cat(self.mixing) @ self.dictionary
        return [part.t().contiguous() for part in torch.split(every, self.states)]

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return the natural logarithm of the probability of each row of x (pictures, variables), values 0..V-1."""
        return self._upward(x, self.emissions())[0]

    def _upward(self, x: Tensor, emissions: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return log-likelihoods, and per variable the normalised upward beliefs and messages to the parent."""
        columns = x.t().contiguous()
        inside, message = [x] * len(self.parent), [x] * len(self.parent)
        scales = torch.empty(len(self.parent), len(x), device=x.device)
        for d in reversed(self.order):
            belief = emissions[d].index_select(0, columns[d])
            for c in self.children[d]:
                belief.mul_(message[c])
            scale = belief.sum(1).clamp_min_(TINY)
            scales[d] = scale
            belief.div_(scale.unsqueeze(1))
            inside[d], message[d] = belief, belief @ self.transition[d].t()
        root = self.order[0]
        return scales.log_().sum(0) + message[root][:, 0].clamp_min(TINY).log(), inside, message

    def expect(self, x: Tensor) -> tuple[Counts, Tensor]:
        """Return the expected counts over the rows of x and their log-likelihoods."""
        emissions = self.emissions()
        likelihood, inside, message = self._upward(x, emissions)
        columns = x.t().contiguous()
        transition, ratio = list(self.transition), []
        outside = [x] * len(self.parent)
        for d in self.order:
            above = outside[self.parent[d]] if self.parent[d] >= 0 else torch.ones(len(x), 1, device=x.device)
            share = above / message[d].clamp_min(TINY)
            transition[d] = (share.t() @ inside[d]) * self.transition[d]
            posterior = (share @ self.transition[d]).mul_(inside[d])
            seen = torch.zeros_like(emissions[d]).index_add_(0, columns[d], posterior)
            ratio.append((d, seen.div_(emissions[d].clamp_min(TINY)).t()))
            outside[d] = posterior if self.children[d] else x
            inside[d] = message[d] = x
        ratio.sort(key=lambda pair: pair[0])
        mixing, dictionary = self._through_dictionary(torch.cat([part for _, part in ratio]))
        return Counts(transition, mixing, dictionary, float(len(x))), likelihood

    def _through_dictionary(self, ratio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Split counts over emissions, one row for each state of all variables, between mixing and dictionary."""
        every = torch.cat(self.mixing)
        mixing = every * (ratio @ self.dictionary.t())
        dictionary = self.dictionary * (every.t() @ ratio)
        return list(torch.split(mixing, self.states)), dictionary

    def maximise(self, counts: Counts, pictures: float, smoothing: float) -> None:
        """Set the parameters to what suits the counts, scaled to `pictures`, plus `smoothing` counts for each row."""
        scale = pictures / counts.pictures
        for ours, seen in ((self.transition, counts.transition), (self.mixing, counts.mixing)):
            for d, count in enumerate(seen):
                row = count * scale + smoothing / count.shape[1]
                ours[d] = row / row.sum(1, keepdim=True)
        row = counts.dictionary * scale + 1 / counts.dictionary.shape[1]
        self.dictionary = row / row.sum(1, keepdim=True)


def pack_circuit(circuit: Circuit) -> dict[str, Tensor]:
    """Return the circuit as four flat tensors, for a safetensors file."""
    return {
        "parent": torch.tensor(circuit.parent, dtype=torch.int32),
        "states": torch.tensor(circuit.states, dtype=torch.int32),
        "transition": torch.cat([t.flatten() for t in circuit.transition]).cpu(),
        "mixing": torch.cat(circuit.mixing).cpu(),
        "dictionary": circuit.dictionary.cpu().contiguous(),
    }


def load_circuit(tensors: Mapping[str, Tensor], device: torch.device) -> Circuit:
    """Return the circuit that `pack_circuit` packed."""
    parent, states = tensors["parent"].tolist(), tensors["states"].tolist()
    shapes = [(states[p] if p >= 0 else 1, states[d]) for d, p in enumerate(parent)]
    parts = torch.split(tensors["transition"].to(device), [int(np.prod(shape)) for shape in shapes])
    transition = [part.reshape(shape).clone() for part, shape in zip(parts, shapes, strict=True)]
    mixing = [part.clone() for part in torch.split(tensors["mixing"].to(device), states)]
    return Circuit(parent, transition, mixing, tensors["dictionary"].to(device))
