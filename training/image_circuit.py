"""Train a circuit of `image-circuit`: one resumable command, the same on CPU and GPU.

    python -m laconic.training.image_circuit --pictures train-images-idx3-ubyte.gz --out RUN --seconds 1800
    python -m laconic.training.image_circuit --photos DIR --out RUN --seconds 900

The first trains on small grey pictures of one size (an IDX file, as MNIST comes in), the second on blocks of the residuals
of photographs, for pictures of any size. Run it again with the same --out to resume: the schedule depends on the seconds
spent in all. A checkpoint is two safetensors files and `progress.json`; `image_circuit_export` makes weights of it.

Steps: pairwise mutual information and the Chow-Liu tree; states from clusters; then, for each of a few growing numbers of
states, stepwise expectation maximisation over mini-batches with a falling step; states that few pictures use are dropped and
the others split in between; at the end whole passes over the training set.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .circuit_data import Source, read_photos, read_small
from .circuit_dictionary import grey_dictionary, residual_dictionary
from .circuit_model import Circuit, Counts, load_circuit, pack_circuit
from .circuit_structure import chow_liu, entropies, first_circuit, grow, levels, most_states, mutual_information

VALIDATION = 3000  # the last pictures of the training set are never trained on
STRUCTURE = 12_000  # pictures that the tree is made of
STATES, UNTIL = (16, 40, 96), (0.1, 0.35, 0.88)  # defaults of `Schedule`
DISTILLED = 20_000  # pictures that the first states are counted on


@dataclass
class Schedule:
    """How long and how to train; fractions are of the whole budget."""

    seconds: float
    states: tuple[int, ...] = STATES  # most states of a variable, stage by stage
    until: tuple[float, ...] = UNTIL  # fraction at which each stage ends; whole passes follow
    batch: int = 1000
    first_step: float = 0.3
    last_step: float = 0.02
    smoothing: float = 0.3  # counts added to each row of a table
    least: float = 2e-4  # flow below which a state is dropped
    entries: int = 64  # of the dictionary

    def stage(self, fraction: float) -> int:
        """Return the number of the stage at a fraction of the budget; the last one is whole passes."""
        return sum(fraction >= end for end in self.until)

    def step(self, fraction: float) -> float:
        """Return the step (0..1) at a fraction of the budget; it falls geometrically within each stage."""
        stage = self.stage(fraction)
        begin = self.until[stage - 1] if stage else 0.0
        done = (fraction - begin) / (self.until[stage] - begin)
        return float(self.first_step * (self.last_step / self.first_step) ** done)


class Run:
    """A training run: circuit, running counts, and how far it has come."""

    def __init__(self, schedule: Schedule, device: torch.device) -> None:
        self.schedule, self.device = schedule, device
        self.circuit: Circuit | None = None
        self.counts: Counts | None = None
        self.stage, self.step, self.seconds = 0, 0, 0.0

    @property
    def fraction(self) -> float:
        """Part of the budget that is spent."""
        return min(1.0, self.seconds / self.schedule.seconds)

    def begin(self, source: Source) -> None:
        """Make the tree and the first circuit."""
        values = 256
        sample = source.x[torch.randperm(len(source.x))[: max(STRUCTURE, DISTILLED)]].long()
        parent = chow_liu(mutual_information(levels(sample[:STRUCTURE])))
        make = residual_dictionary if source.residual else grey_dictionary
        dictionary = make(source.x, self.schedule.entries)
        states = most_states(entropies(sample, values), self.schedule.states[0])
        centred = (sample - 128 * source.residual).float()
        features = centred.sign() * (1 + centred.abs()).log2() if source.residual else centred / 32
        self.circuit = first_circuit(sample[:DISTILLED], features[:DISTILLED], source.places, parent, states, dictionary)
        if self.device.type != "cpu":
            self.circuit = load_circuit(pack_circuit(self.circuit), self.device)

    def save(self, folder: Path) -> None:
        """Write the checkpoint: the circuit, the running counts and the progress."""
        assert self.circuit is not None
        parts = {"circuit": pack_circuit(self.circuit)}
        if self.counts is not None:
            seen = Circuit(self.circuit.parent, self.counts.transition, self.counts.mixing, self.counts.dictionary)
            parts["counts"] = pack_circuit(seen)
        for name, tensors in parts.items():
            save_file(tensors, folder / f"{name}.part")
            (folder / f"{name}.part").replace(folder / f"{name}.safetensors")
        pictures = self.counts.pictures if self.counts else 0.0
        progress = {"step": self.step, "seconds": self.seconds, "stage": self.stage, "pictures": pictures}
        (folder / "progress.json").write_text(json.dumps(progress))

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        progress = json.loads((folder / "progress.json").read_text())
        self.step, self.seconds, self.stage = progress["step"], progress["seconds"], progress["stage"]
        self.circuit = load_circuit(load_file(folder / "circuit.safetensors"), self.device)
        if progress["pictures"]:
            seen = load_circuit(load_file(folder / "counts.safetensors"), self.device)
            self.counts = Counts(seen.transition, seen.mixing, seen.dictionary, progress["pictures"])

    def train_step(self, x: Tensor, pictures: int) -> float:
        """Make one step of stepwise expectation maximisation on a batch; returns the batch's bits per dimension before it."""
        assert self.circuit is not None
        seen, likelihood = self.circuit.expect(x)
        if self.counts is None:
            self.counts = seen
        else:
            self.counts.move(seen, self.schedule.step(self.fraction))
        self.circuit.maximise(self.counts, pictures, self.schedule.smoothing)
        self.step += 1
        return bits_per_dimension(likelihood, x)

    def whole_pass(self, x: Tensor) -> float:
        """Make one step of expectation maximisation on all of x; returns bits per dimension before it."""
        assert self.circuit is not None
        total, bits = None, 0.0
        for batch in torch.split(x, self.schedule.batch):
            seen, likelihood = self.circuit.expect(batch.to(self.device).long())
            bits += bits_per_dimension(likelihood, batch) * len(batch) / len(x)
            if total is None:
                total = seen
            else:
                total.add(seen)
        assert total is not None
        self.counts = total
        self.circuit.maximise(total, len(x), self.schedule.smoothing)
        self.step += 1
        return bits

    def next_stage(self, x: Tensor, entropy: Tensor, generator: torch.Generator) -> None:
        """Drop and split states for the stage that begins, and let the copies part on a few batches."""
        assert self.circuit is not None and self.counts is not None
        most = most_states(entropy, self.schedule.states[self.stage])
        self.circuit = grow(self.circuit, self.counts, most, self.schedule.least, generator)
        self.counts = None

    @torch.inference_mode()
    def validate(self, x: Tensor) -> float:
        """Return bits per dimension of held-out pictures."""
        assert self.circuit is not None
        likelihood = torch.cat([self.circuit.log_likelihood(part.to(self.device).long()) for part in torch.split(x, 1000)])
        return bits_per_dimension(likelihood, x)


def bits_per_dimension(likelihood: Tensor, x: Tensor) -> float:
    """Return the mean code length of pictures in bits per variable."""
    return -float(likelihood.double().mean()) / math.log(2) / x.shape[1]


@torch.inference_mode()
def train(run: Run, source: Source, out: Path, save_every: float, log_every: int) -> None:
    """Train until the budget is spent, logging, validating and saving."""
    torch.manual_seed(run.step)
    generator = torch.Generator().manual_seed(run.step)
    training, held_out = source.x[:-VALIDATION], source.x[-VALIDATION:]
    began, before = time.monotonic(), run.seconds
    if run.circuit is None:
        run.begin(Source(training, source.places, source.residual))
    entropy = entropies(training[:DISTILLED].long(), 256)
    saved, bits, order = began, [], torch.zeros(0, dtype=torch.long)
    while run.fraction < 1:
        stage = run.schedule.stage(run.fraction)
        if stage >= len(run.schedule.until):
            bits.append(run.whole_pass(training))
        else:
            if stage > run.stage:
                run.stage = stage
                run.next_stage(training, entropy, generator)
            if len(order) < run.schedule.batch:
                order = torch.randperm(len(training), generator=generator)
            chosen, order = order[: run.schedule.batch], order[run.schedule.batch :]
            bits.append(run.train_step(training[chosen].to(run.device).long(), len(training)))
        run.seconds = before + time.monotonic() - began
        if run.step % log_every == 0:
            print(f"step {run.step} {run.seconds:.0f} s {np.mean(bits[-log_every:]):.4f} bits per dimension", flush=True)
        if time.monotonic() - saved > save_every or run.fraction >= 1:
            note(run, held_out, float(np.mean(bits)), out)
            saved, bits = time.monotonic(), []
    run.save(out)


def note(run: Run, held_out: Tensor, bits: float, out: Path) -> None:
    """Validate, write the checkpoint and a line of `log.jsonl`."""
    assert run.circuit is not None
    line = {
        "step": run.step,
        "seconds": round(run.seconds),
        "states": sum(run.circuit.states),
        "parameters": run.circuit.parameters,
        "training": round(bits, 4),
        "validation": round(run.validate(held_out), 4),
    }
    print(json.dumps(line), flush=True)
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    run.save(out)


def _photos(folder: Path, blocks: int, out: Path) -> Source:
    """Return the windows of photographs, from the checkpoint folder where an earlier run has left them there."""
    path = out / "windows.safetensors"
    if not path.exists():
        source = read_photos(folder, blocks)
        save_file({"x": source.x, "places": source.places}, path)
    tensors = load_file(path)
    return Source(tensors["x"], tensors["places"], True)


def main() -> None:
    """Parse arguments, then train."""
    parser = argparse.ArgumentParser(description="Train a circuit of image-circuit.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pictures", type=Path, help="IDX file of small grey pictures")
    what.add_argument("--photos", type=Path, help="folder of tar files of pictures")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes from it")
    parser.add_argument("--seconds", type=float, default=1800.0, help="budget in all, earlier runs included")
    parser.add_argument("--states", type=int, nargs="+", default=STATES, help="most states of a variable, stage by stage")
    parser.add_argument("--until", type=float, nargs="+", default=UNTIL, help="part of the budget at which each stage ends")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=400_000, help="blocks taken from photographs")
    parser.add_argument("--smoothing", type=float, default=0.3, help="counts added to each row of a table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--log-every", type=int, default=20, help="steps between log lines")
    arguments = parser.parse_args()
    if len(arguments.states) != len(arguments.until):
        parser.error("--states and --until take as many numbers as there are stages")
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    schedule = Schedule(
        arguments.seconds,
        states=tuple(arguments.states),
        until=tuple(arguments.until),
        batch=arguments.batch,
        smoothing=arguments.smoothing,
    )
    run = Run(schedule, torch.device(arguments.device))
    if (arguments.out / "progress.json").exists():
        run.load(arguments.out)
        print(f"resuming at step {run.step}, {run.seconds:.0f} s", flush=True)
    source = (
        read_small(arguments.pictures) if arguments.pictures else _photos(arguments.photos, arguments.blocks, arguments.out)
    )
    print(f"{tuple(source.x.shape)} on {arguments.device} ({platform.machine()})", flush=True)
    train(run, source, arguments.out, arguments.save_every, arguments.log_every)


if __name__ == "__main__":
    main()
