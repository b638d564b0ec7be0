"""What `laconic doctor` looks at: settings, libraries, processor, devices, weights, codecs, kernels, folders.

Each check gives findings; none changes anything but the kernels' cache, which it fills as any first use does.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .codecs import compress
from .codecs.codec import Codec
from .codecs.device import check_exact
from .codecs.errors import DeviceUnavailable, InvalidSettings, LaconicError, WeightsMismatch, WeightsMissing
from .codecs.registry import CODECS, codec_class, codec_ids, open_codec
from .codecs.settings import takes
from .codecs.signals import Image
from .codecs.weights import load_weights, pinned_weights
from .errors import EXIT_CODES
from .machine import free_bytes, is_writable, memory_bytes, processors
from .service.settings import ServiceSettings, variable

if TYPE_CHECKING:
    from .codecs.codec import Progress

__all__ = ["Finding", "State", "examine", "exit_status", "versions"]

State = Literal["ok", "warning", "failed"]
MIB = 2**20
LOW_DISK, NO_DISK = 1024 * MIB, 64 * MIB
LOW_MEMORY = 1024 * MIB  # the service holds about 0.6 GiB when it codes with networks: docs/operations.md
LOWEST_PSNR = 20.0  # dB: a codec's default quality gives more, or it is broken
REINSTALL = "install Laconic again: pip install --force-reinstall --no-deps laconic"


@dataclass(frozen=True)
class Finding:
    """What a check found, and one line that says what to do about it, empty where all is well."""

    check: str
    state: State
    found: str
    advice: str = ""


@dataclass
class _Visit:
    """What earlier checks tell later ones."""

    settings: ServiceSettings = field(default_factory=ServiceSettings)
    first_use_s: float = 0.0  # how much longer codecs took the first time: kernels that compile or load


def examine(progress: Progress | None = None, codecs: Sequence[str] | None = None) -> list[Finding]:
    """Run every check, with every codec or those given, and return what was found; raises nothing but what `progress` does.

    Takes a few seconds; about a minute where kernels have not been compiled yet.
    """
    visit = _Visit()
    names = codec_ids() if codecs is None else codecs
    steps: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("settings", partial(_settings, visit)),
        ("libraries", _libraries),
        ("processor", partial(_processor, visit)),
        ("memory", _memory),
        ("devices", partial(_devices, visit)),
        ("weights", partial(_weights, names)),
        *((f"codec {name}, whose kernels may be compiled now", partial(_codec, visit, name)) for name in names),
        ("kernels", partial(_kernels, visit)),
        ("folders", partial(_folders, visit)),
    ]
    findings: list[Finding] = []
    for index, (stage, check) in enumerate(steps):
        if progress:
            progress(index / len(steps), stage)
        try:
            findings += check()
        except Exception as error:  # a check must not keep the others from being made
            findings.append(Finding(stage.partition(",")[0], "failed", _reason(error), _advice(error)))
    return findings


def exit_status(findings: Iterable[Finding]) -> int:
    """Return the exit code: 5 for weights that failed, 1 for anything else that did, 0 also with warnings."""
    failed = [finding.check for finding in findings if finding.state == "failed"]
    if any(check.startswith("weights") for check in failed):
        return EXIT_CODES[WeightsMismatch]
    return 1 if failed else 0


def versions() -> dict[str, str]:
    """Return the versions of Python, Laconic and what Laconic requires, "" for what is not installed."""
    names = ["laconic", *(name for name, _ in _requirements())]
    return {"python": ".".join(map(str, sys.version_info[:3]))} | {name: _installed(name) for name in names}


def _settings(visit: _Visit) -> Iterator[Finding]:
    given = [name for name in map(variable, ServiceSettings.model_fields) if name in os.environ]
    try:
        visit.settings = ServiceSettings.from_environment()
    except InvalidSettings as error:
        yield Finding("settings", "failed", str(error), "correct the variable, or unset it: docs/service.md lists them")
        return
    yield Finding("settings", "ok", f"valid; set are {', '.join(given)}" if given else "no LACONIC_ variable is set")


def _libraries() -> Iterator[Finding]:
    found = versions()
    wrong = [
        f"{name} is {found[name] or 'missing'} ({wanted})" for name, wanted in _requirements() if not _fits(found[name], wanted)
    ]
    listing = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if wrong:
        yield Finding(
            "libraries", "failed", f"{'; '.join(wrong)}; {listing}", "pip install --upgrade laconic brings what it needs"
        )
    else:
        yield Finding("libraries", "ok", listing)


def _requirements() -> list[tuple[str, str]]:
    """Return the names that Laconic requires and the versions, such as ("torch", ">=2.6"); none where it is not installed."""
    try:
        lines = [line for line in requires("laconic") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        return []
    matches = [re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)", line) for line in lines]
    return [(match[1], match[2].strip()) for match in matches if match]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _fits(found: str, wanted: str) -> bool:
    """Whether a version is one of those wanted: ">=2.6" and "~=0.5.0", the two forms that pyproject.toml uses."""
    have = _numbers(found)
    for form, number in re.findall(r"(>=|~=)\s*([\d.]+)", wanted):
        least = _numbers(number)
        if have < least or (form == "~=" and have[: len(least) - 1] != least[:-1]):
            return False
    return bool(have)


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def _processor(visit: _Visit) -> Iterator[Finding]:
    cores, quota = processors()
    threads = visit.settings.threads
    found = (
        f"{cores} cores" + (f", {quota:g} of them by quota" if quota < cores else "") + f"; {variable('threads')} is {threads}"
    )
    if threads > quota:
        advice = f"set {variable('threads')} to {max(1, int(quota))}: more threads than processors slow each other down"
        yield Finding("processor", "warning", found, advice)
    else:
        yield Finding("processor", "ok", found)


def _memory() -> Iterator[Finding]:
    available = memory_bytes()
    if available is None:
        yield Finding("memory", "ok", "not known on this system")
    elif available < LOW_MEMORY:
        yield Finding("memory", "warning", f"{_size(available)} for this process", "give it 1 GiB, and more for large pictures")
    else:
        yield Finding("memory", "ok", f"{_size(available)} for this process")


def _devices(visit: _Visit) -> Iterator[Finding]:
    import torch

    yield _exactness("cpu", f"torch {torch.__version__}")
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        yield _exactness("cuda", f"{card.name}, {_size(card.total_memory)}")
    elif visit.settings.device == "cuda":
        yield Finding("device cuda", "failed", "there is none that torch can use", f"set {variable('device')} to auto or cpu")
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
        return Finding(f"device {device}", "failed", f"{about}: {error}", _advice(error))
    return Finding(f"device {device}", "ok", f"{about}; integer networks are exact")


def _weights(names: Sequence[str]) -> Iterator[Finding]:
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


def _codec(visit: _Visit, name: str) -> Iterator[Finding]:
    """There and back with the default settings, then the same losslessly where the codec can."""
    kind = codec_class(name)
    device = compress.device_of(kind, visit.settings.device)
    open_codec(name, device)
    if not takes(kind, "image"):
        yield Finding(f"codec {name}", "ok", f"opens on {device}; takes {kind.signal}")
        return
    first, found = _there_and_back(kind, device, {})
    second, _ = _there_and_back(kind, device, {})
    visit.first_use_s += max(0.0, first - second)
    if "lossless" in kind.Settings.model_fields:
        found += f"; {_there_and_back(kind, device, {'lossless': True})[1]}"
    yield Finding(f"codec {name}", "ok", f"{found}; {_time(second)} on {device}, the first time {_time(first)}")


def _there_and_back(kind: type[Codec], device: str, settings: dict[str, object]) -> tuple[float, str]:
    """Return the seconds that a small picture takes both ways and what came back; raises `LaconicError` for a wrong one."""
    picture = _picture()
    began = time.perf_counter()
    encoded = compress.encode(picture, kind.id, settings, device=device)
    back = compress.decode(encoded.data, device=device).array
    seconds = time.perf_counter() - began
    if kind.lossless or settings:
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


def _kernels(visit: _Visit) -> Iterator[Finding]:
    if "numba" not in sys.modules:
        yield Finding("kernels", "ok", "no codec looked at has any")
        return
    from numba.core.dispatcher import Dispatcher

    modules = [module for name, module in list(sys.modules.items()) if name.startswith("laconic.")]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
    stats = [kernel.stats for kernel in found.values()]
    read, made = (sum(sum(getattr(one, which).values()) for one in stats) for which in ("cache_hits", "cache_misses"))
    folders = sorted({one.cache_path for one in stats if one.cache_path})
    text = f"{made} compiled now, {read} read from {', '.join(folders)}; first uses took {_time(visit.first_use_s)} longer"
    if closed := [folder for folder in folders if not is_writable(Path(folder))]:
        advice = (
            f"set NUMBA_CACHE_DIR to a folder that can be written, not {closed[0]}: every process compiles for half a minute"
        )
        yield Finding("kernels", "warning", text, advice)
    else:
        yield Finding("kernels", "ok", text + ("; kept for the next process" if made else ""))


def _folders(visit: _Visit) -> Iterator[Finding]:
    import tempfile

    settings = visit.settings
    folders = {name: getattr(settings, name) for name in type(settings).model_fields if name.endswith("_dir")}
    places = {"temporary folder": (Path(tempfile.gettempdir()), "TMPDIR")}
    places |= {f"folder {name}": (Path(path), variable(name)) for name, path in folders.items() if path is not None}
    for check, (path, setting) in places.items():
        free = free_bytes(path)
        found = f"{path}, {_size(free)} free"
        if not is_writable(path):
            yield Finding(check, "failed", f"{path} cannot be written", f"make it writable, or set {setting} to another")
        elif free < NO_DISK:
            yield Finding(check, "failed", found, f"free some space, or set {setting} to another folder")
        elif free < LOW_DISK:
            yield Finding(check, "warning", found, f"it will be full soon: free some space, or set {setting} to another folder")
        else:
            yield Finding(check, "ok", found)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LaconicError) else f"{type(error).__name__}: {error}"


def _advice(error: Exception) -> str:
    if isinstance(error, WeightsMissing | WeightsMismatch):
        return REINSTALL
    if isinstance(error, DeviceUnavailable):
        return f"run on another device: {variable('device')}=cpu, or --device cpu"
    if isinstance(error, ImportError):
        return "install what is missing: pip install --upgrade laconic"
    if isinstance(error, RuntimeError) and "cannot cache function" in str(error):  # numba found no folder to write to
        return "set NUMBA_CACHE_DIR to a folder that can be written"
    return "report it as a bug, with this table"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / MIB:.0f} MiB"
