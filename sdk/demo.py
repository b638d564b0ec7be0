"""`laconic serve --demo`: a photograph goes through a service and back, and its figures stand beside other codecs'."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from queue import Empty, Queue
from typing import IO, cast

import httpx
import numpy as np

from .client import Client
from .codecs import media
from .codecs.errors import LaconicError
from .codecs.metrics import psnr
from .codecs.signals import Image
from .compare import Entry, measure
from .errors import ServiceError
from .terminal import note, print_table, progress_bar

__all__ = ["PEERS", "run_demo", "running_service"]

PEERS = ("jpeg", "webp", "avif")
START_SECONDS = 180.0  # a cold start reads weights and may compile kernels
STOP_SECONDS = 40.0


def run_demo(device: str = "auto") -> None:
    """Start a service on a free port, send it the bundled photograph, print the figures; raises `ServiceError`."""
    photograph = files("laconic").joinpath("photograph.png").read_bytes()
    original = cast(Image, media.read(photograph))
    note("starting the service ...")
    with running_service(device) as url:
        ours = _through(url, photograph, original)
    height, width = original.shape[:2]
    note(f"a photograph of {width} × {height} pixels went through {url} and came back; coding it as others would ...")
    peers = _peers(original, ours)
    _print(original, ours, peers)


@contextmanager
def running_service(device: str = "auto") -> Iterator[str]:
    """Run the service in a process of its own on a free port, and yield its URL once it is ready."""
    command = [sys.executable, "-P", "-m", "laconic.cli", "serve", "--host", "127.0.0.1", "--port", "0", "--device", device]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            log: Queue[str] = Queue()
            threading.Thread(target=_drain, args=(process.stderr, log), daemon=True).start()
            deadline = time.monotonic() + START_SECONDS
            url = _listening(process, log, deadline)
            _wait_until_ready(process, url, deadline)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _drain(stream: IO[str], log: Queue[str]) -> None:
    """Keep reading the service's log, so that it never blocks on a full pipe."""
    for line in stream:
        log.put(line)


def _listening(process: subprocess.Popen[str], log: Queue[str], deadline: float) -> str:
    """Return the URL that the log names; raises `ServiceError` with the log's last line."""
    last = "it says nothing"
    while time.monotonic() < deadline:
        try:
            last = log.get(timeout=0.1)
        except Empty:
            if process.poll() is not None:
                raise ServiceError(f"the service ends with exit code {process.returncode}: {last.strip()}") from None
            continue
        try:
            event = json.loads(last)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "listening":
            return str(event["url"])
    raise ServiceError(f"the service does not listen: {last.strip()}")


def _wait_until_ready(process: subprocess.Popen[str], url: str, deadline: float) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServiceError(f"the service ends with exit code {process.returncode} while it starts")
            try:
                if http.get("/readyz", timeout=5.0).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise ServiceError(f"{url} is not ready after {START_SECONDS:g} s")


def _through(url: str, photograph: bytes, original: Image) -> Entry:
    """Post the photograph, post back what came, and return the figures."""
    with Client(url) as client:
        start = time.perf_counter()
        stream = client.encode(photograph)
        middle = time.perf_counter()
        decoded = client.decode(stream)
        end = time.perf_counter()
        codec = client.inspect(stream).codec
    if not isinstance(decoded, Image) or decoded.shape != original.shape or decoded.array.dtype != np.uint8:
        raise ServiceError(f"a picture of shape {original.shape} came back as {decoded.shape}")
    quality = psnr(original, decoded)
    return Entry(codec, {}, len(stream), quality, middle - start, end - middle, decoded, len(stream))


def _peers(original: Image, ours: Entry) -> list[Entry]:
    entries = []
    chosen = [codec for codec in PEERS if codec != ours.codec]
    with progress_bar() as progress:
        for index, codec in enumerate(chosen):
            if progress:
                progress(index / len(chosen), codec)
            try:
                entries.append(measure(original, codec, ours.psnr, "cpu"))
            except LaconicError as error:
                note(f"{codec} is missing: {error}")
    return sorted(entries, key=lambda entry: entry.even_bytes)


def _print(original: Image, ours: Entry, peers: Sequence[Entry]) -> None:
    columns = ("codec", "bytes", "ratio", "bits/pixel", "PSNR dB", "encode s", "decode s", f"against {ours.codec}")
    rows = [_row(ours, f"*{ours.codec}", "")]
    rows += [_row(entry, entry.codec, f"{100 * (entry.even_bytes / ours.bytes - 1):+.1f} %") for entry in peers]
    print_table(f"{original.array.nbytes:,} bytes of samples, all at the same PSNR", columns, rows)
    compared = [f"{_difference(ours.bytes / entry.even_bytes)} than {entry.codec}" for entry in peers]
    print(f"{ours.codec} is {', '.join(compared)}.")
    print("The first row went through the service and includes HTTP. Others overshoot the PSNR by part of a quality step,")
    print("which the percentages leave out.")


def _row(entry: Entry, name: str, against: str) -> tuple[str, ...]:
    figures = (f"{entry.bytes:,}", f"{entry.ratio:.1f}", f"{entry.bpp:.3f}", f"{entry.psnr:.2f}")
    return (name, *figures, f"{entry.encode_seconds:.3f}", f"{entry.decode_seconds:.3f}", against)


def _difference(part: float) -> str:
    return f"{100 * (1 - part):.1f} % smaller" if part <= 1 else f"{100 * (part - 1):.1f} % larger"
