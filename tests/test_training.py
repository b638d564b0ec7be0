"""The recipe of `image-transform` on a tiny model: start, steps, checkpoint, resume, export. The clock is a counter."""

from __future__ import annotations

import functools
import io
import itertools
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load
from safetensors.torch import save_file
from torch import Tensor

from laconic.codecs.image import transform_networks
from laconic.codecs.image.transform_coding import EntropyMeter, decode_tiles, encode_tiles
from laconic.codecs.image.transform_context import SCALE_COUNT
from laconic.codecs.image.transform_model import SIZES, ExactModel, pack
from laconic.codecs.image.transform_networks import LATENT_BITS, TransformModel
from laconic.codecs.image.transform_spec import TransformSpec
from laconic.entropy.tables import PRECISION, Tables, load_tables
from laconic.training import checkpoints, image_transform, image_transform_export
from laconic.training.checkpoints import load_tensors, save_tensors
from laconic.training.image_crops import crops, regions_of, segments_of
from laconic.training.image_transform import Run, Schedule, train

CPU = torch.device("cpu")
SPEC = TransformSpec(
    latent=24,
    branch=8,
    blocks=2,
    hyper=8,
    hyper_features=16,
    squeeze=12,
    width=16,
    groups=(4, 8, 12),
    rates=3,
    branch_bits=8,
    synthesis_blocks=2,
    region=4,
    finish=4,
    conditioned=True,
    context_blocks=1,
)


def picture(seed: int, height: int = 144, width: int = 176) -> NDArray[np.uint8]:
    """Smooth shapes and edges, uint8 (height, width, 3): something that a KLT finds structure in."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * rng.uniform(0.02, 0.2) + c) + np.cos(y * rng.uniform(0.02, 0.2) - c) for c in range(3)]
    blocks = 30 * ((x // 23 + y // 17 + seed) % 2)[..., None]
    pixels = 110 + 45 * np.stack(waves, 2) + blocks + rng.normal(0, 2, (height, width, 3))
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two archives of pictures, one of them too small to use."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for archive in range(2):
        with tarfile.open(folder / f"photos-{archive}.tar", "w") as tar:
            for number in range(3):
                file = io.BytesIO()
                size = (100, 90) if (archive, number) == (1, 1) else (144, 176)
                PIL.Image.fromarray(picture(3 * archive + number, *size)).save(file, "PNG")
                member = tarfile.TarInfo(f"picture-{archive}{number}.png")
                member.size = file.tell()
                file.seek(0)
                tar.addfile(member, file)
    return folder


def test_the_recipe_needs_torch_and_little_else() -> None:
    """It runs on images for GPUs that have none of what the rest of the package stands on."""
    missing = ("constriction", "google_crc32c", "numba", "pydantic", "cbor2", "skimage", "av")
    code = f"import sys\nsys.modules.update(dict.fromkeys({missing}))\nimport laconic.training.image_transform"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two validation pictures, a KLT of few blocks, and a clock that advances a second whenever it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(image_transform, "VALIDATION", 2)
    monkeypatch.setattr(image_transform, "klt", functools.partial(image_transform.klt, blocks=3000))
    # its own clock: threads that other tests have left behind read time.monotonic, too
    monkeypatch.setattr(image_transform, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def tiny_run(seconds: float, **schedule: float) -> Run:
    torch.manual_seed(0)
    return Run(SPEC, Schedule(seconds=seconds, batch=4, crop=64, **schedule), CPU)  # type: ignore[arg-type]


def tensors(pictures: int) -> list[Tensor]:
    return [torch.from_numpy(picture(seed)).permute(2, 0, 1).contiguous() for seed in range(pictures)]


def test_pictures_are_split_by_name(photos: Path) -> None:
    training, validation = image_transform.read_photos(photos)
    assert (len(training), len(validation)) == (3, 2)  # the small one is left out
    assert torch.equal(validation[-1].permute(1, 2, 0), torch.from_numpy(picture(5)))
    assert all(p.dtype == torch.uint8 and p.shape == (3, 144, 176) for p in training)


def test_training_checkpoints_and_resumes(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    run = tiny_run(6, quantised_from=0.8)
    train(run, photos, out, save_every=1e9, log_every=1)
    steps = run.step
    assert steps == 4 and run.fraction == 1
    assert run.model.quantised, "the last part of the schedule runs on the grids"
    assert capsys.readouterr().out.count("step ") >= steps

    resumed = tiny_run(10, quantised_from=0.8)
    resumed.load(out)
    assert (resumed.step, resumed.seconds) == (steps, run.seconds)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
        assert torch.equal(run.average[name], resumed.average[name])
    names: dict[Tensor, str] = {parameter: name for name, parameter in run.model.named_parameters()}
    ours = {names[p]: s for p, s in run.optimiser.state.items()}
    for name, parameter in resumed.model.named_parameters():
        if name in ours:
            for moment in ("exp_avg", "exp_avg_sq", "step"):
                expected = ours[name][moment].bfloat16()  # as which moments are kept
                assert torch.equal(resumed.optimiser.state[parameter][moment].bfloat16(), expected)

    train(resumed, photos, out, save_every=1e9, log_every=1)
    assert resumed.step == steps + 2
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [steps, steps + 2]
    assert all(0 < rate < 60 and 3 < psnr < 100 for entry in log for rate, psnr in entry["validation"])
    assert json.loads((out / "progress.json").read_text())["step"] == steps + 2
    assert {path.suffix for path in out.iterdir()} == {".safetensors", ".json", ".jsonl"}


def test_masks_are_the_regions_of_their_part_of_the_batches(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor | None] = []
    run = tiny_run(1e9, steps=12, masks=0.5, large_crops_from=0.75)
    step = run.train_step
    monkeypatch.setattr(run, "train_step", lambda x, quality, regions: (seen.append(regions), step(x, quality, regions))[1])
    monkeypatch.setattr(image_transform, "segments_of", lambda picture: torch.arange(44).expand(36, 44) // 4)
    train(run, photos, tmp_path, save_every=1e9, log_every=100)
    assert len(seen) == run.step == 12
    masked = [regions for regions in seen if regions is not None]
    assert 1 <= len(masked) < 9 and seen[9:] == [None] * 3  # not while crops are wide
    assert all(regions.shape == (4, 9, 9) and int(regions.max()) in (3, 4, 5) for regions in masked)


def test_steps_change_every_part_and_lower_the_loss() -> None:
    run = tiny_run(1e9, warm_up=1)
    pictures = tensors(3)
    image_transform.start_from_klt(run.model, pictures, np.random.default_rng(0))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    x = crops(pictures, 4, 64, np.ones(3) / 3, np.random.default_rng(1)).pixels
    quality = torch.tensor([5.0, 35.0, 65.0, 95.0])
    losses = [float(run.train_step(x, quality)[0].detach()) for _ in range(12)]
    assert np.mean(losses[-3:]) < losses[0]
    after = run.model.state_dict()
    unmoved = {name for name in before if torch.equal(before[name], after[name])}
    assert unmoved == {"log_unit"}  # fixed on purpose


def test_every_parameter_has_one_learning_rate() -> None:
    run = tiny_run(1)
    grouped = [id(p) for group in run.optimiser.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in run.model.parameters())
    assert [group["base"] for group in run.optimiser.param_groups] == [2e-4, 4e-3, 8e-4]


def test_klt_is_orthonormal_and_sorted() -> None:
    basis, variances = image_transform.klt(tensors(3), np.random.default_rng(0))
    rows = basis.reshape(768, 768)
    assert np.abs(rows @ rows.T - np.eye(768)).max() < 1e-9
    assert (np.diff(variances) <= 0).all() and variances[0] > 10 * variances[20]


@torch.no_grad()
def test_the_start_is_a_transform_codec_already() -> None:
    """With all 768 components, analysis then synthesis is the identity; with 24 and coarse steps, near it."""
    pictures = tensors(3)
    x = (pictures[0][None, :, :128, :128].float() - 128) / 64
    for latent, least in ((768, 60.0), (24, 25.0)):
        spec = TransformSpec(**{**vars(SPEC), "latent": latent, "groups": (4, 8, latent - 12)})
        model = TransformModel(spec)
        image_transform.start_from_klt(model, pictures, np.random.default_rng(0))
        torch.nn.init.zeros_(cast(Tensor, model.synthesis.leave.bias))  # of the nonlinear branch: its weights start at zero
        error = ((model.synthesis(model.analysis(x)) - x) ** 2).mean() * 64**2
        assert 10 * np.log10(255**2 / max(float(error), 1e-9)) > least
        gain = torch.exp(model.log_gain)
        assert torch.allclose(gain * torch.exp(model.log_inverse_gain), torch.ones_like(gain))
        assert (gain.diff(dim=0) > 0).all(), "a higher quality has finer steps"


def test_rate_distortion_weights_rise_with_quality() -> None:
    weights = transform_networks.lambda_of_quality(torch.arange(101.0))
    assert (weights.diff() > 0).all()
    ends = (transform_networks.LAMBDA_MIN, transform_networks.LAMBDA_MAX)
    assert (float(weights[0]), float(weights[-1])) == pytest.approx(ends)


def test_crops_are_pieces_of_the_pictures() -> None:
    pictures = [torch.full((3, 144, 176), value, dtype=torch.uint8) for value in (64, 192)]
    batch = crops(pictures, 6, 64, np.array([0.5, 0.5]), np.random.default_rng(0)).pixels
    assert batch.shape == (6, 3, 64, 64)
    assert set(batch.unique(sorted=True).tolist()) == {-1.0, 1.0}  # type: ignore[no-untyped-call]


def test_segments_keep_what_looks_alike_together_and_travel_with_their_crop() -> None:
    pytest.importorskip("skimage")
    halves = torch.zeros(3, 128, 192, dtype=torch.uint8)
    halves[0, :, 96:], halves[1, :, :96] = 220, 180
    segments = segments_of(halves)
    assert segments.shape == (32, 48) and segments.unique().numel() == 2  # type: ignore[no-untyped-call]
    assert segments[0, 0] != segments[0, -1]
    regions = regions_of(segments, 16, 64, 64)
    assert regions.shape == (9, 9) and regions.unique().tolist() == [0, 1]  # type: ignore[no-untyped-call]
    assert (regions == regions[0]).all()
    batch = crops([halves], 8, 64, np.ones(1), np.random.default_rng(2), [segments])
    assert batch.regions is not None and batch.regions.shape == (8, 9, 9)
    red = batch.pixels[:, 0, ::8, ::8] > 0  # where the right half is, however the crop was flipped and turned
    for side, region in zip(red, batch.regions[:, :8, :8], strict=True):
        assert region[side].unique().numel() <= 1 and region[~side].unique().numel() <= 1  # type: ignore[no-untyped-call]


def test_tensors_travel_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "LARGEST", 100)
    tensors = {str(n): torch.full((n,), float(n)) for n in range(1, 12)}
    save_tensors(tmp_path, "average", tensors)
    save_tensors(tmp_path, "average_too", {"a": torch.zeros(1)})
    assert len(list(tmp_path.glob("average.*"))) > 2 and not list(tmp_path.glob("*.part"))
    found = load_tensors(tmp_path, "average")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    save_file({"1": torch.zeros(1)}, tmp_path / "average.safetensors")  # as recipes wrote it once
    save_tensors(tmp_path, "average", {"1": torch.ones(1)})
    assert load_tensors(tmp_path, "average") == {"1": torch.ones(1)}
    assert load_tensors(tmp_path, "average_too") == {"a": torch.zeros(1)}
    with pytest.raises(FileNotFoundError, match="no model in the checkpoint"):
        load_tensors(tmp_path, "model")


@torch.no_grad()
def test_a_run_may_begin_with_released_weights(tmp_path: Path) -> None:
    old, model = TransformModel(SPEC), TransformModel(SPEC)
    image_transform.start_from_klt(old, tensors(3), np.random.default_rng(0))
    packed, _ = pack(old)
    save_file(packed, tmp_path / "old.safetensors")
    assert image_transform.start_from_weights(model, tmp_path / "old.safetensors") == []
    again, _ = pack(model)
    for name, value in packed.items():
        assert (value.double() - again[name].double()).abs().max() <= (1 if name in ("gain", "unit", "index") else 0), name
    wider = TransformModel(TransformSpec(**{**vars(SPEC), "branch": 12}))
    kept = image_transform.start_from_weights(wider, tmp_path / "old.safetensors")
    assert "analysis.enter.weight" in kept and "analysis.lapped.weight" not in kept and "context.squeeze.weight" not in kept


def test_bfloat16_is_used_where_it_is_enough() -> None:
    run = tiny_run(1e9, half=True)
    image_transform.start_from_klt(run.model, tensors(3), np.random.default_rng(0))
    seen: dict[str, torch.dtype] = {}
    for name in ("analysis.blocks.0.expand", "analysis.lapped", "synthesis.blocks.0.expand", "context.heads.0.mean"):
        run.model.get_submodule(name).register_forward_hook(
            lambda layer, given, out, name=name: seen.__setitem__(name, out.dtype)
        )
    x = crops(tensors(3), 4, 64, np.ones(3) / 3, np.random.default_rng(1)).pixels
    run.train_step(x, torch.tensor([5.0, 35.0, 65.0, 95.0]))
    assert list(seen.values()).count(torch.bfloat16) == 2
    assert seen["analysis.lapped"] == seen["context.heads.0.mean"] == torch.float32


def test_hyper_latents_start_with_a_deviation_of_one_step() -> None:
    run = tiny_run(1)
    image_transform.start_from_klt(run.model, tensors(3), np.random.default_rng(0))
    x = crops(tensors(3), 4, 64, np.ones(3) / 3, np.random.default_rng(1)).pixels
    seen: list[Tensor] = []
    hook = run.model.hyper_analysis.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    for _ in range(2):
        image_transform.calibrate_hyper_latents(run.model, x, torch.tensor([0.0, 30.0, 60.0, 100.0]))
    hook.remove()
    assert float(seen[-1].std()) == pytest.approx(1, rel=0.1)


def test_export_makes_weights_that_code(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, out = tmp_path / "run", tmp_path / "weights"
    checkpoint.mkdir()
    out.mkdir()
    train(tiny_run(4), photos, checkpoint, save_every=1e9, log_every=1)
    arguments = f"export --checkpoint {checkpoint} --photos {photos} --out {out} --name toy --pictures 1"
    monkeypatch.setattr(sys, "argv", arguments.split())
    monkeypatch.setattr(image_transform_export, "CROP", 64)
    threads = torch.get_num_threads()
    image_transform_export.main()
    torch.set_num_threads(threads)
    pin = json.loads((out / "pins.json").read_text())["image-transform"][0]
    assert pin["file"] == "toy.safetensors"
    tensors = load((out / pin["file"]).read_bytes())
    model = ExactModel(tensors, SPEC, "cpu")
    assert model.by_quality.shape == (101, 12, SPEC.finish + 12, 3, 3)
    assert model.synthesis.limits.shape == (2 * SPEC.branch + 192,) and (model.synthesis.limits > 0).any()
    inside, latents = model.analysis.limits.split([2 * SPEC.branch, SPEC.latent])
    assert inside.amax() > 0 and latents.amin() >= 0
    for limits, bits in ((inside, SPEC.branch_bits), (latents, LATENT_BITS)):  # on the grids: the analysis stays exact
        assert torch.equal(limits * 2**bits, torch.floor(limits * 2**bits))
    anchors = torch.from_numpy(tensors["last_layer"]).float()
    assert torch.equal(model.by_quality[[0, 100]], anchors[[0, -1]]) and anchors.any()
    assert model.directions is not None and model.directions.shape == (9 * (SPEC.finish + 12),) * 2
    pixels, quality = torch.from_numpy(picture(9)[:128, :160]).permute(2, 0, 1)[None], torch.tensor([80])
    with torch.inference_mode():
        y = model.latents(pixels, quality)
        [(payload, digest)] = encode_tiles(model, y, quality, EntropyMeter())
        restored, [found] = decode_tiles(model, [payload], quality, (8, 10), EntropyMeter())
        error = (model.reconstruct(restored, quality).float() - pixels).pow(2).mean()
    assert found == digest
    assert 10 * np.log10(255**2 / float(error)) > 20


def test_fitted_tables_follow_what_was_seen() -> None:
    logistic = load_tables("logistic")
    seen = image_transform_export.Histograms(logistic)
    symbols = torch.tensor([0] * 90_000 + [1] * 4_000 + [-1] * 6_000)
    seen.note(symbols, torch.full_like(symbols, 30))
    fitted = image_transform_export.fit_tables(seen)
    radius = int(fitted.radius[30])
    p = fitted.table(30) / 2**PRECISION
    assert p[radius] == pytest.approx(0.9, abs=0.01)
    assert p[radius + 1] == p[radius - 1] == pytest.approx(0.05, abs=0.003)
    close = np.abs(fitted.table(10).astype(int) - logistic.table(10)).max()
    assert close <= logistic.table(10).size  # nothing was seen there: the table stays, but for rounding
    threshold = image_transform_export.fit_thresholds(fitted)
    assert threshold.shape == (SCALE_COUNT, SIZES) and threshold.dtype == torch.int8
    assert (threshold[:, 0] == 0).all() and (threshold[0] == 0).all()
    saved = np.log2(p[radius] / p[radius + 1])
    assert int(threshold[30, 1]) == pytest.approx(16 * saved / 32, abs=0.51)
    assert isinstance(fitted, Tables)
