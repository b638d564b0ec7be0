"""Fitting networks: that it lowers the error, within a budget, to the same result, resumable and cancellable."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from laconic.codecs.checkpoint import load_checkpoint, save_checkpoint
from laconic.codecs.errors import Cancelled
from laconic.codecs.video.inr_fit import Budget, Fitted, fit, psnr_of
from laconic.codecs.video.inr_networks import initial_tensors
from laconic.codecs.video.inr_presets import ARCHITECTURES, PRESETS, spec_for

STEPS = 40


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def clip(frames: int = 6, height: int = 33, width: int = 46) -> Tensor:
    """A soft disc that moves over a gradient, uint8 [T, H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    shown = []
    for t in range(frames):
        disc = np.exp(-((x - 5 - 4 * t) ** 2 + (y - height / 2) ** 2) / 40.0)
        shown.append(np.stack([60 + 100 * disc, 40 + 2 * y + 90 * disc, 200 - 2 * x + 0 * disc], 2))
    return torch.from_numpy(np.array(shown).clip(0, 255).astype(np.uint8))


def same(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors) and a.psnr == b.psnr and a.steps == b.steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("loss", ["l2", "l1-ssim"])
def test_every_architecture_learns(architecture: str, loss: str) -> None:
    frames = clip()
    spec = spec_for(architecture, 6_000, *frames.shape[:3])
    before = psnr_of(spec, initial_tensors(spec, 0), frames)
    fitted = fit(spec, frames, Budget(steps=3 * STEPS), loss=loss)
    assert fitted.steps == 3 * STEPS
    assert fitted.psnr > before + 3
    assert fitted.psnr == psnr_of(spec, fitted.tensors, frames)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("paper")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_papers_presets_take_steps(architecture: str, preset: str) -> None:
    """At a quarter of the geometry, but for the smallest HNeRV."""
    height, width = (640, 1280) if (architecture, preset) == ("hnerv", "paper-0.35m") else (160, 320)
    size = PRESETS[preset]
    frames = clip(1, height, width)
    spec = spec_for(architecture, size.parameters, 1, height, width)
    before = psnr_of(spec, initial_tensors(spec, 0), frames)
    fitted = fit(spec, frames, Budget(steps=3), batch=1, learning_rate=size.learning_rate)
    assert fitted.steps == 3
    assert fitted.psnr > before


def test_sixteen_bit_frames() -> None:
    frames = clip()
    deep = frames.to(torch.int32).mul(257).to(torch.uint16)
    spec = spec_for("hnerv", 6_000, *frames.shape[:3])
    a, b = (fit(spec, part, Budget(steps=STEPS)) for part in (frames, deep))
    assert abs(a.psnr - b.psnr) < 0.2


def test_steps_and_seed_decide_the_result() -> None:
    frames = clip()
    spec = spec_for("hnerv", 4_000, *frames.shape[:3])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (fit(spec, frames, Budget(steps=10), seed=seed, batch=4) for seed in (1, 1, 2))
    assert same(a, b) and not same(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_seconds_end_the_fit() -> None:
    frames = clip()
    fitted = fit(spec_for("hnerv", 4_000, *frames.shape[:3]), frames, Budget(seconds=0.5))
    assert fitted.steps >= 1 and fitted.seconds >= 0.5


def test_a_start_is_taken() -> None:
    frames = clip()
    spec = spec_for("hnerv", 6_000, *frames.shape[:3])
    first = fit(spec, frames, Budget(steps=2 * STEPS))
    again = fit(spec, frames, Budget(steps=1), learning_rate=1e-6, start=first.tensors)
    assert abs(again.psnr - first.psnr) < 0.1


def test_progress_stops_the_fit() -> None:
    frames = clip()
    told: list[tuple[float, float, str]] = []

    def progress(part: float, stage: str) -> None:
        told.append((time.monotonic(), part, stage))
        if len(told) == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        fit(spec_for("hnerv", 4_000, *frames.shape[:3]), frames, Budget(seconds=600), progress=progress)
    parts = [part for _, part, _ in told]
    assert parts == sorted(parts) and parts[0] >= 0 and parts[-1] < 1
    assert all("fitting" in stage and stage.endswith(" dB") for _, _, stage in told)


@pytest.mark.parametrize("stop", [7, 33])
def test_a_resumed_fit_ends_as_if_it_had_not_been_stopped(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.codecs.video.inr_fit.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("laconic.codecs.video.inr_fit.REPORT_SECONDS", 0.0)
    frames = clip()
    spec = spec_for("boost", 6_000, *frames.shape[:3])
    place = tmp_path / "fit.checkpoint"

    def run(checkpoint: Path | None, stop: int = 0) -> Fitted:
        def progress(part: float, stage: str) -> None:
            if stop and part >= stop / STEPS:
                raise Cancelled

        return fit(spec, frames, Budget(STEPS), batch=4, checkpoint=checkpoint, progress=progress)

    whole = run(None)
    with pytest.raises(Cancelled):
        run(place, stop)
    assert 0 < float(load_checkpoint(place)["numbers"][0]) <= stop
    assert same(run(place), whole)


def test_a_checkpoint_of_something_else_is_passed_over(tmp_path: Path) -> None:
    frames = clip()
    spec = spec_for("hnerv", 4_000, *frames.shape[:3])
    whole = fit(spec, frames, Budget(4))
    place = tmp_path / "fit.checkpoint"
    place.write_bytes(b"not this")
    assert same(fit(spec, frames, Budget(4), checkpoint=place), whole)
    save_checkpoint(place, {"tensor/embedding": torch.zeros(2)})
    assert same(fit(spec, frames, Budget(4), checkpoint=place), whole)
    save_checkpoint(place, {f"tensor/{name}": tensor for name, tensor in whole.tensors.items()})  # without Adam's moments
    assert same(fit(spec, frames, Budget(4), checkpoint=place), whole)


CHILD = """
import sys, torch
from pathlib import Path
from laconic.codecs.video import inr_fit
from laconic.codecs.video.inr_presets import spec_for
torch.set_num_threads(1)
inr_fit.SAVE_SECONDS = 0.3
frames = torch.zeros(3, 20, 24, 3, dtype=torch.uint8)
inr_fit.fit(spec_for("hnerv", 2000, 3, 20, 24), frames, inr_fit.Budget(seconds=600), checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_fit_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "fit.checkpoint"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(place)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        _wait_for(place)
        first = float(load_checkpoint(place)["numbers"][0])
        place.unlink()
        _wait_for(place)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    steps, seconds, _ = load_checkpoint(place)["numbers"].tolist()
    assert steps > first
    spec = spec_for("hnerv", 2000, 3, 20, 24)
    frames = torch.zeros(3, 20, 24, 3, dtype=torch.uint8)
    fitted = fit(spec, frames, Budget(seconds=seconds + 0.2), checkpoint=place)
    assert fitted.steps > steps and seconds + 0.2 <= fitted.seconds < seconds + 60


def _wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.05)
