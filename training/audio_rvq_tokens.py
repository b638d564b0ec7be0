"""Train the model of the tokens of an `audio_rvq` checkpoint, and return it as integers.

The network is that of `laconic.codecs.audio.rvq_tokens` in floating point: its activations are bounded as there, its
weights become 8-bit integers with one binary scale for each layer and level.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.codecs.audio.rvq_tokens import LOGIT_BITS, UNIT

__all__ = ["TokenNetwork", "codebook_integers", "integer_tensors", "train_tokens"]

ACTIVATION_BITS = 6  # fractional bits of activations; inputs and activations stay below 8
CEILING = 511 / 2**ACTIVATION_BITS
COUNT_INPUT = 256 / 2**ACTIVATION_BITS  # what the number of levels is scaled to
MEAN_RATE = 1 / 8
CONTEXTS, HIDDEN = 96, 40


class TokenNetwork(nn.Module):
    """Logits of every level's code from the sums of code vectors before it."""

    vectors: Tensor
    input_scale: Tensor

    def __init__(self, vectors: Tensor, deviation: Tensor) -> None:
        """`vectors` (levels, codes, channels) are the codebooks, `deviation` (channels) that of the latents."""
        super().__init__()
        levels, codes, channels = vectors.shape
        self.register_buffer("vectors", vectors)
        self.register_buffer("input_scale", 2.0 ** -torch.round(torch.log2(deviation)))
        self.context = nn.Linear(3 * channels + 1, CONTEXTS)
        scale = 1 / math.sqrt(CONTEXTS + channels)
        self.inner = nn.Parameter(torch.randn(levels, CONTEXTS + channels, HIDDEN) * scale)
        self.inner_bias = nn.Parameter(torch.zeros(levels, 1, HIDDEN))
        self.outer = nn.Parameter(torch.randn(levels, HIDDEN, codes) * 0.05)
        self.outer_bias = nn.Parameter(torch.zeros(levels, 1, codes))

    def forward(self, before: Tensor, codes: Tensor) -> Tensor:
        """Return natural logits (levels, N, codes) for codes (N, levels) after the sums `before` (N, 3, channels)."""
        levels = codes.shape[1]
        inputs = (before * self.input_scale).clamp(-CEILING, CEILING).flatten(1)
        number = inputs.new_full((len(inputs), 1), COUNT_INPUT * levels / self.inner.shape[0])
        context = self.context(torch.cat([inputs, number], 1)).clamp(0, CEILING)
        chosen = torch.stack([self.vectors[level][codes[:, level]] for level in range(levels)])
        partial = chosen.cumsum(0) - chosen
        seen = torch.cat([context.expand(levels, -1, -1), (partial * self.input_scale).clamp(-CEILING, CEILING)], 2)
        hidden = torch.baddbmm(self.inner_bias[:levels], seen, self.inner[:levels]).clamp(0, CEILING)
        return torch.baddbmm(self.outer_bias[:levels], hidden, self.outer[:levels])


def sums_before(vectors: Tensor, packets: Tensor, count: int) -> Tensor:
    """Return what each frame's context is computed from, (P, T, 3, channels), of packets of codes (P, T, levels).

    Frames have `count` levels.
    """
    total = torch.zeros(*packets.shape[:2], vectors.shape[2])
    for level in range(count):
        total += vectors[level][packets[..., level].long()]
    found = torch.zeros(*total.shape[:2], 3, total.shape[2], dtype=torch.float16)
    found[:, 1:, 0], found[:, 2:, 1] = total[:, :-1].half(), total[:, :-2].half()
    mean = torch.zeros_like(total[:, 0])
    for t in range(1, total.shape[1]):
        mean = mean + (total[:, t - 1] - mean) * MEAN_RATE
        found[:, t, 2] = mean.half()
    return found


def train_tokens(
    network: TokenNetwork, packets: Tensor, counts: tuple[int, ...], seconds: float, rate: float = 3e-3, batch: int = 512
) -> None:
    """Fit the network to packets of codes (P, T, levels) for `seconds`, for each of the numbers of levels in turn."""
    codes = packets.flatten(0, 1)
    before = {count: sums_before(network.vectors, packets, count).flatten(0, 1) for count in counts}
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    began, step, noted = time.monotonic(), 0, list[float]()
    while (spent := (time.monotonic() - began) / seconds) < 1:
        rows, count = torch.randint(len(codes), (batch,)), counts[step % len(counts)]
        for group in optimiser.param_groups:
            group["lr"] = rate * (0.5 * (1 + math.cos(math.pi * spent)) + 0.01)
        chosen = codes[rows, :count].long()
        logits = network(before[count][rows].float(), chosen)
        loss = F.cross_entropy(logits.flatten(0, 1), chosen.T.flatten()) / math.log(2)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step += 1
        noted.append(float(loss.detach()))
        if step % (100 * len(counts)) == 0:
            bits = " ".join(f"{sum(noted[i :: len(counts)]) / 100:.3f}" for i in range(len(counts)))
            print(f"tokens: step {step} {spent * seconds:.0f} s, bits a code with {counts} levels: {bits}", flush=True)
            noted.clear()


def codebook_integers(codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Return codebooks (levels, codes, channels) as int8 and the shift of each level: a value is integer * 2**-shift."""
    top = codebooks.abs().amax((1, 2)).clamp(min=1e-6)
    shifts = torch.floor(torch.log2(127 / top)).int()
    return torch.round(codebooks * 2.0 ** shifts[:, None, None]).clamp(-127, 127).to(torch.int8), shifts


def _quantised(weight: Tensor) -> tuple[Tensor, int]:
    """Return a layer's weights as int8 and their binary scale."""
    shift = math.floor(math.log2(127 / max(float(weight.abs().max()), 1e-6)))
    return torch.round(weight * 2.0**shift).clamp(-127, 127).to(torch.int8), shift


@torch.no_grad()
def integer_tensors(network: TokenNetwork) -> dict[str, Tensor]:
    """Return the tensors that `rvq_tokens.token_model` reads, less the codebooks."""
    levels = network.inner.shape[0]
    weight, shift = _quantised(network.context.weight.T)
    half = 2 ** (shift - 1) if shift > 0 else 0
    bias = torch.round(network.context.bias * 2.0 ** (shift + ACTIVATION_BITS)) + half
    scales = torch.zeros(1 + 2 * levels, dtype=torch.int32)
    scales[0] = shift
    inner, outer, inner_bias, outer_bias = [], [], [], []
    for level in range(levels):
        w, s = _quantised(network.inner[level])
        inner.append(w)
        inner_bias.append(torch.round(network.inner_bias[level, 0] * 2.0 ** (s + ACTIVATION_BITS)) + 2.0 ** (s - 1))
        scales[1 + level] = s
        logits = network.outer[level] / math.log(2)
        w, s = _quantised(logits)
        outer.append(w)
        down = s + ACTIVATION_BITS - LOGIT_BITS
        outer_bias.append(
            torch.round(network.outer_bias[level, 0] / math.log(2) * 2.0 ** (s + ACTIVATION_BITS)) + 2.0 ** (down - 1)
        )
        scales[1 + levels + level] = down
    if int(scales.min()) < 1:
        raise ValueError("weights of the token network are too large for its integer form")
    return {
        "tokens.context": weight.contiguous(),
        "tokens.context_bias": bias.int(),
        "tokens.inner": torch.stack(inner),
        "tokens.inner_bias": torch.stack(inner_bias).int(),
        "tokens.outer": torch.stack(outer),
        "tokens.outer_bias": torch.stack(outer_bias).int(),
        "tokens.scales": scales,
        "tokens.shifts": (UNIT - torch.log2(network.input_scale * 2**ACTIVATION_BITS)).round().int().clamp(min=0),
    }
