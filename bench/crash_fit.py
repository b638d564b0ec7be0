"""Kill the service with signal 9 while a job fits a video, start it again, and tell how much of the fit is done twice.

A codec that fits in steps keeps how far it is in the job's folder of checkpoints. What is lost by a kill is the progress that
the job had told before it, less the progress that the next attempt tells first, as seconds of the whole fit.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ..codecs import compress, media
from ..codecs.signals import Video
from .service_process import ServiceProcess, running_service

__all__ = ["FitReport", "moving_window", "run_fit"]

LEASE_S = 1.0
LOOK_S = 0.05
LONGEST_WAIT_S = 300.0


@dataclass(frozen=True)
class FitReport:
    """What became of one fit: how often it was killed, the seconds of it done again after each kill, and whether it ended well.

    `seconds` are those that the fit was given, `attempts` those of its job.
    """

    kills: int
    seconds: float
    redone: tuple[float, ...]
    attempts: int
    good: bool

    def table(self) -> str:
        """Return a Markdown table."""
        rows = {
            "seconds of the fit": f"{self.seconds:g}",
            "kills with signal 9": str(self.kills),
            "attempts": str(self.attempts),
            "seconds done again after a kill, at most": f"{max(self.redone, default=0.0):.1f}",
            "on average": f"{sum(self.redone) / max(1, len(self.redone)):.1f}",
            "result": "right" if self.good else "wrong",
        }
        return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items()), ""])


def run_fit(
    codec: str,
    settings: Mapping[str, str],
    seconds: float,
    kills: int,
    longest_s: float,
    seed: int = 1,
    stores: Mapping[str, str] | None = None,
) -> FitReport:
    """Kill `kills` times, each `longest_s` seconds at most after the fit was seen to go on; `seconds` are those of the fit.

    With `stores`, the settings of stores that machines share, the next service has a new folder, as one on another machine has.
    """
    chance, redone = random.Random(seed), []
    clip = moving_window(32, 64, 96)
    with tempfile.TemporaryDirectory(prefix="laconic-crash-fit-") as name:
        folder = Path(name)
        with _service(folder / "0", codec, kills, stores) as service:
            body = media.write(clip, "mp4")
            query = {"op": "encode", "codec": codec, **settings}
            httpx.post(f"{service.url}/v1/jobs", params=query, content=body, timeout=60).raise_for_status()
            before = _killed(service, chance.uniform(longest_s / 3, longest_s))
        for number in range(kills):
            with _service(folder / (f"{number + 1}" if stores else "0"), codec, kills, stores) as service:
                after = _progress(service, number + 2)
                redone.append(max(0.0, before - after) * seconds)
                if number + 1 < kills:
                    before = _killed(service, chance.uniform(longest_s / 3, longest_s))
                    continue
                job = httpx.get(f"{service.url}/v1/jobs", timeout=60).json()["jobs"][0]
                deadline = time.monotonic() + seconds + LONGEST_WAIT_S
                while job["state"] == "running" and time.monotonic() < deadline:
                    job = httpx.get(f"{service.url}{job['links']['self']}?wait=20", timeout=60).json()
                good = job["state"] == "succeeded" and _is_right(service.url + job["links"]["result"], clip)
    return FitReport(kills, seconds, tuple(redone), int(job["attempts"]), good)


def moving_window(frames: int, height: int, width: int) -> Video:
    """Return a video of a smooth texture that moves, at 25 frames a second."""
    rows, columns = np.mgrid[: height + frames, : width + 2 * frames]
    waves = [np.sin(columns / 7) + np.sin(rows / 5), np.cos((columns + rows) / 11), np.sin(columns / 3 - rows / 9)]
    texture = np.stack([(wave - wave.min()) / np.ptp(wave) * 255 for wave in waves], -1).astype(np.uint8)
    return Video.of(np.stack([texture[step : step + height, 2 * step : 2 * step + width] for step in range(frames)]))


def _killed(service: ServiceProcess, seconds: float) -> float:
    """Kill the service so many seconds after its job has told of progress; return the progress told last."""
    attempt = int(_job(service)["attempts"])
    _progress(service, max(1, attempt))
    time.sleep(seconds)
    told = float(_job(service)["progress"])
    service.kill()
    return told


def _progress(service: ServiceProcess, attempt: int) -> float:
    """Return the first progress that an attempt tells; 1 for a job that ends before."""
    deadline = time.monotonic() + LONGEST_WAIT_S
    while time.monotonic() < deadline:
        job = _job(service)
        if job["attempts"] >= attempt and job["progress"] > 0:
            return float(job["progress"])
        time.sleep(LOOK_S)
    raise RuntimeError(f"attempt {attempt} tells of no progress in {LONGEST_WAIT_S:.0f} s")


def _job(service: ServiceProcess) -> dict[str, Any]:
    """Return the newest job, which is the only one."""
    newest: dict[str, Any] = httpx.get(f"{service.url}/v1/jobs?limit=1", timeout=60).raise_for_status().json()["jobs"][0]
    return newest


def _is_right(url: str, clip: Video) -> bool:
    return compress.decode(httpx.get(url, timeout=60).content).shape == clip.shape


@contextmanager
def _service(folder: Path, codec: str, kills: int, stores: Mapping[str, str] | None) -> Iterator[ServiceProcess]:
    settings = {"codecs": codec, "threads": 1, "state_dir": folder, "job_lease_s": LEASE_S, "job_attempts": kills + 2}
    with running_service({**settings, **(stores or {})}) as service:
        yield service
