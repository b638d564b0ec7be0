"""The tokens of `audio-rvq` as bytes: an integer network predicts each token, and a range coder inside its kernel codes it.

The distribution of a token is computed from the code vectors of the two frames before its frame, a slow mean of them, and
those of the levels already coded in its frame. All of that is integers, and encoder and decoder run the same step
(`predict`):

    inputs   vectors >> a shift per channel, clamped to +-LIMIT
    context  of a frame:  c = clamp((Wc x + bc) >> s, 0, LIMIT)
    hidden   of a level:  h = clamp((A c + S x' + b) >> s, 0, LIMIT), x' the partial sum of this frame's vectors
    logits   of a level:  l = (O h + o) >> s, logarithms to base 2 in units of 2**-LOGIT_BITS
    weights  2**(l - max l), by a table, at least 1, summed up a binary tree over the code's number

A code is the path down the tree, eight binary decisions for 256 codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    decode_probability,
    encode_probability,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
)
from ...entropy.kernels import inlined, kernel

__all__ = [
    "LIMIT",
    "LOGIT_BITS",
    "UNIT",
    "WEIGHT_BITS",
    "Space",
    "TokenModel",
    "begin",
    "branch",
    "decode_tokens",
    "encode_tokens",
    "end",
    "predict",
    "space_of",
    "take",
    "token_model",
]

UNIT = 14  # vectors are in units of 2**-UNIT
LIMIT = 511  # of activations
LOGIT_BITS = 8
WEIGHT_BITS = 20  # of the largest weight
MEAN_SHIFT = 3  # the slow mean moves by an eighth
CLEAR = 256  # units of an input that counts the levels

POWERS = np.array([round(2 ** (WEIGHT_BITS - i / 2**LOGIT_BITS)) for i in range(2**LOGIT_BITS)], np.int64)

Ints = NDArray[np.int32]


class TokenModel(NamedTuple):
    """Integers, L levels of C codes of D channels: see the head of this file."""

    vectors: Ints  # L, C, D
    shifts: Ints  # D: of a vector to an input
    context: Ints  # 3 D + 1, contexts
    context_bias: Ints
    inner: Ints  # L, contexts + D, hidden
    inner_bias: Ints  # L, hidden
    outer: Ints  # L, hidden, C
    outer_bias: Ints  # L, C
    scales: Ints  # 1 + 2 L: right shifts of contexts, hidden layers and logits


class Space(NamedTuple):
    """What the step works in: a kernel allocates nothing."""

    frame: Ints  # D: the sum of this frame's vectors
    before: Ints  # 3, D: the sums of the two frames before, and the mean
    inputs: Ints  # 3 D + 1
    seen: Ints  # contexts + D
    context: Ints
    hidden: Ints
    logits: Ints  # C
    tree: NDArray[np.int64]  # 2 C


def token_model(tensors: Mapping[str, NDArray[Any]]) -> TokenModel:
    """Return the model from the tensors of a weights file: `tokens.*` and `codebooks`, all integers."""
    vectors = tensors["codebooks"].astype(np.int32) << (UNIT - tensors["codebook_shifts"].astype(np.int32))[:, None, None]
    names = ("context", "context_bias", "inner", "inner_bias", "outer", "outer_bias", "scales")
    layers = {name: np.ascontiguousarray(tensors[f"tokens.{name}"], np.int32) for name in names}
    return TokenModel(vectors, tensors["tokens.shifts"].astype(np.int32), **layers)


def space_of(model: TokenModel) -> Space:
    """Return the room for the step, at the start of a packet."""
    channels, contexts = model.vectors.shape[2], model.context.shape[1]
    return Space(
        np.zeros(channels, np.int32),
        np.zeros((3, channels), np.int32),
        np.zeros(3 * channels + 1, np.int32),
        np.zeros(contexts + channels, np.int32),
        np.zeros(contexts, np.int32),
        np.zeros(model.inner.shape[2], np.int32),
        np.zeros(model.vectors.shape[1], np.int32),
        np.zeros(2 * model.vectors.shape[1], np.int64),
    )


@inlined
def _clamped(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


@inlined
def _layer(inputs: Ints, weights: Ints, bias: Ints, out: Ints) -> None:
    """Set `out` to bias + inputs @ weights."""
    for j in range(out.size):
        out[j] = bias[j]
    for i in range(inputs.size):
        value = inputs[i]
        if value != 0:
            row = weights[i]
            for j in range(out.size):
                out[j] += row[j] * value


@inlined
def begin(model: TokenModel, space: Space, levels: int) -> None:
    """Compute the context of the next frame."""
    channels = space.frame.size
    for part in range(3):
        for d in range(channels):
            space.inputs[part * channels + d] = _clamped(space.before[part, d] >> model.shifts[d], -LIMIT, LIMIT)
    space.inputs[3 * channels] = levels * CLEAR // model.vectors.shape[0]
    _layer(space.inputs, model.context, model.context_bias, space.context)
    for j in range(space.context.size):
        space.seen[j] = _clamped(space.context[j] >> model.scales[0], 0, LIMIT)
    for d in range(channels):
        space.frame[d] = 0
        space.seen[space.context.size + d] = 0


@inlined
def predict(model: TokenModel, space: Space, level: int) -> None:
    """Fill the tree's leaves with the weights of a level's codes, the logits with how far they are below the largest."""
    codes, tree = model.vectors.shape[1], space.tree
    _layer(space.seen, model.inner[level], model.inner_bias[level], space.hidden)
    for j in range(space.hidden.size):
        space.hidden[j] = _clamped(space.hidden[j] >> model.scales[1 + level], 0, LIMIT)
    _layer(space.hidden, model.outer[level], model.outer_bias[level], space.logits)
    shift, top = model.scales[1 + model.vectors.shape[0] + level], -(1 << 30)
    for i in range(codes):
        space.logits[i] >>= shift
        top = max(top, space.logits[i])
    for i in range(codes):
        below = top - space.logits[i]
        space.logits[i] = below
        tree[codes + i] = max(1, POWERS[np.uintp(below & ((1 << LOGIT_BITS) - 1))] >> min(below >> LOGIT_BITS, 30))


@inlined
def branch(tree: NDArray[np.int64]) -> None:
    """Sum the leaves: node n has the nodes 2n and 2n + 1 below it."""
    for i in range((tree.size >> 1) - 1, 0, -1):
        tree[i] = tree[2 * i] + tree[2 * i + 1]


@inlined
def take(model: TokenModel, space: Space, level: int, code: int) -> None:
    """Add a code's vector to the frame."""
    for d in range(space.frame.size):
        space.frame[d] += model.vectors[level, code, d]
        space.seen[space.context.size + d] = _clamped(space.frame[d] >> model.shifts[d], -LIMIT, LIMIT)


@inlined
def end(space: Space) -> None:
    """Move on to the next frame."""
    for d in range(space.frame.size):
        space.before[1, d] = space.before[0, d]
        space.before[0, d] = space.frame[d]
        space.before[2, d] += (space.frame[d] - space.before[2, d]) >> MEAN_SHIFT


@inlined
def _right(tree: NDArray[np.int64], node: int) -> int:
    """Return the probability of the right one of two nodes, of 2**16."""
    return _clamped((tree[2 * node + 1] << 16) // tree[node], 1, 65535)


@kernel
def _encode(
    model: TokenModel, space: Space, codes: NDArray[np.int16], coder: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    levels, width = codes.shape[1], model.vectors.shape[1]
    for t in range(codes.shape[0]):
        begin(model, space, levels)
        for level in range(levels):
            predict(model, space, level)
            branch(space.tree)
            code = int(codes[t, level])
            node, half = 1, width >> 1
            while half > 0:
                bit = 1 if code & half else 0
                encode_probability(coder, out, _right(space.tree, node), bit)
                node, half = 2 * node + bit, half >> 1
            take(model, space, level, code)
        end(space)


@kernel
def _decode(
    model: TokenModel, space: Space, codes: NDArray[np.int16], coder: NDArray[np.int64], coded: NDArray[np.uint8]
) -> None:
    levels, width = codes.shape[1], model.vectors.shape[1]
    for t in range(codes.shape[0]):
        begin(model, space, levels)
        for level in range(levels):
            predict(model, space, level)
            branch(space.tree)
            node = 1
            while node < width:
                node = 2 * node + decode_probability(coder, coded, _right(space.tree, node))
            codes[t, level] = node - width
            take(model, space, level, node - width)
        end(space)


def encode_tokens(model: TokenModel, codes: NDArray[np.int16]) -> bytes:
    """Code the codes (C, T, levels) of a packet."""
    out = np.zeros(64 + 2 * codes.size * model.vectors.shape[1].bit_length(), np.uint8)
    coder = start_encoding()
    for channel in codes:
        _encode(model, space_of(model), channel, coder, out)
    return out[: finish_encoding(coder, out)].tobytes()


def decode_tokens(model: TokenModel, coded: bytes, channels: int, frames: int, levels: int) -> NDArray[np.int16]:
    """Return the codes (channels, frames, levels) of a packet; raises `SymbolsCorrupt` for bytes that are none."""
    array = np.frombuffer(coded, np.uint8)
    codes = np.zeros((channels, frames, levels), np.int16)
    coder = start_decoding(array)
    for found in codes:
        _decode(model, space_of(model), found, coder, array)
    finish_decoding(coder, array)
    return codes
