"""What each command does, once its options are known. Imported when a command runs; heavy parts are imported inside."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .codecs import container
from .codecs.errors import CorruptStream, InvalidSettings, LaconicError, UnsupportedMedia
from .codecs.limits import Limits
from .errors import exit_code
from .files import STANDARD, check_output, read_input, write_output
from .options import EncodeOptions, settings_and_target
from .terminal import complain, note, print_table, progress_bar

if TYPE_CHECKING:
    from .codecs.signals import Image, Video

__all__ = [
    "run_bench",
    "run_bulk",
    "run_codecs",
    "run_compare",
    "run_decode",
    "run_doctor",
    "run_encode",
    "run_inspect",
    "run_serve",
    "run_test",
]

LIMITS = Limits()
SUITES = {
    "bombs": True,
    "circuits": True,
    "costs": True,
    "crash": False,
    "entropy": False,
    "exactness": False,
    "fuzz": False,
    "image": True,
    "lossless": True,
    "mutations": True,
    "overload": True,
    "service": True,
    "slow-senders": True,
    "soak": True,
}  # whether it writes files


def run_encode(source: str, output: str | None, options: EncodeOptions, device: str, force: bool, as_json: bool) -> None:
    """Compress a media file."""
    from .codecs import compress, media

    settings, target = settings_and_target(options)
    path = _output(source, output, ".lcn", as_json)
    check_output(path, force)
    content = read_input(source, LIMITS.max_input_bytes)
    if container.is_laconic(content):
        raise UnsupportedMedia(f"{source} is an .lcn file already")
    signal = media.read(content, LIMITS)
    with progress_bar() as progress:
        encoded = compress.encode(signal, options.codec, settings, target, device, progress)
    write_output(path, encoded.data, force, times_of=source)
    bpp = 8 * len(encoded.data) / signal.pixels
    if as_json:
        _print_json(
            codec=encoded.codec,
            input_bytes=len(content),
            output_bytes=len(encoded.data),
            encode_seconds=round(encoded.seconds, 4),
            bpp=round(bpp, 5),
            settings=encoded.settings,
            device=encoded.device,
        )
        return
    part = 100 * len(encoded.data) / len(content)
    note(
        f"{_shown(path)}: {len(encoded.data):,} bytes, {part:.1f} % of {len(content):,}, {bpp:.3f} bpp, "
        f"{encoded.codec}{_settings_text(encoded.settings)}, {encoded.seconds:.2f} s"
    )


def run_decode(source: str, output: str | None, device: str, force: bool, as_json: bool) -> None:
    """Restore a media file."""
    from .codecs import compress, media
    from .codecs.registry import codec_class
    from .codecs.saving import format_of

    path = _output(source, output, ".png", as_json)
    form = "png" if path == STANDARD else format_of(path)
    check_output(path, force)
    content = read_input(source, LIMITS.max_input_bytes)
    codec = container.describe(content, LIMITS).codec
    start = time.perf_counter()
    with progress_bar() as progress, _refused_is_corrupt():
        signal = compress.decode(content, LIMITS, device, progress)
    seconds = time.perf_counter() - start
    write_output(path, media.write(signal, form), force, times_of=source)
    if as_json:
        used = compress.device_of(codec_class(codec), device)
        _print_json(codec=codec, decode_seconds=round(seconds, 4), shape=list(signal.shape), device=used)
        return
    height, width = signal.shape[:2]
    note(f"{_shown(path)}: {width} × {height}, {codec}, {seconds:.2f} s")


def run_inspect(source: str, as_json: bool) -> None:
    """Describe a stream."""
    description = container.describe(read_input(source, LIMITS.max_input_bytes), LIMITS)
    facts = dataclasses.asdict(description)
    if as_json:
        _print_json(**facts)
        return
    height, width = description.shape[:2]
    facts["shape"] = " × ".join(map(str, description.shape))
    facts["bpp"] = f"{8 * description.file_bytes / (height * width):.4f}"
    facts["chunks"] = _chunks_text(description.chunks)
    facts["metadata"] = {name: f"{size:,} bytes" for name, size in description.metadata.items()}
    print_table("", ("", ""), [(name.replace("_", " "), _plain(value)) for name, value in facts.items()], left=2)


def run_test(sources: Sequence[str], device: str) -> int:
    """Check streams; returns the highest exit code of all."""
    from .codecs import compress

    worst = 0
    for source in sources:
        try:
            content = read_input(source, LIMITS.max_input_bytes)
            with _refused_is_corrupt():
                compress.test(content, LIMITS, device)
            print(f"{source}: ok")
        except (LaconicError, OSError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
            complain(f"{source}: {reason}")
            worst = max(worst, exit_code(error))
    return worst


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
    from .compare import compare
    from .compare_page import render

    path = _output(source, output, "-compare.html", as_json=False)
    check_output(path, force)
    content = read_input(source, LIMITS.max_input_bytes)
    original = media.read(content, LIMITS)
    name = "standard input" if source == STANDARD else Path(source).name
    with progress_bar() as progress:
        result = compare(
            cast("Image | Video", original), name, len(content), target_psnr, codecs=only, device=device, progress=progress
        )
    write_output(path, render(result).encode(), force)
    best = result.entries[0]
    note(f"{_shown(path)}: at {result.target_psnr:.2f} dB the smallest is {best.codec} with {best.bytes:,} bytes")
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
    form: str,
    patterns: Sequence[str],
    jobs: int | None,
    device: str,
    force: bool,
    as_json: bool,
) -> int:
    """Code a folder, decode it without `options`; returns the exit code: 1 if any file failed."""
    from .bulk import Encoding, bulk
    from .codecs.saving import format_of
    from .machine import processors

    format_of(f"x.{form}")  # one that is written
    encoding = None if options is None else Encoding(options.codec, *settings_and_target(options))
    jobs = jobs or max(1, int(processors()[1]))
    with progress_bar() as progress:
        summary = bulk(
            Path(source),
            Path(destination),
            encoding,
            form=form,
            patterns=patterns,
            jobs=jobs,
            device=device,
            force=force,
            progress=progress,
        )
    for failure in summary.failures:
        complain(f"{failure.file}: {failure.reason}")
    if as_json:
        _print_json(**summary.facts())
    else:
        part = f", {100 * summary.output_bytes / summary.input_bytes:.1f} % of {summary.input_bytes:,}" if summary.coded else ""
        note(
            f"{summary.files:,} files: {summary.coded:,} coded to {summary.output_bytes:,} bytes{part}, "
            f"{summary.skipped:,} there already, {len(summary.failures):,} failed; {summary.seconds:.1f} s, {jobs} at a time"
        )
    return 1 if summary.failures else 0


def run_doctor(as_json: bool) -> int:
    """Check this installation; returns the exit code."""
    from .doctor import examine, exit_status, versions

    with progress_bar() as progress:
        findings = examine(progress)
    status = exit_status(findings)
    if as_json:
        _print_json(healthy=status == 0, versions=versions(), findings=[dataclasses.asdict(finding) for finding in findings])
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


def _output(source: str, output: str | None, ending: str, as_json: bool) -> str:
    """Return where the result goes: by default beside the input, or to standard output if that came from standard input."""
    if output is None:
        output = STANDARD if source == STANDARD else str(Path(source).with_suffix("")) + ending
    if output == STANDARD and as_json:
        raise InvalidSettings("--json prints to standard output, where the result would go too: name a file with -o")
    return output


@contextmanager
def _refused_is_corrupt() -> Iterator[None]:
    """Turn a refusal to decode into `CorruptStream`: a file that asks for what does not exist exits like a damaged one."""
    try:
        yield
    except UnsupportedMedia as error:
        raise CorruptStream(str(error)) from error


def _print_json(**members: object) -> None:
    print(json.dumps(members, default=_json_value))


def _json_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _shown(path: str) -> str:
    return "standard output" if path == STANDARD else path


def _settings_text(settings: Mapping[str, object]) -> str:
    quality = settings.get("quality")
    return "" if quality is None else f" at quality {quality:g}" if isinstance(quality, int | float) else ""


def _chunks_text(chunks: Sequence[container.Chunk]) -> str:
    damaged = sum(not chunk.intact for chunk in chunks)
    return f"{len(chunks)}, " + (f"{damaged} damaged" if damaged else "all intact")


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if value != "" else "none"
