"""Two small video codecs for tests of the service: one that is quick, and one that fits in steps and goes on after a kill.

Imports nothing of the tests, so that a service in a process of its own can have them as third-party codecs.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydantic import Field

from laconic.codecs import registry
from laconic.codecs.codec import CodecSettings, Progress, Stream
from laconic.codecs.errors import CorruptStream
from laconic.codecs.signals import Samples, Video
from laconic.codecs.video.frames import GroupFrames, video_of_groups

GROUP = 4  # frames
KEPT_EVERY = 5  # steps


class ToyFrames:
    """Groups of frames as zlib packs them."""

    id = "toy-frames"
    signal = "video"
    lossless = True
    Settings = CodecSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Video, settings: CodecSettings, progress: Progress | None = None) -> Stream:
        """Compress all frames."""
        array = signal.array
        groups = [array[start : start + GROUP] for start in range(0, array.shape[0], GROUP)]
        chunks = tuple(zlib.compress(group.tobytes(), 1) for group in groups)
        return Stream(self.id, signal.shape, chunks, bit_depth=signal.bit_depth)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Video:
        """Return the video whose groups are unpacked when they are read."""
        frames, height, width, _ = stream.shape
        starts = tuple(range(0, frames, GROUP))
        if len(starts) != len(stream.chunks):
            raise CorruptStream("groups are missing")

        def decode(group: int) -> Samples:
            size = 3 * height * width * stream.bit_depth // 8
            packed = zlib.decompressobj().decompress(stream.chunks[group], GROUP * size + 1)
            dtype = np.uint8 if stream.bit_depth == 8 else np.uint16
            if not packed or len(packed) % size:
                raise CorruptStream("a group has half a frame")
            samples: Samples = np.frombuffer(packed, dtype).reshape(-1, height, width, 3)
            return samples

        shape = (frames, height, width, 3)
        return video_of_groups(GroupFrames(shape, stream.bit_depth, starts, decode, stream.lost))


class ToyFitSettings(CodecSettings):
    """Settings of `toy-fit`."""

    steps: int = Field(20, ge=1, le=100_000, description="steps of the fit")
    checkpoint: str | None = Field(None, description="folder where the fit keeps how far it is")
    pause: float = Field(0.01, ge=0, description="seconds that a step takes", json_schema_extra={"local": True})


class ToyFit(ToyFrames):
    """Takes a hundredth of a second for each step; a step is a line in the file that TOY_STEPS names."""

    id = "toy-fit"
    overlaps = True
    Settings = ToyFitSettings

    def encode(self, signal: Video, settings: CodecSettings, progress: Progress | None = None) -> Stream:
        """Fit, from the last checkpoint on, and compress."""
        assert isinstance(settings, ToyFitSettings)
        kept = None if settings.checkpoint is None else Path(settings.checkpoint, "step.json")
        first = json.loads(kept.read_text()) if kept and kept.exists() else 0
        for step in range(first, settings.steps):
            time.sleep(settings.pause)
            if "TOY_STEPS" in os.environ:
                with open(os.environ["TOY_STEPS"], "a") as log:
                    log.write(f"{step}\n")
            if kept and (step + 1) % KEPT_EVERY == 0:
                fresh = kept.with_suffix(".new")
                fresh.write_text(json.dumps(step + 1))
                os.replace(fresh, kept)
            if progress:
                progress((step + 1) / settings.steps, f"step {step + 1}, {20 + step / 10:.2f} dB")
        return super().encode(signal, settings, progress)


@contextmanager
def installed() -> Iterator[None]:
    """Have both codecs in the registry for as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (ToyFrames, ToyFit):
            patch.setitem(registry.CODECS, kind.id, f"{__name__}:{kind.__name__}")
        registry.codec_class.cache_clear()
        registry.open_codec.cache_clear()
        yield
    registry.codec_class.cache_clear()
    registry.open_codec.cache_clear()


def write_distribution(folder: Path) -> None:
    """Make a folder that, on PYTHONPATH, is an installed distribution with both codecs."""
    (folder / "toy_video.py").write_bytes(Path(__file__).read_bytes())
    package = folder / "toy_video-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-video\nVersion: 1.0\n")
    lines = ["[laconic.codecs]", *(f"{kind.id} = toy_video:{kind.__name__}" for kind in (ToyFrames, ToyFit))]
    (package / "entry_points.txt").write_text("\n".join(lines) + "\n")
