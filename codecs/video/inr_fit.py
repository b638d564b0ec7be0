"""Fitting a network to a group of frames: within a budget, to the same result for a seed, resumable and cancellable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .inr_spec import Spec

__all__ = ["Budget", "Fitted", "Quantiser", "fit", "psnr_of"]


class Quantiser(Protocol):
    """What the second stage of a fit trains through.

    Called with all tensors of a network by name, it returns them as they would be decoded (with gradients, straight through) and,
    where `rate` is asked for, an estimate of the bits they take together (else None). What `parameters()` gives (learned steps,
    for example) is fitted along with the network.
    """

    def __call__(self, tensors: dict[str, Tensor], rate: bool) -> tuple[dict[str, Tensor], Tensor | None]: ...

    def parameters(self) -> Iterable[Tensor]: ...


class Budget(NamedTuple):
    """How long a fit runs: exactly `steps`, or if they are 0 for so many `seconds`; resumed fits count what went before.

    `share` of it is the quantisation-aware second stage, if there is a quantiser.
    """

    steps: int = 0
    seconds: float = 0.0
    share: float = 0.25


class Fitted(NamedTuple):
    """A fitted network: its tensors (float32, on the CPU), the PSNR of its frames, and what the fit took."""

    tensors: dict[str, Tensor]
    psnr: float
    steps: int
    seconds: float


def fit(
    spec: Spec,
    frames: Tensor,
    budget: Budget,
    *,
    seed: int = 0,
    batch: int = 1,
    learning_rate: float = 5e-3,
    loss: str = "l2",
    device: str = "cpu",
    start: Mapping[str, Tensor] | None = None,
    quantiser: Callable[[dict[str, Tensor]], Quantiser] | None = None,
    rate_weight: float = 0.0,
    checkpoint: Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Fitted:
    """Fit the network of `spec` to `frames`, uint8 or uint16 [T, H, W, 3].

    `start` are tensors to start from. `quantiser` is called with the tensors when the second stage begins; `rate_weight` is what
    a bit per sample of the frames costs in mean squared error of samples of 0..1. `checkpoint` is written every ten seconds and
    gone on from, and removed by whoever gave it. `progress` may raise to stop.
    """
    raise NotImplementedError


def psnr_of(spec: Spec, tensors: Mapping[str, Tensor], frames: Tensor, device: str = "cpu") -> float:
    """Return the mean over frames of the PSNR of what the tensors decode to, rounded to samples, beside `frames` [T, H, W, 3]."""
    raise NotImplementedError
