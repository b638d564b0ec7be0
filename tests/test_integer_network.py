import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.entropy import integer_network
from laconic.entropy.errors import InexactDevice, NetworkInvalid
from laconic.entropy.integer_network import ConvSpec, IntegerConv2d, self_test


def random_layer(
    seed: int, inputs: int, outputs: int, kernel: int, in_max: int, depthwise: bool = False, stride: int = 1, padding: int = 0
) -> tuple[IntegerConv2d, torch.Tensor]:
    """A layer with 8-bit weights at all shifts from 0 up, and inputs [2, in, 11, 14] that reach their bound."""
    rng = np.random.default_rng(seed)
    outputs = inputs if depthwise else outputs
    spec = ConvSpec(6, 6, in_max, -4095, 4095, stride, padding, inputs if depthwise else 1)
    weight = torch.tensor(rng.integers(-127, 128, (outputs, 1 if depthwise else inputs, kernel, kernel)))
    bias = torch.tensor(rng.integers(-5000, 5001, outputs))
    x = torch.tensor(rng.integers(-in_max, in_max + 1, (2, inputs, 11, 14))).float()
    return IntegerConv2d(weight, torch.arange(outputs) % 13, bias, spec), x


def int64_reference(layer: IntegerConv2d, x: torch.Tensor) -> torch.Tensor:
    """The definition, in NumPy integers."""
    spec, w = layer.spec, layer.weight.numpy()
    x64 = np.pad(x.numpy().astype(np.int64), ((0, 0), (0, 0), (spec.padding,) * 2, (spec.padding,) * 2))
    k, s = w.shape[2], spec.stride
    rows, columns = ((n - k) // s + 1 for n in x64.shape[2:])
    acc = np.zeros((x64.shape[0], w.shape[0], rows, columns), dtype=np.int64) + layer.bias.numpy()[:, None, None]
    for i in range(k):
        for j in range(k):
            tap = x64[:, :, i : i + (rows - 1) * s + 1 : s, j : j + (columns - 1) * s + 1 : s]
            if spec.groups == 1:
                acc += np.einsum("oc,bchw->bohw", w[:, :, i, j], tap)
            else:
                acc += w[:, 0, i, j][:, None, None] * tap
    shift = (layer.weight_shift + spec.in_bits - spec.out_bits).numpy()[:, None, None]
    rounded = (acc + np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)) >> shift
    return torch.tensor(np.clip(rounded, spec.low, spec.high)).float()


CASES = [
    (16, 12, 1, 100, False, 1, 0),
    (16, 12, 1, 1 << 22, False, 2, 0),
    (16, 12, 3, 300, False, 1, 1),
    (16, 12, 3, 1 << 24, False, 2, 0),
    (16, 12, 3, 300, False, 2, 0),
    (13, 13, 3, 4095, True, 1, 1),
    (13, 13, 3, 1 << 20, True, 2, 1),
    (13, 13, 5, 4095, True, 1, 2),
]


@pytest.mark.parametrize("case", CASES)
def test_layers_equal_their_definition(case: tuple[int, int, int, int, bool, int, int]) -> None:
    layer, x = random_layer(1, *case)
    assert torch.equal(layer(x), int64_reference(layer, x))


@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 1 << 21))
@settings(max_examples=40, deadline=None)
def test_random_layers_equal_their_definition(seed: int, inputs: int, outputs: int, kernel: int, in_max: int) -> None:
    layer, x = random_layer(seed, inputs, outputs, kernel, in_max, padding=kernel // 2)
    assert torch.equal(layer(x), int64_reference(layer, x))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch says so whenever it switches oneDNN on or off
@pytest.mark.parametrize("case", CASES)
def test_nothing_about_the_run_changes_the_result(case: tuple[int, int, int, int, bool, int, int]) -> None:
    layer, x = random_layer(2, *case)
    expected, threads = layer(x), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for mkldnn in (True, False):
                with torch.backends.mkldnn.flags(enabled=mkldnn):
                    assert torch.equal(layer(x), expected)
                    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), expected)
                    assert torch.equal(torch.cat([layer(x[:1]), layer(x[1:])]), expected)
                    assert torch.equal(layer(x.double()), expected)
                    assert torch.equal(layer(x.repeat(9, 1, 1, 1))[-2:], expected)
    finally:
        torch.set_num_threads(threads)


def test_direct_convolution_and_matrix_product_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES:
        layer, x = random_layer(3, *case)
        expected = layer(x)
        monkeypatch.setattr(integer_network, "_direct_convolution", lambda: False)
        assert torch.equal(layer(x), expected)
        monkeypatch.setattr(integer_network, "_float32_is_exact", lambda: False)
        assert torch.equal(layer(x), expected)
        monkeypatch.undo()


def test_low_precision_settings_do_not_reach_the_layers() -> None:
    layer, x = random_layer(4, 16, 12, 1, 500)
    expected = layer(x)
    try:
        torch.set_float32_matmul_precision("medium")
        assert not integer_network._float32_is_exact()
        assert torch.equal(layer(x), expected)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert integer_network._float32_is_exact()


def test_precision_follows_the_bound() -> None:
    spec = ConvSpec(0, 0, 1, -(1 << 30), 1 << 30)
    one = torch.ones(1, 1, 1, 1, dtype=torch.int64)
    zero = torch.zeros(1, dtype=torch.int64)

    def bound(in_max: int, bias: int = 0) -> IntegerConv2d:
        return IntegerConv2d(one, zero, zero + bias, ConvSpec(0, 0, in_max, -(1 << 30), 1 << 30))

    assert bound((1 << 24) - 2)._weight.dtype == torch.float32
    assert bound((1 << 24) - 1)._weight.dtype == torch.float64
    assert bound((1 << 24) - 100, 98)._weight.dtype == torch.float32
    assert bound((1 << 24) - 100, -99)._weight.dtype == torch.float64
    assert bound((1 << 53) - 2).bound == (1 << 53) - 1
    with pytest.raises(NetworkInvalid, match="2\\*\\*53"):
        bound((1 << 53) - 1)
    assert IntegerConv2d(one, zero, zero, spec)(torch.ones(1, 1, 1, 1)).dtype == torch.float64
    assert bound((1 << 24) + 1)(torch.full((1, 1, 1, 1), 2.0**24 + 1, dtype=torch.float64)).item() == 2**24 + 1


def test_layers_equal_real_valued_convolutions_on_the_same_grids() -> None:
    torch.manual_seed(0)
    real, bias = torch.randn(20, 16, 3, 3, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    shift = torch.floor(torch.log2(127 / real.abs().amax((1, 2, 3))))
    weight, integer_bias = torch.round(real * torch.exp2(shift).view(-1, 1, 1, 1)), torch.round(bias * torch.exp2(shift + 4))
    layer = IntegerConv2d(weight.long(), shift.long(), integer_bias.long(), ConvSpec(4, 6, 8191, 0, 4095, padding=1))
    x = torch.randint(-8191, 8192, (2, 16, 9, 7)).double()
    grid = weight * torch.exp2(-shift).view(-1, 1, 1, 1)
    y = F.conv2d(x / 16, grid, integer_bias * torch.exp2(-shift - 4), padding=1)
    assert torch.equal(layer(x).double() / 64, (torch.floor(y * 64 + 0.5) / 64).clamp(0, 4095 / 64))


def test_tensors_round_trip_in_small_types() -> None:
    layer, x = random_layer(5, 16, 12, 3, 500)
    tensors = layer.to_tensors("hyper.up")
    assert {name: t.dtype for name, t in tensors.items()} == {
        "hyper.up.weight": torch.int8, "hyper.up.shift": torch.int8, "hyper.up.bias": torch.int16,
    }  # fmt: skip
    assert torch.equal(IntegerConv2d.from_tensors(tensors, "hyper.up", layer.spec)(x), layer(x))
    del tensors["hyper.up.bias"]
    with pytest.raises(NetworkInvalid, match=r"lack hyper\.up\.bias"):
        IntegerConv2d.from_tensors(tensors, "hyper.up", layer.spec)


@pytest.mark.parametrize(
    ("weight", "shift", "bias", "options", "message"),
    [
        (torch.ones(2, 3, 1, 1), None, None, {}, "must be integers"),
        (torch.ones(2, 3, 1, 2, dtype=torch.int8), None, None, {}, r"\[out, in, k, k\]"),
        (torch.ones(2, 0, 1, 1, dtype=torch.int8), None, None, {}, r"\[out, in, k, k\]"),
        (None, torch.zeros(3, dtype=torch.int8), None, {}, "as many shifts"),
        (None, None, torch.zeros(1, dtype=torch.int8), {}, "as many shifts"),
        (None, torch.full((2,), -1), None, {}, "shifts must lie"),
        (None, torch.full((2,), 60), None, {}, "shifts must lie"),
        (None, None, None, {"out_bits": 1}, "shifts must lie"),
        (None, None, None, {"groups": 3}, "dense or depthwise"),
        (None, None, None, {"low": 5, "high": 4}, "no valid ranges"),
    ],
)
def test_bad_layers_are_refused(
    weight: torch.Tensor | None, shift: torch.Tensor | None, bias: torch.Tensor | None, options: dict[str, int], message: str
) -> None:
    ok = {"in_bits": 0, "out_bits": 0, "in_max": 10, "low": -10, "high": 10} | options
    ints = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(NetworkInvalid, match=message):
        IntegerConv2d(
            torch.ones(2, 3, 1, 1, dtype=torch.int8) if weight is None else weight,
            ints if shift is None else shift,
            ints if bias is None else bias,
            ConvSpec(**ok),
        )


def test_self_test_passes_here_and_refuses_inexact_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    self_test("cpu")
    with pytest.raises(InexactDevice, match="cannot run"):
        self_test("meta")
    self_test.cache_clear()
    monkeypatch.setattr(torch.Tensor, "floor_", lambda self: self.round_())
    with pytest.raises(InexactDevice, match="does not compute"):
        self_test("cpu")
    self_test.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("case", CASES)
def test_cuda_equals_cpu(case: tuple[int, int, int, int, bool, int, int]) -> None:
    self_test("cuda")
    layer, x = random_layer(6, *case)
    on_cuda = IntegerConv2d(layer.weight, layer.weight_shift, layer.bias, layer.spec, "cuda")
    assert torch.equal(on_cuda(x.cuda()).cpu(), layer(x))
