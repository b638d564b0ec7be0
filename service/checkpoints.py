"""Folders in which jobs that fit in steps keep how far they are, so that one whose process died goes on from there."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["CheckpointFolder"]


class CheckpointFolder:
    """Holds a folder for each job that wants one, private to the service, under the job's id. What is in it is the codec's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, job_id: str) -> Path:
        """Return where a job's folder is, or would be: whoever wants it makes it."""
        return self._folder / job_id

    def fetch(self, job_id: str) -> None:
        """Have in a job's folder what earlier attempts have kept, wherever they ran; here that is there already."""

    def save(self, job_id: str) -> None:
        """Keep what is in a job's folder where other machines find it; here it stays where it is."""

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that have a folder."""
        return sorted(path.name for path in self._folder.iterdir())

    def remove(self, job_id: str) -> None:
        """Delete a job's folder, if there is one; what is being written to it just now stays for the next time."""
        shutil.rmtree(self.path(job_id), ignore_errors=True)
