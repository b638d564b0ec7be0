"""Networks of `audio-rvq`: a lapped transform, an envelope, and causal residual networks from them to latents and back.

A frame is the modified discrete cosine transform (MDCT; Princen, Johnson and Bradley 1987) of two hops of samples under a
sine window. Its coefficients are divided by a power of a smooth envelope, the logarithms of the energies of a few bands,
which travels with them: what is left has the same scale everywhere but for a small power of the energy, so that squared error
there follows hearing better than squared error of samples. Latents are a linear map of both, started as their Karhunen-Loeve
transform (KLT), plus a branch of causal ConvNeXt blocks (Liu et al. 2022, "A ConvNet for the 2020s"; for sound Siuzdak 2023,
"Vocos") that starts at zero. The way back is a linear map plus a branch of the same kind, which also sets the level of a
fixed noise in every band.

Nothing looks ahead: frame t depends on frames t - `reach` to t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "Analysis",
    "Block",
    "Branch",
    "RvqNetwork",
    "RvqSpec",
    "Spectrum",
    "Synthesis",
    "band_edges",
    "fixed_noise",
    "interpolation",
    "lapped_basis",
]

NOISE_FRAMES = 64  # after which the fixed noise repeats


@dataclass(frozen=True)
class RvqSpec:
    """Sizes of the networks and of the quantiser; stored in the weights file.

    `rate` is in Hz, `hop` in samples, `compression` the power of the envelope's amplitude that coefficients are divided by,
    `floor` the energy of a coefficient (samples in +-1) below which the envelope does not follow. With `mid_side` the two
    channels of a stereo sound are coded as half their sum and half their difference.
    """

    rate: int = 16_000
    hop: int = 320
    bands: int = 24
    compression: float = 0.6
    floor: float = 1e-7
    latent: int = 80
    width: int = 192
    hidden: int = 384
    encoder_blocks: int = 3
    decoder_blocks: int = 4
    kernel: int = 5
    levels: int = 40
    codes: int = 256
    scheme: str = "residual"
    mid_side: bool = False

    @property
    def features(self) -> int:
        """Number of linear features of a frame: coefficients and envelope."""
        return self.hop + self.bands

    @property
    def encoder_reach(self) -> int:
        """Frames before frame t that its latents depend on."""
        return self.encoder_blocks * (self.kernel - 1)

    @property
    def decoder_reach(self) -> int:
        """Frames before frame t that its coefficients depend on."""
        return self.decoder_blocks * (self.kernel - 1)


def lapped_basis(hop: int) -> NDArray[np.float64]:
    """Return the windowed MDCT and, below it, the MDST: (2 hop, 2 hop), rows are basis functions.

    The first half inverts itself by overlap and addition.
    """
    n = np.arange(2 * hop) + 0.5
    angle = np.pi / hop * np.outer(np.arange(hop) + 0.5, n + hop / 2)
    window = np.sin(np.pi * n / (2 * hop)) * math.sqrt(2 / hop)
    return np.concatenate([np.cos(angle), np.sin(angle)]) * window


def band_edges(hop: int, bands: int, rate: int) -> NDArray[np.int64]:
    """Return the first bin of each band and the number of bins: widths grow as critical bands do, at least 3 bins."""
    frequency = np.arange(hop + 1) * rate / 2 / hop
    bark = 6 * np.arcsinh(frequency / 600)  # Schroeder's scale
    edges = [0]
    for band in range(1, bands):
        wanted = int(np.searchsorted(bark, bark[-1] * band / bands))
        edges.append(max(wanted, edges[-1] + 3))
    return np.array([*edges, hop])


def interpolation(hop: int, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (bands, hop): the weight of each band's level at each bin, linear between the bands' centres."""
    centres = (edges[:-1] + edges[1:] - 1) / 2
    return np.stack([np.interp(np.arange(hop), centres, row) for row in np.eye(centres.size)])


def fixed_noise(hop: int) -> NDArray[np.float32]:
    """Return signs (NOISE_FRAMES, hop) of +-1 that every machine draws alike (a linear congruential generator)."""
    state, signs = 1, np.empty(NOISE_FRAMES * hop, np.float32)
    for i in range(signs.size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        signs[i] = 1.0 if state >> 63 else -1.0
    return signs.reshape(NOISE_FRAMES, hop)


@dataclass(frozen=True)
class Spectrum:
    """Frames (B, T, ...): `coefficients` (hop) divided by the envelope's power, `levels` (bands), logarithms of energy."""

    coefficients: Tensor
    levels: Tensor

    @property
    def joined(self) -> Tensor:
        """The linear features (B, T, hop + bands)."""
        return torch.cat([self.coefficients, self.levels], -1)


class Block(nn.Module):
    """A causal ConvNeXt block on (B, T, width)."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel - 1
        self.mix = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(F.pad(x.transpose(1, 2), (self.reach, 0))).transpose(1, 2)
        return x + self.project(F.gelu(self.expand(self.norm(y)), approximate="tanh"))  # type: ignore[no-any-return]


class Branch(nn.Module):
    """A linear layer in, blocks, and a linear layer out that starts at zero."""

    def __init__(self, inputs: int, outputs: int, spec: RvqSpec, blocks: int) -> None:
        super().__init__()
        self.inward = nn.Linear(inputs, spec.width)
        self.blocks = nn.Sequential(*(Block(spec.width, spec.hidden, spec.kernel) for _ in range(blocks)))
        self.norm = nn.LayerNorm(spec.width)
        self.outward = nn.Linear(spec.width, outputs)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.norm(self.blocks(self.inward(x))))  # type: ignore[no-any-return]


class Analysis(nn.Module):
    """Samples to latents."""

    basis: Tensor
    pool: Tensor
    spread: Tensor

    def __init__(self, spec: RvqSpec) -> None:
        super().__init__()
        self.spec = spec
        edges = band_edges(spec.hop, spec.bands, spec.rate)
        pool = np.zeros((spec.hop, spec.bands))
        for band in range(spec.bands):
            pool[edges[band] : edges[band + 1], band] = 0.5 / (edges[band + 1] - edges[band])
        self.register_buffer("basis", torch.from_numpy(lapped_basis(spec.hop)).float(), persistent=False)
        self.register_buffer("pool", torch.from_numpy(pool).float(), persistent=False)
        self.register_buffer("spread", torch.from_numpy(interpolation(spec.hop, edges)).float(), persistent=False)
        self.linear = nn.Linear(spec.features, spec.latent)
        self.branch = Branch(spec.features, spec.latent, spec, spec.encoder_blocks)

    def spectrum(self, samples: Tensor) -> Spectrum:
        """Return the frames of samples (B, hop * (T + 1)): frame t covers the hops t and t + 1."""
        hop = self.spec.hop
        both = samples.unfold(-1, 2 * hop, hop) @ self.basis.T  # B, T, 2 hop
        energy = both[..., :hop] ** 2 + both[..., hop:] ** 2
        levels = torch.log(energy @ self.pool + self.spec.floor)
        scale = torch.exp(-0.5 * self.spec.compression * (levels @ self.spread))
        return Spectrum(both[..., :hop] * scale, levels)

    def forward(self, spectrum: Spectrum) -> Tensor:
        """Return the latents (B, T, latent)."""
        joined = spectrum.joined
        return self.linear(joined) + self.branch(joined)  # type: ignore[no-any-return]


class Synthesis(nn.Module):
    """Latents to samples."""

    basis: Tensor
    spread: Tensor
    noise: Tensor

    def __init__(self, spec: RvqSpec) -> None:
        super().__init__()
        self.spec = spec
        edges = band_edges(spec.hop, spec.bands, spec.rate)
        self.register_buffer("basis", torch.from_numpy(lapped_basis(spec.hop)[: spec.hop]).float(), persistent=False)
        self.register_buffer("spread", torch.from_numpy(interpolation(spec.hop, edges)).float(), persistent=False)
        self.register_buffer("noise", torch.from_numpy(fixed_noise(spec.hop)), persistent=False)
        self.linear = nn.Linear(spec.latent, spec.features)
        self.branch = Branch(spec.latent, spec.features + spec.bands, spec, spec.decoder_blocks)

    def spectrum(self, latents: Tensor, first: int = 0) -> Spectrum:
        """Return the frames of latents (B, T, latent), the first of which is frame number `first` of the sound."""
        hop, branch = self.spec.hop, self.branch(latents)
        joined = self.linear(latents) + branch[..., : self.spec.features]
        number = (torch.arange(latents.shape[1], device=latents.device) + first) % NOISE_FRAMES
        noise = self.noise[number] * (F.softplus(branch[..., self.spec.features :] - 6.0) @ self.spread)
        return Spectrum(joined[..., :hop] + noise, joined[..., hop:])

    def frames(self, spectrum: Spectrum) -> Tensor:
        """Return windowed frames of samples (B, T, 2 hop), of which each overlaps the next by half."""
        scale = torch.exp(0.5 * self.spec.compression * (spectrum.levels.clamp(-20.0, 6.0) @ self.spread))
        return (spectrum.coefficients * scale) @ self.basis

    def samples(self, spectrum: Spectrum) -> Tensor:
        """Return the samples (B, hop * (T - 1)) that the frames complete: the hops 1 to T - 1 of `Analysis.spectrum`."""
        frames, hop = self.frames(spectrum), self.spec.hop
        return (frames[:, :-1, hop:] + frames[:, 1:, :hop]).flatten(1)

    def forward(self, latents: Tensor, first: int = 0) -> Tensor:
        """Return the samples of latents (B, T, latent), as `samples` does."""
        return self.samples(self.spectrum(latents, first))


class RvqNetwork(nn.Module):
    """Both ways; the quantiser between them is `rvq_quantiser.ResidualQuantiser`."""

    def __init__(self, spec: RvqSpec) -> None:
        super().__init__()
        self.spec = spec
        self.analysis = Analysis(spec)
        self.synthesis = Synthesis(spec)
