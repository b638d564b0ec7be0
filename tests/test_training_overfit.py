"""The recipe of `image-overfit` on a few small crops: it learns, goes on after an interruption, writes what the codec loads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from safetensors import safe_open

from laconic.codecs.image.overfit_picture import FILTERED
from laconic.codecs.image.overfit_spec import LEVELS, Spec
from laconic.training import image_overfit as recipe

from .pictures import photograph


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an archive of five pictures, of which the last is held out."""
    monkeypatch.setattr(recipe, "VALIDATION", 1)
    folder = tmp_path / "photos"
    folder.mkdir()
    with tarfile.open(folder / "some.tar", "w") as tar:
        for number, kind in enumerate((*recipe.KINDS, "z-held-out")):
            file = io.BytesIO()
            PIL.Image.fromarray(np.roll(photograph().array, 9 * number, 0)).save(file, "png")
            member = tarfile.TarInfo(f"{kind}-{number}.png")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    return folder


def test_crops_are_the_same_every_time_and_leave_out_what_is_held_out(photos: Path) -> None:
    crops = recipe.read_crops(photos, 4, 64)
    assert len(crops) == 4 and all(crop.shape == (3, 64, 64) and crop.dtype == np.float32 for crop in crops)
    assert all(np.array_equal(one, other) for one, other in zip(crops, recipe.read_crops(photos, 4, 64), strict=True))


def test_fitting_together_lowers_the_loss(photos: Path) -> None:
    crops, spec = recipe.read_crops(photos, 4, 48), Spec()
    losses = []
    for steps in (10, 120):
        joint = recipe.Joint(crops, spec, recipe.first_network(spec))
        bpp, error = joint.fit(0.003, steps, first=True)
        losses.append(error + 0.003 * bpp)
    assert losses[1] < 0.5 * losses[0]


def test_a_run_goes_on_and_writes_the_file(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        "--photos",
        str(photos),
        "--out",
        str(out),
        "--crops",
        "4",
        "--size",
        "32",
        "--steps",
        "8",
        "--more",
        "4",
    ]
    recipe.main([*command, "--chain", "1"])
    assert not (out / "image-overfit-3.safetensors").exists()
    done = {path: path.read_bytes() for path in out.iterdir()}
    assert len(done) == len(recipe.CHAINS[1])
    recipe.main(command)
    assert all(path.read_bytes() == content for path, content in done.items()), "what was done was done again"
    with safe_open(out / "image-overfit-3.safetensors", "numpy") as file:
        weights = json.loads(file.metadata()["weights"])
        networks, filters = file.get_tensor("networks"), file.get_tensor("filters")
    assert weights == sorted(weights, reverse=True) and len(weights) == 6
    assert networks.shape == (6, Spec().count) and networks.dtype == np.int32
    assert filters.shape[:2] == (6, LEVELS) and not filters[:, :FILTERED].any() and filters[:, FILTERED:].any()
