"""What the device owner runs: batches of encodings or of decodings, each job to an outcome or an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..codecs import batches, compress
from ..codecs.batches import Request
from ..codecs.codec import Progress
from ..codecs.compress import Encoded
from ..codecs.errors import Cancelled, InvalidSettings
from ..codecs.limits import Limits
from ..codecs.settings import is_lossless
from ..codecs.signals import Signal
from .catalogue import Catalogue

__all__ = ["Coder", "DecodeJob", "EncodeJob", "Job", "Outcome"]


@dataclass(frozen=True, eq=False)
class EncodeJob:
    """A signal to compress; `abandoned` is set when nobody waits any more, `report` hears of progress where it runs alone."""

    request: Request
    batch_key: Hashable | None
    abandoned: threading.Event = field(default_factory=threading.Event)
    report: Progress | None = None
    exclusive: bool = True


@dataclass(frozen=True, eq=False)
class DecodeJob:
    """An .lcn file of `codec` to restore; `abandoned` and `report` as of `EncodeJob`."""

    data: bytes
    codec: str
    batch_key: Hashable | None
    abandoned: threading.Event = field(default_factory=threading.Event)
    report: Progress | None = None
    exclusive: bool = True


Job = EncodeJob | DecodeJob


@dataclass(frozen=True)
class Outcome:
    """A result, the seconds that its batch took, and the same by span."""

    value: Encoded | Signal
    seconds: float
    spans: Mapping[str, float]


class Coder:
    """Makes jobs and runs them, with the codecs of one catalogue."""

    def __init__(self, catalogue: Catalogue, limits: Limits, device: str) -> None:
        self._catalogue, self._limits, self._device = catalogue, limits, device

    def encode_job(self, request: Request) -> EncodeJob:
        """Return the job of a request; those that search or try several codecs run alone."""
        searches = request.target is not None or is_lossless(request.settings)
        if request.codec == compress.AUTO and not searches:
            request = replace(request, codec=self._preferred())
        first = compress.PREFERRED[0] if request.codec == compress.AUTO else request.codec
        tried = self._catalogue.served if request.codec == compress.AUTO else [request.codec]
        exclusive = not all(map(self._overlaps, tried))
        return EncodeJob(request, None if searches else self._batch_key("encode", first), exclusive=exclusive)

    def _preferred(self) -> str:
        """Return "auto" where it may choose as it likes, else the codec that it would like best of those served."""
        served = [name for name in compress.PREFERRED if name in self._catalogue.served]
        return compress.AUTO if len(served) == len(compress.PREFERRED) else [*served, *self._catalogue.served][0]

    def decode_job(self, data: bytes, codec: str) -> DecodeJob:
        """Return the job of a file that needs `codec`; raises `InvalidSettings` for one that is not served."""
        if codec not in self._catalogue.served:
            raise InvalidSettings(f"the file needs {codec!r}; served are {', '.join(self._catalogue.served)}")
        return DecodeJob(data, codec, self._batch_key("decode", codec), exclusive=not self._overlaps(codec))

    def _overlaps(self, codec: str) -> bool:
        """Whether calls of a codec may overlap: it says so, and needs no device that has to be shared."""
        served = self._catalogue.served.get(codec)
        return served is not None and served.device == "cpu" and getattr(served.codec, "overlaps", False)

    def _batch_key(self, verb: str, codec: str) -> Hashable | None:
        served = self._catalogue.served.get(codec)
        return (verb, codec) if served is not None and served.batches else None

    def run(self, jobs: Sequence[Job]) -> list[Outcome | BaseException]:
        """Run jobs with one key together. If that fails as a whole, run them one by one, so that a bad one fails alone."""
        if len(jobs) > 1:
            try:
                return self._run_together(jobs)
            except Exception:
                pass  # memory or a defect of the batch: what is wrong with which job shows below
        return [self._run_alone(job) for job in jobs]

    def _run_together(self, jobs: Sequence[Job]) -> list[Outcome | BaseException]:
        began = time.perf_counter()
        requests = [job.request for job in jobs if isinstance(job, EncodeJob)]
        files = [job.data for job in jobs if isinstance(job, DecodeJob)]
        values: Sequence[Encoded | Signal | BaseException]
        values = batches.encode_many(requests, self._device) if requests else []
        values = [*values, *(batches.decode_many(files, self._limits, self._device) if files else [])]
        seconds = time.perf_counter() - began
        return [
            value if isinstance(value, BaseException) else self._outcome(job, value, seconds)
            for job, value in zip(jobs, values, strict=True)
        ]

    def _run_alone(self, job: Job) -> Outcome | BaseException:
        began = time.perf_counter()
        try:
            value = self._code(job, _stop_when_abandoned(job))
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's: the device's memory, not the process's
                return MemoryError(str(error))
            return error
        return self._outcome(job, value, time.perf_counter() - began)

    def _code(self, job: Job, progress: Progress) -> Encoded | Signal:
        if isinstance(job, DecodeJob):
            return compress.decode(job.data, self._limits, self._device, progress)
        request, served = job.request, self._catalogue.served
        return compress.encode(request.signal, request.codec, request.settings, request.target, self._device, progress, served)

    def _outcome(self, job: Job, value: Encoded | Signal, seconds: float) -> Outcome:
        """Return the outcome; a codec's own split of its last call counts where that call was the whole work."""
        codec = value.codec if isinstance(value, Encoded) else job.codec if isinstance(job, DecodeJob) else ""
        served = self._catalogue.served.get(codec)
        timings: Mapping[str, float] = getattr(served.codec, "last_timings", {}) if served else {}
        searched = isinstance(job, EncodeJob) and job.request.target is not None
        entropy = 0.0 if searched else min(seconds, timings.get("entropy", 0.0))
        return Outcome(value, seconds, {"transform": seconds - entropy, "entropy": entropy})


def _stop_when_abandoned(job: Job) -> Callable[[float, str], None]:
    def progress(part: float, stage: str) -> None:
        if job.abandoned.is_set():
            raise Cancelled(f"nobody waits any more ({stage}, {part:.0%})")
        if job.report is not None:
            job.report(part, stage)

    return progress
