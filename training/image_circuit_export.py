"""Turn a checkpoint of `image_circuit` into the weights file that the codec loads, and pin it.

    python -m laconic.training.image_circuit_export --checkpoint RUN --model digits --size 28 28 --name image-circuit-digits-1

Probabilities that few training pictures speak for become zero (the pruning of edges of "Sparse Probabilistic Circuits"), the
others powers of 2**(-1/8), and all of them are entropy coded. The codec makes exact integers of them when it loads the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from laconic.entropy.adaptive_binary import encode_integers

from .circuit_model import Circuit, load_circuit
from .image_transform_export import pin

__all__ = ["export", "main", "quantised"]

PER_OCTAVE, UNIT = 8, 1 << 30
LAST_CODE = 255


def powers() -> NDArray[np.int64]:
    """Return what codes stand for: nothing, then 2**30 and its fractions by 2**(-1/8)."""
    codes = np.arange(1, LAST_CODE + 1)
    return np.concatenate([[0], np.rint(UNIT * 2.0 ** (-(codes - 1) / PER_OCTAVE))]).astype(np.int64)


def quantised(probabilities: Tensor, seen: Tensor, least: float) -> NDArray[np.int64]:
    """Return the codes of rows of probabilities; 0 for those seen less than `least` times, but the largest of a row."""
    codes = (1 + torch.round(-PER_OCTAVE * probabilities.double().clamp_min(1e-30).log2())).long()
    largest = torch.zeros_like(codes, dtype=torch.bool)
    largest[torch.arange(len(codes)), probabilities.argmax(1)] = True
    codes[((seen < least) | (codes > LAST_CODE)) & ~largest] = 0
    return codes.clamp_max(LAST_CODE).numpy()


def export(circuit: Circuit, seen: Circuit, scale: float, least: float, spec: dict[str, object]) -> bytes:
    """Return the weights file of a circuit; `seen` holds counts in the places of probabilities, to be scaled."""
    transition = [quantised(p, c * scale, least) for p, c in zip(circuit.transition, seen.transition, strict=True)]
    mixing = quantised(torch.cat(circuit.mixing), torch.cat(seen.mixing) * scale, least)
    dictionary = quantised(circuit.dictionary, torch.full_like(circuit.dictionary, np.inf), least)
    tensors = {
        "parent": torch.tensor(circuit.parent, dtype=torch.int16),
        "states": torch.tensor(circuit.states, dtype=torch.int16),
        "powers": torch.from_numpy(powers().astype(np.int32)),
        "dictionary": torch.from_numpy(dictionary.astype(np.uint8)),
        "transition": _packed(np.concatenate([codes.ravel() for codes in transition])),
        "mixing": _packed(mixing.ravel()),
    }
    return save(tensors, {"spec": json.dumps(spec)})


def _packed(codes: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.frombuffer(encode_integers(codes), np.uint8).copy())


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--name", required=True, help="the weights file's name without its ending")
    parser.add_argument("--model", required=True, choices=("digits", "fashion", "photos"))
    parser.add_argument("--size", type=int, nargs=2, help="rows and columns of the pictures; left out: blocks of residuals")
    parser.add_argument("--pictures", type=int, default=57_000, help="size of the training set, which counts are scaled to")
    parser.add_argument("--least", type=float, default=0.2, help="expected count below which a probability becomes zero")
    arguments = parser.parse_args()
    progress = json.loads((arguments.checkpoint / "progress.json").read_text())
    circuit, seen = (
        load_circuit(load_file(arguments.checkpoint / f"{name}.safetensors"), torch.device("cpu"))
        for name in ("circuit", "counts")
    )
    shape = {"size": arguments.size} if arguments.size else {}
    spec = {"name": arguments.model, "kind": "pictures" if arguments.size else "blocks", **shape}
    raw = export(circuit, seen, arguments.pictures / progress["pictures"], arguments.least, spec)
    pin(arguments.out, f"{arguments.name}.safetensors", raw, "image-circuit")
    steps, seconds = progress["step"], progress["seconds"]
    print(f"{arguments.name}: {circuit.parameters:,} parameters, {len(raw):,} bytes after {steps:,} steps, {seconds:.0f} s")


if __name__ == "__main__":
    main()
