"""Runs stored jobs, one at a time and behind all requests; keeps their leases, delivers their webhooks, lets them expire."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.datastructures import QueryParams

from .exchange import Exchange
from .job_status import moment, status_of
from .job_store import Ending, Job
from .jobs import Jobs, heard, job_path
from .problems import RequestTimeout, StorageFailed, describe, members
from .runtime import Runtime
from .settings import variable
from .webhooks import RETRIES, backoff, deliver
from .work import work_of

__all__ = ["JobRunner", "running_jobs"]

BEAT_S = 0.5  # how often progress is noted, where leases are not shorter
SWEEP_S = 60.0
HOOK_S = 1.0  # how often webhooks that are due are looked for
SENDERS = 4  # webhooks on their way at once: a slow receiver does not keep the others waiting


@asynccontextmanager
async def running_jobs(runtime: Runtime) -> AsyncIterator[None]:
    """Run jobs for as long as the block lasts; one that runs at its end goes back into the queue."""
    runner = JobRunner(runtime)
    senders = [runner.send_webhooks() for _ in range(SENDERS if runtime.settings.webhook_secret else 0)]
    tasks = [asyncio.create_task(loop) for loop in (runner.run(), runner.sweep(), *senders)]
    try:
        yield
    finally:
        runtime.jobs.stop_waiting()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class JobRunner:
    """One worker of the store. Its name is new in every process, so that no job is mistaken for its own after a restart."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.log = runtime, runtime.log
        self.jobs: Jobs = runtime.jobs
        self.worker = secrets.token_hex(8)
        self._beat_s = min(BEAT_S, runtime.settings.job_lease_s / 4)
        self._current: tuple[str, asyncio.Task[Ending | None]] | None = None
        self.jobs.on_cancel = self._stop

    def _stop(self, job_id: str) -> None:
        if self._current is not None and self._current[0] == job_id:
            self._current[1].cancel()

    async def run(self) -> None:
        """Run jobs for ever."""
        await self._again_and_again(self._run_next)

    async def sweep(self) -> None:
        """Let results expire and delete what nothing needs any more, for ever."""
        await self._again_and_again(self._sweep)

    async def send_webhooks(self) -> None:
        """Deliver webhooks for ever."""
        await self._again_and_again(self._send_webhook)

    async def _again_and_again(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except Exception as error:  # a full disk, say: it may pass, and the service must outlive it
                self.log.error("jobs failed", step=step.__name__, exc_info=error)
                await asyncio.sleep(HOOK_S)

    async def _run_next(self) -> None:
        runtime = self.runtime
        if runtime.draining or not runtime.owner.ready:
            await asyncio.sleep(BEAT_S / 5)
            return
        self.jobs.work.clear()  # before looking: what is submitted from here on is heard
        job = await self.jobs.call(self.jobs.store.claim, self.worker)
        runtime.metrics.set_jobs(await self.jobs.call(self.jobs.store.counts))
        if job is None:
            await heard(self.jobs.work, self._beat_s)  # and then look again: a lease may have run out
            return
        self.jobs.ring(job.id)
        await self._run(job)
        self.jobs.ring(job.id)

    async def _run(self, job: Job) -> None:
        """Run one attempt and keep its lease meanwhile; the job goes back into the queue if this worker is stopped."""
        exchange = Exchange(self.runtime, background=True, checkpoint=self.jobs.checkpoints.path(job.id))
        facts: dict[str, str | int] = {"laconic.job": job.id, "laconic.op": job.op, "laconic.attempt": job.attempts}
        trace = self.runtime.recorder.job(f"job {job.op}", facts, job.trace) if self.runtime.recorder else None
        attempt = asyncio.create_task(self._attempt(job, exchange))
        saving = asyncio.create_task(self._save_checkpoints(job.id))
        self._current = job.id, attempt
        ending: Ending | None = Ending("queued")
        try:
            while not attempt.done():
                await asyncio.wait({attempt}, timeout=self._beat_s)
                if not attempt.done() and not await self._beat(job, exchange):
                    attempt.cancel()  # cancelled or lost: the next wait sees its end
            if not attempt.cancelled():
                ending = attempt.result()
        finally:
            for task in (attempt, saving):
                task.cancel()
            await asyncio.gather(attempt, saving, return_exceptions=True)
            self._current = None
            kept = ending is not None and await self.jobs.call(self.jobs.store.settle, job, self.worker, ending)
            await self.jobs.forget_checkpoints([job.id])
            state = ending.state if ending and kept else "dropped"
            self.log.info("job", id=job.id, op=job.op, attempt=job.attempts, state=state, **(trace.ids if trace else {}))
            if trace:
                failed = str((ending.error or {}).get("code", "dropped")) if ending else "dropped"
                trace.end(f"job {job.op}", {"laconic.state": state}, exchange.parts, failed if state != "succeeded" else None)
        if ending and kept:
            self.runtime.metrics.jobs_ended.labels(job.op, ending.state).inc()

    async def _save_checkpoints(self, job_id: str) -> None:
        """Keep the job's checkpoints where other machines find them, until cancelled; a storage that fails ends no work."""
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                await self.jobs.on_disk(self.jobs.checkpoints.save, job_id)
            except StorageFailed as error:
                self.log.warning("checkpoint failed", id=job_id, reason=str(error))

    async def _beat(self, job: Job, exchange: Exchange) -> bool:
        """Renew the lease; False if the job is no longer this worker's. A store that fails does not end the work."""
        progress = round(exchange.progress, 4)
        try:
            ours = await self.jobs.call(self.jobs.store.beat, job, self.worker, progress, exchange.stage)
        except StorageFailed as error:
            self.log.error("beat failed", id=job.id, reason=str(error))
            return True
        self.jobs.ring(job.id)
        return ours

    async def _attempt(self, job: Job, exchange: Exchange) -> Ending | None:
        """Return how it ended; None where the storage failed and another attempt, once the lease has run out, may do better."""
        try:
            return await self._code(job, exchange)
        except Exception as error:
            if isinstance(error, StorageFailed) and job.attempts < self.runtime.settings.job_attempts:
                self.log.warning("storage failed", id=job.id, reason=str(error))
                return None
            if describe(error)[0].status == 500:
                self.log.error("failure", request_id=job.id, exc_info=error)
            return Ending("failed", error=members(error, job_path(job.id), job.id))

    async def _code(self, job: Job, exchange: Exchange) -> Ending:
        """Do the work within its time and keep the result."""
        runtime, limit = self.runtime, self.runtime.settings.job_timeout_s
        work = work_of(job.op, QueryParams(dict(job.options)), job.form, runtime.catalogue)
        body = await self.jobs.on_disk(self.jobs.blobs.get, job.payload or "")
        await self.jobs.on_disk(self.jobs.checkpoints.fetch, job.id)
        try:
            async with asyncio.timeout(limit):
                result = await work.run(exchange, body)
        except TimeoutError as error:
            where = f"{exchange.stage}, {exchange.progress:.0%}"
            raise RequestTimeout(f"not done after {limit:g} s ({where}); {variable('job_timeout_s')} allows more") from error
        name = await self.jobs.write(result.content)
        runtime.metrics.coded(result.codec, len(body), len(result.content), exchange.spans)
        return Ending("succeeded", name, len(result.content), result.media_type, result.codec)

    async def _sweep(self) -> None:
        settings = self.runtime.settings
        needed = await self.jobs.on_disk(self.jobs.uploads.expire)  # before the jobs: one may be made from an upload meanwhile
        needed |= await self.jobs.call(self.jobs.store.expire)
        await self.jobs.on_disk(self.jobs.blobs.sweep, needed)
        await self.jobs.forget_checkpoints(await self.jobs.on_disk(self.jobs.checkpoints.jobs))
        await asyncio.sleep(min(SWEEP_S, settings.job_retention_s / 4, settings.upload_retention_s / 4))

    async def _send_webhook(self) -> None:
        settings = self.runtime.settings
        secret = settings.webhook_secret
        job = None if secret is None else await self.jobs.call(self.jobs.store.take_webhook)
        if job is None or secret is None or job.callback is None:
            await asyncio.sleep(HOOK_S)
            return
        message = {"type": f"job.{job.state}", "timestamp": moment(time.time()), "data": status_of(job)}
        failure = await deliver(
            job.callback, settings.webhook_allow_private, secret.get_secret_value(), f"msg_{job.id}", message
        )
        again = backoff(job.webhook_tries) if failure is not None and job.webhook_tries <= RETRIES else None
        await self.jobs.call(self.jobs.store.settle_webhook, job, failure, again)
        self.log.info("webhook", id=job.id, attempt=job.webhook_tries, failure=failure)
