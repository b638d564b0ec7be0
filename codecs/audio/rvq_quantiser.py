"""One residual vector quantiser in three settings, which differ only in what each level sees.

A level quantises what the levels before it left over, under its mask of channels:

    residual   every level sees every channel: residual vector quantisation (Zeghidour et al. 2021, "SoundStream")
    grouped    channels form two groups, and levels take turns, so that each group has residual levels of its own (Yang et
    al. 2023,
               "HiFi-Codec", group-residual vector quantisation)
    masked     the first three levels see a third of the channels each, all later ones every channel (Ji et al. 2024,
               "Language-Codec", masked channel residual vector quantisation)

Codebooks start by k-means on the residuals they will see, follow them by moving averages (van den Oord et al. 2017, appendix
A.1), and codes that fall out of use start again at a residual. A code is chosen for its distance plus `price` times the bits
of its frequency, so that the frequencies are worth coding (entropy-constrained vector quantisation: Chou, Lookabaugh and Gray
1989).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SCHEMES", "Quantised", "ResidualQuantiser", "masks_of"]

SCHEMES = ("residual", "grouped", "masked")
GROUPS, MASKED = 2, 3
DECAY = 0.98  # of the moving averages, per step
DEAD = 0.02  # codes used less than this part of an even share start again


class Quantised(NamedTuple):
    """`latents` (N, channels), straight-through; `codes` (N, levels), -1 beyond each row's count; `commitment`, a loss."""

    latents: Tensor
    codes: Tensor
    commitment: Tensor


def masks_of(scheme: str, levels: int, channels: int) -> Tensor:
    """Return the channels that each level sees, 0 or 1, (levels, channels); groups interleave so that they are alike."""
    masks, channel = torch.ones(levels, channels), torch.arange(channels)
    for level in range(levels):
        if scheme == "grouped":
            masks[level] = (channel % GROUPS == level % GROUPS).float()
        elif scheme == "masked" and level < MASKED:
            masks[level] = (channel % MASKED == level).float()
    return masks


class ResidualQuantiser(nn.Module):
    """Codebooks (levels, codes, channels) and how they learn."""

    codebooks: Tensor
    masks: Tensor
    uses: Tensor
    sums: Tensor

    def __init__(self, channels: int, levels: int, codes: int, scheme: str = "residual") -> None:
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"a quantiser is one of {', '.join(SCHEMES)}, not {scheme!r}")
        self.levels, self.codes = levels, codes
        self.register_buffer("codebooks", torch.zeros(levels, codes, channels))
        self.register_buffer("masks", masks_of(scheme, levels, channels), persistent=False)
        self.register_buffer("uses", torch.ones(levels, codes))
        self.register_buffer("sums", torch.zeros(levels, codes, channels))

    def start(self, latents: Tensor, rounds: int = 8, generator: torch.Generator | None = None) -> None:
        """Set each level's codebook by k-means on what the levels before it leave of latents (N, channels)."""
        residual = latents.detach().clone()
        for level in range(self.levels):
            seen = residual * self.masks[level]
            rows = torch.randperm(len(seen), generator=generator)[: self.codes]
            book = seen[rows.to(seen.device)].clone()
            for _ in range(rounds):
                nearest = self._nearest(seen, book)
                counts = torch.bincount(nearest, minlength=self.codes).float()
                sums = torch.zeros_like(book).index_add_(0, nearest, seen)
                book = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], book)
                empty = (counts == 0).nonzero()[:, 0]
                if len(empty):
                    again = torch.randint(len(seen), (len(empty),), generator=generator).to(seen.device)
                    book[empty] = seen[again]
            nearest = self._nearest(seen, book)
            self.codebooks[level] = book
            self.uses[level] = torch.bincount(nearest, minlength=self.codes).float() / len(seen) * self.codes
            self.sums[level] = book * self.uses[level][:, None]
            residual -= book[nearest]

    @staticmethod
    def _nearest(seen: Tensor, book: Tensor, cost: Tensor | None = None) -> Tensor:
        """Return the code nearest to each row, in squared distance plus `cost` (codes)."""
        bias = -0.5 * (book**2).sum(1)
        if cost is not None:
            bias = bias - 0.5 * cost
        return torch.addmm(bias, seen, book.T).argmax(1)

    def bits(self, level: int) -> Tensor:
        """Return the bits that each code's frequency calls for, (codes)."""
        shares = (self.uses[level] + 0.02) / (self.uses[level] + 0.02).sum()
        return -torch.log2(shares)

    @torch.no_grad()
    def choose(self, latents: Tensor, counts: Tensor, price: float = 0.0, learn: bool = False) -> Tensor:
        """Return codes (N, levels) of latents (N, channels), -1 from each row's count (N) on; `learn` updates the codebooks.

        A bit is worth `price` times the residual's mean energy, over 100.
        """
        residual, codes = latents.detach().float().clone(), torch.full((len(latents), self.levels), -1, device=latents.device)
        for level in range(int(counts.max())):
            rows = (counts > level).nonzero()[:, 0]
            seen = residual[rows] * self.masks[level]
            cost = self.bits(level) * (price / 100 * float((seen**2).sum(1).mean())) if price else None
            chosen = self._nearest(seen, self.codebooks[level], cost)
            codes[rows, level] = chosen
            residual[rows] -= self.codebooks[level][chosen]
            if learn:
                self._learn(level, seen, chosen)
        return codes

    def _learn(self, level: int, seen: Tensor, chosen: Tensor) -> None:
        scale = self.codes / len(seen)  # an even share is 1
        counts = torch.bincount(chosen, minlength=self.codes).float() * scale
        sums = torch.zeros_like(self.sums[level]).index_add_(0, chosen, seen) * scale
        self.uses[level].lerp_(counts, 1 - DECAY)
        self.sums[level].lerp_(sums, 1 - DECAY)
        self.codebooks[level] = self.sums[level] / self.uses[level].clamp(min=1e-6)[:, None]
        dead = (self.uses[level] < DEAD).nonzero()[:, 0]
        if len(dead):
            again = seen[torch.randint(len(seen), (len(dead),), device=seen.device)]
            self.codebooks[level, dead], self.uses[level, dead] = again, 0.2
            self.sums[level, dead] = 0.2 * again

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the sum of the code vectors of codes (N, levels), of which -1 stands for none: (N, channels)."""
        total = torch.zeros(len(codes), self.codebooks.shape[2], device=codes.device)
        for level in range(codes.shape[1]):
            rows = (codes[:, level] >= 0).nonzero()[:, 0]
            if len(rows):
                total[rows] += self.codebooks[level][codes[rows, level]]
        return total

    def forward(self, latents: Tensor, counts: Tensor, price: float = 0.0, learn: bool = False) -> Quantised:
        """Quantise latents (N, channels) with counts (N) levels each; gradients pass straight through.

        With `learn` all codebooks see all rows, whatever their counts: the last levels, which few rows use, would lag behind
        latents that move.
        """
        codes = self.choose(latents, torch.full_like(counts, self.levels) if learn else counts, price, learn)
        codes[torch.arange(self.levels, device=codes.device) >= counts[:, None]] = -1
        vectors = self.vectors(codes)
        # as a part of the latents' variance: else they grow, to be ahead of codebooks that follow them
        commitment = F.mse_loss(latents, vectors) / latents.detach().var(0).mean().clamp(min=1e-8)
        return Quantised(latents + (vectors - latents).detach(), codes, commitment)

    def usage(self, codes: Tensor) -> list[tuple[float, float]]:
        """Return for each level of codes (N, levels) the part of its codes that occur and their entropy in bits."""
        found = []
        for level in range(codes.shape[1]):
            counts = torch.bincount(codes[:, level][codes[:, level] >= 0], minlength=self.codes).double()
            shares = counts[counts > 0] / counts.sum()
            found.append((float((counts > 0).double().mean()), max(0.0, float(-(shares * shares.log2()).sum()))))
        return found
