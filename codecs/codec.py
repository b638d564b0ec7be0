"""What a codec is: a signal to a `Stream` and back. Built-in and third-party codecs alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from .signals import Colour, Signal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .targets import Target

__all__ = [
    "AudioFacts",
    "BatchCodec",
    "Codec",
    "CodecSettings",
    "ParamValue",
    "Progress",
    "Stream",
    "TargetCodec",
    "VideoFacts",
    "share_of",
]

ParamValue = int | bytes | str | bool | list[int]

# Called with the part done (0..1) and the name of the stage; raises `Cancelled` to stop the work.
Progress = Callable[[float, str], None]


def share_of(progress: Progress | None, start: float, share: float) -> Progress | None:
    """Return the progress of a part of the work that begins at `start` and is `share` of the whole."""
    return progress and (lambda done, stage: progress(min(1.0, start + share * done), stage))


class CodecSettings(BaseModel):
    """Base of every codec's settings; unknown names are errors, and the JSON schema is the API's documentation.

    A field with `json_schema_extra={"local": True}` is about the machine that encodes; a service does not take it from clients.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class VideoFacts:
    """What a header says of a video beside its shape: frames per second, and how its files store colour."""

    rate: Fraction
    colour: Colour


@dataclass(frozen=True)
class AudioFacts:
    """What a header says of sound beside its shape: samples per second, and the channels' layout."""

    rate: int
    layout: str


@dataclass(frozen=True)
class Stream:
    """What the container writes: enough to decode, and nothing else.

    `shape` is that of the decoded array: three numbers for a picture, four for a video, two for sound. `params` are the
    codec's own small values, keyed by integers from 16 up. `weights` are the first 8 bytes of the SHA-256 of each weights
    file that decoding needs. `chunks` are self-contained payloads (one per tile or group of frames), of which those numbered in
    `lost` were damaged and are empty. `digest` is a 2-byte checksum of all symbols (empty for codecs that check themselves).
    `metadata` holds "icc", "exif" and "xmp" payloads, "audio" and "times" of a video, whose frame rate and colour are in
    `video`, and "tags" of sound, whose rate and layout are in `audio`. `known`, never written, are samples that the receiver
    has already, for files that hold only the others.
    """

    codec: str
    shape: tuple[int, ...]
    chunks: tuple[bytes, ...]
    version: int = 1
    bit_depth: int = 8
    params: Mapping[int, ParamValue] = field(default_factory=dict)
    weights: tuple[bytes, ...] = ()
    digest: bytes = b""
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    video: VideoFacts | None = None
    audio: AudioFacts | None = None
    lost: frozenset[int] = frozenset()
    known: NDArray[np.uint8] | None = None


@runtime_checkable
class Codec(Protocol):
    """A codec. Instances hold loaded weights on one device and are safe to reuse, by one thread at a time.

    `id` is the registry's name, `signal` the kind it takes ("image"; one that takes more lists all in `signals`), `lossless`
    whether every setting is lossless, `Settings` a pydantic model whose `quality` field, where there is one, runs 0..100; a
    `lossless` field, where there is one, switches to lossless coding. A codec class is called with the keyword `device` ("cpu"
    or "cuda"). One whose attribute `overlaps` is true keeps nothing from one call to the next: its calls may overlap. One whose
    attribute `native` is true has files of a third-party format in its streams: the service decodes them in a confined process.
    A codec that fits in steps has a setting `checkpoint`: a folder that keeps what it needs to go on after it was killed.
    """

    id: str
    signal: str
    lossless: bool
    Settings: type[CodecSettings]

    def encode(self, signal: Signal, settings: Any, progress: Progress | None = None) -> Stream:
        """Compress; raises `UnsupportedMedia` for signals that it does not take."""
        ...

    def decode(self, stream: Stream, progress: Progress | None = None) -> Signal:
        """Restore; raises only `LaconicError`s, whatever the bytes."""
        ...


@runtime_checkable
class BatchCodec(Codec, Protocol):
    """A codec that codes several signals at once faster than one by one, to the same bytes."""

    def encode_batch(self, signals: Sequence[Signal], settings: Sequence[Any]) -> list[Stream]:
        """Compress each signal with its settings."""
        ...

    def decode_batch(self, streams: Sequence[Stream]) -> list[Signal]:
        """Restore each stream."""
        ...


@runtime_checkable
class TargetCodec(Protocol):
    """A codec that meets targets by itself, as its encodings take too long to be tried; "auto" does not try it for a target."""

    def encode_to(self, signal: Signal, settings: Any, target: Target, progress: Progress | None = None) -> Stream:
        """Compress to a target; raises `InvalidSettings` that tells the best reached if it cannot be met."""
        ...
