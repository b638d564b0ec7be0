"""The luma and subsampled chroma planes that explain a picture, and what they leave unexplained.

Unclipped pixels of a picture with an origin have exact labels (y, c1, c2). Where a base sample shows in none, or only through a
filter, it is first guessed from what surrounds it, then moved as long as that explains more pixels. Only the encoder runs this,
so it may use floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .origin_chroma import Upsampler
from .origin_lattice import Bytes, Integers, Lattice
from .origin_search import LABELLED, Evidence, adjust, chains, explain, grow, label, mark

__all__ = ["Solution", "explained", "solve"]

Floats = NDArray[np.float64]

MARGIN = 4  # pixels at the edges of a window that depend on samples outside
FEWEST = 64  # pixels without which nothing is concluded
GAIN = 0.97  # of the unexplained pixels that two such changes must leave at most to be worth two more
GROWTH = 8  # how far a grown base sample may lie from the mean of its neighbours
PASSES = 3  # of single changes to base samples without labels
AROUND = 4  # base samples on either side of an unexplained pixel that a chain includes
TURNS = 12  # of changes along rows or columns at most
SHARPENINGS = 10  # iterations that undo the centred filter; each leaves at most half of the error


@dataclass(frozen=True)
class Solution:
    """Planes y [H, W] and base [2, h2, w2], how each pixel is explained (modes [H, W]), and chroma shifts int16 [H, W, 2]."""

    y: Bytes
    base: Bytes
    modes: Bytes
    shifts: NDArray[np.int16]


def solve(rgb: Bytes, lattice: Lattice, upsampler: Upsampler, thorough: bool = True) -> Solution:
    """Return the planes that explain most pixels of rgb uint8 [H, W, 3], or in a fraction of the time nearly as many."""
    rgb, shape = np.require(rgb, requirements=["C", "W"]), rgb.shape[:2]  # one type for the kernels: each is compiled once
    labels, states = np.zeros_like(rgb), np.empty(shape, dtype=np.uint8)
    label(rgb, lattice.tables, lattice.shift, lattice.luma_weights(), labels, states)
    rows, columns = upsampler.rows, upsampler.columns
    evidence = Evidence(
        rgb, labels, states, rows.taps, columns.taps, upsampler.bias, rows.reach, columns.reach, lattice.tables, lattice.shift
    )
    base, known = (np.ascontiguousarray(a) for a in _first_guess(labels, states == LABELLED, upsampler))
    free = 1 - known
    if free.any():
        grow(base, known, evidence, GROWTH if thorough else 1)
        for _ in range(PASSES if thorough else 0):
            adjust(base, free, evidence)
    if upsampler.centred:
        base = _untangled(base, evidence, TURNS if thorough else TURNS // 4)
    solution = Solution(np.zeros(shape, np.uint8), base, np.zeros(shape, np.uint8), np.zeros((*shape, 2), np.int16))
    explain(evidence, base, solution.y, solution.modes, solution.shifts)
    return solution


def explained(labels: Bytes, labelled: NDArray[np.bool_], upsampler: Upsampler) -> float:
    """Return which share of labels [n, H, W, 3] of `n` windows the upsampler gives from those nearest to its samples.

    Only labelled pixels count that do not touch a window's edge, and depend on samples with labels alone. 0 if there are few.
    """
    right, counted = 0, 0
    for window, seen in zip(labels, labelled, strict=True):
        base, known = _first_guess(window, seen, upsampler)
        counts = seen & (upsampler(known * np.uint8(255)) == 255)
        counts[:MARGIN], counts[-MARGIN:], counts[:, :MARGIN], counts[:, -MARGIN:] = False, False, False, False
        same = (upsampler(base[0]) == window[..., 1]) & (upsampler(base[1]) == window[..., 2])
        right, counted = right + int((same & counts).sum()), counted + int(counts.sum())
    return right / counted if counted >= FEWEST else 0.0


def _untangled(base: Bytes, evidence: Evidence, turns: int) -> Bytes:
    """Return base planes [2, h2, w2] that explain more pixels, by changes along rows and columns in turn."""
    dice, turned, upright = np.zeros(1, dtype=np.int64), _turned(evidence), True
    counts = [evidence.states.size, evidence.states.size]
    for _ in range(turns):
        marks = np.empty_like(base)
        count = mark(base, evidence, AROUND, marks)
        if count == 0 or count > GAIN * counts[-2]:
            break
        counts.append(count)
        chains(base, evidence, marks, dice)
        base, evidence, turned = np.ascontiguousarray(base.transpose(0, 2, 1)), turned, evidence
        upright = not upright
    return base if upright else np.ascontiguousarray(base.transpose(0, 2, 1))


def _turned(e: Evidence) -> Evidence:
    """Return the same of the picture mirrored at its diagonal."""
    rgb, labels = (np.ascontiguousarray(a.transpose(1, 0, 2)) for a in (e.rgb, e.labels))
    states, bias = np.ascontiguousarray(e.states.T), np.ascontiguousarray(e.bias.T)
    return Evidence(rgb, labels, states, e.columns, e.rows, bias, e.columns_reach, e.rows_reach, e.tables, e.shift)


def _first_guess(labels: Bytes, labelled: NDArray[np.bool_], upsampler: Upsampler) -> tuple[Bytes, Bytes]:
    """Return base planes uint8 [2, h2, w2] from the labels that lie on each sample, and which samples have any, uint8 [h2, w2].

    The others are filled smoothly, which matters where a centred filter mixes them into known ones.
    """
    seen = labelled.astype(np.float64)
    taps = upsampler.rows.taps, upsampler.columns.taps
    weight = _gather(seen, *taps)
    planes = [_filled(_gather(seen * labels[..., k], *taps), weight) for k in (1, 2)]
    for direction, one in enumerate(taps):
        if (one[:, 2] == 3).any():
            planes = [_sharpened(plane, direction) for plane in planes]
    return np.stack([np.rint(plane).clip(0, 255) for plane in planes]).astype(np.uint8), (weight > 0).astype(np.uint8)


def _gather(plane: Floats, rows: Integers, columns: Integers) -> Floats:
    """Return the sums [h2, w2] of the full-size samples [H, W] that are nearest to each base sample alone."""
    for taps in (rows, columns):
        own = taps[:, 2] >= 3
        sums = np.zeros((int(taps[:, :2].max()) + 1, plane.shape[1]))
        np.add.at(sums, taps[own, 0], plane[own])
        plane = sums.T
    return plane


def _filled(sums: Floats, weight: Floats) -> Floats:
    """Return sums / weight [h, w], and where the weight is 0 what coarser and coarser means suggest."""
    means = np.divide(sums, weight, out=np.full_like(sums, 128.0), where=weight > 0)
    if weight.all() or not weight.any():
        return means
    pads = [(0, n % 2) for n in sums.shape]
    halves = [np.pad(a, pads) for a in (np.where(weight > 0, means, 0.0), (weight > 0).astype(np.float64))]
    coarse = _filled(*(a[0::2, 0::2] + a[0::2, 1::2] + a[1::2, 0::2] + a[1::2, 1::2] for a in halves))
    return np.where(weight > 0, means, coarse.repeat(2, 0).repeat(2, 1)[: sums.shape[0], : sums.shape[1]])


def _sharpened(means: Floats, direction: int) -> Floats:
    """Undo what the centred filter does to the mean of the positions that share a sample: (1, 6, 1) / 8 along one axis."""
    means = np.moveaxis(means, direction, 0)
    plane = means
    for _ in range(SHARPENINGS):
        before, after = np.concatenate([plane[:1], plane[:-1]]), np.concatenate([plane[1:], plane[-1:]])
        plane = plane + means - (6 * plane + before + after) / 8
    return np.moveaxis(plane, 0, direction)
