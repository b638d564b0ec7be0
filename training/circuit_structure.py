"""Structure of a circuit: its tree, a first guess of its states by clustering, and growing and pruning of states.

The tree is that of Chow and Liu 1968 over pairwise mutual information. The first guess gives every latent a meaning before
any expectation maximisation, as latent variable distillation does (Liu, Zhang and Van den Broeck, ICLR 2023): the state of a
variable is the cluster of the picture around it. Growing and pruning follow Dang, Liu and Van den Broeck, "Sparse
Probabilistic Circuits via Pruning and Growing", NeurIPS 2022, but on states instead of edges, which keeps matrices dense.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .circuit_model import Circuit, Counts

__all__ = ["chow_liu", "entropies", "first_circuit", "grow", "levels", "most_states", "mutual_information"]

LEVELS = 6  # of values, for mutual information
NOISE = 0.5  # of the logarithms of a split state's parameters


def levels(x: Tensor, count: int = LEVELS) -> Tensor:
    """Return x (pictures, variables) in `count` levels: the most frequent value of all, and quantiles of the others."""
    mode = int(torch.bincount(x.flatten()).argmax())
    others = x[x != mode].float()[:1_000_000]
    if others.numel() == 0:
        return torch.zeros_like(x)
    edges = torch.quantile(others[torch.randperm(others.numel())[:100_000]], torch.linspace(0, 1, count)[1:-1])
    return torch.where(x == mode, 0, 1 + torch.bucketize(x.float(), edges))


def mutual_information(x: Tensor, count: int = LEVELS) -> Tensor:
    """Return the mutual information (variables, variables), in nats, of x (pictures, variables) in levels 0..count-1."""
    pictures, variables = x.shape
    hot = torch.nn.functional.one_hot(x, count).float().reshape(pictures, -1)
    joint = (hot.t() @ hot + 1e-3) / pictures
    blocks = joint.reshape(variables, count, variables, count).permute(0, 2, 1, 3)
    single = torch.stack([blocks[d, d].diagonal() for d in range(variables)])
    entropy = -(single * single.log()).sum(1)
    return entropy[:, None] + entropy[None, :] + (blocks * blocks.log()).sum((2, 3))


def chow_liu(information: Tensor) -> list[int]:
    """Return the parents of the maximum spanning tree, rooted at its centre (parent -1)."""
    weight = information.cpu().numpy()
    variables = len(weight)
    best, link = weight[0].copy(), np.zeros(variables, dtype=int)
    inside = np.zeros(variables, dtype=bool)
    inside[0] = True
    neighbours: list[list[int]] = [[] for _ in range(variables)]
    for _ in range(variables - 1):
        d = int(np.where(inside, -np.inf, best).argmax())
        neighbours[d].append(int(link[d]))
        neighbours[int(link[d])].append(d)
        inside[d] = True
        closer = weight[d] > best
        best[closer], link[closer] = weight[d][closer], d
    path = _farthest_path(neighbours, _farthest_path(neighbours, 0)[-1])
    return _rooted(neighbours, path[len(path) // 2])


def _rooted(neighbours: Sequence[Sequence[int]], root: int) -> list[int]:
    parent, left = [-1] * len(neighbours), [root]
    while left:
        d = left.pop()
        for c in neighbours[d]:
            if c != parent[d]:
                parent[c] = d
                left.append(c)
    return parent


def _farthest_path(neighbours: Sequence[Sequence[int]], start: int) -> list[int]:
    parent = _rooted(neighbours, start)
    ends = [start]
    depth = {start: 0}
    for d in ends:
        for c in neighbours[d]:
            if c != parent[d]:
                depth[c] = depth[d] + 1
                ends.append(c)
    path = [max(depth, key=lambda d: depth[d])]
    while parent[path[-1]] >= 0:
        path.append(parent[path[-1]])
    return path[::-1]


def entropies(x: Tensor, values: int) -> Tensor:
    """Return the entropy of each variable, in bits."""
    count = torch.stack([torch.bincount(column, minlength=values) for column in x.t()]).float()
    p = count / len(x)
    return -(p * p.clamp_min(1e-12).log2()).sum(1)


def most_states(entropy: Tensor, most: int, power: float = 0.5) -> list[int]:
    """Return how many states each variable may have: `most` for the least predictable, fewer for the others, at least 1."""
    share = (entropy / entropy.max()).clamp_min(0) ** power
    return [1 if h < 1e-3 else max(2, int(n)) for h, n in zip(entropy.tolist(), (share * most).ceil().tolist(), strict=True)]


def _clusters(points: Tensor, count: int, rounds: int = 6, sample: int = 4000) -> Tensor:
    """Return the cluster (0..count-1) of each row by Lloyd's algorithm on the first `sample` rows."""
    part = points[:sample]
    centres = part[torch.randperm(len(part))[:count]].clone()
    for _ in range(rounds):
        member = _nearest(part, centres)
        sums = torch.zeros_like(centres).index_add_(0, member, part)
        sizes = torch.bincount(member, minlength=count).to(points)
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp_min(1), centres)
    return _nearest(points, centres)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return ((centres * centres).sum(1) - 2 * points @ centres.t()).argmin(1)


def first_circuit(
    x: Tensor, features: Tensor, places: Tensor, parent: Sequence[int], states: Sequence[int], dictionary: Tensor
) -> Circuit:
    """Return a circuit whose states are clusters of the surroundings of each variable, from counts over the rows of x.

    `x` (pictures, variables) are values, `features` the same as numbers to cluster, `places` (variables, 2 or 3) where the
    variables lie (the third coordinate: the channel); nearer ones weigh more.
    """
    transition, mixing, cluster = [], [], []
    for d, count in enumerate(states):
        distance = (places - places[d]).float().abs()
        near = (distance[:, :2].amax(1) <= 3).nonzero()[:, 0]
        weight = torch.exp(-((distance[near] ** 2).sum(1)) / 8)
        cluster.append(_clusters(features[:, near] * weight, count) if count > 1 else torch.zeros_like(x[:, 0]))
    for d, count in enumerate(states):
        above = cluster[parent[d]] if parent[d] >= 0 else torch.zeros_like(x[:, 0])
        rows = states[parent[d]] if parent[d] >= 0 else 1
        table = torch.bincount(above * count + cluster[d], minlength=rows * count).reshape(rows, count) + 1.0
        transition.append(table / table.sum(1, keepdim=True))
        seen = torch.bincount(cluster[d] * dictionary.shape[1] + x[:, d], minlength=count * dictionary.shape[1])
        mixing.append(_fit_mixing(seen.reshape(count, -1).float(), dictionary))
    return Circuit(parent, transition, mixing, dictionary)


def _fit_mixing(seen: Tensor, dictionary: Tensor, rounds: int = 6) -> Tensor:
    """Return mixing weights (states, entries) for histograms (states, values)."""
    mixing = torch.full((len(seen), len(dictionary)), 1 / len(dictionary))
    for _ in range(rounds):
        weight = mixing * ((seen / (mixing @ dictionary).clamp_min(1e-12)) @ dictionary.t()) + 1e-2
        mixing = weight / weight.sum(1, keepdim=True)
    return mixing


def grow(circuit: Circuit, counts: Counts, most: Sequence[int], least: float, generator: torch.Generator) -> Circuit:
    """Return the circuit without the states that fewer than `least` of the pictures pass through, and with the others split.

    Each variable's most used states are split in two until it has `most[d]` states, at most doubling; the copies share the
    flow unevenly at random, so that they grow apart.
    """
    kept, twice = [], []
    for d, limit in enumerate(most):
        flow = counts.transition[d].sum(0) / counts.pictures
        keep = (flow >= least).nonzero()[:, 0] if len(flow) > 1 else torch.zeros(1, dtype=torch.long, device=flow.device)
        keep = keep if len(keep) else flow.argmax()[None]
        splits = max(0, min(limit - len(keep), len(keep)))
        busiest = keep[flow[keep].argsort(descending=True)[:splits]]
        kept.append(torch.cat([keep, busiest]))
        twice.append((keep[:, None] == busiest[None, :]).any(1))
    transition, mixing = [], []
    for d, columns in enumerate(kept):
        rows = kept[circuit.parent[d]] if circuit.parent[d] >= 0 else torch.zeros_like(columns[:1])
        table = circuit.transition[d][rows][:, columns]
        halves = torch.cat([torch.where(twice[d], 0.5, 1.0), torch.full((int(twice[d].sum()),), 0.5, device=table.device)])
        table = table * halves * _jitter(table, generator)
        transition.append(table / table.sum(1, keepdim=True).clamp_min(1e-30))
        weight = circuit.mixing[d][columns]
        weight = weight * _jitter(weight, generator)
        mixing.append(weight / weight.sum(1, keepdim=True))
    return Circuit(circuit.parent, transition, mixing, circuit.dictionary)


def _jitter(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.exp(NOISE * torch.randn(like.shape, generator=generator).to(like.device))
