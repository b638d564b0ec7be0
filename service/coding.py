"""What the device owner runs: batches of encodings or of decodings, each job to an outcome or an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..codecs import batches, compress
from ..codecs.batches import Request
from ..codecs.codec import Progress
from ..codecs.compress import Encoded, Target
from ..codecs.errors import Cancelled, InvalidSettings, UnsupportedMedia
from ..codecs.limits import Limits
from ..codecs.registry import codec_class, codec_ids
from ..codecs.settings import is_lossless, takes
from ..codecs.signals import Signal
from .catalogue import CHECKPOINT, Catalogue
from .excerpts import Excerpt, restore
from .lanes import Costs, Plan

__all__ = ["Coder", "DecodeJob", "EncodeJob", "Job", "Outcome"]

WHOLE = Excerpt()
LARGEST_IN_BATCH = 2**22  # pixels: a larger picture fills a device by itself, and company would wait for it


@dataclass(frozen=True, eq=False)
class EncodeJob:
    """A signal to compress, as planned.

    `abandoned` is set when nobody waits any more, `report` hears of progress where it runs alone. `checkpoint` is the folder
    where a codec that fits in steps keeps how far it is.
    """

    request: Request
    plan: Plan
    checkpoint: Path | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)
    report: Progress | None = None


@dataclass(frozen=True, eq=False)
class DecodeJob:
    """An .lcn file of `codec`, or the `excerpt` of it, to restore as planned; `abandoned` and `report` as of `EncodeJob`."""

    data: bytes
    codec: str
    plan: Plan
    excerpt: Excerpt = field(default_factory=Excerpt)
    abandoned: threading.Event = field(default_factory=threading.Event)
    report: Progress | None = None


Job = EncodeJob | DecodeJob


@dataclass(frozen=True)
class Outcome:
    """A result, the seconds that its batch took, and the same by span."""

    value: Encoded | Signal
    seconds: float
    spans: Mapping[str, float]


class Coder:
    """Makes jobs and runs them, with the codecs of one catalogue.

    `decode_native`, where given, restores files whose payload is a file of a third-party format.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limits: Limits,
        device: str,
        costs: Costs | None = None,
        decode_native: Callable[[bytes, Limits, Excerpt], Signal] | None = None,
    ) -> None:
        self._catalogue, self._limits, self._device = catalogue, limits, device
        self._costs, self._decode_native = costs or Costs(), decode_native

    def encode_job(self, request: Request) -> EncodeJob:
        """Return the job of a request."""
        signal = request.signal
        plan = self.encode_plan(request.codec, request.settings, request.target, signal.pixels, signal.kind)
        chosen = self._chosen(request.codec, request.settings, request.target, signal.kind)
        return EncodeJob(replace(request, codec=chosen), plan)

    def encode_plan(
        self, codec: str, settings: Mapping[str, object], target: Target | None, pixels: int, signal: str = "image"
    ) -> Plan:
        """Return how a signal of so many pixels is to be compressed; searches and trials of several codecs run alone."""
        chosen, lossless = self._chosen(codec, settings, target, signal), is_lossless(settings)
        searches = target is not None or lossless
        takers = [name for name, served in self._catalogue.served.items() if served.takes(signal)]
        first = next(name for name in (*compress.PREFERRED, *takers) if name in takers) if chosen == compress.AUTO else chosen
        tried = compress.LOSSLESS if lossless else takers
        names = [name for name in tried if name in takers] if chosen == compress.AUTO else [chosen]
        kind = ("encode", chosen, _effort(settings), lossless, target is not None)
        return Plan(
            # an effort asked for may take long: alone it can be stopped, and holds no others up
            batch_key=None if searches or _effort(settings) or pixels > LARGEST_IN_BATCH else self._batch_key("encode", first),
            seconds=self._costs.expect(kind, pixels),
            anywhere=all(map(self._overlaps, names)),
            kind=kind,
            pixels=pixels,
        )

    def _chosen(self, codec: str, settings: Mapping[str, object], target: Target | None, signal: str) -> str:
        """Return the codec asked for; for "auto" where it has no choice to make, the best of those served."""
        if codec != compress.AUTO:
            return codec
        takers = [name for name, served in self._catalogue.served.items() if served.takes(signal) and not served.fits]
        if not takers:
            raise UnsupportedMedia(f"no codec for {signal} is served")
        if target is not None or is_lossless(settings):
            return codec
        preferred = [name for name in compress.PREFERRED if name in codec_ids() and takes(codec_class(name), signal)]
        served = [name for name in preferred if name in takers]
        return codec if served == preferred != [] else [*served, *takers][0]

    def signal_of(self, codec: str) -> str | None:
        """Return the only kind of media that a codec takes, "image", "video" or "audio"; None where there is a choice."""
        served = self._catalogue.served.get(codec)
        kinds = [kind for kind in ("image", "video", "audio") if served is None or served.takes(kind)]
        return kinds[0] if len(kinds) == 1 else None

    def decode_job(self, data: bytes, codec: str, pixels: int, excerpt: Excerpt = WHOLE) -> DecodeJob:
        """Return the job of a file that needs `codec`; raises `InvalidSettings` for one that is not served."""
        if codec not in self._catalogue.served:
            raise InvalidSettings(f"the file needs {codec!r}; served are {', '.join(self._catalogue.served)}")
        kind = ("decode", codec)
        plan = Plan(
            batch_key=None if pixels > LARGEST_IN_BATCH or excerpt != WHOLE else self._batch_key("decode", codec),
            seconds=self._costs.expect(kind, pixels),
            anywhere=self._overlaps(codec),
            kind=kind,
            pixels=pixels,
        )
        return DecodeJob(data, codec, plan, excerpt)

    def _overlaps(self, codec: str) -> bool:
        """Whether calls of a codec may overlap: it says so, and needs no device that has to be shared."""
        served = self._catalogue.served.get(codec)
        return served is not None and served.device == "cpu" and getattr(served.codec, "overlaps", False)

    def _batch_key(self, verb: str, codec: str) -> Hashable | None:
        served = self._catalogue.served.get(codec)
        return (verb, codec) if served is not None and served.batches else None

    def run(self, jobs: Sequence[Job]) -> list[Outcome | BaseException]:
        """Run jobs with one key together. If that fails as a whole, for want of memory or by a defect, run each half.

        So memory that is too small for eight pictures does for four, and a bad job fails alone.
        """
        if len(jobs) == 1:
            return [self._run_alone(jobs[0])]
        try:
            return self._run_together(jobs)
        except Exception as error:  # what is wrong with which job shows below
            short_of_memory = _is_out_of_memory(error)
        if short_of_memory:  # and not before the error, which holds the frames that hold the tensors, is gone
            _release_device_memory()
        middle = len(jobs) // 2
        return [*self.run(jobs[:middle]), *self.run(jobs[middle:])]

    def _run_together(self, jobs: Sequence[Job]) -> list[Outcome | BaseException]:
        began = time.perf_counter()
        requests = [job.request for job in jobs if isinstance(job, EncodeJob)]
        files = [job.data for job in jobs if isinstance(job, DecodeJob)]
        values: Sequence[Encoded | Signal | BaseException]
        values = batches.encode_many(requests, self._device) if requests else []
        values = [*values, *(batches.decode_many(files, self._limits, self._device) if files else [])]
        seconds = time.perf_counter() - began
        self._costs.learn(jobs[0].plan.kind, sum(job.plan.pixels for job in jobs), seconds)
        return [
            value if isinstance(value, BaseException) else self._outcome(job, value, seconds)
            for job, value in zip(jobs, values, strict=True)
        ]

    def _run_alone(self, job: Job) -> Outcome | BaseException:
        began = time.perf_counter()
        try:
            value = self._code(job, _stop_when_abandoned(job))
        except Exception as error:
            return MemoryError(str(error)) if _is_out_of_memory(error) else error
        seconds = time.perf_counter() - began
        self._costs.learn(job.plan.kind, job.plan.pixels, seconds)
        return self._outcome(job, value, seconds)

    def _code(self, job: Job, progress: Progress) -> Encoded | Signal:
        if isinstance(job, DecodeJob):
            served = self._catalogue.served[job.codec]
            if self._decode_native is not None and served.native:
                return self._decode_native(job.data, self._limits, job.excerpt)
            lasting = served.takes("video") or served.takes("audio")
            picture = None if lasting else progress  # codecs of videos are through before a frame is decoded
            return restore(job.data, self._limits, self._device, job.excerpt, picture, progress)
        request, among = job.request, self._catalogue.served
        settings = dict(request.settings)
        if job.checkpoint is not None:
            job.checkpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
            settings[CHECKPOINT] = str(job.checkpoint)
        return compress.encode(request.signal, request.codec, settings, request.target, self._device, progress, among)

    def _outcome(self, job: Job, value: Encoded | Signal, seconds: float) -> Outcome:
        """Return the outcome; a codec's own split of its last call counts where that call was the whole work."""
        codec = value.codec if isinstance(value, Encoded) else job.codec if isinstance(job, DecodeJob) else ""
        served = self._catalogue.served.get(codec)
        timings: Mapping[str, float] = getattr(served.codec, "last_timings", {}) if served else {}
        searched = isinstance(job, EncodeJob) and job.request.target is not None
        entropy = 0.0 if searched else min(seconds, timings.get("entropy", 0.0))
        return Outcome(value, seconds, {"transform": seconds - entropy, "entropy": entropy})


def _effort(settings: Mapping[str, object]) -> int:
    """Return the effort asked for, 0 for none: a small number, for whatever stands there is a kind of its own."""
    text = str(settings.get("effort", ""))
    return int(text) if len(text) == 1 and text in "123456789" else 0


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory is too small; torch, which may not be loaded, names the error alike everywhere."""
    return type(error).__name__ == "OutOfMemoryError"


def _release_device_memory() -> None:
    """Give back what torch keeps for later, so that smaller pieces find room."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stop_when_abandoned(job: Job) -> Callable[[float, str], None]:
    def progress(part: float, stage: str) -> None:
        if job.abandoned.is_set():
            raise Cancelled(f"nobody waits any more ({stage}, {part:.0%})")
        if job.report is not None:
            job.report(part, stage)

    return progress
