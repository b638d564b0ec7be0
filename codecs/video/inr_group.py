"""Fitting the networks of one group of frames, in a folder that an interrupted fit goes on from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..codec import Progress
from ..saving import replace_file
from ..signals import Samples
from .inr_fit import Budget, Fitted, fit
from .inr_spec import Spec

__all__ = ["GroupPlan", "fit_group", "known_fit", "lengthened", "slope_of"]

BITS_PER_PARAMETER = 4.5  # about, as networks are sized for
HIGHEST_DB = 60.0  # that a fit's PSNR counts as, so that equal frames can be coded too


def slope_of(elasticity: float, psnr: float, spec: Spec) -> float:
    """Return what a bit is worth in mean squared error where a network of so many dB takes about 4.5 bits per parameter."""
    return elasticity * 10 ** (-min(psnr, HIGHEST_DB) / 10) / (BITS_PER_PARAMETER * spec.parameters)


@dataclass(frozen=True)
class GroupPlan:
    """What decides the outcome of one group's fit, beside its frames.

    `specs` are the parameters (`Spec.to_params`) of the networks that share the group's frames in order; all but the first
    start from the first. The budget of each is `steps` or, where that is 0, `seconds`, in the order of `specs`.
    """

    specs: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    seed: int
    batch: int
    learning_rate: float
    loss: str

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames of each network."""
        return tuple(Spec.from_params(list(spec)).frames for spec in self.specs)


def fit_group(
    plan: GroupPlan, frames: Samples, device: str, folder: Path, name: str, progress: Progress | None = None
) -> list[Fitted]:
    """Fit the networks of a group to its frames [T, H, W, 3]; those that `folder` holds under `name` already are taken.

    `progress` may raise to stop; the part that is done is kept in the folder, to within ten seconds.
    """
    fitted: list[Fitted] = []
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
            done = fit(
                network,
                shown,
                Budget(plan.steps[number], plan.seconds[number]),
                seed=plan.seed,
                batch=plan.batch,
                learning_rate=plan.learning_rate,
                loss=plan.loss,
                device=device,
                start=fitted[0].tensors if fitted else None,
                checkpoint=checkpoint,
                progress=own,
            )
            _save(place, done)
            checkpoint.unlink(missing_ok=True)
        fitted.append(done)
    return fitted


def _scaled(progress: Progress, before: float, part: float, done: float, stage: str) -> None:
    progress(before + part * done, stage)


def lengthened(frames: Samples, count: int) -> Samples:
    """Repeat the last frame until there are `count`, as all networks of a group are made for as many."""
    return np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), 0)]) if len(frames) < count else frames


def known_fit(plan: GroupPlan, folder: Path, name: str) -> list[Fitted] | None:
    """Return what a folder holds of a group under `name`, None unless that is all of it."""
    specs = [Spec.from_params(list(spec)) for spec in plan.specs]
    known = [_load(folder / f"{name}-{part:02d}.safetensors", spec) for part, spec in enumerate(specs)]
    return None if None in known else [one for one in known if one is not None]


def _save(place: Path, fitted: Fitted) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in fitted.tensors.items()}
    facts = {"psnr": fitted.psnr, "steps": fitted.steps, "seconds": fitted.seconds}
    replace_file(place, save(tensors, {"fit": json.dumps(facts)}))


def _load(place: Path, spec: Spec) -> Fitted | None:
    """Return a finished fit of the folder, None where there is none or its file does not hold one."""
    if not place.exists():
        return None
    try:
        with safe_open(place, "pt") as file:
            facts = json.loads(file.metadata()["fit"])
            tensors = {name: file.get_tensor(name) for name, _, _ in spec.tensors()}
        return Fitted(tensors, float(facts["psnr"]), int(facts["steps"]), float(facts["seconds"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
