"""`laconic bulk --engine ray`: the files spread over the machines of a Ray cluster with Ray Data.

Small rows go through Ray: which files, and what became of them. The bytes go between each actor and the places, which every
machine must reach under the same names. A Ray of this machine's own is started unless RAY_ADDRESS names a cluster. Ray is the
extra `[ray]` and is imported only here.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bulk import DIED, ONE_THREAD, Outcome, Task, Work, attempt
from .codecs.errors import DeviceUnavailable, InvalidSettings
from .codecs.extras import extra_module
from .machine import processors

__all__ = ["RayEngine"]

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # tells nobody; deaths of actors are told of by us
STORE_BYTES = 100 * 2**20  # of a Ray of our own, for rows
BLOCKS = 16  # for each actor, so that all end at about the same time
FILES = 64  # in a block at most: progress is told by the block
CONNECT_S = 10.0
COLUMNS = ("number", "before", "after", "reason")


class RayEngine:
    """An `Engine` of `actors` processes, by default one for each processor of the cluster, each with `gpus` of its GPUs.

    A part of a GPU below 1 shares it. Each opens the codec once. Raises `InvalidSettings` where Ray is missing or the options
    contradict each other, `DeviceUnavailable` where the cluster does not answer or a Ray of our own lacks what a process needs.
    """

    def __init__(self, actors: int | None, gpus: float, device: str) -> None:
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
            raise InvalidSettings(f"--gpus is {gpus:g}: a part of one GPU, or whole ones")
        if device == "cuda" and gpus == 0:
            raise InvalidSettings("the device is cuda, and Ray shows a process no GPU without --gpus")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._ray: Any = extra_module("ray", "ray", "the engine ray needs Ray Data")
        self._data: Any = extra_module("ray.data", "ray", "the engine ray needs Ray Data")
        self.actors, self.gpus = actors, gpus

    def __call__(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `Engine`. A file that takes its process with it is tried once more, alone: others may have been lost with it."""
        if not tasks:
            return
        try:
            self._begin()
            left = dict(enumerate(tasks))
            for alone in (False, True):
                again = replace(work, force=work.force or alone)  # some were written before their actor died
                for row in self._rows(again, left, alone):
                    yield Outcome(left.pop(row["number"]), row["before"], row["after"], row["reason"])
                if not left:
                    return
            yield from (Outcome(task, reason=DIED) for task in left.values())
        finally:
            self._ray.shutdown()

    def _begin(self) -> None:
        if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
            count = max(self.actors or 0, int(processors()[1]), 1)
            options = {"num_cpus": count, "include_dashboard": False, "object_store_memory": STORE_BYTES}
            self._ray.init("local", logging_level="error", log_to_driver=False, **options)
            there = self._ray.cluster_resources().get("GPU", 0)
            if self.gpus > there:
                raise DeviceUnavailable(f"--gpus is {self.gpus:g}, and this machine has {there:g} GPUs")
        else:
            _check_address(os.environ["RAY_ADDRESS"])
            self._ray.init(logging_level="error", log_to_driver=False)
        resources = self._ray.cluster_resources()
        fit = resources.get("GPU", 0) / self.gpus if self.gpus else resources.get("CPU", 0)
        self.actors = self.actors or max(1, int(fit))
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)  # each death
        context = self._data.DataContext.get_current()
        context.enable_progress_bars, context.print_on_execution_start = False, False
        context.max_errored_blocks = -1  # an actor that dies ends its block, and not everything

    def _rows(self, work: Work, tasks: dict[int, Task], alone: bool) -> Iterator[dict[str, Any]]:
        """Do the tasks and yield what became of them, by `COLUMNS`; those whose actor died are not among them."""
        actors = min(self.actors or 1, len(tasks))
        files = 1 if alone else max(1, min(FILES, len(tasks) // (BLOCKS * actors)))
        rows = [
            {"number": number, "name": os.fsencode(task.name), "target": os.fsencode(task.target)}
            for number, task in tasks.items()
        ]
        pool = self._data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1 if alone else 2)
        options = {"num_cpus": 1, "num_gpus": self.gpus, "max_restarts": -1, "max_task_retries": 0}
        with warnings.catch_warnings():
            # Ray 2.60 says that the last two go in 2.64, and not what takes their place: the extra stays below that.
            warnings.filterwarnings("ignore", "`ray_remote_args`", DeprecationWarning)
            dataset = self._data.from_items(rows, override_num_blocks=-(-len(rows) // files)).map_batches(
                _Coder, fn_constructor_args=(work,), batch_size=None, compute=pool, **options
            )
        try:
            yield from dataset.iter_rows()
        except self._ray.exceptions.RayError as error:  # no process starts: Laconic is missing there, perhaps
            raise DeviceUnavailable(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from error


def _check_address(address: str) -> None:
    """Raise at once where no cluster answers: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # "auto", which Ray looks up
        return
    try:
        socket.create_connection((host.rpartition("/")[2].strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise DeviceUnavailable(f"RAY_ADDRESS is {address}, where no cluster answers: {error}") from error


class _Coder:
    """An actor: codes the files of a block and says what became of each."""

    def __init__(self, work: Work) -> None:
        os.environ |= ONE_THREAD
        self.work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        tasks = [
            Task(Path(os.fsdecode(name)), Path(os.fsdecode(target)))
            for name, target in zip(batch["name"], batch["target"], strict=True)
        ]
        outcomes = [attempt(self.work, task) for task in tasks]
        columns = (
            [int(number) for number in batch["number"]],
            [outcome.before for outcome in outcomes],
            [outcome.after for outcome in outcomes],
            [outcome.reason for outcome in outcomes],
        )
        return dict(zip(COLUMNS, columns, strict=True))
