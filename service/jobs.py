"""The jobs of one service: the store on a thread of its own, the blobs beside it, and who waits for news of a job."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from .blobs import BlobStore, blob_name
from .checkpoints import CheckpointFolder
from .job_store import Draft, Job, JobStore, StoreError
from .problems import JobCancelled, JobsOff, NoSuchJob, StorageFailed, members
from .settings import ServiceSettings
from .stores import Stores, open_stores
from .upload_store import UploadStore

__all__ = ["Jobs", "heard", "job_path"]

P = ParamSpec("P")
T = TypeVar("T")
LOOK_S = 1.0  # how often those who wait look again: another process may have changed a job


def job_path(job_id: str) -> str:
    """Return the path of a job's resource."""
    return f"/v1/jobs/{job_id}"


class Jobs:
    """Belongs to one event loop. `open` comes first; without a `state_dir` jobs are kept in a temporary folder."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.closing = False
        self.work = asyncio.Event()  # set when there is something to run
        self.on_cancel: Callable[[str], None] = lambda job_id: None  # whoever runs jobs stops this one
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._stores: Stores | None = None
        self._reading = asyncio.Lock()  # one upload in memory at a time, beside that of the job that runs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")

    def open(self) -> None:
        """Open the stores; raises `InvalidSettings` that names the setting where that is not possible."""
        if self._stores is not None:
            return
        if self.settings.state_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="laconic-jobs-")
        folder = Path(self._temporary.name) if self._temporary else self.settings.state_dir or Path()
        self._stores = open_stores(self.settings, folder)

    def close(self) -> None:
        """Close the stores, once nothing uses them any more; a temporary folder is removed."""
        self._thread.shutdown()
        if self._stores is not None:
            self._stores.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def stores(self) -> Stores:
        """All of them; raises `StorageFailed` until they are open."""
        if self._stores is None:
            raise StorageFailed("the jobs are not open")
        return self._stores

    @property
    def store(self) -> JobStore:
        """The store, whose methods are for `call`."""
        return self.stores.jobs

    @property
    def blobs(self) -> BlobStore:
        """Payloads and results."""
        return self.stores.blobs

    @property
    def uploads(self) -> UploadStore:
        """What comes in parts, whose methods are for `on_disk`."""
        return self.stores.uploads

    @property
    def checkpoints(self) -> CheckpointFolder:
        """How far jobs are that fit in steps, whose methods are for `on_disk`."""
        return self.stores.checkpoints

    async def forget_checkpoints(self, job_ids: Iterable[str]) -> None:
        """Delete the checkpoints of those of these jobs that are done, or not known."""
        for job_id in job_ids:
            job = await self.call(self.store.get, job_id)
            if job is None or job.done:
                await self.on_disk(self.checkpoints.remove, job_id)

    async def on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what reads or writes the storage on a thread; raises `StorageFailed` when that is full or gone."""
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except OSError as error:
            raise StorageFailed(f"the jobs' storage cannot be used: {error.strerror or error}") from error

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store on its thread; raises `StorageFailed` when the disk is full or the server gone."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))
        except StoreError as error:
            raise StorageFailed(str(error)) from error

    async def write(self, content: bytes) -> str:
        """Keep a blob and return its name; raises `StorageFailed`."""
        return await self.on_disk(self.blobs.put, content)

    async def submit(self, draft: Draft, body: bytes) -> tuple[Job, bool]:
        """Store a job and its body; what the draft says of its payload is filled in here. Errors as of `JobStore.add`."""
        if not self.settings.jobs:
            raise JobsOff
        draft = replace(draft, payload=await asyncio.to_thread(blob_name, body), payload_bytes=len(body))
        known = await self.call(self.store.check_room, draft)  # before a byte is written
        if known is not None:
            return known, False
        await self.write(body)
        return await self._add(draft)

    async def submit_stored(self, draft: Draft, check: Callable[[bytes], Awaitable[None]]) -> tuple[Job, bool]:
        """Store a job whose payload is a blob already, once `check` has found no fault with it. Errors as of `submit`."""
        if not self.settings.jobs:
            raise JobsOff
        known = await self.call(self.store.check_room, draft)
        if known is not None:
            return known, False
        assert draft.payload
        async with self._reading:
            await check(await self.on_disk(self.blobs.get, draft.payload))
        await self.on_disk(self.blobs.renew, draft.payload)
        return await self._add(draft)

    async def _add(self, draft: Draft) -> tuple[Job, bool]:
        job, new = await self.call(self.store.add, draft)
        self.work.set()
        return job, new

    async def get(self, job_id: str, owner: str | None) -> Job:
        """Return a job; raises `NoSuchJob` also for another owner's."""
        job = await self.call(self.store.get, job_id)
        if job is None or job.owner != owner:
            raise NoSuchJob(f"no job {job_id[:64]!r} is known here; jobs are forgotten a day after their result has expired")
        return job

    async def page(self, owner: str | None, before: int | None, limit: int) -> Sequence[Job]:
        """Return the owner's newest jobs, those older than the `seq` of `before`."""
        return await self.call(self.store.page, owner, before, limit)

    async def cancel(self, job: Job) -> Job:
        """Cancel a job unless it is done; work that runs stops at the codec's next progress report."""
        if not job.done:
            error = JobCancelled("the job was cancelled by request")
            await self.call(self.store.cancel, job.id, members(error, job_path(job.id), job.id))
            self.on_cancel(job.id)
            self.ring(job.id)
        return await self.get(job.id, job.owner)

    async def newer(self, job: Job, seconds: float) -> Job:
        """Wait until the job has changed or is done, for at most so long or until the service stops; return it as it is."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            bell = self._bells.setdefault(job.id, asyncio.Event())  # taken before looking: no change is missed
            now = await self.get(job.id, job.owner)
            left = deadline - asyncio.get_running_loop().time()
            if now.version != job.version or now.done or left <= 0 or self.closing:
                return now
            await heard(bell, min(left, LOOK_S))

    def ring(self, job_id: str) -> None:
        """Wake those who wait for news of a job."""
        bell = self._bells.pop(job_id, None)
        if bell is not None:
            bell.set()

    def stop_waiting(self) -> None:
        """Send everyone home who waits: the service stops."""
        self.closing = True
        for job_id in list(self._bells):
            self.ring(job_id)


async def heard(bell: asyncio.Event, seconds: float) -> None:
    """Wait until the bell rings, for at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        pass
