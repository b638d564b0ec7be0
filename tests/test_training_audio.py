"""The recipe of `audio-rvq` on a few made sounds: start, steps, resume, export."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from laconic.codecs.audio.rvq_model import RvqModel, rvq_model
from laconic.codecs.audio.rvq_networks import RvqSpec
from laconic.codecs.audio.rvq_tokens import decode_tokens, encode_tokens
from laconic.codecs.weights import Weights
from laconic.training.audio_discriminators import Discriminators
from laconic.training.audio_losses import LoudnessDifference, MelDistance, SpectrumDistance
from laconic.training.audio_rvq import Run, Schedule, train, validate
from laconic.training.audio_rvq_export import packed
from laconic.training.audio_sounds import LEVEL, level_of, read_music, read_speech

from .sounds import voice

SPEC = RvqSpec(width=16, hidden=16, encoder_blocks=1, decoder_blocks=1, latent=24, levels=5, codes=32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    with tarfile.open(folder / "made.tar", "w") as tar:
        for number in range(20):
            file = io.BytesIO()
            soundfile.write(file, voice(66_000, seed=number)[0], 16_000, format="FLAC")
            entry = tarfile.TarInfo(f"made-{number:02d}.flac")
            entry.size = len(file.getvalue())
            tar.addfile(entry, io.BytesIO(file.getvalue()))
    return folder


@pytest.fixture(scope="module")
def run(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    out = tmp_path_factory.mktemp("run")
    schedule = Schedule(seconds=3.0, batch=4, frames=40)
    run = Run(SPEC, schedule, torch.device("cpu"))
    train(run, read_speech(speech), out, save_every=100, log_every=5)
    return run, out


def test_speakers_are_held_out_and_levels_are_equal(speech: Path) -> None:
    training, validation = read_speech(speech)
    assert (len(training), len(validation)) == (4, 16)
    assert all(0.9 < level_of(sound, 16_000) / LEVEL < 1.1 for sound in training)


def test_music_is_halves_of_sums_and_differences(tmp_path: Path) -> None:
    left, right = voice(44_100 * 31, 44_100, seed=1), voice(44_100 * 31, 44_100, seed=2)
    for number in range(32):
        part = np.concatenate([left, 0.5 * right])[:, : 44_100 if number else None].T
        soundfile.write(tmp_path / f"{number:02d}.flac", part, 44_100)
    training, validation = read_music(tmp_path, 48_000)
    # three excerpts of ten seconds of the first piece, one second of the others; of each the sum and half the difference
    assert [len(sound) for sound in training[:8]] == [480_000, 240_000] * 3 + [48_000, 24_000]
    assert (len(training), len(validation)) == (2 * (3 + 29), 2)
    for middle, side in zip(training[::2], training[1::2], strict=True):
        assert 0.9 < max(level_of(middle, 48_000), level_of(side, 48_000)) / LEVEL < 1.4
    assert np.corrcoef(training[0][:240_000], training[1])[0, 1] < 0.9


def test_the_first_step_has_a_codec_already(speech: Path, tmp_path: Path) -> None:
    run = Run(SPEC, Schedule(seconds=1e-6, batch=2, frames=40), torch.device("cpu"))
    untrained = validate(run, read_speech(speech)[1][:2], (5,))[5]
    train(run, read_speech(speech), tmp_path, save_every=100, log_every=1)
    assert run.step <= 1
    assert validate(run, read_speech(speech)[1][:2], (5,))[5][1] < 0.5 * untrained[1]


def test_a_run_learns_saves_and_continues(run: tuple[Run, Path], speech: Path) -> None:
    trained, out = run
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == trained.step >= 2
    again = Run(SPEC, Schedule(seconds=3.0), torch.device("cpu"))
    again.load(out)
    assert (again.step, again.fraction) == (trained.step, 1.0)
    for name, value in trained.average.items():
        assert torch.equal(again.average[name], value)
    parts = again.train_step(torch.from_numpy(np.concatenate([voice(320 * 41)] * 2)), torch.tensor([2, 5]))
    assert all(torch.isfinite(value) for value in parts.values())


def test_discriminators_join_when_they_are_asked(run: tuple[Run, Path]) -> None:
    trained = Run(SPEC, Schedule(seconds=3.0, adversarial_from=0.0), torch.device("cpu"))
    trained.load(run[1])
    samples = torch.from_numpy(np.concatenate([voice(320 * 41)] * 2))
    assert {"adversarial", "matching"} <= trained.train_step(samples, torch.tensor([2, 5])).keys()
    judges = Discriminators()
    assert float(judges.losses(samples, samples)[1].detach()) == 0


def test_the_export_codes_and_decodes(run: tuple[Run, Path], speech: Path) -> None:
    tensors, metadata = packed(run[1], SPEC, read_speech(speech), seconds=1.0)
    model: RvqModel = rvq_model(Weights({k: v.numpy() for k, v in tensors.items()}, metadata, b""))
    levels, price = model.operating_point(1.0)
    latents = model.latents(voice(320 * 51)[0])
    codes = model.search(latents, levels, price, beams=2)
    coded = encode_tokens(model.tokens, codes[None])
    assert np.array_equal(decode_tokens(model.tokens, coded, 1, 50, levels)[0], codes)
    assert 8 * len(coded) < 0.95 * 50 * levels * 5
    assert model.frames(codes, np.ones(50, np.float32), 0).shape == (50, 640)


def test_losses_are_zero_for_equals_and_grow_with_noise() -> None:
    samples = torch.from_numpy(voice(32_000) * 0.5)
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    for loss in (LoudnessDifference(16_000, LEVEL), MelDistance(16_000), SpectrumDistance(16_000)):
        values = [float(loss(samples + scale * noise, samples)) for scale in (0.0, 1e-3, 1e-2)]
        assert values[0] < 0.02 and values[0] < values[1] < values[2]
