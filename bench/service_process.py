"""A service in a process of its own for the suites that load it: started, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import httpx

__all__ = ["ServiceProcess", "running_service"]

START_S = 180.0


class ServiceProcess:
    """A service that runs: its URL, the failures in its log, and what its processes use."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self._process, self._log = url, process, log

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it with signal 9, as a crash does."""
        self._process.kill()

    def failures(self) -> list[str]:
        """Return the lines of the log about failures."""
        with open(self._log, encoding="utf-8", errors="replace") as log:
            return [line for line in log if '"failure"' in line or "Traceback" in line]

    def resident_mib(self) -> float:
        """Return the resident memory of the service and its workers in MiB, shared pages once; NaN where there is no /proc."""
        return sum(_pss_mib(process, "Pss") for process in self._processes())

    def anonymous_mib(self) -> float:
        """Return the part of `resident_mib` that is no file's: heaps, stacks, what is shared without a file.

        Pages of files count less whenever any other program on the machine happens to use the same library; these do not.
        """
        return sum(_pss_mib(process, "Pss_Anon", "Pss_Shmem") for process in self._processes())

    def watch_peak(self) -> Callable[[], float]:
        """Forget the peaks of memory so far; returns what tells by how many MiB the peaks of all processes have grown since.

        A process that has started since is counted from the size of the smallest one before: those are forks of one another.
        """
        for process in self._processes():
            with contextlib.suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")
        before = {process: _status_mib(process, "VmRSS") for process in self._processes()}
        least = min(before.values())
        return lambda: sum(max(0.0, _status_mib(p, "VmHWM") - before.get(p, least)) for p in self._processes())

    def processor_seconds(self) -> float:
        """Return the processor time that the service and its workers have used; NaN where there is no /proc."""
        return sum(_processor_seconds(process) for process in self._processes())

    def _processes(self) -> list[int]:
        """Return the service's process and all below it."""
        if not Path("/proc/self").exists():
            return [self._process.pid]
        parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        found = [self._process.pid]
        for process in found:  # which grows
            found += [child for child, parent in parents.items() if parent == process]
        return found


@contextmanager
def running_service(settings: Mapping[str, object]) -> Iterator[ServiceProcess]:
    """Run a service with these settings (fields of `ServiceSettings`) on a free port and yield it once it is ready.

    Raises `RuntimeError` when it does not start.
    """
    given = {f"LACONIC_{name.upper()}": str(value) for name, value in {"port": 0, **settings}.items() if value is not None}
    command = [sys.executable, "-P", "-m", "laconic.service.serve"]
    # the log goes to a file: who reads a pipe is woken at every request, and takes the processor from what is measured
    with NamedTemporaryFile("ab") as log, subprocess.Popen(command, env=os.environ | given, stderr=log) as process:
        try:
            service = ServiceProcess(_address(Path(log.name), process), process, Path(log.name))
            _wait_until_ready(service)
            yield service
        finally:
            process.terminate()
            process.wait(60)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    while True:
        ended = process.poll() is not None
        for line in log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # half a line, or none of ours
                event = json.loads(line)
                if event.get("event") == "listening":
                    return str(event["url"])
        if ended:
            raise RuntimeError(f"the service ended before it listened: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _wait_until_ready(service: ServiceProcess) -> None:
    deadline = time.monotonic() + START_S
    while service.alive and time.monotonic() < deadline:
        try:
            if httpx.get(f"{service.url}/readyz", timeout=START_S).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # it ends, or has not begun to accept
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready after {START_S:.0f} s")


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0  # it has ended meanwhile


def _pss_mib(process: int, *fields: str) -> float:
    """Return the sum of fields of a process's smaps_rollup in MiB; pages that n processes share count an nth."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile, before or after its folder was opened
        return 0.0 if Path("/proc/self").exists() else float("nan")
    return sum(int(line.split()[1]) for line in text.splitlines() if line.partition(":")[0] in fields) / 1024


def _status_mib(process: int, field: str) -> float:
    """Return a field of a process's status, in MiB; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(field)), 0) / 1024


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0 if Path("/proc/self").exists() else float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
