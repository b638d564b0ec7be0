"""Run while the image is built: check every file of weights against its pin, and have numba compile every codec's kernels.

Fails where a file is missing, changed or not pinned, and where a codec does not code what it takes, both ways.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from laconic.codecs.registry import codec_ids
from laconic.codecs.weights import load_weights, pinned_weights
from laconic.warming import warmed


def check_weights() -> None:
    """Open all pinned weights as the codecs do; raises `WeightsMismatch`, `WeightsMissing`, `SystemExit` for a stray file."""
    pinned = {pin.file: (codec, pin) for codec in codec_ids() for pin in pinned_weights(codec)}
    installed = {entry.name for entry in files("laconic.weights").iterdir() if entry.name.endswith(".safetensors")}
    if not pinned or installed != set(pinned):
        raise SystemExit(f"the weights installed, {sorted(installed)}, are not those pinned, {sorted(pinned)}")
    for name, (codec, pin) in sorted(pinned.items()):
        load_weights(codec, pin.digest)
        print(f"{name}: sha256 {pin.sha256}")


def compile_kernels() -> None:
    """Code media with every codec, both ways."""
    for codec, seconds, declined in warmed(codec_ids()):
        print(f"{codec}: {seconds:.1f} s", *declined, sep="; ")
    compiled = sorted(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc"))
    if not compiled:
        raise SystemExit("nothing was compiled")
    print(f"{len(compiled)} compiled kernels, {sum(path.stat().st_size for path in compiled):,} bytes")


if __name__ == "__main__":
    check_weights()
    compile_kernels()
