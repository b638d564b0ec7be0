"""The codecs that a service offers: opened, warmed up, and identified so that their output can be cached."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np

from ..codecs import compress
from ..codecs.codec import BatchCodec, Codec, TargetCodec
from ..codecs.errors import DeviceUnavailable, LaconicError, WeightsMissing
from ..codecs.registry import codec_class, codec_ids, open_codec
from ..codecs.settings import shortest_fit, takes
from ..codecs.signals import Audio, Image, Signal, Video
from ..codecs.weights import check_weights, pinned_weights
from .logs import Log
from .settings import ServiceSettings

__all__ = ["CHECKPOINT", "Catalogue", "Served", "open_catalogue", "set_threads", "warm_late"]

WRITERS = (
    "Pillow",
    "imagecodecs",
    "av",
    "constriction",
    "soundfile",
    "soxr",
)  # libraries whose version may change the bytes of a result
CHECKPOINT = "checkpoint"  # a setting of codecs that fit in steps: the folder where they keep how far they are
# Where nothing is cached, their kernels take half a minute to compile. Of codecs that fit, these can be told to be brief.
WARMED_LATE = ("image-lossless", "image-circuit", "image-overfit", "video-inr")


@dataclass(frozen=True)
class Served:
    """A codec that is open on its device, and the SHA-256 of its weights files."""

    codec: Codec
    device: str
    weights: tuple[str, ...]

    @property
    def batches(self) -> bool:
        """Whether the codec codes several signals at once."""
        return isinstance(self.codec, BatchCodec)

    @property
    def fits(self) -> bool:
        """Whether encoding fits in steps, for longer than anybody waits: as a job only, which goes on after a kill."""
        return CHECKPOINT in self.codec.Settings.model_fields

    @property
    def native(self) -> bool:
        """Whether its streams hold files of a third-party format."""
        return bool(getattr(self.codec, "native", False))

    @property
    def local(self) -> frozenset[str]:
        """The settings that are about this machine, a folder of it say: no client sets or sees them."""
        settings = self.codec.Settings.model_fields
        extras = {name: field.json_schema_extra for name, field in settings.items()}
        return frozenset(
            name for name, extra in extras.items() if name == CHECKPOINT or (isinstance(extra, dict) and extra.get("local"))
        )

    def takes(self, kind: str) -> bool:
        """Whether it takes signals of a kind."""
        return takes(type(self.codec), kind)

    def summary(self) -> dict[str, object]:
        """Return what /v1/codecs tells of every codec."""
        codec = self.codec
        return {
            "id": codec.id,
            "signal": codec.signal,
            "lossless": codec.lossless or "lossless" in codec.Settings.model_fields,
            "job": self.fits,
            "targets": self._targets(),
            "device": self.device,
            "weights": list(self.weights),
            "settings": self.schema(),
        }

    def _targets(self) -> list[str]:
        """Return what the codec can be asked to meet: fields of `Target`, of which kbps is for what lasts."""
        if "quality" not in self.codec.Settings.model_fields and not isinstance(self.codec, TargetCodec):
            return []
        without = {"psnr"} if self.takes("audio") else {"kbps"} if self.takes("image") else set()
        return [field.name for field in fields(compress.Target) if field.name not in without]

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the settings that a client may give."""
        schema = self.codec.Settings.model_json_schema()
        for name in self.local:
            schema.get("properties", {}).pop(name, None)
        return schema


@dataclass(frozen=True)
class Catalogue:
    """The codecs served, why others are not, and `identity`: changes whenever some output might."""

    served: Mapping[str, Served]
    missing: Mapping[str, str]
    identity: str


def open_catalogue(
    settings: ServiceSettings, log: Log, opened: Callable[[str, float], None] = lambda name, seconds: None
) -> Catalogue:
    """Open every allowed codec and code a small picture with it both ways, so that first requests find kernels compiled.

    Those of `WARMED_LATE` are only opened: `warm_late` does the rest while others are served already. Other codecs that fit,
    which may take any time, are opened and no more. A codec that does not open is logged and left out. Raises
    `DeviceUnavailable` for a device that is absent or not exact, `WeightsMissing` when no codec is left. Calls `opened` with
    the id of each codec and the seconds that it took. Sets torch's threads for the calling thread.
    """
    set_threads(settings.threads)
    served: dict[str, Served] = {}
    missing: dict[str, str] = {}
    for name in settings.codecs or codec_ids():
        began = time.perf_counter()
        try:
            served[name] = _open(name, settings.device)
            if name not in WARMED_LATE and not served[name].fits:
                _warm(name, settings.device)
            seconds = round(time.perf_counter() - began, 3)
            opened(name, seconds)
            log.info("codec ready", codec=name, device=served[name].device, seconds=seconds)
        except DeviceUnavailable:
            raise
        except LaconicError as error:
            missing[name] = str(error)
            log.warning("codec missing", codec=name, reason=str(error))
        except Exception as error:  # one codec's defect must not keep the others from being served
            missing[name] = f"it does not open: {type(error).__name__}"
            log.error("codec broken", codec=name, exc_info=error)
    if not served:
        raise WeightsMissing(f"no codec can be opened: {missing}")
    return Catalogue(served, missing, _identity(served))


def set_threads(threads: int) -> None:
    """Set the number of threads that torch uses for what the calling thread does."""
    import torch  # heavy: after the process listens

    torch.set_num_threads(threads)


def warm_late(catalogue: Catalogue, device: str, log: Log) -> None:
    """Code something small with every codec that `open_catalogue` has only opened; what fails is logged.

    For a thread beside the device's owner: these codecs keep nothing from one call to the next. A request that needs a kernel
    which is being compiled waits for it.
    """
    for name in WARMED_LATE:
        if name in catalogue.served:
            began = time.perf_counter()
            try:
                _warm(name, device)
                log.info("codec warm", codec=name, seconds=round(time.perf_counter() - began, 3))
            except Exception as error:  # requests for this codec will meet it too, and answer it
                log.error("codec broken", codec=name, exc_info=error)


def _open(name: str, device: str) -> Served:
    check_weights(name)  # here, because not every codec reads all of its files when it is opened
    place = compress.device_of(codec_class(name), device)
    return Served(open_codec(name, place), place, _weights(name))


def _warm(name: str, device: str) -> None:
    frame = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    signal: Signal = Image(frame) if takes(codec_class(name), "image") else Video.of(np.stack([frame, frame]))
    if takes(codec_class(name), "audio"):
        signal = Audio.of(frame.reshape(1, -1).astype(np.int16), 48_000)
    compress.test(compress.encode(signal, name, shortest_fit(name), device=device).data, device=device)


def _weights(name: str) -> tuple[str, ...]:
    try:
        return tuple(pin.sha256 for pin in pinned_weights(name))
    except (ImportError, OSError):  # an installation without any weights
        return ()


def _identity(served: Mapping[str, Served]) -> str:
    parts = [f"laconic {version('laconic')}", *(f"{library} {version(library)}" for library in WRITERS)]
    parts += [f"{name} {entry.device} {' '.join(entry.weights)}" for name, entry in served.items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
