"""Speed and overhead of the entropy layer on one thread: `python -m laconic.bench.entropy`.

Coders run on a million symbols drawn from the tables that code them, with indices as pictures have them: most symbols in
narrow tables. Convolutions run at the sizes that a 768 x 512 picture gives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..entropy.adaptive_binary import decode_integers, encode_integers
from ..entropy.integer_network import ConvSpec, IntegerConv2d
from ..entropy.range_coder import IndexedDecoder, IndexedEncoder
from ..entropy.symbol_by_table import decode_indexed, encode_indexed
from ..entropy.tables import SCALE_COUNT, load_tables, scale_of_index

__all__ = ["Row", "main", "run"]

COUNT = 1_000_000
REPEATS = 3
# (inputs, outputs, kernel, stride, padding, groups, rows, columns)
LAYERS = (
    (320, 96, 1, 1, 0, 1, 48, 32),
    (96, 192, 3, 2, 0, 1, 49, 33),
    (128, 512, 3, 1, 1, 1, 48, 32),
    (96, 96, 3, 1, 1, 96, 97, 65),
)


@dataclass(frozen=True)
class Row:
    """One measurement: the best of three runs."""

    subject: str
    value: float
    unit: str


def _seconds(work: Callable[[], object]) -> float:
    """Return the shortest of three runs after a first one."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _drawn(mean_index: float, spread: float) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return symbols of logistic tables whose indices are normal about `mean_index`."""
    rng = np.random.default_rng(0)
    indices = np.clip(rng.normal(mean_index, spread, COUNT), 0, SCALE_COUNT - 1).astype(np.uint8)
    scales = np.array([scale_of_index(k) for k in range(SCALE_COUNT)])
    return np.round(rng.logistic(0.0, 1.0, COUNT) * scales[indices]).astype(np.int32), indices


def _coder_rows(
    subject: str,
    encode: Callable[[], bytes],
    decode: Callable[[bytes], NDArray[np.int32]],
    symbols: NDArray[np.int32],
    bits: float,
) -> list[Row]:
    coded = encode()
    if not np.array_equal(decode(coded), symbols):
        raise ArithmeticError(f"{subject} does not give back its symbols")
    millions = symbols.size / 1e6
    return [
        Row(f"{subject}: encode", millions / _seconds(encode), "Msymbol/s"),
        Row(f"{subject}: decode", millions / _seconds(lambda: decode(coded)), "Msymbol/s"),
        Row(f"{subject}: overhead over the ideal length", 100.0 * (8 * len(coded) / bits - 1.0), "%"),
    ]


def _indexed(symbols: NDArray[np.int32], indices: NDArray[np.uint8], step: int) -> bytes:
    encoder, tables = IndexedEncoder(), load_tables("logistic")
    for start in range(0, symbols.size, step):
        encoder.encode(symbols[start : start + step], indices[start : start + step], tables)
    return encoder.finish()


def _range_coder_rows() -> list[Row]:
    rows, tables = [], load_tables("logistic")

    def decode(coded: bytes, indices: NDArray[np.uint8], step: int) -> NDArray[np.int32]:
        decoder = IndexedDecoder(coded)
        return np.concatenate([decoder.decode(indices[i : i + step], tables) for i in range(0, indices.size, step)])

    for label, mean, spread in (("low rate", 5.0, 5.0), ("middle rate", 14.0, 10.0), ("high rate", 35.0, 10.0)):
        symbols, indices = _drawn(mean, spread)
        bits = float(tables.bits(symbols, indices).sum())
        for step in (COUNT, 40_000):
            subject = f"range coder, {label} ({bits / COUNT:.2f} bits), {step} symbols a call"
            rows += _coder_rows(
                subject,
                lambda s=symbols, i=indices, n=step: _indexed(s, i, n),  # type: ignore[misc]
                lambda c, i=indices, n=step: decode(c, i, n),  # type: ignore[misc]
                symbols,
                bits,
            )
    return rows


def _kernel_rows() -> list[Row]:
    tables = load_tables("logistic")
    symbols, indices = _drawn(14.0, 10.0)
    bits = float(tables.bits(symbols, indices).sum())
    rows = _coder_rows(
        "symbol by table",
        lambda: encode_indexed(symbols, indices, tables),
        lambda coded: decode_indexed(coded, indices, tables),
        symbols,
        bits,
    )
    values = np.round(np.random.default_rng(0).laplace(0.0, 1.5, COUNT)).astype(np.int32)
    shares = np.unique(values, return_counts=True)[1] / COUNT
    entropy = float(-(shares * np.log2(shares)).sum() * COUNT)
    return rows + _coder_rows(
        f"adaptive binary integers ({entropy / COUNT:.2f} bits)",
        lambda: encode_integers(values),
        lambda coded: decode_integers(coded, COUNT),
        values,
        entropy,
    )


def _layer_rows() -> list[Row]:
    rows = []
    for inputs, outputs, kernel, stride, padding, groups, height, width in LAYERS:
        rng = np.random.default_rng(0)
        weight = torch.from_numpy(rng.integers(-20, 21, (outputs, inputs // groups, kernel, kernel)))
        shift, bias = torch.full((outputs,), 6), torch.zeros(outputs, dtype=torch.int64)
        for in_max in (255, 1 << 20):  # the second bound needs float64
            spec = ConvSpec(6, 6, in_max, -4095, 4095, stride, padding, groups)
            layer = IntegerConv2d(weight, shift, bias, spec)
            x = torch.from_numpy(rng.integers(-255, 256, (1, inputs, height, width))).float()
            work = weight[0].numel() * layer(x).numel() / 1e9
            precision = "float32" if layer.bound < 1 << 24 else "float64"
            name = f"{inputs} to {outputs}, {kernel}x{kernel}, stride {stride}" + (", depthwise" if groups > 1 else "")
            rows.append(Row(f"integer convolution {name}, {precision}", work / _seconds(lambda: layer(x)), "GMAC/s"))  # noqa: B023
    return rows


def run(out: Path | None = None) -> list[Row]:
    """Measure everything; with `out`, also write `entropy.json` into that folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _range_coder_rows() + _kernel_rows() + _layer_rows()
    finally:
        torch.set_num_threads(threads)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "entropy.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return rows


def main() -> None:
    """Print all measurements, one per line."""
    for row in run():
        print(f"{row.value:10.4f} {row.unit:10} {row.subject}")


if __name__ == "__main__":
    main()
