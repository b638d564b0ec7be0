"""Turn a checkpoint of `image_transform` into the weights file that the codec loads, and pin it.

    python -m laconic.training.image_transform_export --checkpoint DIR --photos DIR --name image-transform-3 --out weights

Networks become integers. Then, on training photographs coded with them, two sets of tables are fitted: probability tables
(the histogram of symbols under each index, smoothed with the logistic one) and thresholds of the quantiser (rate-distortion
optimised quantisation: a symbol shrinks by one where the bits that saves outweigh the error it adds). At last come
limits of what both transforms' branches may see, a last layer for each quality, and directions along which encoders correct it,
all from what decodes of those photographs. Unlike the recipe this needs the whole package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from laconic.codecs.image.transform_coding import hyper_indices, hyper_latents_of
from laconic.codecs.image.transform_context import SCALE_COUNT, SYMBOL_BITS
from laconic.codecs.image.transform_correction import NormalEquations, independent_directions
from laconic.codecs.image.transform_model import SIZES, ExactModel, pack
from laconic.codecs.image.transform_networks import LATENT_BITS, PIXEL_UNIT, QUALITY_MAX, Analysis, Synthesis, TransformModel
from laconic.codecs.image.transform_spec import TransformSpec
from laconic.entropy.tables import PRECISION, Tables, load_tables

from .checkpoints import load_tensors
from .image_transform import read_photos

QUALITIES = (5, 20, 35, 50, 65, 80, 95)
PRIOR = 300.0  # weight of the logistic table against the histogram, in symbols
BITS_PER_STEP = 27.0  # bits that are worth a whole step of shrinking; see `fit_thresholds`
CROP = 512  # pixels
LIMIT_PART = 0.75  # of the largest magnitudes, which hardly any position has: photographs lose 0.02 dB at most
DIRECTION_QUALITIES = (10, 40, 70)
DIRECTION_POSITIONS = 2**13  # of a picture
LAST_LAYER_POSITIONS = 2**14  # of a picture
LAST_LAYER_RIDGE = 1e-3
LAST_LAYER_SHARES = (1.0, 0.2)  # of the way to the solution, at quality 0 and 100: there photographs have less in common


class Histograms:
    """Counts of symbols under each table index, escapes in the last bin."""

    def __init__(self, tables: Tables) -> None:
        self.counts = [np.zeros(2 * int(radius) + 2) for radius in tables.radius]

    def note(self, symbols: Tensor, index: Tensor) -> None:
        """Count symbols under their indices, tensors of one shape."""
        k, s = index.flatten().long().cpu().numpy(), symbols.flatten().long().cpu().numpy()
        for table in np.unique(k):
            chosen, bins = s[k == table], self.counts[table]
            radius = (bins.size - 2) // 2
            np.add.at(bins, np.where(np.abs(chosen) > radius, bins.size - 1, chosen + radius), 1)


def decoded_latents(model: ExactModel, picture: Tensor, value: int, seen: Histograms | None = None) -> Tensor:
    """Code a picture (3, H, W) at a quality and return the latents that decode; `seen` counts its symbols."""
    quality = torch.tensor([value])
    y = model.latents(picture[None], quality)
    size = (y.shape[2], y.shape[3])
    z = hyper_latents_of(model, y, quality)
    if seen is not None:
        seen.note(z, hyper_indices(model, quality, size))

    def code(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
        offset = y[:, start : start + mean.shape[1], phase[0] :: 2, phase[1] :: 2] - mean
        symbols = model.quantise(offset, index)
        if seen is not None:
            seen.note(symbols, index)
        return symbols

    return model.walk(z, quality, size, code)


@torch.inference_mode()
def observe(model: ExactModel, pictures: list[Tensor]) -> Histograms:
    """Code pictures (3, H, W) at all `QUALITIES`, quantised as the model quantises now."""
    seen = Histograms(model.tables)
    for picture in pictures:
        for value in QUALITIES:
            decoded_latents(model, picture, value, seen)
    return seen


def largest_in(transform: Analysis | Synthesis) -> list[Tensor]:
    """Return the largest magnitudes by channel, of all that will pass: into a branch's blocks, out of them, and out of it."""
    largest = [torch.zeros(())] * 3

    def note(number: int, x: Tensor) -> None:
        largest[number] = torch.maximum(largest[number], x.abs().amax((0, 2, 3)))

    transform.blocks.register_forward_pre_hook(lambda module, inputs: note(0, inputs[0]))
    transform.blocks.register_forward_hook(lambda module, inputs, output: note(1, output))
    transform.leave.register_forward_hook(lambda module, inputs, output: note(2, output))
    return largest


@torch.inference_mode()
def fit_limits(tensors: dict[str, Tensor], spec: TransformSpec, pictures: list[Tensor]) -> None:
    """Put into `tensors` the limits of both transforms' branches (see `Synthesis`), from the largest magnitudes of pictures.

    Those of the analysis lie on the grids of what they limit, so that it stays exact.
    """
    model = ExactModel({k: v.numpy() for k, v in tensors.items()}, spec, "cpu")
    analysis, synthesis = largest_in(model.analysis), largest_in(model.synthesis)
    for picture in pictures:
        for value in QUALITIES:
            model.synthesise(decoded_latents(model, picture, value), torch.tensor([value]))
    grids = (2.0**spec.branch_bits, 2.0**spec.branch_bits, 2.0**LATENT_BITS)
    on_grids = [torch.floor(LIMIT_PART * x * grid) / grid for x, grid in zip(analysis, grids, strict=True)]
    tensors["analysis_limits"] = torch.cat(on_grids).float()
    tensors["synthesis_limits"] = (LIMIT_PART * torch.cat(synthesis)).half()


@torch.inference_mode()
def fit_directions(tensors: dict[str, Tensor], spec: TransformSpec, pictures: list[Tensor]) -> None:
    """Put into `tensors` the directions of corrections: independent in what the last layer sees of pictures, each alike."""
    model = ExactModel({k: v.numpy() for k, v in tensors.items()}, spec, "cpu")
    mean = np.zeros((9 * (spec.finish + 12),) * 2)
    for picture in pictures:
        place = (slice(0, picture.shape[1]), slice(0, picture.shape[2]))
        for value in DIRECTION_QUALITIES:
            sums = NormalEquations(model, torch.tensor([value]))
            sums.look(decoded_latents(model, picture, value), picture[None], place, DIRECTION_POSITIONS)
            mean += sums.products / sums.seen / (len(pictures) * len(DIRECTION_QUALITIES))
    vectors, factors = independent_directions(mean)
    unit = np.abs(vectors).max(0) / 127
    tensors["correction_directions"] = torch.from_numpy(np.rint(vectors / unit).astype(np.int8))
    tensors["correction_scale"] = torch.from_numpy((unit * factors).astype(np.float32))


@torch.inference_mode()
def fit_last_layer(tensors: dict[str, Tensor], spec: TransformSpec, pictures: list[Tensor]) -> None:
    """Put into `tensors` what each anchor quality adds to the last layer's weights, (rates, 12, inputs, 3, 3).

    Least squares over pictures, each weighted by the inverse of its error, as PSNR weights them: training knows one layer for
    all qualities, told them by offsets before it, and ends before that layer does.
    """
    model = ExactModel({k: v.numpy() for k, v in tensors.items()}, spec, "cpu")
    layers = []
    for value in np.linspace(0, QUALITY_MAX, spec.rates).round().astype(int).tolist():
        size = 9 * (spec.finish + 12)
        products, lacking = np.zeros((size, size)), np.zeros((size, 12))
        for picture in pictures:
            sums = NormalEquations(model, torch.tensor([value]))
            place = (slice(0, picture.shape[1]), slice(0, picture.shape[2]))
            sums.look(decoded_latents(model, picture, value), picture[None], place, LAST_LAYER_POSITIONS)
            weight = 1 / max(sums.error(None), 1.0)
            products += weight * sums.products
            lacking += weight * sums.lacking
        ridge = LAST_LAYER_RIDGE * np.diag(np.diagonal(products))
        solution = np.linalg.solve(products + ridge, lacking).T.reshape(12, -1, 3, 3)
        share = LAST_LAYER_SHARES[0] + (LAST_LAYER_SHARES[1] - LAST_LAYER_SHARES[0]) * value / QUALITY_MAX
        layers.append(solution * (share / PIXEL_UNIT))
    tensors["last_layer"] = torch.from_numpy(np.stack(layers)).half().contiguous()


def fit_tables(seen: Histograms) -> Tables:
    """Return tables of the smoothed, symmetric histograms."""
    logistic = load_tables("logistic")
    frequencies = []
    for k, counts in enumerate(seen.counts):
        prior = logistic.table(k).astype(np.float64) / 2**PRECISION
        symmetric = counts.copy()
        symmetric[:-1] = (counts[:-1] + counts[-2::-1]) / 2
        p = symmetric + PRIOR * prior
        integers = np.maximum(1, np.floor(p / p.sum() * 2**PRECISION)).astype(np.int64)
        integers[int(np.argmax(integers))] += 2**PRECISION - int(integers.sum())
        frequencies.append(integers)
    return Tables.from_arrays(logistic.radius, np.concatenate(frequencies))


def fit_thresholds(tables: Tables) -> Tensor:
    """Return thresholds (64, SIZES), int8 in 1/16 step, from the bits that one less in magnitude saves.

    Shrinking n to n - 1 at distance d from n - 1/2 adds 2 d steps**2 to the squared error and saves bits(n) - bits(n - 1).
    Training balances bits against lambda times squared error, and its starting steps, 1.35 sqrt(26 / lambda), make one squared
    step worth about 16 bits: shrink where d < saved / 32. The trained gains end finer, worth 4 to 15 bits, but a divisor per
    channel and rate did no better than one for all; weights/image-transform-1.md says how 27 was chosen.
    """
    threshold = np.zeros((SCALE_COUNT, SIZES))
    for k in range(1, SCALE_COUNT):
        bits = PRECISION - np.log2(tables.table(k).astype(np.float64))
        radius = int(tables.radius[k])
        for n in range(1, min(SIZES, radius + 1)):
            threshold[k, n] = max(0.0, bits[radius + n] - bits[radius + n - 1]) / BITS_PER_STEP
    return torch.from_numpy(np.rint(threshold * 2**SYMBOL_BITS)).clamp(0, 127).to(torch.int8)


def calibrate(tensors: dict[str, Tensor], spec: TransformSpec, pictures: list[Tensor]) -> None:
    """Fit tables and thresholds into `tensors`; twice, because each changes what the other sees."""
    for _ in range(2):
        tensors["threshold"] = fit_thresholds(tables_of(tensors))
        seen = observe(ExactModel({k: v.numpy() for k, v in tensors.items()}, spec, "cpu"), pictures)
        tensors["tables.frequencies"] = torch.from_numpy(fit_tables(seen).frequencies.copy())


def tables_of(tensors: dict[str, Tensor]) -> Tables:
    """Return the probability tables among the tensors of a weights file."""
    return Tables.from_arrays(tensors["tables.radius"].numpy(), tensors["tables.frequencies"].numpy())


def calibration_pictures(photos: Path, count: int, crop: int) -> Iterator[Tensor]:
    """Yield centre crops of at most `crop` pixels of evenly chosen training photographs, sizes multiples of 64."""
    training, _ = read_photos(photos)
    for picture in training[:: max(1, len(training) // count)]:
        height, width = (min(n // 64 * 64, crop) for n in picture.shape[1:])
        top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
        yield picture[:, top : top + height, left : left + width]


def pin(out: Path, file: str, raw: bytes, codec: str = "image-transform") -> None:
    """Write a weights file and name it first among its codec's pins."""
    (out / file).write_bytes(raw)
    path = out / "pins.json"
    pins = json.loads(path.read_text()) if path.exists() else {}
    others = [entry for entry in pins.get(codec, []) if entry["file"] != file]
    pins[codec] = [{"file": file, "sha256": hashlib.sha256(raw).hexdigest()}, *others]
    path.write_text(json.dumps(pins, indent=2) + "\n")


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of tar files of pictures")
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--name", required=True, help="the weights file's name without its ending")
    parser.add_argument("--pictures", type=int, default=64, help="photographs to calibrate on")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    progress = json.loads((arguments.checkpoint / "progress.json").read_text())
    spec = TransformSpec(**{**progress["spec"], "groups": tuple(progress["spec"]["groups"])})
    model = TransformModel(spec)
    model.load_state_dict(load_tensors(arguments.checkpoint, "average"))
    tensors, metadata = pack(model)
    pictures = list(calibration_pictures(arguments.photos, arguments.pictures, CROP))
    calibrate(tensors, spec, pictures)
    fit_limits(tensors, spec, pictures)
    if spec.finish:
        fit_directions(tensors, spec, pictures)
        fit_last_layer(tensors, spec, list(calibration_pictures(arguments.photos, 4 * arguments.pictures, CROP // 2)))
    metadata |= {"steps": str(progress["step"]), "seconds": str(round(progress["seconds"]))}
    raw = save(tensors, metadata)
    pin(arguments.out, f"{arguments.name}.safetensors", raw)
    print(f"{arguments.name}: {len(raw):,} bytes after {progress['step']:,} steps, {progress['seconds']:.0f} s")


if __name__ == "__main__":
    main()
