"""Compare codecs on one sound at several rates; `compare_sound_page` draws a report of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .codecs import compress
from .codecs.audio.speech_quality import SpeechQuality, speech_quality
from .codecs.codec import Progress
from .codecs.errors import InvalidSettings, LaconicError, UnsupportedMedia
from .codecs.metrics import snr
from .codecs.registry import codec_class, codec_ids
from .codecs.settings import takes
from .codecs.signals import Audio

__all__ = ["QUALITIES", "SHOWN_SECONDS", "SoundComparison", "SoundEntry", "compare_sound", "compared_sound_codecs"]

QUALITIES = (0, 33, 67, 100)  # of each codec that has them: of audio-rvq 1.5, 3, 6 and 12 kbit/s a channel
SHOWN_SECONDS = 10.0  # of the beginning, kept to be seen and heard; all figures are of the whole


@dataclass(frozen=True)
class SoundEntry:
    """One file of a codec: its size, what it took in seconds, and how near the sound is that came back.

    `snr` is in dB, infinite where every sample is back. `speech` is None where its measures say nothing, as
    `codecs.audio.speech_quality` tells. `decoded` is the beginning of what came back.
    """

    codec: str
    settings: Mapping[str, object]
    bytes: int
    kbps: float
    snr: float
    speech: SpeechQuality | None
    encode_seconds: float
    decode_seconds: float
    decoded: Audio = field(repr=False)


@dataclass(frozen=True)
class SoundComparison:
    """All files of one sound, the smallest first; `skipped` says why codecs are missing. `original` is the beginning."""

    name: str
    original: Audio = field(repr=False)
    original_bytes: int
    seconds: float
    entries: tuple[SoundEntry, ...]
    skipped: Mapping[str, str]


def compared_sound_codecs() -> list[str]:
    """Return the ids of the codecs that take sound."""
    names = []
    for name in codec_ids():
        try:
            names += [name] if takes(codec_class(name), "audio") else []
        except (LaconicError, ImportError):  # a third party's that does not import must not spoil the report
            continue
    return names


def compare_sound(
    original: Audio,
    name: str,
    original_bytes: int,
    *,
    codecs: Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> SoundComparison:
    """Code a sound with every codec that takes it: at `QUALITIES` those that have a quality, others once, without loss.

    Codecs that cannot take part are named in `skipped`. Raises `InvalidSettings` where none can, and `UnsupportedMedia` for no
    samples.
    """
    if not original.shape[1]:
        raise UnsupportedMedia("the sound has no samples")
    chosen = list(codecs or compared_sound_codecs())
    report = progress or (lambda done, stage: None)
    tried = [(codec, settings) for codec in chosen for settings in _settings_of(codec)]
    entries, skipped = [], {}
    for index, (codec, settings) in enumerate(tried):
        report(index / len(tried), " ".join([codec, *(f"at quality {quality}" for quality in settings.values())]))
        if codec in skipped:
            continue
        try:
            if index == 0 or codec != tried[index - 1][0]:  # what is compiled or loaded once is none of the file's time
                _measured(original.part(0, min(original.shape[1], original.rate)), codec, settings, device)
            entries.append(_measured(original, codec, settings, device))
        except LaconicError as error:
            skipped[codec] = str(error)
    if not entries:
        raise InvalidSettings("no codec can be compared: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    report(1.0, "done")
    entries.sort(key=lambda entry: entry.bytes)
    return SoundComparison(name, _beginning(original), original_bytes, original.seconds, tuple(entries), skipped)


def _settings_of(codec: str) -> list[dict[str, object]]:
    if "quality" in codec_class(codec).Settings.model_fields:
        return [{"quality": quality} for quality in QUALITIES]
    return [{}]


def _measured(original: Audio, codec: str, settings: Mapping[str, object], device: str) -> SoundEntry:
    """Encode and decode once, both timed, and measure."""
    encoded = compress.encode(original, codec, settings, None, device)
    start = time.perf_counter()
    decoded = compress.decode(encoded.data, device=device, whole=False)
    assert isinstance(decoded, Audio)
    decoded = decoded.part(0, decoded.shape[1])  # whose samples are decoded as they are asked for
    seconds = time.perf_counter() - start
    return SoundEntry(
        codec,
        encoded.settings,
        len(encoded.data),
        8 * len(encoded.data) / 1000 / original.seconds,
        snr(original, decoded),
        speech_quality(original, decoded),
        encoded.seconds,
        seconds,
        _beginning(decoded),
    )


def _beginning(sound: Audio) -> Audio:
    return sound.part(0, min(sound.shape[1], round(SHOWN_SECONDS * sound.rate)))
