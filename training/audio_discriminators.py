"""Discriminators of short-time spectra for the last part of a long `audio_rvq` training (Defossez et al. 2022, "High
fidelity neural audio compression", section 3.4), least squares (Mao et al. 2017) and feature matching (Kumar et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .audio_losses import spectrum

__all__ = ["Discriminators"]

WINDOWS = (256, 512, 1024)
WIDTH = 32


class Discriminator(nn.Module):
    """Convolutions over the real and imaginary spectra of one window; every layer's output counts for feature matching."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        sizes = [(2, 1), (WIDTH, 2), (WIDTH, 2), (WIDTH, 2)]
        self.layers = nn.ModuleList(nn.Conv2d(n, WIDTH, (3, 9), (1, stride), (1, 4)) for n, stride in sizes)
        self.last = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, samples: Tensor) -> list[Tensor]:
        """Return the layers' outputs, scores last, of samples (B, N)."""
        x, found = torch.stack(spectrum(samples, self.window, self.window // 4), 1), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            found.append(x)
        return [*found, self.last(x)]


class Discriminators(nn.Module):
    """One discriminator for each window."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(Discriminator(window) for window in WINDOWS)

    def own_loss(self, decoded: Tensor, original: Tensor) -> Tensor:
        """Return how badly decoded and original samples are told apart."""
        total = decoded.new_zeros(())
        for each in self.each:
            total = total + (each(decoded.detach())[-1] ** 2).mean() + ((each(original)[-1] - 1) ** 2).mean()
        return total / len(self.each)

    def losses(self, decoded: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codec's adversarial loss and its distance in features."""
        adversarial, matching = decoded.new_zeros(()), decoded.new_zeros(())
        for each in self.each:
            with torch.no_grad():
                wanted = each(original)
            found = each(decoded)
            adversarial = adversarial + ((found[-1] - 1) ** 2).mean()
            pairs = zip(found[:-1], wanted[:-1], strict=True)
            matching = matching + torch.stack([(a - b).abs().mean() / b.abs().mean() for a, b in pairs]).mean()
        return adversarial / len(self.each), matching / len(self.each)
