"""Fitting a network to a group of frames: within a budget, to the same result for a seed, resumable and cancellable.

The frames stay on the device as they are, and a step takes a few of them. Steps follow one cosine from the learning rate to
nothing after a short warm-up, over the budget of steps, or over the time where that is the budget. Quantisation comes later
(`inr_rates`), as one fit serves all rates.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, save_checkpoint
from .inr_loss import LOSSES
from .inr_networks import initial_tensors, render
from .inr_spec import Spec

__all__ = ["Budget", "Fitted", "fit", "psnr_of"]

WARM_UP = 0.05  # of the budget
LAST_RATE = 0.002  # of the learning rate, at the end
EMBEDDING_RATE = 5.0  # learning rate of embeddings beside that of weights: each of their values sees few pixels
BETAS = (0.9, 0.99)  # a shorter memory of squares than Adam's usual: 0.15 dB better after 10,000 steps of a small network
MOMENTS = ("exp_avg", "exp_avg_sq")  # what Adam keeps of each tensor, beside the number of steps
REPORT_SECONDS = 0.25
SAVE_SECONDS = 5.0

Report = Callable[[float, str], None]
Tensors = dict[str, Tensor]


class Budget(NamedTuple):
    """How long a fit runs: exactly `steps`, or if they are 0 for so many `seconds`; resumed fits count what went before."""

    steps: int = 0
    seconds: float = 0.0


class Fitted(NamedTuple):
    """A fitted network: its tensors (float32, on the CPU), the PSNR of its frames, and what the fit took."""

    tensors: Tensors
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
    checkpoint: Path | None = None,
    progress: Report | None = None,
) -> Fitted:
    """Fit the network of `spec` to `frames`, uint8 or uint16 [T, H, W, 3].

    `loss` is "l2" or "l1-ssim". `start` are tensors to start from. `checkpoint` is written at least every ten seconds, whole or
    not at all, and gone on from; whoever gave it removes it. `progress(part, stage)` is called several times a second, or after
    every step where those last longer, and may raise to stop. A number of steps leads to the same result on one machine,
    whether it was interrupted or not.
    """
    with _own_randomness(seed, device):
        run = _Run(spec, frames.to(device), budget, batch, learning_rate, loss, progress)
        run.begin({name: tensor.to(device) for name, tensor in (start or initial_tensors(spec, seed)).items()})
        if checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint)
        run.advance(checkpoint)
        tensors = run.fitted()
    tick = partial(run.report, 1.0)
    quality = psnr_of(spec, tensors, frames, device, tick)
    return Fitted({name: tensor.cpu() for name, tensor in tensors.items()}, quality, run.step, run.seconds)


def psnr_of(
    spec: Spec, tensors: Mapping[str, Tensor], frames: Tensor, device: str = "cpu", tick: Callable[[], None] | None = None
) -> float:
    """Return the mean over frames of the PSNR of what the tensors decode to, rounded to samples, beside `frames` [T, H, W, 3].

    `tick` is called before each frame, and may raise to stop.
    """
    peak, total = _peak(frames), 0.0
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    with torch.inference_mode():
        for i in range(len(frames)):
            if tick is not None:
                tick()
            shown = (render(spec, on_device, torch.tensor([i], device=device))[0].clamp(0, 1) * peak).round()
            error = float((shown.permute(1, 2, 0) - frames[i].to(device).float()).square().mean(dtype=torch.float64))
            total += 10 * math.log10(peak**2 / max(error, 1e-9))
    return total / len(frames)


class _Run:
    """A fit under way: everything that a checkpoint holds, and what it is made of."""

    def __init__(
        self,
        spec: Spec,
        frames: Tensor,
        budget: Budget,
        batch: int,
        learning_rate: float,
        loss: str,
        progress: Report | None,
    ) -> None:
        self.spec, self.frames, self.budget, self.batch = spec, frames, budget, min(batch, len(frames))
        self.learning_rate, self.loss, self._progress = learning_rate, LOSSES[loss], progress
        self._render: Callable[[Tensors, Tensor], Tensor] = partial(render, spec)
        if frames.is_cuda:
            self._render = torch.compile(self._render, dynamic=False)
        self.order = torch.zeros(0, dtype=torch.int64)  # frames that the pass still has to see
        self.step, self.before, self._error = 0, 0.0, 0.0
        self._clock = self._reported = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent, together with that before a resumption."""
        return self.before + time.monotonic() - self._clock

    @property
    def part(self) -> float:
        """How much of the budget is spent."""
        return self.step / self.budget.steps if self.budget.steps else self.seconds / max(self.budget.seconds, 1e-9)

    def begin(self, tensors: Tensors) -> None:
        """Take the tensors to fit."""
        roles = {tensor.name: tensor.role for tensor in self.spec.tensors()}
        self.tensors = {name: _laid_out(tensors[name].detach().float().clone()).requires_grad_() for name in roles}
        slow = [tensor for name, tensor in self.tensors.items() if roles[name] != "embedding"]
        fast = [tensor for name, tensor in self.tensors.items() if roles[name] == "embedding"]
        groups = [{"params": slow, "scale": 1.0}, {"params": fast, "scale": EMBEDDING_RATE}]
        self.optimiser = torch.optim.Adam([group for group in groups if group["params"]], self.learning_rate, BETAS, fused=True)

    def advance(self, checkpoint: Path | None) -> None:
        """Go on to the end of the budget."""
        while (part := self.part) < 1:
            error = self._one_step(part)
            now = time.monotonic()
            if now - self._reported >= REPORT_SECONDS:
                self._error = error.item()
                self.report(part)
            if checkpoint is not None and now - self._saved >= SAVE_SECONDS:
                self.save(checkpoint)
        self.report(1.0, always=True)

    def report(self, part: float, always: bool = False) -> None:
        """Tell how far the fit is."""
        now = time.monotonic()
        if self._progress is None or (now - self._reported < REPORT_SECONDS and not always):
            return
        self._reported = now
        quality = "" if self._error <= 0 else f" {-10 * math.log10(self._error):.2f} dB"
        self._progress(min(part, 1.0), f"fitting{quality}")

    def fitted(self) -> Tensors:
        """Return the tensors as they are now."""
        return {name: tensor.detach().contiguous() for name, tensor in self.tensors.items()}

    def _one_step(self, part: float) -> Tensor:
        rate = _learning_rate(part)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * rate * group["scale"]
        while len(self.order) < self.batch:
            self.order = torch.cat([self.order, torch.randperm(len(self.frames))])
        indices, self.order = self.order[: self.batch].to(self.frames.device), self.order[self.batch :]
        wanted = self.frames[indices].permute(0, 3, 1, 2).float() / _peak(self.frames)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.frames.is_cuda):
            shown = self._render(self.tensors, indices)
        loss, error = self.loss(shown.float(), wanted)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        return error

    def save(self, path: Path) -> None:
        """Write everything that `restore` needs."""
        state: Tensors = {f"tensor/{name}": tensor.detach() for name, tensor in self.tensors.items()}
        for name, tensor in self.tensors.items():
            state |= {f"{kind}/{name}": moment for kind, moment in self.optimiser.state[tensor].items()}
        numbers = torch.tensor([self.step, self.seconds, self._error], dtype=torch.float64)
        save_checkpoint(path, state | {"order": self.order, "numbers": numbers, "random": torch.get_rng_state()})
        self._saved = time.monotonic()

    def restore(self, path: Path) -> None:
        """Go back to where a checkpoint was written; one of another network or that does not open is passed over."""
        state = load_checkpoint(path)
        kinds = ("tensor", *MOMENTS)
        if any(state.get(f"{k}/{n}", torch.zeros(0)).shape != t.shape for k in kinds for n, t in self.tensors.items()):
            return
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state[f"tensor/{name}"])
                moments = {kind: torch.empty_like(tensor).copy_(state[f"{kind}/{name}"]) for kind in MOMENTS}
                self.optimiser.state[tensor] = {"step": state[f"step/{name}"].to(tensor.device), **moments}
        self.order = state["order"]
        step, self.before, self._error = state["numbers"].tolist()
        self.step, self._clock = int(step), time.monotonic()
        torch.set_rng_state(state["random"])


def _learning_rate(part: float) -> float:
    """Return the learning rate when part of the budget is spent, beside the highest."""
    risen = min(1.0, part / WARM_UP + 0.01)
    fallen = 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, (part - WARM_UP) / (1 - WARM_UP))))
    return max(risen * fallen, LAST_RATE)


def _laid_out(tensor: Tensor) -> Tensor:
    """Return a tensor in the memory layout in which convolutions are fast: several times so for few channels."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _peak(frames: Tensor) -> int:
    return 255 if frames.dtype == torch.uint8 else 65_535


@contextlib.contextmanager
def _own_randomness(seed: int, device: str) -> Iterator[None]:
    """Let all random numbers come from a seed, and leave those of the caller alone."""
    with torch.random.fork_rng(["cuda"] if device == "cuda" else []):
        torch.manual_seed(seed)
        yield
