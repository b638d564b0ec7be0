"""Codecs by id, imported when first used. Third parties add theirs through the entry-point group `laconic.codecs`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from .codec import Codec
from .errors import InvalidSettings

__all__ = ["CODECS", "codec_class", "codec_ids", "open_codec"]

CODECS: dict[str, str] = {
    "image-transform": "laconic.codecs.image.transform:ImageTransform",
    "image-overfit": "laconic.codecs.image.overfit:ImageOverfit",
    "image-lossless": "laconic.codecs.image.lossless:ImageLossless",
    "jpeg": "laconic.codecs.image.jpeg:Jpeg",
    "webp": "laconic.codecs.image.webp:WebP",
    "avif": "laconic.codecs.image.avif:Avif",
    "jxl": "laconic.codecs.image.jxl:JpegXl",
    "image-circuit": "laconic.codecs.image.circuit:ImageCircuit",
    "video-inr": "laconic.codecs.video.inr:VideoInr",
    "av1": "laconic.codecs.video.av1:Av1",
    "hevc": "laconic.codecs.video.hevc:Hevc",
    "h264": "laconic.codecs.video.h264:H264",
    "audio-rvq": "laconic.codecs.audio.rvq:AudioRvq",
    "audio-lossless": "laconic.codecs.audio.lossless:AudioLossless",
    "flac": "laconic.codecs.audio.flac:Flac",
    "opus": "laconic.codecs.audio.opus:Opus",
}


@cache
def _third_party() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group="laconic.codecs") if point.name not in CODECS}


def codec_ids() -> list[str]:
    """Return the ids of all codecs, built-in ones first."""
    return [*CODECS, *_third_party()]


@cache
def codec_class(name: str) -> type[Codec]:
    """Return the class of a codec; raises `InvalidSettings` that lists the ids."""
    target = CODECS.get(name) or _third_party().get(name)
    if target is None:
        raise InvalidSettings(f"no codec is called {name!r}; there are {', '.join(codec_ids())}")
    module, _, attribute = target.partition(":")
    return cast(type[Codec], getattr(import_module(module), attribute))


@cache
def open_codec(name: str, device: str = "cpu") -> Codec:
    """Return the codec with its weights loaded on `device`; one instance per name and device."""
    return codec_class(name)(device=device)  # type: ignore[call-arg]
