"""Train `audio-rvq`: one resumable command, the same on CPU and GPU.

    python -m laconic.training.audio_rvq --speech DIR --out DIR --seconds 3600 [--device cuda] [--threads 1]
    python -m laconic.training.audio_rvq --music DIR --out DIR --seconds 3600 --batch 8

Run it again with the same --out to resume: the schedule depends on the seconds spent in all. Checkpoints are safetensors
files; `audio_rvq_tokens` then trains the model of the tokens, and `audio_rvq_export` writes the weights that the codec loads.

Speech is a folder of tar files, mono at 16 kHz; music a folder of files that libsndfile reads, in folders of any depth. Both
transforms start as the Karhunen-Loeve transform of the training sounds and the codebooks by k-means, so that the first
step has a codec already. With --adversarial-from F discriminators join after the part F of the budget (for GPUs: they cost
several times what all else does).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from laconic.codecs.audio.rvq_networks import RvqNetwork, RvqSpec
from laconic.codecs.audio.rvq_quantiser import SCHEMES, ResidualQuantiser

from .audio_discriminators import Discriminators
from .audio_losses import LoudnessDifference, MelDistance, SpectrumDistance
from .audio_sounds import LEVEL, Sound, crops, padded, read_music, read_speech

ENVELOPE = 0.8  # weight of the envelope in the KLT, against its error's share in the coefficients'
FEWEST = 4  # levels that training keeps at least
MUSIC_MEL = 2.0  # weight of the mel distance in music, where less depends on PESQ's model
SPEECH = RvqSpec()
MUSIC = RvqSpec(rate=48_000, hop=960, bands=32, latent=160, width=224, hidden=448, levels=56, mid_side=True)


@dataclass
class Schedule:
    """How long and how to train; fractions are of the whole budget."""

    seconds: float
    batch: int = 16
    frames: int = 50  # of a crop
    rate: float = 1e-3  # Adam's step of the synthesis' branch
    encoder: float = 0.2  # of it for the analysis: codebooks must keep up with its latents
    linear: float = 0.3  # of these for the layers that start as the KLT
    warm_up: int = 100  # steps
    ema: float = 0.999
    price: float = 0.5  # of a bit when codes are chosen
    loudness: float = 1.0
    mel: float = 1.0
    spectra: float = 1.0
    features: float = 0.1
    commitment: float = 1.0
    adversarial: float = 0.1
    matching: float = 0.2
    adversarial_from: float = 2.0  # fraction from which discriminators take part; above 1 they never do


@torch.no_grad()
def start_from_klt(model: RvqNetwork, quantiser: ResidualQuantiser, sounds: list[Sound], frames: int) -> None:
    """Set the linear layers to the KLT of about `frames` frames of sounds, and the codebooks by k-means on its latents."""
    spec, hop = model.spec, model.spec.hop
    device = model.analysis.basis.device
    each = sounds[:: max(1, sum(len(s) for s in sounds) // hop // frames)]
    joined = torch.cat([model.analysis.spectrum(padded(sound, hop).to(device)).joined[0] for sound in each]).double().cpu()
    mean = joined.mean(0)
    mean[:hop] = 0
    weight = torch.ones(spec.features, dtype=torch.float64)
    # an error of a level moves the coefficients under it: that many units of squared error for one of the level's
    energy = model.analysis.spread.double().cpu() @ (joined[:, :hop] ** 2).mean(0)
    weight[hop:] = ENVELOPE * 0.5 * spec.compression * torch.sqrt(energy)
    centred = (joined - mean) * weight
    vectors = torch.linalg.eigh(centred.T @ centred / len(centred))[1].flip(1)[:, : spec.latent]
    forward, backward = (vectors.T * weight).float(), (vectors / weight[:, None]).float()
    model.analysis.linear.weight.copy_(forward)
    model.analysis.linear.bias.copy_(-(forward @ mean.float()))
    model.synthesis.linear.weight.copy_(backward)
    model.synthesis.linear.bias.copy_(mean.float())
    latents = ((joined - mean) * weight @ vectors).float()
    quantiser.start(latents.to(device), rounds=3, generator=torch.Generator().manual_seed(0))


class Run:
    """A training run: model, quantiser, optimiser, moving average and how far it has come."""

    def __init__(self, spec: RvqSpec, schedule: Schedule, device: torch.device) -> None:
        self.schedule, self.device = schedule, device
        self.model = RvqNetwork(spec).to(device)
        self.quantiser = ResidualQuantiser(spec.latent, spec.levels, spec.codes, spec.scheme).to(device)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        groups = [
            {
                "params": [parameter],
                "base": schedule.rate
                * (schedule.encoder if name.startswith("analysis.") else 1.0)
                * (schedule.linear if ".linear." in name else 1.0),
            }
            for name, parameter in self.model.named_parameters()
        ]
        self.optimiser = torch.optim.Adam(groups, lr=schedule.rate, betas=(0.8, 0.99))
        self.loudness = LoudnessDifference(spec.rate, LEVEL).to(device)
        self.mel, self.spectra = MelDistance(spec.rate), SpectrumDistance(spec.rate)
        self.discriminators = Discriminators().to(device)
        self.judges = torch.optim.Adam(self.discriminators.parameters(), lr=schedule.rate / 3, betas=(0.8, 0.99))
        self.step, self.seconds = 0, 0.0

    @property
    def fraction(self) -> float:
        """Part of the budget that is spent."""
        return min(1.0, self.seconds / self.schedule.seconds)

    def save(self, folder: Path) -> None:
        """Write the checkpoint: weights, codebooks, average and optimiser moments in files of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": self.model.state_dict(), "average": self.average, "quantiser": self.quantiser.state_dict()}
        parts["discriminators"] = self.discriminators.state_dict()
        names = {id(p): n for n, p in self.model.named_parameters()}
        for moment in ("exp_avg", "exp_avg_sq"):
            parts[moment] = {names[id(p)]: s[moment] for p, s in self.optimiser.state.items()}
        for name, tensors in parts.items():
            part = folder / f"{name}.part"
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part)
            part.replace(folder / f"{name}.safetensors")
        progress = {"step": self.step, "seconds": self.seconds, "spec": asdict(self.model.spec)}
        (folder / "progress.json").write_text(json.dumps(progress))

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        names = ("model", "average", "quantiser", "discriminators", "exp_avg", "exp_avg_sq")
        parts = {name: load_file(folder / f"{name}.safetensors") for name in names}
        self.model.load_state_dict(parts["model"])
        self.quantiser.load_state_dict(parts["quantiser"])
        self.discriminators.load_state_dict(parts["discriminators"])
        self.average = {k: v.to(self.device) for k, v in parts["average"].items()}
        progress = json.loads((folder / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]
        for name, parameter in self.model.named_parameters():
            if name in parts["exp_avg"]:
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": parts["exp_avg"][name].to(self.device),
                    "exp_avg_sq": parts["exp_avg_sq"][name].to(self.device),
                }

    def losses(self, samples: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss of samples (B, hop (T + 1)) coded with counts (B) levels; codebooks learn."""
        schedule, hop = self.schedule, self.model.spec.hop
        with torch.no_grad():
            spectrum = self.model.analysis.spectrum(samples)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            latents = self.model.analysis(spectrum).float()
        frames = latents.shape[1]
        quantised = self.quantiser(latents.flatten(0, 1), counts.repeat_interleave(frames), schedule.price, learn=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            found = self.model.synthesis.spectrum(quantised.latents.unflatten(0, (-1, frames)))
        found = type(found)(found.coefficients.float(), found.levels.float())
        decoded = self.model.synthesis.samples(found)
        original = samples[:, hop:-hop]
        scale = torch.exp(0.5 * self.model.spec.compression * ((found.levels - spectrum.levels) @ self.model.synthesis.spread))
        coefficients = (found.coefficients * scale.clamp(max=4.0) - spectrum.coefficients) ** 2
        parts = {
            "loudness": schedule.loudness * self.loudness(decoded, original),
            "mel": schedule.mel * self.mel(decoded, original),
            "spectra": schedule.spectra * self.spectra(decoded, original),
            "features": schedule.features * coefficients.sum(2).mean(),
            "commitment": schedule.commitment * quantised.commitment,
        }
        if self.fraction >= schedule.adversarial_from:
            self.judges.zero_grad(set_to_none=True)
            self.discriminators.own_loss(decoded, original).backward()  # type: ignore[no-untyped-call]
            self.judges.step()
            adversarial, matching = self.discriminators.losses(decoded, original)
            parts |= {"adversarial": schedule.adversarial * adversarial, "matching": schedule.matching * matching}
        return parts

    def train_step(self, samples: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Make one optimiser step; returns the parts of the loss."""
        factor = 0.5 * (1 + math.cos(math.pi * self.fraction)) * min(1.0, (self.step + 1) / self.schedule.warm_up) + 0.005
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * factor
        parts = self.losses(samples, counts)
        self.optimiser.zero_grad(set_to_none=True)
        sum(parts.values(), torch.zeros((), device=self.device)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return {name: value.detach() for name, value in parts.items()}


@torch.no_grad()
def validate(run: Run, sounds: list[Sound], levels: tuple[int, ...]) -> dict[int, list[float]]:
    """Return for each number of levels the loudness difference, the mel distance, and the entropy of the codes in kbit/s."""
    model = RvqNetwork(run.model.spec).to(run.device)
    model.load_state_dict(run.average)
    hop, found = model.spec.hop, {}
    for count in levels:
        sums, codes = np.zeros(2), []
        for sound in sounds:
            samples = padded(sound, hop).to(run.device)
            latents = model.analysis(model.analysis.spectrum(samples))[0]
            chosen = run.quantiser.choose(latents, torch.full((len(latents),), count, device=run.device), run.schedule.price)
            decoded = model.synthesis(run.quantiser.vectors(chosen)[None])
            original = samples[:, hop:-hop]
            sums += [float(run.loudness(decoded, original)), float(run.mel(decoded, original))]
            codes.append(chosen[:, :count])
        bits = sum(entropy for _, entropy in run.quantiser.usage(torch.cat(codes)))
        found[count] = [*(sums / len(sounds)).round(4).tolist(), round(bits * model.spec.rate / hop / 1000, 3)]
    return found


def train(run: Run, sounds: tuple[list[Sound], list[Sound]], out: Path, save_every: float, log_every: int) -> None:
    """Train on sounds and validate on others until the budget is spent, logging and saving."""
    torch.manual_seed(run.step)
    generator = np.random.default_rng(run.step)
    training, validation = sounds
    schedule, spec = run.schedule, run.model.spec
    odds = np.array([len(sound) for sound in training], dtype=np.float64)
    odds /= odds.sum()
    if run.step == 0:
        start_from_klt(run.model, run.quantiser, training, frames=40_000)
        run.average = {k: v.detach().clone() for k, v in run.model.state_dict().items()}
    began, before = time.monotonic(), run.seconds
    saved, sums = began, dict[str, float]()
    levels = tuple(sorted({max(1, round(spec.levels * part)) for part in (0.1, 0.2, 0.35, 0.55, 1)}))
    print(f"start: {validate(run, validation[::4], levels)}", flush=True)
    while run.fraction < 1:
        samples = crops(training, schedule.batch, spec.hop * (schedule.frames + 1), odds, generator).to(run.device)
        # one number of levels per stratum, even on a logarithmic scale: what is coded with few levels matters as much
        strata = (torch.arange(schedule.batch) + torch.rand(schedule.batch)) / schedule.batch
        fewest = min(FEWEST, spec.levels)
        counts = (fewest * (spec.levels / fewest) ** strata).round().long().to(run.device)
        parts = run.train_step(samples, counts)
        run.seconds = before + time.monotonic() - began
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) / log_every
        if run.step % log_every == 0:
            print(f"step {run.step} {run.seconds:.0f} s " + " ".join(f"{n} {v:.4f}" for n, v in sums.items()), flush=True)
            sums.clear()
        if time.monotonic() - saved > save_every or run.fraction >= 1:
            points = validate(run, validation[::4], levels)
            print(f"validation at step {run.step}, {run.seconds:.0f} s: {points}", flush=True)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": run.step, "seconds": round(run.seconds), "validation": points}) + "\n")
            run.save(out)
            saved = time.monotonic()


def main() -> None:
    """Parse arguments, then train."""
    parser = argparse.ArgumentParser(description="Train audio-rvq.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--speech", type=Path, help="folder of tar files of speech at 16 kHz")
    source.add_argument("--music", type=Path, help="folder of music files")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes from it")
    parser.add_argument("--seconds", type=float, default=3600.0, help="budget in all, earlier runs included")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--quantiser", choices=SCHEMES, default="residual")
    parser.add_argument("--levels", type=int, help="other than the network's usual number")
    parser.add_argument("--latent", type=int, help="other than the network's usual number")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--adversarial-from", type=float, default=2.0, help="part of the budget after which discriminators join"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds between checkpoints")
    parser.add_argument("--log-every", type=int, default=100, help="steps between log lines")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    schedule = Schedule(arguments.seconds, arguments.batch, adversarial_from=arguments.adversarial_from)
    if arguments.music:
        schedule.mel = MUSIC_MEL
    spec = replace(MUSIC if arguments.music else SPEECH, scheme=arguments.quantiser)
    spec = replace(spec, levels=arguments.levels or spec.levels, latent=arguments.latent or spec.latent)
    run = Run(spec, schedule, torch.device(arguments.device))
    if (arguments.out / "progress.json").exists():
        run.load(arguments.out)
        print(f"resuming at step {run.step}, {run.seconds:.0f} s", flush=True)
    print(
        f"{sum(p.numel() for p in run.model.parameters())} parameters on {arguments.device} ({platform.machine()})", flush=True
    )
    sounds = read_music(arguments.music, spec.rate) if arguments.music else read_speech(arguments.speech)
    train(run, sounds, arguments.out, arguments.save_every, arguments.log_every)


if __name__ == "__main__":
    main()
