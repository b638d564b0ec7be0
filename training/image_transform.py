"""Train `image-transform`: one resumable command, the same on CPU and GPU.

    python -m laconic.training.image_transform --photos DIR --out DIR --seconds 3600 [--device cuda] [--threads 1]

Run it again with the same --out to resume: the schedule depends on the seconds spent in all. Checkpoints are safetensors
files of at most 15 MiB each; `image_transform_export` turns one into the weights that the codec loads. With --start WEIGHTS
a run begins with what fits of released weights instead of the KLT.

The transforms start from the Karhunen-Loeve transform (KLT) of 16x16x3 blocks of the training photographs; a random start
needs far more steps than a CPU can make.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from laconic.codecs.image.fixed_point import FixedPointConv2d
from laconic.codecs.image.transform_context import INDEX_STEP, SCALE_MAX, SCALE_MIN, UNIT_BITS, normalised
from laconic.codecs.image.transform_networks import (
    GAIN_BITS,
    LAMBDA_MIN,
    PIXEL_UNIT,
    QUALITY_MAX,
    Coded,
    TransformModel,
    lambda_of_quality,
    quality_rows,
)
from laconic.codecs.image.transform_spec import LARGE, TransformSpec

from .archives import read_archives
from .checkpoints import load_tensors, save_tensors
from .image_crops import crops, segments_of

VALIDATION = 64  # the last names in sorted order are never trained on


@dataclass
class Schedule:
    """How long and how to train; fractions are of the whole budget."""

    seconds: float
    steps: int | None = None  # the budget in steps instead, for comparisons
    batch: int = 8
    crop: int = 128
    rate: float = 8e-4  # Adam's step of the nonlinear layers
    lapped_rate: float = 2e-4  # of the layers that start as the KLT
    gain_rate: float = 4e-3
    warm_up: int = 300  # steps
    large_crops_from: float = 0.7  # fraction after which crops are twice as wide and the batch a quarter
    quantised_from: float = 1.0  # fraction after which the integer grids are on: at 1 nothing but validation sees them
    ema: float = 0.999
    half: bool = False  # bfloat16 where it is enough
    masks: float = 0.0  # part of the batches whose regions are segments, before crops get wider


def read_photos(folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Return training and validation pictures as uint8 tensors (3, H, W), each at least 128 on its shorter side."""
    pictures = []
    for content in read_archives(folder).values():
        array = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        pictures.append(torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous())
    usable = [p for p in pictures if min(p.shape[1:]) >= 128]
    return usable[:-VALIDATION], usable[-VALIDATION:]


def klt(pictures: list[Tensor], generator: np.random.Generator, blocks: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Return the orthonormal KLT (768, 3, 16, 16) of random 16x16 blocks, and the variances, largest first."""
    rows = []
    each = max(1, blocks // len(pictures))
    for picture in pictures:
        pixels = picture.numpy()
        tops = generator.integers(0, pixels.shape[1] - 15, each)
        lefts = generator.integers(0, pixels.shape[2] - 15, each)
        rows += [pixels[:, t : t + 16, x : x + 16].reshape(-1) for t, x in zip(tops, lefts, strict=True)]
    samples = (np.stack(rows).astype(np.float32) - 128) / PIXEL_UNIT
    variances, vectors = np.linalg.eigh((samples.T @ samples / len(samples)).astype(np.float64))
    order = np.argsort(variances)[::-1]
    return vectors.T[order].reshape(-1, 3, 16, 16), variances[order]


def start_from_klt(model: TransformModel, pictures: list[Tensor], generator: np.random.Generator) -> None:
    """Set both lapped transforms to the KLT, gains to the steps that suit each lambda, indices to the KLT's deviations."""
    basis, variances = klt(pictures, generator)
    spec = model.spec
    kernel = np.zeros((spec.latent, 3, 24, 24))
    kernel[:, :, 4:20, 4:20] = basis[: spec.latent]
    # a 24x24 kernel of stride 16 is a 3x3 kernel of stride 2 on 8x8 pixel-unshuffled input
    folded = kernel.reshape(-1, 3, 3, 8, 3, 8).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 192, 3, 3)
    weight = torch.from_numpy(folded).float()
    with torch.no_grad():
        model.analysis.lapped.weight.copy_(weight)
        model.synthesis.lapped.weight.copy_(weight)
        model.synthesis.lapped.bias.zero_()  # type: ignore[union-attr]
        lambdas = lambda_of_quality(torch.linspace(0, QUALITY_MAX, spec.rates))
        gains = torch.log(PIXEL_UNIT / (1.35 * torch.sqrt(26.0 / lambdas)))
        model.log_gain.copy_(gains.unsqueeze(1).expand_as(model.log_gain))
        model.log_inverse_gain.copy_(-model.log_gain)
        deviations = torch.from_numpy(np.sqrt(variances[: spec.latent])).float()
        scales = 0.3 * deviations * torch.exp(gains).unsqueeze(1)
        model.log_scale.copy_(torch.log(scales / SCALE_MIN).clamp(0, math.log(SCALE_MAX / SCALE_MIN)))
        model.log_unit.copy_(torch.log(scales + 0.5))
        for phase, layer in enumerate(model.context.linear):
            for i, j in ((0, 1), (1, 0), (1, 2), (2, 1)) if phase else ((0, 0), (0, 2), (2, 0), (2, 2)):
                cast(FixedPointConv2d, layer).weight[0, 0, i, j] = 0.25


@torch.no_grad()
def start_from_weights(model: TransformModel, path: Path) -> list[str]:
    """Take from a weights file every tensor of the same name and size; returns the names of parameters that keep theirs."""
    tensors = load_file(path)
    rows = quality_rows(torch.eye(model.spec.rates))  # (101, rates): what each anchor has in each quality

    def anchors(values: Tensor) -> Tensor:
        return cast(Tensor, torch.linalg.lstsq(rows, values.double()).solution.float())

    found = {
        "log_gain": anchors(torch.log(tensors["gain"] * 2.0**-GAIN_BITS)),
        "log_unit": anchors(torch.log(tensors["unit"] * 2.0**-UNIT_BITS)),
        "log_scale": anchors(tensors["index"] * INDEX_STEP),
        "log_hyper_scale": anchors(tensors["hyper_index"] * INDEX_STEP),
        "log_inverse_gain": tensors["log_inverse_gain"],
    }
    if "analysis_condition" in tensors:
        found["analysis_condition"] = anchors(tensors["analysis_condition"] * 2.0**-model.spec.branch_bits)
        found["synthesis_condition"] = tensors["synthesis_condition"].float()
    for name, layer in model.named_modules():
        if isinstance(layer, FixedPointConv2d) and f"{name}.shift" in tensors:
            scale = torch.exp2(-tensors[f"{name}.shift"].double()) / layer.gain
            found[f"{name}.weight"] = (tensors[f"{name}.weight"] * scale.view(-1, 1, 1, 1)).float()
            found[f"{name}.bias"] = (tensors[f"{name}.bias"] * scale * 2.0**-layer.in_bits).float()
    found |= {name: value.float() for name, value in tensors.items() if name.startswith("synthesis.")}
    state = model.state_dict()
    fitting = {name: value for name, value in found.items() if name in state and state[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return sorted(state.keys() - fitting.keys())


@torch.no_grad()
def calibrate_hyper_latents(model: TransformModel, x: Tensor, quality: Tensor) -> None:
    """Scale the last layer of the hyper-analysis so that hyper-latents start with a deviation of one step."""
    unit = torch.exp(model.at_quality(model.log_unit, quality))
    y = model.analysis(x) * torch.exp(model.at_quality(model.log_gain, quality))
    z = model.hyper_analysis(normalised(y, unit))
    model.hyper_analysis.down2.weight.div_(z.std())


def loss_of(coded: Coded, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted loss, and bits per pixel and squared error (grey levels) per picture."""
    pixels = x.shape[2] * x.shape[3]
    bpp = (coded.latent_bits + coded.hyper_bits) / pixels
    mse = ((coded.reconstruction - x) ** 2).mean((1, 2, 3)) * PIXEL_UNIT**2
    lambdas = lambda_of_quality(quality)
    # the loss of a picture grows about as lambda**0.35; without the weight low rates would hardly be trained
    return ((bpp + lambdas * mse) * (lambdas / LAMBDA_MIN) ** -0.35).mean(), bpp, mse


@torch.no_grad()
def validate(model: TransformModel, pictures: list[Tensor], device: torch.device) -> list[tuple[float, float]]:
    """Return (bpp, PSNR in dB) at five qualities, averaged over centre crops of validation pictures."""
    model.eval()
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    points = []
    for value in (10, 30, 50, 70, 90):
        rates, psnrs = [], []
        for picture in pictures[::4]:
            height, width = (min(n // 64 * 64, 512) for n in picture.shape[1:])
            x = (picture[None, :, :height, :width].to(device).float() - 128) / PIXEL_UNIT
            quality = torch.full((1,), float(value), device=device)
            coded = model(x, quality)
            pixels = (coded.reconstruction * PIXEL_UNIT + 128).round().clamp(0, 255)
            mse = float(((pixels - x * PIXEL_UNIT - 128) ** 2).mean())
            rates.append(float((coded.latent_bits + coded.hyper_bits).sum()) / (height * width))
            psnrs.append(10 * math.log10(255**2 / max(mse, 1e-3)))
        points.append((sum(rates) / len(rates), sum(psnrs) / len(psnrs)))
    torch.random.set_rng_state(state)
    model.train()
    return points


def parameter_groups(model: TransformModel, schedule: Schedule) -> list[dict[str, object]]:
    """Split parameters by learning rate."""
    lapped, gains, rest = [], [], []
    for name, parameter in model.named_parameters():
        if "lapped" in name:
            lapped.append(parameter)
        elif "gain" in name or "scale" in name or "down2" in name:
            gains.append(parameter)
        else:
            rest.append(parameter)
    rates = (schedule.lapped_rate, schedule.gain_rate, schedule.rate)
    return [{"params": p, "base": r, "lr": r} for p, r in zip((lapped, gains, rest), rates, strict=True)]


def where_half_is_enough(model: TransformModel) -> list[nn.Module]:
    """Return the modules that may work in bfloat16: not those whose output is latents, means, indices or pixels."""
    analysis, synthesis = model.analysis, model.synthesis
    modules = [analysis.enter, analysis.blocks, model.hyper_analysis.enter, model.hyper_analysis.down1, model.hyper_synthesis]
    modules += [synthesis.enter, synthesis.enter_latent, synthesis.blocks]
    if synthesis.finish is not None:  # it adds to the pixels
        modules.append(synthesis.finish)
    return modules


class Run:
    """A training run: model, optimiser, moving average and how far it has come."""

    def __init__(self, spec: TransformSpec, schedule: Schedule, device: torch.device) -> None:
        self.schedule, self.device = schedule, device
        self.model = TransformModel(spec).to(device)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.optimiser = torch.optim.Adam(parameter_groups(self.model, schedule), betas=(0.9, 0.99), fused=True)
        self.half = False
        for module in where_half_is_enough(self.model):
            self._halve(module)
        self.step, self.seconds = 0, 0.0

    @property
    def fraction(self) -> float:
        """Part of the budget that is spent."""
        steps = self.schedule.steps
        return min(1.0, self.seconds / self.schedule.seconds if steps is None else self.step / steps)

    def save(self, folder: Path) -> None:
        """Write the checkpoint: weights, average and optimiser moments in files of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": self.model.state_dict(), "average": self.average}
        names = {id(p): n for n, p in self.model.named_parameters()}
        for moment in ("exp_avg", "exp_avg_sq"):  # 8 bits of a moment are plenty
            parts[moment] = {names[id(p)]: s[moment].bfloat16() for p, s in self.optimiser.state.items()}
        for name, tensors in parts.items():
            save_tensors(folder, name, tensors)
        progress = {"step": self.step, "seconds": self.seconds, "spec": asdict(self.model.spec)}
        (folder / "progress.json").write_text(json.dumps(progress))

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        parts = {p: load_tensors(folder, p) for p in ("model", "average", "exp_avg", "exp_avg_sq")}
        self.model.load_state_dict(parts["model"])
        self.average = {k: v.to(self.device) for k, v in parts["average"].items()}
        progress = json.loads((folder / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]
        for name, parameter in self.model.named_parameters():
            if name in parts["exp_avg"]:
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": parts["exp_avg"][name].float().to(self.device),
                    "exp_avg_sq": parts["exp_avg_sq"][name].float().to(self.device),
                }

    def _halve(self, module: nn.Module) -> None:
        """Let a module work in bfloat16 while `half` is on, unless it is on integer grids, which bfloat16 cannot hold."""
        forward = module.forward
        layers = [part for part in module.modules() if isinstance(part, FixedPointConv2d)]

        def mixed(x: Tensor, *others: Tensor) -> Tensor:
            if not self.half or any(layer.quantised for layer in layers):
                return cast(Tensor, forward(x, *others))
            with torch.autocast(self.device.type, torch.bfloat16):
                return cast(Tensor, forward(x.contiguous(memory_format=torch.channels_last), *others)).float()

        module.forward = mixed

    def train_step(self, x: Tensor, quality: Tensor, regions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Make one optimiser step; returns loss, bpp and squared error."""
        factor = 0.5 * (1 + math.cos(math.pi * self.fraction)) * min(1.0, (self.step + 1) / self.schedule.warm_up) + 0.005
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * factor
        quantised = self.fraction >= self.schedule.quantised_from
        self.model.quantise_grids(quantised)
        self.half = self.schedule.half
        coded = self.model(x, quality, regions)
        self.half = False
        loss, bpp, mse = loss_of(coded, x, quality)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        state = self.model.state_dict()
        with torch.no_grad():
            torch._foreach_lerp_([self.average[name] for name in state], list(state.values()), 1 - decay)
        return loss, bpp, mse


def train(run: Run, photos: Path, out: Path, save_every: float, log_every: int, start: Path | None = None) -> None:
    """Train until the budget is spent, logging, validating and saving."""
    torch.manual_seed(run.step)
    generator = np.random.default_rng(run.step)
    training, validation = read_photos(photos)
    schedule = run.schedule
    odds = np.array([p.shape[1] * p.shape[2] for p in training], dtype=np.float64) ** 0.5
    odds /= odds.sum()
    if run.step == 0:
        if start is None:
            start_from_klt(run.model, training, generator)
        else:
            kept = start_from_weights(run.model, start)
            print(f"{len(kept)} of {len(run.model.state_dict())} tensors have no match in {start.name}", flush=True)
        sample = crops(training, schedule.batch, schedule.crop, odds, generator).pixels.to(run.device)
        if start is None:
            calibrate_hyper_latents(run.model, sample, torch.linspace(0, QUALITY_MAX, schedule.batch, device=run.device))
        run.average = {k: v.detach().clone() for k, v in run.model.state_dict().items()}
    masks = None
    if run.model.spec.region and schedule.masks:
        masks = [segments_of(picture) for picture in training]
        print(f"{len(masks)} pictures segmented", flush=True)
    if run.device.type == "cuda":
        training = [p.to(run.device) for p in training]
    began, before = time.monotonic(), run.seconds
    saved, sums = began, np.zeros(3)
    while run.fraction < 1:
        large = run.fraction >= schedule.large_crops_from
        batch, size = (schedule.batch // 4, schedule.crop * 2) if large else (schedule.batch, schedule.crop)
        masked = masks if not large and generator.random() < schedule.masks else None
        x, regions = crops(training, batch, size, odds, generator, masked)
        x, regions = x.to(run.device), None if regions is None else regions.to(run.device)
        # one quality per stratum keeps the mix of rates even within a batch
        strata = (torch.arange(batch) + torch.rand(batch)) / batch
        quality = torch.floor(strata * (QUALITY_MAX + 1)).clamp(0, QUALITY_MAX).to(run.device)
        loss, bpp, mse = run.train_step(x, quality, regions)
        run.seconds = before + time.monotonic() - began
        sums += [v.detach().mean().item() for v in (loss, bpp, mse)]
        if run.step % log_every == 0:
            means = sums / log_every
            print(f"step {run.step} {run.seconds:.0f} s loss {means[0]:.4f} bpp {means[1]:.3f} mse {means[2]:.2f}", flush=True)
            sums[:] = 0
        if time.monotonic() - saved > save_every or run.fraction >= 1:
            points = evaluate_average(run, validation)
            text = " ".join(f"{r:.3f}/{p:.2f}" for r, p in points)
            print(f"validation at step {run.step}, {run.seconds:.0f} s: {text}", flush=True)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": run.step, "seconds": round(run.seconds), "validation": points}) + "\n")
            run.save(out)
            saved = time.monotonic()


def evaluate_average(run: Run, validation: list[Tensor]) -> list[tuple[float, float]]:
    """Validate the moving average of the weights, on the grids that training uses now."""
    model = TransformModel(run.model.spec).to(run.device)
    model.load_state_dict(run.average)
    model.quantise_grids(run.fraction >= run.schedule.quantised_from)
    return validate(model, validation, run.device)


def main() -> None:
    """Parse arguments, then train."""
    parser = argparse.ArgumentParser(description="Train image-transform.")
    parser.add_argument("--photos", type=Path, required=True, help="folder of tar files of pictures")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes from it")
    parser.add_argument("--seconds", type=float, default=3600.0, help="budget in all, earlier runs included")
    parser.add_argument("--steps", type=int, help="budget in steps instead of seconds, to compare runs")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds between checkpoints")
    parser.add_argument("--log-every", type=int, default=100, help="steps between log lines")
    parser.add_argument("--start", type=Path, help="weights file to begin with what fits of; without it the KLT is the start")
    parser.add_argument("--half", action="store_true", help="bfloat16 where it is enough: on GPUs, and CPUs with AMX")
    parser.add_argument("--masks", type=float, default=0.0, help="part of the batches whose regions are segments")
    parser.add_argument("--no-regions", action="store_true", help="leave out the region-adaptive layers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    schedule = Schedule(
        arguments.seconds, arguments.steps, arguments.batch, arguments.crop, half=arguments.half, masks=arguments.masks
    )
    spec = replace(LARGE, region=0) if arguments.no_regions else LARGE
    run = Run(spec, schedule, torch.device(arguments.device))
    if (arguments.out / "progress.json").exists():
        run.load(arguments.out)
        print(f"resuming at step {run.step}, {run.seconds:.0f} s", flush=True)
    print(
        f"{sum(p.numel() for p in run.model.parameters())} parameters on {arguments.device} ({platform.machine()})", flush=True
    )
    train(run, arguments.photos, arguments.out, arguments.save_every, arguments.log_every, arguments.start)


if __name__ == "__main__":
    main()
