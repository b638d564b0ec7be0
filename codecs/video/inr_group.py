"""Fitting the networks of one group of frames, in a folder that an interrupted fit goes on from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..codec import Progress
from ..saving import replace_file
from ..signals import Samples
from .inr_fit import Budget, Fitted, fit, psnr_of
from .inr_networks import render
from .inr_parameters import QuantisedTensor
from .inr_quantise import coarseness_of_slope, requantise_to_size, slope_of_coarseness
from .inr_sensitivity import sensitivity
from .inr_spec import Spec
from .inr_stream import Network
from .inr_training import Quantiser

__all__ = ["TRAINED", "GroupPlan", "Grown", "fit_group", "known_fit", "lengthened", "one_thread", "slope_of"]

TRAINED = 0.3  # per cent of squared error that a per cent of bits is worth while fitting
BITS_PER_PARAMETER = 4.5  # about, as networks are sized for
HIGHEST_DB = 60.0  # that a fit's PSNR counts as, so that equal frames can be coded too


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Run torch on one thread of the CPU: with more, sums come in another order, and a fit in another result."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def slope_of(elasticity: float, psnr: float, spec: Spec) -> float:
    """Return what a bit is worth in mean squared error where a network of so many dB takes about 4.5 bits per parameter."""
    return elasticity * 10 ** (-min(psnr, HIGHEST_DB) / 10) / (BITS_PER_PARAMETER * spec.parameters)


class Grown(NamedTuple):
    """A fitted network: its tensors (float32, on the CPU), and the integers that the end of the fit was trained to.

    `psnr` is what it reaches without rounding, in dB; `seconds` is what the fit took.
    """

    tensors: dict[str, Tensor]
    trained: Network
    psnr: float
    seconds: float


@dataclass(frozen=True)
class GroupPlan:
    """What decides the outcome of one group's fit, beside its frames.

    `specs` are the parameters (`Spec.to_params`) of the networks that share the group's frames in order; all but the first
    start from the first. The budget of each is `steps` or, where that is 0, `seconds`, in the order of `specs`. `bytes` is the
    size of a network that the end of the fit trains for; where that is 0, a size that is worth its bits.
    """

    specs: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    seed: int
    batch: int
    learning_rate: float
    loss: str
    bytes: int = 0

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames of each network."""
        return tuple(Spec.from_params(list(spec)).frames for spec in self.specs)


def fit_group(
    plan: GroupPlan, frames: Samples, device: str, folder: Path, name: str, progress: Progress | None = None
) -> list[Grown]:
    """Fit the networks of a group to its frames [T, H, W, 3]; those that `folder` holds under `name` already are taken.

    `progress` may raise to stop; the part that is done is kept in the folder, to within ten seconds.
    """
    fitted: list[Grown] = []
    weights = np.array([max(steps, seconds) for steps, seconds in zip(plan.steps, plan.seconds, strict=True)])
    starts = np.cumsum([0, *plan.frames]).tolist()
    for number, spec in enumerate(plan.specs):
        place = folder / f"{name}-{number:02d}.safetensors"
        done = _load(place, Spec.from_params(list(spec)))
        before, part = weights[:number].sum() / weights.sum(), weights[number] / weights.sum()
        if done is None:
            own = None if progress is None else partial(_scaled, progress, float(before), float(part))
            checkpoint = place.with_suffix(".checkpoint")
            network = Spec.from_params(list(spec))
            shown = torch.from_numpy(lengthened(frames[starts[number] : starts[number + 1]], network.frames))
            priced = _Pricing(network, shown, device, plan.bytes)
            done = priced.grown(
                fit(
                    network,
                    shown,
                    Budget(plan.steps[number], plan.seconds[number]),
                    seed=plan.seed,
                    batch=plan.batch,
                    learning_rate=plan.learning_rate,
                    loss=plan.loss,
                    device=device,
                    start=fitted[0].tensors if fitted else None,
                    quantiser=priced.begin,
                    rate_weight=1.0,
                    checkpoint=checkpoint,
                    progress=own,
                )
            )
            _save(place, done)
            checkpoint.unlink(missing_ok=True)
        fitted.append(done)
    return fitted


def _scaled(progress: Progress, before: float, part: float, done: float, stage: str) -> None:
    progress(before + part * done, stage)


class _Pricing:
    """Training through rounding whose estimate of bits is in mean squared error: what they are worth where the fit stands."""

    def __init__(self, spec: Spec, frames: Tensor, device: str, size: int) -> None:
        self._spec, self._frames, self._device, self._size = spec, frames, device, size
        self._quantiser: Quantiser | None = None
        self._worth, self._before = 0.0, 0.0

    def begin(self, tensors: dict[str, Tensor]) -> _Pricing:
        """Choose the steps, at the end of the first stage."""
        spec, shapes = self._spec, self._spec.tensors()
        found = sensitivity(partial(render, spec), tensors, torch.arange(spec.frames, device=self._device))
        self._before = psnr_of(spec, tensors, self._frames, self._device)
        coarseness = coarseness_of_slope(slope_of(TRAINED, self._before, spec))
        if self._size:
            arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
            coarseness = requantise_to_size(arrays, shapes, found, self._size)[2]
        self._worth = slope_of_coarseness(coarseness) * 3 * spec.frames * spec.height * spec.width  # of a bit per sample
        self._quantiser = Quantiser(tensors, shapes, found, coarseness)
        return self

    def __call__(self, tensors: dict[str, Tensor], rate: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the tensors rounded, and if `rate` what they cost."""
        assert self._quantiser is not None
        rounded, bits = self._quantiser(tensors, rate)
        return rounded, None if bits is None else bits * self._worth

    def parameters(self) -> Iterable[Tensor]:
        """Return what is fitted along with the network."""
        return () if self._quantiser is None else self._quantiser.parameters()

    def grown(self, fitted: Fitted) -> Grown:
        """Return the outcome of a fit; one too short for its second stage is rounded as that would have begun."""
        if self._quantiser is None:
            self.begin({name: tensor.to(self._device) for name, tensor in fitted.tensors.items()})
        assert self._quantiser is not None
        placed = {name: tensor.to(self._device) for name, tensor in fitted.tensors.items()}
        psnr = max(fitted.psnr, self._before)
        return Grown(fitted.tensors, self._quantiser.quantised(placed), psnr, fitted.seconds)


def lengthened(frames: Samples, count: int) -> Samples:
    """Repeat the last frame until there are `count`, as all networks of a group are made for as many."""
    return np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), 0)]) if len(frames) < count else frames


def known_fit(plan: GroupPlan, folder: Path, name: str) -> list[Grown] | None:
    """Return what a folder holds of a group under `name`, None unless that is all of it."""
    specs = [Spec.from_params(list(spec)) for spec in plan.specs]
    known = [_load(folder / f"{name}-{part:02d}.safetensors", spec) for part, spec in enumerate(specs)]
    return None if None in known else [one for one in known if one is not None]


def _save(place: Path, grown: Grown) -> None:
    tensors = {f"tensor/{name}": tensor.contiguous() for name, tensor in grown.tensors.items()}
    for name, integers in grown.trained.items():
        tensors[f"values/{name}"] = torch.from_numpy(np.ascontiguousarray(integers.values))
        tensors[f"exponent/{name}"] = torch.tensor(integers.exponent)
        for axis, factors in (("rows", integers.rows), ("columns", integers.columns)):
            if factors is not None:
                tensors[f"{axis}/{name}"] = torch.from_numpy(np.ascontiguousarray(factors))
    facts = {"psnr": grown.psnr, "seconds": grown.seconds}
    replace_file(place, save(tensors, {"fit": json.dumps(facts)}))


def _load(place: Path, spec: Spec) -> Grown | None:
    """Return a finished fit of the folder, None where there is none or its file does not hold one."""
    if not place.exists():
        return None
    try:
        with safe_open(place, "pt") as file:
            facts = json.loads(file.metadata()["fit"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        names = [tensor.name for tensor in spec.tensors()]
        factors = {
            axis: {n: held[f"{axis}/{n}"].numpy() for n in names if f"{axis}/{n}" in held} for axis in ("rows", "columns")
        }
        trained = {
            n: QuantisedTensor(
                held[f"values/{n}"].numpy(), int(held[f"exponent/{n}"]), factors["rows"].get(n), factors["columns"].get(n)
            )
            for n in names
        }
        return Grown({n: held[f"tensor/{n}"] for n in names}, trained, float(facts["psnr"]), float(facts["seconds"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
