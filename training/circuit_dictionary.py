"""First guesses of a circuit's dictionary of distributions over 256 values; training goes on from them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["grey_dictionary", "residual_dictionary"]


def grey_dictionary(x: Tensor, entries: int) -> Tensor:
    """Return `entries` (at least 24) distributions for grey levels: spikes at frequent ones and bumps of three widths."""
    frequent = torch.bincount(x.flatten().long(), minlength=256).argsort(descending=True)[: max(4, entries // 5)]
    spikes = 0.999 * torch.nn.functional.one_hot(frequent, 256).float() + 0.001 / 256
    left = entries - len(frequent) - 1
    bumps: list[Tensor] = []
    for part, width in ((0.45, 3.0), (0.3, 8.0), (0.25, 24.0)):
        count = max(1, round(part * left)) if width < 24 else left - len(bumps)
        bumps += [_bump(centre, width) for centre in torch.linspace(0, 255, count).tolist()]
    return torch.cat([spikes, torch.stack([*bumps, torch.full((256,), 1 / 256)])])


def residual_dictionary(x: Tensor, entries: int) -> Tensor:
    """Return `entries` (at least 24) distributions for residuals about 128: centred ones of all widths, and shifted ones."""
    centred = max(8, entries // 3)
    rows = [_bump(128.0, width) for width in torch.logspace(-0.7, 1.7, centred).tolist()]
    shifts = torch.logspace(0.3, 1.8, (entries - centred - 1) // 2).tolist()
    rows += [_bump(128.0 + sign * shift, 0.5 + shift / 3) for shift in shifts for sign in (-1, 1)]
    rows += [torch.full((256,), 1 / 256)] * (entries - len(rows))
    return torch.stack(rows)


def _bump(centre: float, width: float) -> Tensor:
    """Return a discretised logistic distribution."""
    edges = (torch.arange(257) - 0.5 - centre) / width
    row = torch.sigmoid(edges).diff().clamp_min(1e-7)
    return row / row.sum()
