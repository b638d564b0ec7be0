"""Bits of latents and hyper-latents while `image-transform` is trained, with gradients that suit rounding."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .transform_context import INDEX_STEP, scale_of_index


class _LogisticBits(torch.autograd.Function):
    """See `symbol_bits`; derivatives are written out, as this is a quarter of a training step otherwise."""

    @staticmethod
    def forward(ctx: Any, offset: Tensor, index: Tensor) -> Tensor:
        inverse = 1 / scale_of_index(index)
        size = torch.floor(offset + 0.5).abs()
        upper, lower = (0.5 - size) * inverse, (0.5 + size) * inverse
        # with a = (1/2 - |x|) / s and b = (1/2 + |x|) / s the bin's probability is sigmoid(a) sigmoid(b) (1 - exp(-1/s)),
        # which stays accurate in the tail
        nats = F.logsigmoid(upper) + F.logsigmoid(lower) + torch.log1p(-torch.exp(-inverse))
        by_log_scale = upper * torch.sigmoid(-upper) + lower * torch.sigmoid(-lower) + inverse / torch.expm1(inverse)
        noisy = offset + torch.rand_like(offset) - 0.5
        magnitude = noisy.abs()
        by_offset = torch.sigmoid((magnitude + 0.5) * inverse) - torch.sigmoid((0.5 - magnitude) * inverse)
        ctx.save_for_backward(
            by_offset * torch.sign(noisy) * (inverse / math.log(2)), by_log_scale * (INDEX_STEP / math.log(2))
        )
        return nats * (-1 / math.log(2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        by_offset, by_index = ctx.saved_tensors
        return gradients[0] * by_offset, gradients[0] * by_index


def symbol_bits(offset: Tensor, index: Tensor) -> Tensor:
    """Bits of rounding `offset` (latents minus means) under zero-mean logistic distributions, by table `index`.

    Value and gradient for the index are those of the rounded symbol, which is what gets coded; the gradient for latents and
    means is that of additive uniform noise. Noise alone would overrate nearly silent channels by tenths of a bit each.
    """
    return cast(Tensor, _LogisticBits.apply(offset, index))  # type: ignore[no-untyped-call]
