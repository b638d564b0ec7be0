"""`laconic jobs`: submit, list, show, wait, result, cancel. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_options import (
    CodecId,
    Effort,
    Force,
    Input,
    Json,
    Lossless,
    Pairs,
    Quality,
    TargetBpp,
    TargetBytes,
    TargetKbps,
    TargetPsnr,
)
from .errors import InvalidSettings, ServiceError
from .files import STANDARD, check_output, read_input, write_output
from .terminal import note, print_table

if TYPE_CHECKING:
    from .client import Client
    from .jobs import JobStatus

__all__ = ["app"]

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_BYTES = 2**31

app = typer.Typer(no_args_is_help=True, help="Jobs of a service: for what takes longer than a request may.")

Url = Annotated[str, typer.Option("--url", envvar="LACONIC_URL", help="The service.")]
Key = Annotated[str | None, typer.Option("--key", envvar="LACONIC_KEY", help="The bearer key, where the service wants one.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="Default: the result's own name.")]


@app.command()
def submit(
    source: Input,
    op: Annotated[str, typer.Option("--op", metavar="encode|decode", help="What to do with it.")] = "encode",
    codec: CodecId = "auto",
    quality: Quality = None,
    effort: Effort = None,
    lossless: Lossless = False,
    target_bpp: TargetBpp = None,
    target_psnr: TargetPsnr = None,
    target_bytes: TargetBytes = None,
    target_kbps: TargetKbps = None,
    pairs: Pairs = None,
    media_type: Annotated[str | None, typer.Option("--type", help="Media type of a decoded file; default PNG or MP4.")] = None,
    callback: Annotated[str | None, typer.Option(help="URL that the service tells when the job is done.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's end.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Submit a file, and print the job's id."""
    from .options import EncodeOptions, settings_and_target
    from .uploads import UPLOAD_ABOVE

    options = EncodeOptions(codec, quality, effort, lossless, target_bpp, target_psnr, target_bytes, target_kbps, pairs or ())
    settings, _ = settings_and_target(options)
    targets = {"target_bpp": target_bpp, "target_psnr": target_psnr, "target_bytes": target_bytes, "target_kbps": target_kbps}
    given: dict[str, Any] = {**targets, **settings}
    if op == "decode" and codec != "auto":
        raise InvalidSettings("a decoding has no --codec: the file names its own")
    body = read_input(source, MAX_BYTES) if source == STANDARD else Path(source)
    large = (len(body) if isinstance(body, bytes) else body.stat().st_size) > UPLOAD_ABOVE
    with _client(url, key) as client:
        job = client.submit(body, codec, op, media_type=media_type, callback=callback, progress=large, **given)
        status = job.wait() if wait else job.status() if as_json else None
    if status is None:
        print(job.id)
    else:
        _print_status(status, as_json)
        _raise_error(status)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many of the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """List jobs, newest first."""
    with _client(url, key) as client:
        statuses = client.jobs(limit)
    if as_json:
        print(json.dumps([asdict(status) for status in statuses], indent=2))
        return
    rows = [(job.op, _state_text(job), _time_text(job.created), _result_text(job), job.id) for job in statuses]
    print_table("", ("op", "state", "submitted", "result", "job"), rows, left=4)  # ids, which people copy, are never wrapped


@app.command()
def show(job: Id, as_json: Json = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Show a job's status."""
    with _client(url, key) as client:
        _print_status(client.job(job).status(), as_json)


@app.command()
def wait(
    job: Id,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Wait for a job's end, with a bar on a terminal; the exit code is the job's."""
    with _client(url, key) as client:
        status = client.job(job).wait(timeout)
    _print_status(status, as_json)
    _raise_error(status)


@app.command()
def result(job: Id, output: Output = None, force: Force = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Wait for a job's result and write it to a file."""
    if output is not None:
        check_output(output, force)
    with _client(url, key) as client:
        status = client.job(job).wait()
        path = output or _result_name(status)
        if status.result is not None:
            check_output(path, force)
        content = client.job(job).result()
    write_output(path, content, force)
    note(f"{'standard output' if path == STANDARD else path}: {len(content):,} bytes")


@app.command()
def cancel(job: Id, as_json: Json = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Cancel a job; one that has ended stays as it is."""
    with _client(url, key) as client:
        _print_status(client.job(job).cancel(), as_json)


@contextmanager
def _client(url: str, key: str | None) -> Iterator[Client]:
    from .client import Client

    if not url.startswith(("http://", "https://")):
        raise InvalidSettings(f"--url is an http or https URL, not {url!r}")
    with Client(url, key) as client:
        yield client


def _print_status(status: JobStatus, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(status)))
        return
    shown = {name: value for name, value in asdict(status).items() if value not in (None, "", {})}
    shown["progress"] = f"{status.progress:.0%}"
    shown["options"] = ", ".join(f"{name}={value}" for name, value in status.options.items()) or "none"
    if status.result is not None:
        shown["result"] = _result_text(status)
    if status.error is not None:
        shown["error"] = f"{status.error.get('status')} {status.error.get('code')}: {status.error.get('detail')}"
    print_table("", ("", ""), [(name, str(value)) for name, value in shown.items()], left=2)


def _state_text(status: JobStatus) -> str:
    return f"{status.state} {status.progress:.0%}" if status.state == "running" else status.state


def _time_text(moment: str) -> str:
    """Return an RFC 3339 time in UTC without its fractions."""
    return moment.replace("T", " ").partition(".")[0]


def _result_text(status: JobStatus) -> str:
    found = status.result
    return "" if found is None else f"{found['name']}, {found['bytes']:,} bytes"


def _result_name(status: JobStatus) -> str:
    """Return the result's own name, without any folder; no name that the service gives leads elsewhere or is hidden."""
    name = str((status.result or {}).get("name", ""))
    return os.path.basename(name.replace("\\", "/")).lstrip(".-") or status.id


def _raise_error(status: JobStatus) -> None:
    from .protocol import error_of

    if status.error is not None:
        raise error_of(status.error, int(status.error.get("status", 500)), status.id)
    if status.state != "succeeded":
        raise ServiceError(f"job {status.id} is {status.state}")
