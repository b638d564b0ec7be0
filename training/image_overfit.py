"""Train where the fits of `image-overfit` begin: initial networks, and filters for initial latents. One resumable command.

    python -m laconic.training.image_overfit --photos DIR --out DIR [--crops 48 --size 192 --steps 1500 --more 600]

Crops of photographs are fitted together: each has latents of its own, and all share one network. That is done for the first of
`WEIGHTS`, and goes on from there with the others in turn. Filters are then the least-squares prediction of the fitted latents
from means of pixels. Run it again with the same --out to go on after an interruption: weights that are done are not done again.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from laconic.codecs.image.overfit_dense import Floats
from laconic.codecs.image.overfit_fit import (
    HARD_RATE,
    LARGEST_PARAMETER,
    LATENT_RATE,
    between,
    falling,
)
from laconic.codecs.image.overfit_loss import Measure
from laconic.codecs.image.overfit_parameters import units_of
from laconic.codecs.image.overfit_picture import FEATURES, FILTERED, Picture, features
from laconic.codecs.image.overfit_soap import Soap
from laconic.codecs.image.overfit_spec import LEVELS, Spec

from .archives import read_archives

__all__ = ["CHAINS", "Joint", "export", "first_network", "fit_filters", "main", "read_crops"]

CHAINS = ((0.003, 0.0012, 0.0005, 0.0002), (0.003, 0.008, 0.02))  # weights of the rate, each going on from the one before
VALIDATION = 64  # the last names in sorted order are never trained on
KINDS = ("wallpaper", "natural", "bsds", "scene")  # of the photographs' names, from each of which crops are taken
APPEAR = (0.2, 0.1, 0.05)  # of a first network's steps: when the finest planes of latents appear, which else carry too much
SOFT, WARM_UP = 0.9, 0.04  # of the steps: rounding softly, and the learning rate's rise
TEMPERATURES = (0.3, 0.1)  # of soft rounding, at first and at last
STRENGTHS = (0.3, 0.2)  # of the noise; at last more than in a fit, so that networks learn nothing from latents between integers
NETWORK_RATE = 0.02  # less than in a fit: all crops pull at one network
MORE_RATE = 0.6  # learning rates of a network that goes on from another
RIDGE = 0.01


def read_crops(folder: Path, count: int, size: int, seed: int = 5) -> list[Floats]:
    """Return crops float32 [3, size, size] in 0..1, as many of each kind of photograph; large ones are halved before."""
    names = sorted(files := read_archives(folder))[:-VALIDATION]
    rng, crops = np.random.default_rng(seed), []
    for number, kind in enumerate(KINDS):
        own = [name for name in names if name.startswith(kind)] or names
        for name in rng.permutation(own)[: (count + number) // len(KINDS)]:
            picture = Image.open(io.BytesIO(files[name])).convert("RGB")
            if min(picture.size) >= 2 * size:
                picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
            top, left = rng.integers(0, picture.height - size + 1), rng.integers(0, picture.width - size + 1)
            pixels = np.asarray(picture)[top : top + size, left : left + size]
            crops.append(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255))
    return crops


def first_network(spec: Spec, seed: int = 0) -> Floats:
    """Return random parameters: rectifiers keep variances, pixels begin grey, scales near one, upsampling is cubic."""
    rng, flat = np.random.default_rng(seed), np.zeros(spec.count, np.float32)
    tensors = spec.views(flat)
    tensors["upsampling"][:] = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)
    deviations = {
        "context.0": None,
        "context.1": None,
        "context.2": 0.05,
        "synthesis.0": None,
        "synthesis.2": 0.2,
        "synthesis.3": 0.02,
    }
    for name, deviation in (deviations | {"synthesis.1": 0.2 / math.sqrt(spec.hidden)}).items():
        weight = tensors[f"{name}.weight"]
        weight[...] = rng.standard_normal(weight.shape) * (deviation or math.sqrt(2 / weight.shape[1]))
    tensors["context.2.bias"][1] = -0.5
    tensors["synthesis.1.bias"][:] = 0.5
    return flat


class Joint:
    """Crops that are fitted together with one network."""

    def __init__(
        self, crops: Sequence[Floats], spec: Spec, parameters: Floats, latents: Mapping[str, Floats] | None = None
    ) -> None:
        self.spec, self.pictures = spec, [Picture(crop, 1.0) for crop in crops]
        self.parameters, self._soap = parameters.copy(), Soap(spec)
        for i, picture in enumerate(self.pictures):
            for k, moments in enumerate(picture.latents):
                moments.values[...] = 0 if latents is None else latents[f"{i}.{k}"]

    def fit(self, weight: float, steps: int, first: bool) -> Measure:
        """Fit for a weight of the rate, and return bits a pixel and mean squared error with latents rounded."""
        pace = 1.0 if first else MORE_RATE
        soft = round(SOFT * steps)
        for moments in (m for picture in self.pictures for m in picture.latents):
            moments.rest()
        for step in range(steps):
            if step < soft:
                part = step / soft
                rate = pace * falling(part) * min(1.0, (step + 1) / (WARM_UP * steps))
                finest = sum(step < appear * steps for appear in APPEAR) if first else 0
                self._step(weight, step, rate, (between(TEMPERATURES, part), between(STRENGTHS, part)), finest)
            else:
                self._step(weight, step, HARD_RATE * falling((step - soft) / (steps - soft)), None)
            if (step + 1) % 50 == 0:
                bpp, error = self.measured
                print(f"  step {step + 1}: {bpp:.4f} bpp, {-10 * math.log10(error):.2f} dB", flush=True)
        for picture in self.pictures:
            picture.round()
        tensors = self.spec.views(self.parameters)
        return self._mean([picture.loss.measure(tensors) for picture in self.pictures])

    def clear_finest(self) -> None:
        """Set the latents of the finest plane to zero."""
        for picture in self.pictures:
            picture.latents[0].values[...] = 0

    def latents(self) -> dict[str, Floats]:
        """Return all latents, by the numbers of crop and plane."""
        return {f"{i}.{k}": m.values for i, picture in enumerate(self.pictures) for k, m in enumerate(picture.latents)}

    def _step(self, weight: float, step: int, rate: float, noise: tuple[float, float] | None, finest: int = 0) -> None:
        tensors, total = self.spec.views(self.parameters), np.zeros(self.spec.count, np.float32)
        gradient, found = np.zeros(self.spec.count, np.float32), []
        for i, picture in enumerate(self.pictures):
            picture.loss.weight = weight
            if noise:
                picture.round_softly(*noise, step * len(self.pictures) + i)
            else:
                picture.round()
            found.append(picture.loss.backwards(tensors, self.spec.views(gradient)))
            total += gradient
            if noise:  # rounded latents have no useful gradient
                picture.move(rate * LATENT_RATE, step + 1, finest)
        self.measured = self._mean(found)
        total /= sum(picture.pixels for picture in self.pictures)
        self._soap.move(self.parameters, total, rate * NETWORK_RATE, step + 1, LARGEST_PARAMETER)

    def _mean(self, found: Sequence[Measure]) -> Measure:
        pixels = sum(picture.pixels for picture in self.pictures)
        return Measure(sum(one.bits for one in found) / pixels, sum(one.error for one in found) / len(found))


def fit_filters(crops: Sequence[Floats], latents: Mapping[str, Floats]) -> Floats:
    """Return the filters [LEVELS, FEATURES] that predict the latents best."""
    filters = np.zeros((LEVELS, FEATURES), np.float32)
    for k in range(FILTERED, LEVELS):
        x = np.concatenate([features(crop, k).reshape(-1, FEATURES) for crop in crops]).astype(np.float64)
        y = np.concatenate([latents[f"{i}.{k}"].ravel() for i in range(len(crops))]).astype(np.float64)
        system = x.T @ x
        system += RIDGE * np.trace(system) / FEATURES * np.eye(FEATURES) * 1e-2
        filters[k] = np.linalg.solve(system, x.T @ y)
        print(
            f"  plane {k}: {1 - np.var(y - x @ filters[k]) / max(np.var(y), 1e-12):.2f} of the variance predicted", flush=True
        )
    return filters


def train(photos: Path, out: Path, crops: int, size: int, steps: int, more: int, chains: Sequence[Sequence[float]]) -> None:
    """Fit all weights that are not yet in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    targets, spec = read_crops(photos, crops, size), Spec()
    for chain in chains:
        before: dict[str, Floats] | None = None
        for weight in chain:
            path = out / f"weight-{weight}.safetensors"
            if not path.exists():
                began = time.monotonic()
                print(f"weight {weight}", flush=True)
                joint = Joint(targets, spec, before["parameters"] if before else first_network(spec), before)
                if before and weight > chain[0]:  # fewer bits need fewer fine latents: they begin anew
                    joint.clear_finest()
                bpp, error = joint.fit(weight, more if before else steps, before is None)
                print(f"  {bpp:.4f} bpp, {-10 * math.log10(error):.2f} dB, {time.monotonic() - began:.0f} s", flush=True)
                arrays = {"parameters": joint.parameters, "filters": fit_filters(targets, joint.latents())}
                save_file(arrays | joint.latents(), path)
            before = load_file(path)


def export(out: Path, file: Path) -> None:
    """Write the weights' file: parameters in integers of their units, filters in float16."""
    weights, spec = sorted({weight for chain in CHAINS for weight in chain}, reverse=True), Spec()
    found = [load_file(out / f"weight-{weight}.safetensors") for weight in weights]
    networks = np.stack([np.rint(one["parameters"] / units_of(spec)).astype(np.int32) for one in found])
    filters = np.stack([one["filters"] for one in found]).astype(np.float16)
    metadata = {"hidden": json.dumps(spec.hidden), "weights": json.dumps(weights)}
    save_file({"networks": networks, "filters": filters}, file, metadata)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of .tar archives of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is done, and for the weights' file")
    parser.add_argument("--crops", type=int, default=48)
    parser.add_argument("--size", type=int, default=192, help="pixels of a crop's side")
    parser.add_argument("--steps", type=int, default=1500, help="for the first weight")
    parser.add_argument("--more", type=int, default=600, help="for each of the others")
    parser.add_argument("--chain", type=int, choices=range(len(CHAINS)), help="only this chain of weights, without export")
    given = parser.parse_args(arguments)
    chains = CHAINS if given.chain is None else CHAINS[given.chain : given.chain + 1]
    train(given.photos, given.out, given.crops, given.size, given.steps, given.more, chains)
    if given.chain is None:
        export(given.out, given.out / "image-overfit-3.safetensors")


if __name__ == "__main__":
    main()
