"""What a decoded sound is judged by while `audio_rvq` trains: mel spectra, compressed spectra, and loudness.

`LoudnessDifference` follows the perceptual model of ITU-T P.862 (PESQ) in outline, made differentiable: power in critical
bands, Zwicker's loudness over the threshold in quiet, differences less what is masked, and a second sum that counts what was
added more than what was left out. Its constants are formulas of the literature (Schroeder's bark scale, Terhardt's
threshold), its time alignment and filters are left out: crops are aligned already.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["LoudnessDifference", "MelDistance", "SpectrumDistance", "mel_filters"]

MEL_SCALES = ((256, 20), (1024, 80))  # window in samples, filters, at the rate of speech
SPECTRUM_WINDOW = 512
SPEECH_RATE = 16_000
SPEECH_BARKS = 6 * math.asinh(SPEECH_RATE / 2 / 600)  # up to its highest frequency
COMPRESSION = 0.3


def window_of(samples: int, rate: int) -> int:
    """Return a window as long as so many samples of speech, at another rate."""
    return samples * rate // SPEECH_RATE


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


@cache
def mel_filters(rate: int, window: int, filters: int) -> Tensor:
    """Return triangular filters (window / 2 + 1, filters), evenly spaced on O'Shaughnessy's mel scale from 0 to rate / 2."""
    top = _mel(rate / 2)
    centres = 700 * (10 ** (np.linspace(0, top, filters + 2) / 2595) - 1)
    frequency = np.arange(window // 2 + 1) * rate / window
    rising = (frequency[:, None] - centres[:-2]) / (centres[1:-1] - centres[:-2])
    falling = (centres[2:] - frequency[:, None]) / (centres[2:] - centres[1:-1])
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None)).float()


def spectrum(samples: Tensor, window: int, hop: int) -> tuple[Tensor, Tensor]:
    """Return the real and imaginary short-time spectra (B, T, window / 2 + 1) of samples (B, N) under a Hann window."""
    shape = torch.hann_window(window, device=samples.device)
    found = torch.stft(samples, window, hop, window=shape, center=True, pad_mode="constant", return_complex=True)
    real, imaginary = torch.view_as_real(found.transpose(1, 2)).unbind(-1)
    return real, imaginary


class MelDistance(nn.Module):
    """Mean absolute difference of logarithmic mel spectra at several resolutions (Kumar et al. 2023, section 3.4)."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate
        finer = _mel(rate / 2) / _mel(SPEECH_RATE / 2)
        self.scales = [(window_of(window, rate), round(filters * finer)) for window, filters in MEL_SCALES]

    def _levels(self, samples: Tensor, window: int, filters: int) -> Tensor:
        real, imaginary = spectrum(samples, window, window // 4)
        magnitude = torch.sqrt(real**2 + imaginary**2 + 1e-8) @ mel_filters(self.rate, window, filters).to(samples.device)
        return torch.log10(magnitude.clamp(min=1e-4 * math.sqrt(window)))

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        total = decoded.new_zeros(())
        for window, filters in self.scales:
            with torch.no_grad():
                wanted = self._levels(original, window, filters)
            total = total + (self._levels(decoded, window, filters) - wanted).abs().mean()
        return total / len(self.scales)


class SpectrumDistance(nn.Module):
    """Squared differences of short-time spectra whose magnitudes are compressed, with and without phase."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.window = window_of(SPECTRUM_WINDOW, rate)

    def _compressed(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        real, imaginary = spectrum(samples, self.window, self.window // 4)
        power = real**2 + imaginary**2 + 1e-6
        factor = torch.exp(0.5 * (COMPRESSION - 1) * torch.log(power))
        return power * factor * torch.rsqrt(power), real * factor, imaginary * factor

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        with torch.no_grad():
            magnitude, real, imaginary = self._compressed(original)
        found = self._compressed(decoded)
        phases = (found[1] - real) ** 2 + (found[2] - imaginary) ** 2
        return ((found[0] - magnitude) ** 2).mean() + 0.5 * phases.mean()


class LoudnessDifference(nn.Module):
    """The two disturbances of PESQ's perceptual model, weighted as in its score: about 0 (equal) to 4.

    Takes samples (B, N) of which what sounds has an effective value of about `level`.
    """

    pool: Tensor
    threshold: Tensor
    power: Tensor
    width: Tensor

    WINDOW, BARKS = 512, 2.49  # samples at the rate of speech, bands of a bark
    SPEECH_POWER = 10**8.6  # of speech, in units of the threshold's
    FRAMES = 20  # a syllable

    def __init__(self, rate: int, level: float) -> None:
        super().__init__()
        self.window = window_of(self.WINDOW, rate)
        frequency = np.arange(self.window // 2 + 1) * rate / self.window
        bark = 6 * np.arcsinh(frequency / 600)
        bands = round(self.BARKS * bark[-1])
        band = np.minimum((bark / bark[-1] * bands).astype(int), bands - 1)
        filled = np.unique(band)
        pool = (band[:, None] == filled).astype(np.float64)
        pool[frequency < 80] = 0
        centre = (pool * frequency[:, None]).sum(0) / np.maximum(pool.sum(0), 1)
        kilo = np.maximum(centre, 80) / 1000
        quiet = np.maximum(5.8 / kilo - 11, -6)  # dB
        steeper = np.minimum(6 / (6 * np.arcsinh(centre / 600) + 2), 2.0) ** 0.15
        scale = self.SPEECH_POWER / (level**2 * 0.375 * self.window**2 / 2)  # Parseval: of one side of the spectrum
        self.register_buffer("pool", torch.from_numpy(pool * scale).float(), persistent=False)
        self.register_buffer("threshold", torch.from_numpy(10 ** (quiet / 10)).float(), persistent=False)
        self.register_buffer("power", torch.from_numpy(np.where(centre < 500, 0.23 * steeper, 0.23)).float(), persistent=False)
        edges = np.array([bark[band == b].max() for b in filled])
        self.register_buffer(
            "width", torch.from_numpy(np.diff(edges, prepend=0.0) * 24 / SPEECH_BARKS).float(), persistent=False
        )

    def loudness(self, powers: Tensor) -> Tensor:
        """Return the loudness of each band (B, T, bands)."""
        floor = (self.threshold / 0.5) ** self.power
        return 0.1866 * floor * ((0.5 + 0.5 * powers / self.threshold) ** self.power - 1)

    def compensated(self, worse: Tensor, better: Tensor) -> tuple[Tensor, Tensor]:
        """Return powers (B, T, bands) of which the original has the decoded one's timbre, and the decoded one the
        original's level.

        What is left are the differences that a listener does not put down to the line.
        """
        speech = (better * (better > 100 * self.threshold)).sum(2, keepdim=True) > 1e5
        averages = [
            (powers * speech * (powers > 100 * self.threshold)).mean(1, keepdim=True) + 1000 for powers in (worse, better)
        ]
        better = better * (averages[0] / averages[1]).clamp(0.01, 100)
        audible = [(powers * (powers > self.threshold)).sum(2, keepdim=True) + 5e3 for powers in (worse, better)]
        ratio = audible[1] / audible[0]
        ratio = torch.cat([ratio[:, :1], 0.8 * ratio[:, 1:] + 0.2 * ratio[:, :-1]], 1)
        return worse * ratio.clamp(3e-4, 5), better

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        real, imaginary = spectrum(torch.cat([decoded, original]), self.window, self.window // 2)
        powers = (real**2 + imaginary**2) @ self.pool
        worse, better = self.compensated(*powers.chunk(2))
        loud, wanted = self.loudness(worse).clamp(min=0), self.loudness(better).clamp(min=0)
        difference = loud - wanted
        masked = 0.25 * torch.minimum(loud, wanted)
        difference = difference.sign() * (difference.abs() - masked).clamp(min=0)
        ratio = ((worse + 50) / (better + 50)) ** 1.2
        added = torch.where(ratio < 3, torch.zeros_like(ratio), ratio.clamp(max=12)).detach()
        total = self.width.sum()
        symmetric = torch.sqrt(((difference * self.width) ** 2).sum(2) / total + 1e-8) * total
        asymmetric = (difference.abs() * added * self.width).sum(2)
        audible = ((better * (better > self.threshold)).sum(2) + 1e5) / 1e7
        weight = audible.detach() ** -0.04
        return (0.1 * self._over_time(symmetric * weight) + 0.0309 * self._over_time(asymmetric * weight)).mean()

    def _over_time(self, frames: Tensor) -> Tensor:
        """Norm 6 within syllables, norm 2 over them: (B, T) to (B)."""
        frames = frames.clamp(max=45.0)
        syllables = frames.unfold(1, min(self.FRAMES, frames.shape[1]), self.FRAMES // 2)
        inner = ((syllables**6).mean(2) + 1e-12) ** (1 / 6)
        return torch.sqrt((inner**2).mean(1))
