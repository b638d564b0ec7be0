"""What the other commands do, once their options are known. Imported when a command runs; heavy parts are imported inside."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .codecs.errors import InvalidSettings
from .files import LIMITS, STANDARD, check_output, output_path, place_name, read_input, write_output
from .options import EncodeOptions, settings_and_target
from .terminal import complain, note, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from .codecs.signals import Audio

__all__ = [
    "run_bench",
    "run_bulk",
    "run_codecs",
    "run_compare",
    "run_doctor",
    "run_serve",
]

SUITES = {
    "audio-lossless": True,
    "bombs": True,
    "circuits": True,
    "costs": True,
    "crash": False,
    "entropy": False,
    "exactness": False,
    "fuzz": False,
    "image": True,
    "lossless": True,
    "music": True,
    "mutations": True,
    "overload": True,
    "service": True,
    "slow-senders": True,
    "soak": True,
    "speech": True,
    "video": True,
}  # whether it writes files


def run_codecs(as_json: bool) -> None:
    """List the codecs."""
    from .listing import list_codecs

    entries = list_codecs()
    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    rows = [(entry.id, entry.signal, entry.about, entry.settings_text, entry.missing or "ready") for entry in entries]
    print_table("", ("codec", "takes", "what it is", "settings", "state"), rows, left=5)


def run_compare(
    source: str, output: str | None, target_psnr: float | None, only: Sequence[str] | None, device: str, force: bool
) -> None:
    """Write the report of `laconic compare`."""
    from .codecs import media
    from .codecs.signals import Audio
    from .compare import compare
    from .compare_page import render

    path = output_path(source, output, "-compare.html", as_json=False)
    check_output(path, force)
    content = read_input(source, LIMITS.max_input_bytes)
    original = media.read(content, LIMITS)
    name = "standard input" if source == STANDARD else Path(source).name
    if isinstance(original, Audio):
        if target_psnr is not None:
            raise InvalidSettings("sound has no PSNR to compare at: leave --target-psnr out")
        return _compare_sound(path, original, name, len(content), only, device, force)
    with progress_bar() as progress:
        result = compare(original, name, len(content), target_psnr, codecs=only, device=device, progress=progress)
    write_output(path, render(result).encode(), force)
    best = result.entries[0]
    note(f"{place_name(path)}: at {result.target_psnr:.2f} dB the smallest is {best.codec} with {best.bytes:,} bytes")
    for codec, why in result.skipped.items():
        note(f"{codec} is missing: {why}")


def _compare_sound(
    path: str, original: Audio, name: str, original_bytes: int, only: Sequence[str] | None, device: str, force: bool
) -> None:
    from .compare_sound import compare_sound
    from .compare_sound_page import render_sound

    with progress_bar() as progress:
        result = compare_sound(original, name, original_bytes, codecs=only, device=device, progress=progress)
    write_output(path, render_sound(result).encode(), force)
    best = result.entries[0]
    note(f"{place_name(path)}: {len(result.entries)} files; the smallest is {best.codec} with {best.bytes:,} bytes")
    for codec, why in result.skipped.items():
        note(f"{codec} is missing: {why}")


def run_bench(suite: str, output: Path | None, further: Sequence[str]) -> int:
    """Run a suite of `laconic.bench` as its own program, with the options that are its own, and return its exit code."""
    from importlib import import_module

    if suite not in SUITES:
        raise InvalidSettings(f"no suite is called {suite!r}; there are {', '.join(SUITES)}")
    if output is not None and not SUITES[suite]:
        raise InvalidSettings(f"{suite} prints its results and writes no files: leave -o out")
    folder = ["--out", str(output or f"bench-{suite}")] if SUITES[suite] else []
    module = import_module(f"laconic.bench.{suite.replace('-', '_')}")
    before = sys.argv
    try:
        sys.argv = [f"laconic bench {suite}", *folder, *further]
        result = module.main()
    except SystemExit as end:  # of the suite's option parser
        result = end.code
    finally:
        sys.argv = before
    return result if isinstance(result, int) else 0


def run_bulk(
    source: str,
    destination: str,
    options: EncodeOptions | None,
    *,
    forms: Sequence[str],
    patterns: Sequence[str],
    jobs: int | None,
    device: str,
    force: bool,
    as_json: bool,
    engine: str,
    gpus: float | None,
) -> int:
    """Code a folder or object storage, decode it without `options`; returns the exit code: 1 if any file failed."""
    from .bulk import Encoding, bulk
    from .codecs.saving import format_of
    from .machine import processors

    for form in forms:
        format_of(f"x.{form}")  # one that is written
    encoding = None if options is None else Encoding(options.codec, *settings_and_target(options))
    how: dict[str, Any] = {"forms": forms, "patterns": patterns, "device": device, "force": force}
    if engine == "ray":
        from .bulk_ray import RayEngine

        how["engine"] = ray = RayEngine(jobs, gpus or 0, device)
    elif gpus is not None:
        raise InvalidSettings("--gpus is for --engine ray; without it, processes share the GPU")
    here = jobs or max(1, int(processors()[1]))
    with progress_bar() as progress, redirect_stdout(sys.stderr):  # Ray prints what it notices; ours is the JSON alone
        summary = bulk(source, destination, encoding, jobs=here, progress=progress, **how)
    for failure in summary.failures:
        complain(f"{failure.file}: {failure.reason}")
    if as_json:
        print_json(**summary.facts())
    else:
        part = f", {100 * summary.output_bytes / summary.input_bytes:.1f} % of {summary.input_bytes:,}" if summary.coded else ""
        note(
            f"{summary.files:,} files: {summary.coded:,} coded to {summary.output_bytes:,} bytes{part}, "
            f"{summary.skipped:,} there already, {len(summary.failures):,} failed; "
            f"{summary.seconds:.1f} s, {here if engine == 'local' else ray.actors} at a time"
        )
    return 1 if summary.failures else 0


def run_doctor(as_json: bool, warm: bool = False) -> int:
    """Check this installation, with `warm` once every kernel is compiled; returns the exit code."""
    from .codecs.registry import codec_ids
    from .doctor import examine, exit_status, versions
    from .warming import warmed

    with progress_bar() as progress:
        if warm:
            for name, seconds, _ in warmed(codec_ids(), progress):
                note(f"{name}: {seconds:.1f} s")
        findings = examine(progress)
    status = exit_status(findings)
    if as_json:
        print_json(healthy=status == 0, versions=versions(), findings=[dataclasses.asdict(finding) for finding in findings])
        return status
    rows = [("*" * (one.state != "ok") + one.check, one.state, one.found, one.advice) for one in findings]
    columns = ("check", "state", "found", "what to do")
    shown = len(columns) - (not any(one.advice for one in findings))
    print_table("", columns[:shown], [row[:shown] for row in rows], left=shown)
    bad = {state: sum(one.state == state for one in findings) for state in ("failed", "warning")}
    note(f"{len(findings)} checks, {bad['failed']} failed, {bad['warning']} with a warning")
    return status


def run_serve(host: str | None, port: int | None, device: str | None, engine: str, demo: bool, insecure: bool) -> None:
    """Serve, or show what serving is like."""
    if engine not in ("uvicorn", "ray"):
        raise InvalidSettings(f"the engine is uvicorn or ray, not {engine!r}")
    if demo:
        from .demo import run_demo

        run_demo(device or "auto")
        return
    from importlib import import_module

    from .service.settings import ServiceSettings

    serve = import_module(f"laconic.service.{'ray_engine' if engine == 'ray' else 'serve'}").serve
    serve(ServiceSettings.from_environment(host=host, port=port, device=device, insecure=insecure or None))
