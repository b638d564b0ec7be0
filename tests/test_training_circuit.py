"""The recipe of `image-circuit` on tiny data: tree, start, steps, growth, checkpoints, export. The clock is a counter."""

from __future__ import annotations

import io
import itertools
import json
import math
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load
from torch import Tensor

from laconic.codecs.image.circuit_pictures import decode_pictures, encode_pictures
from laconic.codecs.image.circuit_tables import circuit_of
from laconic.training import circuit_data, image_circuit, image_circuit_export
from laconic.training.circuit_data import Source, read_photos
from laconic.training.circuit_dictionary import grey_dictionary, residual_dictionary
from laconic.training.circuit_model import Circuit, load_circuit, pack_circuit
from laconic.training.circuit_structure import chow_liu, grow, levels, most_states, mutual_information
from laconic.training.image_circuit import Run, Schedule, train

CPU = torch.device("cpu")
SIDE = 5


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Small bright spots on black: neighbouring pixels know of each other, and so do spots on opposite sides."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = generator.integers(0, SIDE, (count, 2))
    distance = (y - centres[:, 0, None, None]) ** 2 + (x - centres[:, 1, None, None]) ** 2
    return np.where(distance < 4, 250 - 60 * distance + generator.integers(0, 6, (count, SIDE, SIDE)), 0).astype(np.uint8)


def source(count: int = 700) -> Source:
    rows, columns = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    places = torch.from_numpy(np.column_stack([rows, columns, 0 * rows]))
    return Source(torch.from_numpy(pictures(count).reshape(count, -1)), places, False)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pictures held out, and a clock that advances a second whenever it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(image_circuit, "VALIDATION", 100)
    # its own clock: threads that other tests have left behind read time.monotonic, too
    monkeypatch.setattr(image_circuit, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def trained(out: Path, seconds: float) -> Run:
    torch.manual_seed(0)
    run = Run(Schedule(seconds, states=(2, 4, 8), batch=100, entries=24), CPU)
    if (out / "progress.json").exists():
        run.load(out)
    train(run, source(), out, save_every=20, log_every=10)
    return run


def test_a_run_learns_grows_resumes_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, 60)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["validation"] < log[0]["validation"]
    assert log[-1]["states"] > log[0]["states"]
    steps, before = run.step, run.validate(source().x[-100:])
    resumed = trained(tmp_path, 90)
    assert resumed.step > steps and resumed.validate(source().x[-100:]) < before + 0.1
    assert sum(map(int, resumed.circuit.states)) == log[-1]["states"] if resumed.circuit else False  # no second growth
    arguments = ["export", "--checkpoint", str(tmp_path), "--model", "digits", "--size", "5", "5", "--pictures", "600"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--name", "tiny", "--out", str(tmp_path)])
    image_circuit_export.main()
    pinned = json.loads((tmp_path / "pins.json").read_text())["image-circuit"]
    assert [pin["file"] for pin in pinned] == ["tiny.safetensors"]
    circuit = circuit_of(load((tmp_path / "tiny.safetensors").read_bytes()))
    test = pictures(100, seed=9).reshape(100, -1)
    coded = encode_pictures(circuit, test)
    assert (decode_pictures(circuit, coded.payload, 100) == test).all()
    assert resumed.circuit is not None
    exact = -float(resumed.circuit.log_likelihood(torch.from_numpy(test).long()).sum()) / math.log(2)
    assert coded.ideal_bits == pytest.approx(exact, rel=0.03)  # quantised, and rare edges pruned


def random_circuit(parent: list[int], states: list[int], entries: int = 24) -> Circuit:
    def rows(*shape: int) -> Tensor:
        table = torch.rand(shape) + 0.05
        return table / table.sum(1, keepdim=True)

    transition = [rows(states[p] if p >= 0 else 1, states[d]) for d, p in enumerate(parent)]
    return Circuit(parent, transition, [rows(n, entries) for n in states], rows(entries, 256))


def test_expected_counts_are_gradients_of_the_likelihood() -> None:
    """Of every table: expected count = parameter * derivative of the log-likelihood."""
    torch.manual_seed(0)
    circuit = random_circuit([-1, 0, 1, 1], [2, 3, 1, 4])
    x = torch.randint(0, 256, (5, 4))
    tensors = [*circuit.transition, *circuit.mixing, circuit.dictionary]
    for tensor in tensors:
        tensor.requires_grad_(True)
    emissions = [part.t() for part in torch.split(torch.cat(circuit.mixing) @ circuit.dictionary, circuit.states)]
    message: list[Tensor] = [torch.ones(5, 1)] * 4
    for d in reversed(circuit.order):
        belief = emissions[d][x[:, d]]
        for c in circuit.children[d]:
            belief = belief * message[c]
        message[d] = belief @ circuit.transition[d].t()
    likelihood = message[circuit.order[0]][:, 0].log()
    likelihood.sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        counts, found = circuit.expect(x)
        assert torch.allclose(found, likelihood, atol=1e-4)
        for tensor, count in zip(tensors, [*counts.transition, *counts.mixing, counts.dictionary], strict=True):
            assert tensor.grad is not None and torch.allclose(count, tensor * tensor.grad, atol=1e-3)
        assert float(counts.transition[0].sum()) == pytest.approx(5, rel=1e-4)


def test_expectation_maximisation_never_lowers_the_likelihood() -> None:
    torch.manual_seed(0)
    circuit = random_circuit([-1, 0, 0], [3, 3, 3])
    x = source().x[:200, :3].long()
    found = []
    for _ in range(6):
        counts, likelihood = circuit.expect(x)
        found.append(float(likelihood.double().sum()))
        circuit.maximise(counts, 200.0, 0.0)
    assert all(b >= a - 1e-2 for a, b in itertools.pairwise(found)) and found[-1] > found[0] + 1


def test_the_tree_joins_what_depends_and_is_rooted_in_the_middle() -> None:
    generator = torch.Generator().manual_seed(0)
    chain = [torch.randint(0, 256, (3000,), generator=generator)]
    for _ in range(6):  # each variable is the one before, with some noise
        chain.append((chain[-1] + torch.randint(0, 60, (3000,), generator=generator)).clamp_max(255))
    x = torch.stack([chain[k] for k in (3, 0, 6, 1, 5, 2, 4)], 1).to(torch.uint8)
    parent = chow_liu(mutual_information(levels(x)))
    assert parent == [-1, 3, 4, 5, 6, 0, 0]


def test_growing_keeps_rows_normalised_and_drops_what_is_unused() -> None:
    torch.manual_seed(0)
    circuit = random_circuit([-1, 0, 1], [4, 4, 4])
    circuit.transition[1][:, 2] = 1e-9
    counts, _ = circuit.expect(source().x[:200, :3].long())
    grown = grow(circuit, counts, [6, 7, 1], 1e-4, torch.Generator().manual_seed(0))
    assert grown.states == [6, 6, 4]  # 4 - 1 states of the second doubled; the third keeps what it has
    for table in [*grown.transition, *grown.mixing]:
        assert torch.allclose(table.sum(1), torch.ones(len(table)), atol=1e-5)
    again = load_circuit(pack_circuit(grown), CPU)
    x = source().x[:50, :3].long()
    assert torch.equal(again.log_likelihood(x), grown.log_likelihood(x))


def test_the_least_predictable_variables_get_the_most_states() -> None:
    assert most_states(torch.tensor([0.0, 0.1, 4.0]), 16) == [1, 3, 16]


@pytest.mark.parametrize("make", [grey_dictionary, residual_dictionary])
def test_dictionaries_are_distributions(make: type) -> None:
    rows = make(source().x, 64)
    assert rows.shape == (64, 256) and (rows > 0).all() and torch.allclose(rows.sum(1), torch.ones(64), atol=1e-5)


def test_photographs_give_windows_of_residuals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_data, "HELD_OUT_PHOTOS", 1)
    with tarfile.open(tmp_path / "photos-00.tar", "w") as tar:
        for number in range(3):
            file = io.BytesIO()
            y, x = np.mgrid[:60, :70]
            wave = 120 + 60 * np.sin((x + number) / 9) + 40 * np.cos(y / 7)
            PIL.Image.fromarray(np.stack([wave, wave + 5, wave - 9], 2).astype(np.uint8)).save(file, "PNG")
            member = tarfile.TarInfo(f"photo-{number}.png")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    found = read_photos(tmp_path, 40)
    assert found.x.shape == (2 * 20 + 64, len(found.places)) and found.residual
    assert float((found.x.float() - 128).abs().mean()) < 4  # smooth pictures predict well
