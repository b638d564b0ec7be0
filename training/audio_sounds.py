"""The sounds that `audio_rvq` is trained on: speech from archives, music from folders; one channel each, at one level."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import Tensor

from laconic.codecs.audio.resampling import resampling

from .archives import read_archives

__all__ = ["LEVEL", "Sound", "crops", "level_of", "padded", "read_music", "read_speech"]

LEVEL = 0.05  # effective value of what sounds, that the networks see
HELD_OUT = 16  # speakers of each archive family that are never trained on
EVERY = 16  # the last of so many pieces of music is never trained on
EXCERPTS = 3  # of a piece,
EXCERPT = 10  # seconds each
ENDINGS = {".ogg", ".opus", ".flac", ".wav", ".mp3"}

Sound = NDArray[np.float32]


def level_of(sound: Sound, rate: int) -> float:
    """Return the effective value of the parts of a sound that are within 30 dB of its loudest 20 ms."""
    size = rate // 50
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    energy = (frames.astype(np.float64) ** 2).mean(1)
    return float(np.sqrt(energy[energy >= energy.max() * 1e-3].mean())) or 1e-4


def read_speech(folder: Path) -> tuple[list[Sound], list[Sound]]:
    """Return training and validation sounds of the archives in a folder, mono at 16 kHz, each brought to `LEVEL`.

    The family of a sound is what its name has before the first hyphen, if that is a word, or "": the last `HELD_OUT` names
    of each family are for validation.
    """
    families: dict[str, list[Sound]] = {}
    for name, content in read_archives(folder).items():
        sound, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        if rate != 16_000:
            raise ValueError(f"{name} has {rate} samples a second, not 16000")
        mono = sound.mean(1)
        if len(mono) < 16_000 or not np.any(mono):
            continue
        family = Path(name).name.partition("-")[0]
        gain = np.float32(LEVEL / max(level_of(mono, rate), 1e-4))
        families.setdefault(family if family.isalpha() else "", []).append(mono * gain)
    training = [sound for sounds in families.values() for sound in sounds[:-HELD_OUT]]
    return training, [sound for sounds in families.values() for sound in sounds[-HELD_OUT:]]


def read_music(folder: Path, rate: int) -> tuple[list[Sound], list[Sound]]:
    """Return training and validation excerpts of the pieces of music in a folder and those below it, at `rate`.

    Of each excerpt there are half the sum and, of its first half, half the difference of the two channels, by the gain that
    brings the louder one to `LEVEL`; validation has the sums alone.
    """
    training, validation = list[Sound](), list[Sound]()
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)):
        for stereo in _excerpts(path, rate):
            sides = 0.5 * (stereo[0] + stereo[-1]), 0.5 * (stereo[0] - stereo[-1])
            loudest = max(level_of(side, rate) for side in sides)
            if loudest < 1e-3:
                continue
            middle, side = (half * np.float32(LEVEL / loudest) for half in sides)
            if number % EVERY == EVERY - 1:
                validation.append(middle)
            else:
                training += [middle, side[: len(side) // 2]]
    return training, validation


def _excerpts(path: Path, rate: int) -> list[Sound]:
    """Return excerpts (C, N) evenly from a file, at `rate`."""
    found = []
    with soundfile.SoundFile(path) as file:
        length = min(EXCERPT * file.samplerate, file.frames)
        for part in range(EXCERPTS if file.frames >= EXCERPTS * length else 1):
            file.seek((file.frames - length) * (2 * part + 1) // (2 * EXCERPTS))
            samples = np.ascontiguousarray(file.read(length, dtype="float32", always_2d=True).T)
            if file.samplerate != rate:
                change, total = resampling(file.samplerate, rate), samples.shape[1] * rate // file.samplerate
                first, last = change.span(0, total)
                padding = ((0, 0), (-first, max(0, last - samples.shape[1])))
                samples = change(np.pad(samples, padding)[:, : last - first], 0, total)
            found.append(samples)
    return found


def padded(sound: Sound, hop: int) -> Tensor:
    """Return (1, N): a sound with a hop of silence before it and enough after it that the frames complete all of it."""
    return torch.from_numpy(np.pad(sound, (hop, hop + -len(sound) % hop)))[None]


def crops(sounds: list[Sound], batch: int, length: int, odds: NDArray[np.float64], generator: np.random.Generator) -> Tensor:
    """Return random crops (batch, length) at random levels, half of them with their sign changed."""
    out = np.zeros((batch, length), np.float32)
    for row in out:
        sound = sounds[int(generator.choice(len(sounds), p=odds))]
        at = int(generator.integers(0, max(1, len(sound) - length + 1)))
        part = sound[at : at + length]
        gain = 10 ** (generator.uniform(-4, 4) / 20) * generator.choice((-1, 1))
        row[: len(part)] = part * np.float32(gain)
    return torch.from_numpy(out)
