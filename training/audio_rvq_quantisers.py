"""Compare the three settings of the quantiser on the latents of an `audio_rvq` checkpoint: error, usage, entropy.

    python -m laconic.training.audio_rvq_quantisers --checkpoint RUN --speech DIR [--levels 24]

Codebooks of each setting are fitted by k-means to latents of the training speech, then measured on the validation speech; the
network stays as it is. Prints a Markdown table, and the usage and entropy of every codebook.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from laconic.codecs.audio.rvq_networks import RvqNetwork, RvqSpec
from laconic.codecs.audio.rvq_quantiser import SCHEMES, ResidualQuantiser

from .audio_losses import LoudnessDifference
from .audio_sounds import LEVEL, padded, read_speech

__all__ = ["compare"]

FRAMES = 60_000  # that codebooks are fitted to


@torch.no_grad()
def compare(folder: Path, speech: Path, levels: int) -> str:
    """Return the table and the lists as text."""
    spec = RvqSpec(**json.loads((folder / "progress.json").read_text())["spec"])
    model = RvqNetwork(spec)
    model.load_state_dict(load_file(folder / "average.safetensors"))
    training, validation = read_speech(speech)
    analysis, loudness = model.analysis, LoudnessDifference(spec.rate, LEVEL)
    each = training[:: max(1, sum(map(len, training)) // spec.hop // FRAMES)]
    fitted = torch.cat([analysis(analysis.spectrum(padded(sound, spec.hop)))[0] for sound in each])
    held_out = [(padded(sound, spec.hop), analysis(analysis.spectrum(padded(sound, spec.hop)))[0]) for sound in validation]
    joined = torch.cat([latents for _, latents in held_out])
    lines = [
        "| quantiser | levels | entropy, kbit/s | error left | loudness difference | least usage |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lists = []
    for scheme in SCHEMES:
        quantiser = ResidualQuantiser(spec.latent, levels, spec.codes, scheme)
        quantiser.start(fitted, rounds=4, generator=torch.Generator().manual_seed(0))
        codes = quantiser.choose(joined, torch.full((len(joined),), levels))
        usage = quantiser.usage(codes)
        left = float(((joined - quantiser.vectors(codes)) ** 2).sum() / ((joined - joined.mean(0)) ** 2).sum())
        differences = [
            float(loudness(model.synthesis(quantiser.vectors(part)[None]), samples[:, spec.hop : -spec.hop]))
            for (samples, latents), part in zip(held_out, torch.split(codes, [len(z) for _, z in held_out]), strict=True)
        ]
        rate = sum(entropy for _, entropy in usage) * spec.rate / spec.hop / 1000
        lines.append(
            f"| {scheme} | {levels} | {rate:.2f} | {100 * left:.1f} % | {sum(differences) / len(differences):.3f} | "
            f"{100 * min(used for used, _ in usage):.0f} % |"
        )
        lists.append(f"{scheme}: " + ", ".join(f"{100 * used:.0f} %/{entropy:.2f}" for used, entropy in usage))
    return "\n".join([*lines, "", "Usage and entropy in bits of each codebook:", "", *lists])


def main() -> None:
    """Parse arguments, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True, help="folder of tar files of speech")
    parser.add_argument("--levels", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(compare(arguments.checkpoint, arguments.speech, arguments.levels))


if __name__ == "__main__":
    main()
