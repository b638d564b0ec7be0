"""What this process may use of the machine: processors, memory and disk, control groups (containers) counted in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["free_bytes", "is_writable", "memory_bytes", "processors"]

CONTROL_GROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


def processors() -> tuple[int, float]:
    """Return the cores that this process may run on, and how many of them a container's quota lets it use at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = _words(CONTROL_GROUP / "cpu.max")
    if len(words) == 2 and words[0].isdigit() and int(words[1]):
        return cores, min(float(cores), int(words[0]) / int(words[1]))
    return cores, float(cores)


def memory_bytes() -> int | None:
    """Return the memory that this process may still take, or None where the system does not tell."""
    limits = []
    words = _words(MEMORY)
    if "MemAvailable:" in words:
        limits.append(1024 * int(words[words.index("MemAvailable:") + 1]))
    limit, used = _words(CONTROL_GROUP / "memory.max"), _words(CONTROL_GROUP / "memory.current")
    if limit and used and limit[0].isdigit():
        limits.append(max(0, int(limit[0]) - int(used[0])))
    return min(limits, default=None)


def free_bytes(folder: Path) -> int:
    """Return the bytes free on the disk that a folder is on, or will be once it is made."""
    return shutil.disk_usage(_existing(folder)).free


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder be made."""
    place = _existing(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _existing(folder: Path) -> Path:
    """Return the nearest of a folder and those around it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
