"""Turn a checkpoint of `audio_rvq` into the weights file that the codec loads, and pin it.

    python -m laconic.training.audio_rvq_export --checkpoint DIR --speech DIR --name audio-rvq-speech-1 --seconds 600
    python -m laconic.training.audio_rvq_export --checkpoint DIR --music DIR --name audio-rvq-music-1 --seconds 600

Codebooks become integers, the model of the tokens is trained on the codes of the training sounds and becomes integers too,
and the points at which the codec runs (levels, and what a bit is worth when codes are chosen) are measured on the validation
sounds. Unlike the recipe this needs the whole package.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from laconic.codecs.audio.rvq_model import RvqModel
from laconic.codecs.audio.rvq_networks import RvqNetwork, RvqSpec
from laconic.codecs.audio.rvq_quantiser import ResidualQuantiser
from laconic.codecs.audio.rvq_tokens import encode_tokens

from .audio_rvq_tokens import TokenNetwork, codebook_integers, integer_tensors, train_tokens
from .audio_sounds import Sound, padded, read_music, read_speech
from .image_transform_export import pin

# Parts of the levels at the operating points, and what a bit is worth there: the slope of the rate-distortion function of
# Gaussian latents where the residual is what it is at that number of levels, d/dR of D = 2 ln 2 D / channels, times this.
PARTS = (0.075, 0.125, 0.2, 0.3, 0.425, 0.55, 0.7, 0.85, 1.0)
POINTS = (*((part, 1.0) for part in PARTS), (1.0, 0.2))
TRAINED = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # parts of the levels that the model of the tokens is trained with
FIRST = 0.6  # part of the time for codes chosen without the model
BEAMS = 6  # the codec's default
SEARCHED = 3000  # packets whose codes are chosen with the model at most
MEASURED = 120  # packets of the points,
WHOLE = 4  # from sounds of at least so many seconds: speech without long pauses


@torch.no_grad()
def latents_of(model: RvqNetwork, sounds: list[Sound]) -> list[Tensor]:
    """Return the latents (T, D) of sounds."""
    return [model.analysis(model.analysis.spectrum(padded(sound, model.spec.hop)))[0] for sound in sounds]


def refitted(folder: Path, spec: RvqSpec, rows: Tensor) -> tuple[ResidualQuantiser, Tensor, Tensor]:
    """Return the quantiser of a checkpoint after two more passes over latents (N, D) of the averaged network, which it has
    not seen.

    Its codebooks are the integers that they become; these and their shifts come with it.
    """
    quantiser = ResidualQuantiser(spec.latent, spec.levels, spec.codes, spec.scheme)
    quantiser.load_state_dict(load_file(folder / "quantiser.safetensors"))
    for _ in range(2):
        for batch in torch.split(rows[torch.randperm(len(rows))], 4096):
            quantiser.choose(batch, torch.full((len(batch),), spec.levels), price=0.5, learn=True)
    integers, shifts = codebook_integers(quantiser.codebooks)
    quantiser.codebooks.copy_(integers.float() * 2.0 ** -shifts[:, None, None])
    return quantiser, integers, shifts


def price_of(quantiser: ResidualQuantiser, latents: Tensor, levels: int) -> float:
    """Return what a bit is worth in squared distance, from the energy that a number of levels leaves of latents (N, D)."""
    codes = quantiser.choose(latents, torch.full((len(latents),), levels))
    left = float(((latents - quantiser.vectors(codes)) ** 2).sum(1).mean())
    return left * 2 * math.log(2) / latents.shape[1]


def packets_of(latents: list[Tensor], size: int) -> Tensor:
    """Return latents in whole packets (P, size, D)."""
    return torch.cat([sound[: len(sound) // size * size].reshape(-1, size, sound.shape[1]) for sound in latents])


def searched(model: RvqModel, packets: Tensor, levels: int, price: float) -> Tensor:
    """Return the codes (P, T, levels) that the codec chooses for packets of latents, with one beam."""
    found = [torch.from_numpy(model.search(packet.numpy(), levels, price, beams=1)) for packet in packets]
    return torch.stack(found)


def measured_point(model: RvqModel, packets: Tensor, levels: int, price: float) -> tuple[float, int, float]:
    """Return the kbit/s of packets of latents, with the levels and the price."""
    size = 0
    for packet in packets:
        # a packet's head, framing and place in the index take 11 bytes
        size += 11 + len(encode_tokens(model.tokens, model.search(packet.numpy(), levels, price, beams=BEAMS)[None]))
    return 8 * size / len(packets) / packets.shape[1] * model.spec.rate / model.spec.hop / 1000, levels, price


def packed(
    folder: Path, spec: RvqSpec, sounds: tuple[list[Sound], list[Sound]], seconds: float
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of the weights file, with sounds for training and for validation."""
    network = RvqNetwork(spec)
    network.load_state_dict(load_file(folder / "average.safetensors"))
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    second = spec.rate // spec.hop
    training, validation = (packets_of(latents_of(network, part), second) for part in sounds)
    quantiser, integers, shifts = refitted(folder, spec, training.flatten(0, 1))
    whole = packets_of(latents_of(network, [sound for sound in sounds[1] if len(sound) >= WHOLE * spec.rate]), second)
    held_out = whole[:: max(1, len(whole) // MEASURED)]
    places = [(max(1, round(part * spec.levels)), worth) for part, worth in POINTS]
    used = tuple(sorted({max(1, round(part * spec.levels)) for part in TRAINED}))
    joined = validation.flatten(0, 1)
    prices = [worth * price_of(quantiser, joined, levels) for levels, worth in places]
    rows = training.flatten(0, 1)
    codes = quantiser.choose(rows, torch.full((len(rows),), spec.levels), price=0.5).to(torch.int16)
    tokens = TokenNetwork(quantiser.codebooks, rows.std(0))
    train_tokens(tokens, codes.reshape(*training.shape[:2], -1), used, FIRST * seconds)
    tensors = {k: v.half() for k, v in network.state_dict().items()}
    tensors |= {"codebooks": integers, "codebook_shifts": shifts, **integer_tensors(tokens)}
    # once more on the codes that the codec chooses when bits have the prices of this model
    model = RvqModel(spec, {k: v.numpy() for k, v in tensors.items()}, [])
    some = training[:: -(-len(training) // SEARCHED)]
    codes = searched(model, some, spec.levels, prices[len(places) * 2 // 3])
    train_tokens(tokens, codes, used, (1 - FIRST) * seconds, rate=1e-3)
    tensors |= integer_tensors(tokens)
    model = RvqModel(spec, {k: v.numpy() for k, v in tensors.items()}, [])
    points = []
    for (levels, _), price in zip(places, prices, strict=True):
        points.append(measured_point(model, held_out, levels, price))
        print(f"{levels} levels: {points[-1][0]:.2f} kbit/s at {price:.4f} a bit", flush=True)
    return tensors, {"spec": json.dumps(asdict(spec)), "points": json.dumps(points)}


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--speech", type=Path, help="folder of tar files of speech")
    source.add_argument("--music", type=Path, help="folder of music files")
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--name", required=True, help="the weights file's name without its ending")
    parser.add_argument("--seconds", type=float, default=600.0, help="budget of the model of the tokens")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    progress = json.loads((arguments.checkpoint / "progress.json").read_text())
    spec = RvqSpec(**progress["spec"])
    sounds = read_music(arguments.music, spec.rate) if arguments.music else read_speech(arguments.speech)
    tensors, metadata = packed(arguments.checkpoint, spec, sounds, arguments.seconds)
    metadata |= {"sounds": "music" if arguments.music else "speech"}
    metadata |= {"steps": str(progress["step"]), "seconds": str(round(progress["seconds"]))}
    raw = save({k: v.contiguous() for k, v in tensors.items()}, metadata)
    pin(arguments.out, f"{arguments.name}.safetensors", raw, "audio-rvq")
    print(f"{arguments.name}: {len(raw):,} bytes")


if __name__ == "__main__":
    main()
