"""What `laconic doctor` tries out: devices, weights, codecs, and the kernels that they compile."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .codecs import compress
from .codecs.codec import Codec
from .codecs.device import check_exact
from .codecs.errors import DeviceUnavailable, LaconicError, WeightsMismatch, WeightsMissing
from .codecs.registry import CODECS, codec_class, open_codec
from .codecs.settings import shortest_fit, takes
from .codecs.signals import Image
from .codecs.weights import load_weights, pinned_weights
from .findings import REINSTALL, Finding, advice_on, duration_text, size_text
from .machine import is_writable

if TYPE_CHECKING:
    from numba.core.dispatcher import Dispatcher

__all__ = ["check_devices", "check_kernels", "check_weights", "try_codec"]

LOWEST_PSNR = 20.0  # dB: a codec's default quality gives more, or it is broken


def check_devices(wanted: str) -> Iterator[Finding]:
    """Test the CPU and, where there is one, the GPU with known answers; `wanted` is the device of the settings."""
    import torch

    yield _exactness("cpu", f"torch {torch.__version__}")
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        yield _exactness("cuda", f"{card.name}, {size_text(card.total_memory)}")
    elif wanted == "cuda":
        yield Finding("device cuda", "failed", "there is none that torch can use", "set LACONIC_DEVICE to auto or cpu")
    elif Path("/proc/driver/nvidia/version").exists():
        advice = "install a build of torch for CUDA that suits the driver"
        yield Finding(
            "device cuda", "warning", f"there is an NVIDIA driver, which torch {torch.__version__} cannot use", advice
        )
    else:
        yield Finding("device cuda", "ok", "none; codecs run on the CPU")


def _exactness(device: str, about: str) -> Finding:
    try:
        check_exact(device)
    except DeviceUnavailable as error:
        return Finding(f"device {device}", "failed", f"{about}: {error}", advice_on(error))
    return Finding(f"device {device}", "ok", f"{about}; integer networks are exact")


def check_weights(names: Sequence[str]) -> Iterator[Finding]:
    """Compare every pinned file of these codecs with its SHA-256."""
    if not any(pinned_weights(name) for name in CODECS):
        yield Finding("weights", "failed", "none are installed", REINSTALL)
    for name in names:
        files = pinned_weights(name)
        try:
            for pin in files:
                load_weights(name, pin.digest)
        except (WeightsMissing, WeightsMismatch) as error:
            yield Finding(f"weights {name}", "failed", str(error), REINSTALL)
            continue
        if files:
            yield Finding(f"weights {name}", "ok", f"{len(files)} file{'s' * (len(files) > 1)}, as pinned by SHA-256")


def try_codec(name: str, device: str) -> tuple[Finding, float]:
    """Send a small picture there and back with the default settings, then losslessly where the codec can; fits are short ones.

    Returns as well by how many seconds the first time was longer than the second. Raises whatever the codec does.
    """
    kind = codec_class(name)
    place = compress.device_of(kind, device)
    open_codec(name, place)
    if not takes(kind, "image"):
        return Finding(f"codec {name}", "ok", f"opens on {place}; takes {kind.signal}"), 0.0
    first, found = _there_and_back(kind, place, shortest_fit(name))
    second, _ = _there_and_back(kind, place, shortest_fit(name))
    if "lossless" in kind.Settings.model_fields:
        found += f"; {_there_and_back(kind, place, {'lossless': True})[1]}"
    times = f"{duration_text(second)} on {place}, the first time {duration_text(first)}"
    return Finding(f"codec {name}", "ok", f"{found}; {times}"), max(0.0, first - second)


def _there_and_back(kind: type[Codec], device: str, settings: dict[str, object]) -> tuple[float, str]:
    """Return the seconds that a small picture takes both ways and what came back; raises `LaconicError` for a wrong one."""
    picture = _picture()
    began = time.perf_counter()
    encoded = compress.encode(picture, kind.id, settings, device=device)
    back = compress.decode(encoded.data, device=device).array
    seconds = time.perf_counter() - began
    if kind.lossless or settings.get("lossless"):
        if not np.array_equal(back, picture.array):
            raise LaconicError(f"{kind.id} is lossless, but samples came back changed")
        return seconds, f"{len(encoded.data):,} bytes, every sample back"
    error = float(np.mean((back.astype(np.float64) - picture.array) ** 2))
    psnr = 99.0 if error == 0 else 10 * np.log10(255**2 / error)
    if psnr < LOWEST_PSNR:
        raise LaconicError(f"a picture came back with {psnr:.1f} dB, which is no picture any more")
    return seconds, f"{len(encoded.data):,} bytes, {psnr:.1f} dB"


def _picture() -> Image:
    """A shaded disc on a slope, 64 x 64: edges, flat parts and colours."""
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 30) ** 2 + (columns - 34) ** 2 < 400
    planes = [np.where(disc, 200 - rows, 2 * columns), np.where(disc, 90, 3 * rows), np.where(disc, columns, 128)]
    return Image(np.stack(planes, 2).astype(np.uint8))


def _place(kernel: Dispatcher) -> str:
    """Return the module that a kernel is in, without the packages around it."""
    return str(kernel.py_func.__module__).rpartition(".")[2]


def check_kernels(first_use_s: float) -> Iterator[Finding]:
    """Tell which kernels were compiled by this process, and whether the next finds them; nothing where no codec has any."""
    if "numba" not in sys.modules:
        return
    from numba.core.dispatcher import Dispatcher

    modules = [module for name, module in list(sys.modules.items()) if name.startswith("laconic.")]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
    stats = [kernel.stats for kernel in found.values()]
    read, made = (sum(sum(getattr(one, which).values()) for one in stats) for which in ("cache_hits", "cache_misses"))
    folders = sorted({one.cache_path for one in stats if one.cache_path})
    if not folders:
        return
    now, before = (
        f" ({', '.join(sorted({_place(kernel) for kernel in found.values() if getattr(kernel.stats, which)}))})" * bool(count)
        for which, count in (("cache_misses", made), ("cache_hits", read))
    )
    text = f"{made} compiled now{now}, {read} read from {', '.join(folders)}{before}"
    text += f"; first uses took {duration_text(first_use_s)} longer"
    if closed := [folder for folder in folders if not is_writable(Path(folder))]:
        advice = f"{closed[0]} cannot be written, so every process compiles anew: set NUMBA_CACHE_DIR to another folder"
        yield Finding("kernels", "warning", text, advice)
    else:
        yield Finding("kernels", "ok", text + ("; kept for the next process" if made else ""))
