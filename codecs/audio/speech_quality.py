"""How good speech sounds: PESQ (ITU-T P.862.2) and STOI (Taal and others, 2011), by the packages of the extra `speech`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from ..signals import Audio
from .rvq_packets import float_samples

__all__ = ["HEARD_SECONDS", "SpeechQuality", "speech_quality"]

RATE = 16_000  # Hz, of wide-band PESQ
HEARD_SECONDS = 20  # of longer sound the first ones: PESQ's own program holds no more than 50 utterances
SHORTEST_SECONDS = 0.5


@dataclass(frozen=True)
class SpeechQuality:
    """Wide-band PESQ, 1.04 to 4.64, and STOI, up to 1."""

    pesq: float
    stoi: float


def speech_quality(reference: Audio, decoded: Audio) -> SpeechQuality | None:
    """Return the measures of the first `HEARD_SECONDS`, at 16 kHz, of mono sound.

    None without the packages, for sound that is not mono, below 16 kHz or shorter than half a second, and where PESQ finds no
    speech in it. Raises ValueError for sounds of different shapes or rates.
    """
    if reference.shape != decoded.shape or reference.rate != decoded.rate:
        raise ValueError(f"sounds of {reference.shape} and {decoded.shape} do not compare")
    if find_spec("pesq") is None or find_spec("pystoi") is None:
        return None
    if reference.shape[0] != 1 or reference.rate < RATE or reference.seconds < SHORTEST_SECONDS:
        return None
    pesq, stoi = import_module("pesq"), import_module("pystoi")
    original, coded = (_heard(sound) for sound in (reference, decoded))
    if not (original.any() and coded.any()):
        return None
    try:
        return SpeechQuality(float(pesq.pesq(RATE, original, coded, "wb")), float(stoi.stoi(original, coded, RATE)))
    except pesq.PesqError:  # no utterance, or silence
        return None


def _heard(sound: Audio) -> NDArray[np.float32]:
    import soxr  # type: ignore[import-untyped]

    part = sound.part(0, min(sound.shape[1], HEARD_SECONDS * sound.rate))
    samples = float_samples(part.array, part.bits)[0].clip(-1, 1)
    heard: NDArray[np.float32] = samples if part.rate == RATE else soxr.resample(samples, part.rate, RATE).astype(np.float32)
    return heard
