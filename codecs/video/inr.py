"""`video-inr`: groups of frames as the parameters of small networks that are fitted to them, in real files.

A group's chunk holds the quantised parameters of its network; decoding renders the frames that are asked for. Architectures and
their sources are in `inr_networks`, fitting in `inr_fit`, quantisation and coding in `inr_quantise` and `inr_parameters`. No
network decides a probability, so that the parameters are exact on every machine; frames may differ by 1 between devices, or by
nothing with the `exact` profile.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..checkpoint import checkpoint_folder
from ..codec import ParamValue, Progress, Stream
from ..compress import packed
from ..device import one_thread
from ..metrics import psnr
from ..signals import Samples, Video
from ..targets import Target
from .frames import GroupFrames, video_of_groups
from .inr_frames import frames_of_group
from .inr_group import GroupPlan
from .inr_groups import fit_groups
from .inr_rates import Ladder, elasticity_of
from .inr_settings import InrSettings, layout_for, plan_for
from .inr_stream import PARAM_EXACT, PARAM_SPEC, Layout, layout_of

__all__ = ["Measured", "VideoInr"]

FITTING, CODED = 0.9, 0.98  # parts of an encoding's progress
LARGE_FRAME = 2**17  # pixels from which on a step of a fit may last longer than cancelling should


@dataclass(frozen=True)
class Measured:
    """What an encoding reached: the PSNR of what its bytes decode to and that of the fit before quantisation, the parameters
    of all networks, and the seconds that fitting took, all groups and interrupted runs together.
    """

    psnr: float
    float_psnr: float
    parameters: int
    fit_seconds: float


class VideoInr:
    """The codec. Takes 8 and 16 bits of any size; `last` tells what the last encoding reached."""

    id = "video-inr"
    signal = "video"
    lossless = False
    Settings = InrSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.last: Measured | None = None

    def encode(self, signal: Video, settings: InrSettings, progress: Progress | None = None) -> Stream:
        """Fit and code; raises `InvalidSettings` for an exact profile that the architecture lacks, what `progress` raises."""
        report = progress or (lambda done, stage: None)
        layout = layout_for(settings, signal.shape)
        ladder = self._ladder(signal, settings, layout, report)
        with one_thread(self.device):
            payloads = ladder.at(elasticity_of(settings.quality))
        return self._checked(signal, ladder, payloads, report)

    def encode_to(self, signal: Video, settings: InrSettings, target: Target, progress: Progress | None = None) -> Stream:
        """Fit once, for a size with a network of about that size, then quantise as coarsely as the target allows.

        Raises `InvalidSettings` that tells the best reached.
        """
        report = progress or (lambda done, stage: None)
        most = target.max_bytes(signal.pixels)
        bpp = None if most is None else 8 * most / signal.pixels
        layout = layout_for(settings, signal.shape, bpp)
        ladder = self._ladder(signal, settings, layout, report)
        with one_thread(self.device):
            payloads = ladder.of_psnr(target.psnr or 0.0) if most is None else ladder.of_size(most)
        return self._checked(signal, ladder, payloads, report)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Video:
        """Return the video, whose frames are rendered as they are asked for; raises `CorruptStream`, then and now."""
        layout = layout_of(stream)
        if progress:
            progress(1.0, "ready")
        frames, height, width = stream.shape[:3]
        decode = partial(frames_of_group, stream, layout, device=self.device)
        return video_of_groups(GroupFrames((frames, height, width, 3), stream.bit_depth, layout.starts, decode, stream.lost))

    def _ladder(self, signal: Video, settings: InrSettings, layout: Layout, report: Progress) -> Ladder:
        """Fit all groups, or take what the checkpoint's folder has of them."""
        processes = self._processes(settings, layout)
        plans = [plan_for(settings, layout, group, max(processes, 1)) for group in range(layout.groups)]
        frames_of = partial(_frames_of, signal, layout)

        def fitting(part: float, stage: str) -> None:
            report(FITTING * part, stage)

        with _folder(settings.checkpoint, signal, plans) as folder:
            fitted = fit_groups(plans, frames_of, self.device, processes, folder, fitting)

        def size_of(payloads: Sequence[bytes]) -> int:
            return len(packed(_stream(signal, layout, payloads), signal, settings, 0.0, self.device).data)

        return Ladder(layout, fitted, frames_of, self.device, size_of, lambda stage: report(FITTING, stage))

    def _processes(self, settings: InrSettings, layout: Layout) -> int:
        """Return how many processes fit groups; 0 where this one does it, one group after the other."""
        if self.device != "cpu" or settings.jobs == 1:
            return 0
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(settings.jobs or processors, layout.groups)
        return processes if processes > 1 or layout.spec.height * layout.spec.width >= LARGE_FRAME else 0

    def _checked(self, signal: Video, ladder: Ladder, payloads: Sequence[bytes], report: Progress) -> Stream:
        """Return the stream, after decoding it and comparing."""
        stream = _stream(signal, ladder.layout, payloads)
        report(CODED, "decoding")
        reached = psnr(signal, self.decode(stream))
        self.last = Measured(reached, ladder.float_psnr, ladder.parameters, ladder.fit_seconds)
        report(1.0, f"{reached:.2f} dB")
        return stream


def _stream(signal: Video, layout: Layout, payloads: Sequence[bytes]) -> Stream:
    params: dict[int, ParamValue] = {PARAM_SPEC: layout.spec.to_params()}
    if layout.exact:
        params[PARAM_EXACT] = True
    return Stream(VideoInr.id, signal.shape, tuple(payloads), bit_depth=signal.bit_depth, params=params)


def _frames_of(signal: Video, layout: Layout, group: int) -> Samples:
    start, stop = layout.span(group)
    return signal.frames(start, stop).array


@contextmanager
def _folder(checkpoint: str | None, signal: Video, plans: list[GroupPlan]) -> Iterator[Path]:
    """Yield the folder of a fit: one of its own in `checkpoint`, by all that decides its outcome, or one that passes."""
    if checkpoint is None:
        with tempfile.TemporaryDirectory(prefix="laconic-") as name:
            yield Path(name)
        return
    digest = hashlib.sha256(json.dumps([signal.shape, *map(asdict, plans)]).encode())
    for frame in signal.source.read(0, signal.shape[0]):
        digest.update(np.ascontiguousarray(frame).data)
    yield checkpoint_folder(checkpoint, digest.digest())
