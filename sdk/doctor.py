"""What `laconic doctor` looks at: settings, libraries, processor, devices, weights, codecs, kernels, media workers, folders,
stores.

Each check gives findings; none changes anything but the kernels' cache, which it fills as any first use does.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from .codecs.errors import InvalidSettings, WeightsMismatch
from .codecs.registry import codec_ids
from .errors import EXIT_CODES
from .findings import MIB, Finding, advice_on, reason_of, size_text
from .machine import free_bytes, is_writable, memory_bytes, processors
from .service import seccomp
from .service.settings import ServiceSettings, variable
from .service.stores import looks
from .trials import check_devices, check_kernels, check_weights, try_codec

if TYPE_CHECKING:
    from .codecs.codec import Progress

__all__ = ["examine", "exit_status", "versions"]

LOW_DISK, NO_DISK = 1024 * MIB, 64 * MIB
LOW_MEMORY = 1024 * MIB  # the service holds about 0.6 GiB when it codes with networks: docs/operations.md


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
        ("devices", lambda: check_devices(visit.settings.device)),
        ("weights", partial(check_weights, names)),
        *((f"codec {name}, whose kernels may be compiled now", partial(_codec, visit, name)) for name in names),
        ("kernels", lambda: check_kernels(visit.first_use_s)),
        ("media workers", partial(_media_workers, visit)),
        ("folders", partial(_folders, visit)),
        ("files", partial(_files, visit)),
        ("stores", partial(_stores, visit)),
    ]
    findings: list[Finding] = []
    for index, (stage, check) in enumerate(steps):
        if progress:
            progress(index / len(steps), stage)
        try:
            findings += check()
        except Exception as error:  # a check must not keep the others from being made
            findings.append(Finding(stage.partition(",")[0], "failed", reason_of(error), advice_on(error)))
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
    by_quota = f", {quota:g} of them by quota" if quota < cores else ""
    found = f"{cores} core{'s' * (cores > 1)}{by_quota}; {variable('threads')} is {threads}"
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
        yield Finding(
            "memory", "warning", f"{size_text(available)} for this process", "give it 1 GiB, and more for large pictures"
        )
    else:
        yield Finding("memory", "ok", f"{size_text(available)} for this process")


def _codec(visit: _Visit, name: str) -> Iterator[Finding]:
    finding, first_use_s = try_codec(name, visit.settings.device)
    visit.first_use_s += first_use_s
    yield finding


def _media_workers(visit: _Visit) -> Iterator[Finding]:
    reason = seccomp.refusal()
    if not visit.settings.sandbox:
        advice = f"unset {variable('sandbox')}, unless nobody but you sends media"
        yield Finding("media workers", "warning", "none: the service reads media in its own process", advice)
    elif reason:
        advice = "run the service on Linux where containers may use seccomp, or let nobody but you send media: docs/security.md"
        yield Finding("media workers", "warning", f"confined by limits only, system calls are not filtered: {reason}", advice)
    else:
        yield Finding("media workers", "ok", "confined by limits and a filter of system calls")


def _folders(visit: _Visit) -> Iterator[Finding]:
    settings = visit.settings
    folders = {name: getattr(settings, name) for name in type(settings).model_fields if name.endswith("_dir")}
    if folders.get("state_dir", True) is None:
        advice = f"set {variable('state_dir')} to a folder that can be written"
        yield Finding("folder state_dir", "warning", "there is none: jobs end with the service", advice)
    places = {"temporary folder": (Path(tempfile.gettempdir()), "TMPDIR")}
    places |= {f"folder {name}": (Path(path), variable(name)) for name, path in folders.items() if path is not None}
    for check, (path, setting) in places.items():
        free = free_bytes(path)
        found = f"{path}, {size_text(free)} free"
        if not is_writable(path):
            yield Finding(check, "failed", f"{path} cannot be written", f"make it writable, or set {setting} to another")
        elif free < NO_DISK:
            yield Finding(check, "failed", found, f"free some space, or set {setting} to another folder")
        elif free < LOW_DISK:
            yield Finding(check, "warning", found, f"it will be full soon: free some space, or set {setting} to another folder")
        else:
            yield Finding(check, "ok", found)


def _files(visit: _Visit) -> Iterator[Finding]:
    settings = visit.settings
    for name in (name for name in type(settings).model_fields if name.endswith("_file")):
        path = getattr(settings, name)
        if path is not None and not os.access(path, os.R_OK):
            yield Finding(f"file {name}", "failed", f"{path} cannot be read", f"make it readable, or correct {variable(name)}")
        elif path is not None:
            yield Finding(f"file {name}", "ok", f"{path} can be read")


def _stores(visit: _Visit) -> Iterator[Finding]:
    found = looks(visit.settings)
    for setting, look in found.items():
        try:
            yield Finding(f"store {setting}", "ok", look())
        except (InvalidSettings, OSError) as error:
            advice = f"correct {variable(setting)}, or what it names: docs/operations.md"
            yield Finding(f"store {setting}", "failed", str(error), advice)
    if len(found) == 1:
        other = {"job_store": "blob_store", "blob_store": "job_store"}[next(iter(found))]
        told = "the rest is in LACONIC_STATE_DIR, which other machines have not"
        yield Finding(f"store {other}", "warning", told, f"set {variable(other)} too, unless there is one machine only")
