"""Run while the image is built: check every file of weights against its pin, and have numba compile every codec's kernels.

Fails where a file is missing, changed or not pinned, and where a codec does not code a photograph, or a drawing, both ways.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np

from laconic.codecs import compress, media
from laconic.codecs.errors import UnsupportedMedia
from laconic.codecs.registry import codec_ids
from laconic.codecs.signals import Image
from laconic.codecs.weights import load_weights, pinned_weights


def check_weights() -> None:
    """Open all pinned weights as the codecs do; raises `WeightsMismatch`, `WeightsMissing`, `SystemExit` for a stray file."""
    pinned = {pin.file: (codec, pin) for codec in codec_ids() for pin in pinned_weights(codec)}
    installed = {entry.name for entry in files("laconic.weights").iterdir() if entry.name.endswith(".safetensors")}
    if not pinned or installed != set(pinned):
        raise SystemExit(f"the weights installed, {sorted(installed)}, are not those pinned, {sorted(pinned)}")
    for name, (codec, pin) in sorted(pinned.items()):
        load_weights(codec, pin.digest)
        print(f"{name}: sha256 {pin.sha256}")


def pictures() -> list[Image]:
    """Return pictures that go different ways: a photograph, also grey, 16 bits deep, with alpha, from a JPEG; drawings."""
    photograph = media.read(files("laconic").joinpath("photograph.png").read_bytes()).array[128:384, 192:576]
    drawing = np.kron(np.indices((32, 48)).sum(0) % 5 * 40, np.ones((8, 8))).astype(np.uint8)[..., None]
    colours = np.concatenate([drawing, drawing[:, ::-1], drawing[::-1]], axis=2)
    deep = photograph.astype(np.uint16) * 257
    alpha = np.concatenate([photograph, drawing], axis=2)
    made = (photograph, photograph[..., :1], deep, deep[..., :1], alpha, colours, drawing)
    originals = [Image(np.ascontiguousarray(array)) for array in made]
    return [*originals, media.read(media.write(originals[0], "jpeg"))]


def compile_kernels() -> None:
    """Code every picture with every codec, both ways; a codec may decline all but the first."""
    photograph, *others = pictures()
    for codec in codec_ids():
        compress.decode(compress.encode(photograph, codec, device="cpu").data, device="cpu")
        for picture in others:
            try:
                compress.decode(compress.encode(picture, codec, device="cpu").data, device="cpu")
            except UnsupportedMedia as reason:
                print(f"{codec}: {reason}")
    compiled = sorted(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc"))
    if not compiled:
        raise SystemExit("nothing was compiled")
    print(f"{len(compiled)} compiled kernels, {sum(path.stat().st_size for path in compiled):,} bytes")


if __name__ == "__main__":
    check_weights()
    compile_kernels()
