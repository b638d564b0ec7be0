"""Fitting the groups of a video, in this process or several, in a folder that an interrupted fit goes on from."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..codec import Progress
from ..errors import LaconicError
from ..saving import replace_file
from ..signals import Samples
from .inr_fit import Budget, Fitted, fit, psnr_of
from .inr_networks import render
from .inr_quantise import coarseness_of_slope
from .inr_rates import slope_of
from .inr_sensitivity import sensitivity
from .inr_spec import Spec
from .inr_training import Quantiser

__all__ = ["GroupPlan", "fit_group", "fit_groups"]

POLL_S = 0.1  # between two looks at the processes, each of which may cancel
PROGRAM = "from laconic.codecs.video.inr_worker import main; main()"
RATE_ELASTICITY = 0.3  # per cent of squared error that a per cent of bits is worth while fitting
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NUMBA_NUM_THREADS": "1"}


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
        done = _load(place)
        before, part = weights[:number].sum() / weights.sum(), weights[number] / weights.sum()
        if done is None:
            own = None if progress is None else partial(_scaled, progress, float(before), float(part))
            checkpoint = place.with_suffix(".checkpoint")
            network = Spec.from_params(list(spec))
            shown = torch.from_numpy(_lengthened(frames[starts[number] : starts[number + 1]], network.frames))
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
                quantiser=partial(Priced, network, shown, device),
                rate_weight=1.0,
                checkpoint=checkpoint,
                progress=own,
            )
            _save(place, done)
            checkpoint.unlink(missing_ok=True)
        fitted.append(done)
    return fitted


def _scaled(progress: Progress, before: float, part: float, done: float, stage: str) -> None:
    progress(before + part * done, stage)


class Priced:
    """Training through rounding whose estimate of bits is in mean squared error: what they are worth where the fit stands."""

    def __init__(self, spec: Spec, frames: Tensor, device: str, tensors: dict[str, Tensor]) -> None:
        indices = torch.arange(spec.frames, device=device)
        found = sensitivity(partial(render, spec), tensors, indices)
        slope = slope_of(RATE_ELASTICITY, psnr_of(spec, tensors, frames, device), spec)
        self._quantiser = Quantiser(tensors, spec.tensors(), found, coarseness_of_slope(slope))
        self._worth = slope * 3 * spec.frames * spec.height * spec.width  # of a bit per sample

    def __call__(self, tensors: dict[str, Tensor], rate: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the tensors rounded, and if `rate` what they cost."""
        rounded, bits = self._quantiser(tensors, rate)
        return rounded, None if bits is None else bits * self._worth

    def parameters(self) -> Iterable[Tensor]:
        """Return what is fitted along with the network."""
        return self._quantiser.parameters()


def fit_groups(
    plans: Sequence[GroupPlan],
    frames_of: Callable[[int], Samples],
    device: str,
    processes: int,
    folder: Path,
    progress: Progress | None = None,
) -> list[list[Fitted]]:
    """Fit every group, `processes` at a time; `frames_of(g)` are the frames of group g.

    With 0 the work is done in this process. Otherwise each group has a process with one thread, which ends with this one
    and is killed where `progress` raises.
    """
    names = [f"{number:04d}" for number in range(len(plans))]
    report = progress or (lambda done, stage: None)
    if processes:
        _in_processes(plans, frames_of, device, processes, folder, names, report)
    results = []
    for number, (plan, name) in enumerate(zip(plans, names, strict=True)):
        known = [_load(folder / f"{name}-{part:02d}.safetensors") for part in range(len(plan.specs))]
        if all(known):
            results.append([one for one in known if one is not None])
            continue

        def shared(done: float, stage: str, number: int = number) -> None:
            report((number + done) / len(plans), _staged(number, len(plans), stage))

        with _one_thread(device):
            results.append(fit_group(plan, frames_of(number), device, folder, name, shared))
    return results


def _staged(number: int, count: int, stage: str) -> str:
    return f"group {number + 1} of {count}, {stage}" if count > 1 else stage


@contextlib.contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """Run torch on one thread of the CPU: with more, sums come in another order, and a fit in another result."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _lengthened(frames: Samples, count: int) -> Samples:
    """Repeat the last frame until there are `count`, as all networks of a group are made for as many."""
    return np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), 0)]) if len(frames) < count else frames


def _save(place: Path, fitted: Fitted) -> None:
    facts = {"psnr": fitted.psnr, "steps": fitted.steps, "seconds": fitted.seconds}
    replace_file(place, save({name: t.contiguous() for name, t in fitted.tensors.items()}, {"fit": json.dumps(facts)}))


def _load(place: Path) -> Fitted | None:
    """Return a finished fit of the folder, None where there is none."""
    if not place.exists():
        return None
    try:
        with safe_open(place, "pt") as file:
            facts = json.loads(file.metadata()["fit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Fitted(tensors, float(facts["psnr"]), int(facts["steps"]), float(facts["seconds"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


class _Child:
    """One group's process, and the thread that talks to it."""

    def __init__(self, number: int, message: dict[str, object], frames: Samples) -> None:
        self.number, self.part, self.stage, self.failure = number, 0.0, "starting", ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
            start_new_session=True,  # a Ctrl-C in the terminal is this process's to pass on
        )
        self._thread = threading.Thread(target=self._talk, args=(message, frames), daemon=True)
        self._thread.start()

    def _talk(self, message: dict[str, object], frames: Samples) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was killed
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.write(np.ascontiguousarray(frames).data)
            self._process.stdin.flush()  # it stays open: its end is this process's
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                told = json.loads(line)
                self.failure = told.get("error", self.failure)
                self.part, self.stage = told.get("part", self.part), told.get("stage", self.stage)
        if self._process.wait() != 0 and not self.failure:
            self.failure = f"a process that fitted frames ended with {self._process.returncode}, for want of memory perhaps"

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _in_processes(
    plans: Sequence[GroupPlan],
    frames_of: Callable[[int], Samples],
    device: str,
    processes: int,
    folder: Path,
    names: Sequence[str],
    report: Progress,
) -> None:
    """Have every group fitted into the folder; raises `LaconicError` where one fails."""
    parts = [float(_finished(plan, folder, name)) for plan, name in zip(plans, names, strict=True)]
    waiting = [number for number, part in enumerate(parts) if not part]
    running: list[_Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number = waiting.pop(0)
                frames = frames_of(number)
                message: dict[str, object] = {"plan": asdict(plans[number]), "shape": frames.shape, "type": frames.dtype.name}
                message |= {"device": device, "folder": str(folder.resolve()), "name": names[number]}
                running.append(_Child(number, message, frames))
            time.sleep(POLL_S)
            for child in list(running):
                parts[child.number] = 1.0 if child.ended else child.part
                if child.ended:
                    child.kill()  # closes its pipes
                    running.remove(child)
                    if child.failure:
                        raise LaconicError(child.failure)
            stages = [_staged(child.number, len(plans), child.stage) for child in running]
            report(sum(parts) / len(parts), "; ".join(stages) or "fitted")
    finally:
        for child in running:
            child.kill()


def _finished(plan: GroupPlan, folder: Path, name: str) -> bool:
    return all((folder / f"{name}-{part:02d}.safetensors").exists() for part in range(len(plan.specs)))
