"""Fitting the groups of a video, in this process or several, by way of a folder that an interrupted fit goes on from."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..codec import Progress
from ..device import one_thread
from ..errors import LaconicError
from ..signals import Samples
from .inr_fit import Fitted
from .inr_group import GroupPlan, fit_group, known_fit

__all__ = ["fit_groups"]

POLL_S = 0.1  # between two looks at the processes, each of which may cancel
PROGRAM = "from laconic.codecs.video.inr_worker import main; main()"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NUMBA_NUM_THREADS": "1"}


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
        if (known := known_fit(plan, folder, name)) is not None:
            results.append(known)
            continue

        def shared(done: float, stage: str, number: int = number) -> None:
            report((number + done) / len(plans), _staged(number, len(plans), stage))

        with one_thread(device):
            results.append(fit_group(plan, frames_of(number), device, folder, name, shared))
    return results


def _staged(number: int, count: int, stage: str) -> str:
    return f"group {number + 1} of {count}, {stage}" if count > 1 else stage


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
    parts = [float(known_fit(plan, folder, name) is not None) for plan, name in zip(plans, names, strict=True)]
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
