"""Networks of videos: their description as numbers, their widths, and that every architecture fits."""

import math
import random
from dataclasses import replace

import pytest
import torch

from laconic.codecs.errors import CorruptStream, InvalidSettings
from laconic.codecs.video.inr_networks import Decoder, initial_tensors, render
from laconic.codecs.video.inr_presets import ARCHITECTURES, PRESETS, spec_for
from laconic.codecs.video.inr_spec import MAX_PARAMETERS, Spec

SIZES = [(1, 1, 1), (2, 33, 47), (5, 144, 176), (3, 97, 131), (1, 7, 300)]


@pytest.mark.parametrize(("parameters", "width"), [(350_000, 32), (750_000, 48), (1_500_000, 68), (3_000_000, 97)])
def test_hnerv_widths_are_those_of_the_paper(parameters: int, width: int) -> None:
    spec = spec_for("hnerv", parameters, 132, 640, 1280)
    assert spec.widths[0] == width
    assert spec.base == (2, 4)
    assert (spec.strides, spec.kernels) == ((5, 4, 4, 2, 2), (1, 3, 5, 5, 5))
    assert abs(spec.parameters / parameters - 1) < 0.07


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_solvers_meet_a_budget(architecture: str) -> None:
    for parameters in (90_000, 350_000, 3_000_000):
        spec = spec_for(architecture, parameters, 132, 640, 1280)
        assert 0.7 < spec.parameters / parameters < 1.1


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="nirvana"):
        spec_for("siren", 1000, 1, 8, 8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_decodes(architecture: str, size: tuple[int, int, int]) -> None:
    frames, height, width = size
    spec = spec_for(architecture, 20_000, frames, height, width)
    assert Spec.from_params(spec.to_params()) == spec
    decoder = Decoder(spec)
    assert [(n, tuple(p.shape)) for n, p in decoder.named_parameters()] == [(n, s) for n, s, _ in spec.tensors()]
    assert sum(p.numel() for p in decoder.parameters()) == spec.parameters
    shown = decoder(torch.tensor([frames - 1, 0]))
    assert shown.shape == (2, 3, height, width) and bool(shown.isfinite().all())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_frame_does_not_depend_on_those_decoded_with_it(architecture: str) -> None:
    spec = spec_for(architecture, 10_000, 4, 40, 56)
    tensors = initial_tensors(spec, 1)
    together = render(spec, tensors, torch.arange(4))
    alone = torch.cat([render(spec, tensors, torch.tensor([i])) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    if architecture != "nirvana":
        assert float((together[0] - together[3]).detach().abs().max()) > 1e-4


def test_interpolated_stages_with_branches_after_them() -> None:
    spec = replace(spec_for("boost", 10_000, 4, 40, 56), enlargement="bilinear", residual="after", skip="bilinear")
    assert Spec.from_params(spec.to_params()) == spec
    decoder = Decoder(spec)
    assert [(n, tuple(p.shape)) for n, p in decoder.named_parameters()] == [(n, s) for n, s, _ in spec.tensors()]
    assert decoder(torch.arange(4)).shape == (4, 3, 40, 56)


def test_initial_tensors_depend_on_the_seed_alone() -> None:
    spec = spec_for("boost", 10_000, 4, 40, 56)
    a, b, c = (initial_tensors(spec, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hostile_numbers_are_refused_or_describe_a_small_network(architecture: str) -> None:
    numbers = spec_for(architecture, 50_000, 40, 144, 176).to_params()
    chance = random.Random(0)
    for trial in range(1500):
        changed = list(numbers)
        if trial % 3 == 0:
            changed = changed[: chance.randrange(len(changed))]
        else:
            for _ in range(1 + trial % 2):
                changed[chance.randrange(len(changed))] = chance.choice(
                    [0, 1, 2, 5, 9, 16, 255, 4096, 65_535, 2**31, 2**62, -1]
                )
        try:
            spec = Spec.from_params(changed)
        except CorruptStream:
            continue
        assert spec.parameters <= MAX_PARAMETERS
        assert spec.activations <= 2**24 + 192 * spec.height * spec.width
        assert all(math.prod(tensor.shape) > 0 for tensor in spec.tensors())


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "paper-3m"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_presets_exist_for_every_architecture(preset: str, architecture: str) -> None:
    spec = spec_for(architecture, PRESETS[preset].parameters, 132, 640, 1280)
    assert Spec.from_params(spec.to_params()) == spec
    assert 1 < spec.macs_per_pixel < 200_000
