"""What training computes on its integer grids is what the codec computes in integers, bit for bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from laconic.codecs.image import transform_networks
from laconic.codecs.image.fixed_point import HIDDEN_MAX, FixedPointConv2d, bound_through, rectified, round_through
from laconic.codecs.image.transform_context import ChannelTables, Context, Head, StepCoder, walk
from laconic.codecs.image.transform_model import ExactConv2d, ExactModel, pack
from laconic.codecs.image.transform_networks import Coded, TransformModel
from laconic.codecs.image.transform_regions import RegionAdaptive, adaptive_depthwise
from laconic.codecs.image.transform_spec import TransformSpec
from laconic.entropy.integer_network import ConvSpec, IntegerConv2d

CPU = torch.device("cpu")
SPEC = TransformSpec(
    latent=24, branch=8, blocks=2, hyper=8, hyper_features=16, squeeze=12, width=16, groups=(4, 8, 12), rates=3
)

REGIONAL = replace(SPEC, branch_bits=8, synthesis_blocks=2, region=4, finish=4, conditioned=True, context_blocks=1)

# inputs, outputs, kernel and options of the layers that the networks are made of
LAYERS = {
    "dense": (24, 10, 1, {}),
    "dense 3x3": (12, 10, 3, {}),
    "stride 2, no padding": (12, 10, 3, {"stride": 2, "padding": 0}),
    "stride 2": (12, 10, 3, {"stride": 2, "out_bits": 4}),
    "depthwise": (14, 14, 3, {"groups": 14}),
    "rectifier": (24, 10, 1, {"out_range": (0, HIDDEN_MAX)}),
    "analysis": (48, 10, 3, {"in_max": 128, "weight_bits": 10, "out_bits": 10, "out_range": (-(2**22), 2**22)}),
    "hyper-latents": (12, 10, 3, {"in_bits": 0, "in_max": 255}),
    "table indices": (24, 10, 1, {"out_bits": 0, "out_range": (-64, 64), "gain": 8.0}),
    "finer activations": (24, 10, 1, {"in_bits": 8, "out_bits": 8}),
    "float32": (192, 10, 1, {"in_bits": 8, "out_bits": 8, "float32": True}),
}


def distinct(tensors: list[Tensor]) -> int:
    return int(np.unique(np.concatenate([tensor.numpy().ravel() for tensor in tensors])).size)


def tensors_of(layer: FixedPointConv2d) -> dict[str, Tensor]:
    """The layer as a weights file holds it."""
    return {
        "layer.weight": layer.integer_weight().detach().to(torch.int16),
        "layer.shift": layer.weight_shift().to(torch.int8),
        "layer.bias": layer.integer_bias().detach().to(torch.int32),
    }


def spec_of(layer: FixedPointConv2d) -> ConvSpec:
    return ConvSpec(layer.in_bits, layer.out_bits, layer.in_max, *layer.out_range)


def layer_and_input(name: str, seed: int) -> tuple[FixedPointConv2d, Tensor]:
    """A random layer on its grids, in float64, with biases and channels of very different sizes; inputs reach their bound."""
    inputs, outputs, kernel, options = LAYERS[name]
    generator = torch.Generator().manual_seed(seed)
    layer = FixedPointConv2d(inputs, outputs, kernel, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.normal_(0, 0.2, generator=generator)
        layer.weight.mul_(torch.logspace(-6, 0, outputs).view(-1, 1, 1, 1))
        layer.weight[0] = 0  # a dead channel
        layer.bias.normal_(0, 1, generator=generator)
    layer.quantised = True
    x = torch.randint(-layer.in_max, layer.in_max + 1, (2, inputs, 11, 14), generator=generator)
    return layer, x.double() * 2.0**-layer.in_bits


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("seed", range(3))
def test_training_layers_equal_integer_layers(name: str, seed: int) -> None:
    layer, x = layer_and_input(name, seed)
    exact = ExactConv2d("layer", layer, tensors_of(layer), CPU)
    expected = layer(x).detach()
    assert torch.equal(exact(x).double(), expected)
    assert distinct([expected]) > 40
    assert torch.equal(torch.floor(expected * 2.0**layer.out_bits), expected * 2.0**layer.out_bits), "off the grid"


@pytest.mark.parametrize("name", LAYERS)
def test_weights_fit_their_integers(name: str) -> None:
    layer, _ = layer_and_input(name, 7)
    largest = 2 ** (layer.weight_bits - 1) - 1
    integers = layer.integer_weight().abs().amax((1, 2, 3))
    assert integers.max() <= largest
    if layer.float32:
        assert IntegerConv2d.from_tensors(tensors_of(layer), "layer", spec_of(layer)).bound < 2**24
        assert integers.max() > 8
    else:  # every channel that is not nearly dead uses its last bit
        assert (integers[layer.weight_shift() < 20] > largest // 2 - 1).all()
    real = layer.weight * layer.gain
    step = torch.exp2(-layer.weight_shift()).view(-1, 1, 1, 1)
    assert ((layer.integer_weight() * step - real).abs() <= step / 2).all()


def test_without_grids_layers_are_ordinary_convolutions() -> None:
    layer, x = layer_and_input("dense 3x3", 1)
    layer.quantised = False
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    assert torch.equal(layer(x), plain)
    layer.out_range = (0, HIDDEN_MAX)
    assert torch.equal(layer(x), plain.clamp_min(0))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_rounding_passes_gradients(values: list[float]) -> None:
    x = torch.tensor(values, requires_grad=True)
    y = round_through(x)
    assert torch.equal(y, torch.floor(x + 0.5))
    slopes = torch.arange(1.0, len(values) + 1)
    (y * slopes).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and torch.equal(x.grad, slopes)


def test_halves_round_up() -> None:
    assert round_through(torch.tensor([-1.5, -0.5, 0.5, 1.5])).tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_bounds_pass_gradients_that_lead_back(slope: float) -> None:
    x = torch.tensor([-9.0, -2.0, 0.5, 2.0, 9.0], requires_grad=True)
    y = bound_through(x, -2, 2)
    assert y.tolist() == [-2, -2, 0.5, 2, 2]
    (slope * y).sum().backward()  # type: ignore[no-untyped-call]
    # descent moves against the gradient: with a positive slope down, which brings back what is above only
    expected = [0.0, 1.0, 1.0, 1.0, 1.0] if slope > 0 else [-1.0, -1.0, -1.0, -1.0, 0.0]
    assert x.grad is not None and x.grad.tolist() == expected


def test_rectifier_keeps_to_the_range_of_hidden_activations() -> None:
    assert rectified(torch.tensor([-3.0, 0.25, 99.0])).tolist() == [0, 0.25, HIDDEN_MAX / 64]


@dataclass
class Seen:
    """What one side computed on the way from pixels to symbols."""

    hyper_latents: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    tables: list[ChannelTables] = field(default_factory=list)
    hyper: list[Tensor] = field(default_factory=list)
    steps: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)
    symbols: list[Tensor] = field(default_factory=list)

    def note(self, start: int, phase: tuple[int, int], mean: Tensor, index: Tensor, symbols: Tensor) -> None:
        self.steps.append((start, phase))
        for values, tensor in ((self.means, mean), (self.indices, index), (self.symbols, symbols)):
            values.append(tensor.detach().double())


def tiny_model(gain: float, spec: TransformSpec = SPEC) -> TransformModel:
    """A model in which every layer takes part, those too that training starts at zero."""
    torch.manual_seed(5)
    model = TransformModel(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        for channels, spread in ((model.log_scale, 4.0), (model.log_unit, 1.0), (model.log_hyper_scale, 1.0)):
            channels.copy_(1 + spread * torch.rand_like(channels))
        for head in model.context.heads:  # tables that differ from place to place
            cast(Head, head).index.weight.normal_(0, 0.05)
        model.hyper_analysis.down2.weight.mul_(3)  # hyper-latents of several steps
        model.log_gain.copy_(gain * torch.randn_like(model.log_gain))
        model.log_inverse_gain.copy_(-model.log_gain)
    model.quantise_grids(True)
    return model.eval()


def pictures() -> Tensor:
    """Two uint8 pictures (2, 3, 128, 64) that fill their range."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :64]
    waves = [128 + 110 * np.sin(x / (3 + c) + y / (11 - c)) for c in range(6)]
    noise = rng.integers(-12, 13, (6, 128, 64))
    return torch.from_numpy(np.clip(np.stack(waves) + noise, 0, 255).astype(np.uint8).reshape(2, 3, 128, 64))


def seen_in_training(model: TransformModel, pixels: Tensor, quality: Tensor, patch: pytest.MonkeyPatch) -> tuple[Seen, Coded]:
    """Run the training pass and note what the entropy model saw."""
    seen = Seen()

    def noting_walk(context: Context, hyper: Tensor, tables: ChannelTables, size: tuple[int, int], code: StepCoder) -> Tensor:
        seen.hyper.append(hyper)
        seen.tables.append(tables)

        def noting_code(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
            symbols = code(start, phase, mean, index)
            seen.note(start, phase, mean, index, symbols)
            return symbols

        return walk(context, hyper, tables, size, noting_code)

    code_latents = model.code_latents

    def noting_code_latents(y: Tensor, hyper: Tensor, tables: ChannelTables) -> tuple[Tensor, Tensor]:
        seen.latents.append(y)
        return code_latents(y, hyper, tables)

    patch.setattr(transform_networks, "walk", noting_walk)
    patch.setattr(model, "code_latents", noting_code_latents)
    hook = model.hyper_analysis.register_forward_hook(lambda *call: seen.hyper_latents.append(round_through(call[2])))
    with torch.no_grad():
        coded = model((pixels.float() - 128) / 64, quality.float())
    hook.remove()
    return seen, coded


def seen_in_codec(exact: ExactModel, y: Tensor, quality: Tensor) -> Seen:
    """Code latents as the codec does, but round as training does: the encoder's choice of symbols is not at issue here."""
    seen = Seen(latents=[y])

    def code(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
        offset = y[:, start : start + mean.shape[1], phase[0] :: 2, phase[1] :: 2] - mean
        symbols = torch.floor(offset + 0.5)
        seen.note(start, phase, mean, index, symbols)
        return symbols

    z = exact.hyper_latents(y, quality)
    seen.hyper_latents.append(z)
    exact.walk(z, quality, (y.shape[2], y.shape[3]), code)
    return seen


def exact_of(model: TransformModel) -> ExactModel:
    tensors, _ = pack(model)
    return ExactModel({name: tensor.numpy() for name, tensor in tensors.items()}, model.spec, "cpu")


@torch.no_grad()
def assert_same_tables(trained: Seen, coded: Seen) -> None:
    assert torch.equal(trained.hyper_latents[0], coded.hyper_latents[0].to(trained.hyper_latents[0].dtype))
    assert trained.steps == coded.steps
    for ours, theirs in ((trained.means, coded.means), (trained.indices, coded.indices), (trained.symbols, coded.symbols)):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("spec", [SPEC, REGIONAL])
def test_training_and_codec_agree_on_every_table(spec: TransformSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels, quality = tiny_model(0.0, spec), pictures(), torch.tensor([17, 83])
    trained, coded = seen_in_training(model, pixels, quality, monkeypatch)
    exact = exact_of(model)
    y = exact.latents(pixels, quality)
    assert torch.equal(y, trained.latents[0])
    in_codec = seen_in_codec(exact, y, quality)
    assert_same_tables(trained, in_codec)
    assert torch.equal(exact._at(exact.unit, quality), trained.tables[0].unit.double())
    assert torch.equal(exact._at(exact.index, quality), trained.tables[0].base.to(torch.int8))
    # the comparison says something only where the networks do
    assert len(in_codec.steps) == 4 * len(SPEC.groups)
    assert distinct(in_codec.indices) > 20
    spreads = [float((index.amax((2, 3)) - index.amin((2, 3))).max()) for index in in_codec.indices]
    assert min(spreads) >= 1 and max(spreads) > 2
    assert distinct(in_codec.means) > 30
    assert distinct(in_codec.hyper_latents) > 3
    assert float(coded.latent_bits.min()) > 100


@pytest.mark.parametrize("spec", [SPEC, REGIONAL])
def test_training_and_codec_agree_with_gains(spec: TransformSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains are rounded to 2**-16 for the codec: latents near a boundary may move by one grid step, tables follow from them."""
    model, pixels, quality = tiny_model(0.8, spec), pictures(), torch.tensor([0, 100])
    trained, _ = seen_in_training(model, pixels, quality, monkeypatch)
    exact = exact_of(model)
    y = exact.latents(pixels, quality)
    difference = (y - trained.latents[0]).abs()
    assert difference.max() <= 1 / 16
    assert (difference > 0).float().mean() < 0.01
    assert_same_tables(trained, seen_in_codec(exact, trained.latents[0], quality))


@pytest.mark.parametrize("spec", [SPEC, REGIONAL])
def test_reconstructions_differ_by_the_rounding_of_weights_only(spec: TransformSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels, quality = tiny_model(0.3, spec), pictures(), torch.tensor([30, 60])
    trained, coded = seen_in_training(model, pixels, quality, monkeypatch)
    exact, y = exact_of(model), torch.zeros_like(trained.latents[0])
    for (start, (i, j)), mean, symbols in zip(trained.steps, trained.means, trained.symbols, strict=True):
        y[:, start : start + mean.shape[1], i::2, j::2] = (mean + symbols).float()
    expected = (coded.reconstruction * 64 + 128).clamp(0, 255)
    assert (exact.reconstruct(y, quality).float() - expected).abs().max() < 1.5


def region_adaptive(bits: int | None) -> tuple[RegionAdaptive, Tensor]:
    """A layer that does something, on its grids, with cells of 4 x 4, and an input of 9 x 14 positions up to its bound."""
    torch.manual_seed(5)
    layer = RegionAdaptive(8, 4, bits)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model = nn.Sequential(layer)
    for module in model.modules():
        if isinstance(module, FixedPointConv2d | RegionAdaptive):
            module.quantised = True
    x = torch.randint(-HIDDEN_MAX, HIDDEN_MAX + 1, (2, 8, 9, 14)) / 256 * torch.rand(2, 8, 1, 1)
    return layer, (torch.floor(x * 256) / 256 if bits else x)


@torch.no_grad()
def test_region_adaptive_layers_are_exact() -> None:
    """In float32 the layer gives what it gives in float64, where nothing can round: no sum leaves the grid."""
    layer, x = region_adaptive(8)
    y = layer(x)
    assert torch.equal(y.double(), copy.deepcopy(layer).double()(x.double()))
    assert torch.equal(torch.floor(y * 256), y * 256) and y.abs().max() <= HIDDEN_MAX / 256
    assert (y != x).float().mean() > 0.9


@pytest.mark.parametrize("bits", [8, None])
@torch.no_grad()
def test_cells_of_the_grid_are_regions_like_others(bits: int | None) -> None:
    layer, x = region_adaptive(bits)
    row, column = torch.arange(9) // 4, torch.arange(14) // 4
    regions = (row[:, None] * 4 + column).expand(2, -1, -1)
    assert torch.allclose(layer(x), layer(x, regions), atol=1e-5)
    other = layer(x, torch.zeros_like(regions))
    assert not torch.allclose(layer(x), other, atol=1e-2)


@torch.no_grad()
def test_kernels_belong_to_their_region() -> None:
    """Where one region changes, what lies two positions beyond it stays: averages of other regions are their own."""
    layer, x = region_adaptive(8)
    changed = x.clone()
    changed[:, :, :4, :4] = 0
    same = (layer(x) == layer(changed)).all(1)
    assert same[:, 5:, :].all() and same[:, :, 5:].all() and not same[:, :4, :4].all()


def test_region_adaptive_layers_start_as_identity() -> None:
    for bits in (8, None):
        layer, x = RegionAdaptive(8, 4, bits), torch.randn(1, 8, 9, 14)
        assert torch.equal(layer(x), x)


@torch.no_grad()
def test_adaptive_kernels_are_convolutions() -> None:
    x, kernel = torch.randn(2, 6, 7, 9), torch.randn(1, 54, 1, 1)
    y = adaptive_depthwise(x, kernel.expand(2, -1, -1, -1), torch.zeros(2, 63, dtype=torch.int64))
    expected = torch.nn.functional.conv2d(x, kernel.view(9, 6).T.reshape(6, 1, 3, 3), padding=1, groups=6)
    assert torch.allclose(y, expected, atol=1e-5)
