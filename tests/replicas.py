"""Run the service on Ray Serve with two replicas, check it and measure it beside uvicorn: scripts/ray-check calls it.

    replicas.py [--requests N] [--no-haproxy]

Prints a table of checks and one of times, and exits 1 if a check fails. Needs Ray (the extra `[ray]`), httpx, numpy and Pillow.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import PIL.Image

PHOTOGRAPH = (Path(__file__).resolve().parent.parent / "sdk" / "photograph.png").read_bytes()
SMALL = (Path(__file__).resolve().parent / "media" / "photograph.png").read_bytes()
CODECS = ("image-transform", "jpeg", "webp")
LACONIC = "application/vnd.laconic"
START_SECONDS = 420.0  # on a core that others use too
STOP_SECONDS = 60.0


@dataclass
class Running:
    """A service that runs: its first process, its URL, what it took to start, in seconds."""

    process: subprocess.Popen[bytes]
    url: str
    started_s: float
    log: Path

    def client(self) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, timeout=120)


@contextmanager
def running(engine: str, folder: Path, **settings: object) -> Iterator[Running]:
    """Run `laconic serve --engine ENGINE` on a free port with these settings; stop it at the end."""
    log = folder / f"{engine}-{time.monotonic_ns()}.log"
    extra = {f"LACONIC_{name.upper()}": str(value) for name, value in settings.items() if name.islower()}
    extra |= {name: str(value) for name, value in settings.items() if not name.islower()}
    environment = {**os.environ, "LACONIC_CODECS": ",".join(CODECS), "LACONIC_STATE_DIR": str(folder / "state"), **extra}
    command = [sys.executable, "-P", "-m", "laconic.cli", "serve", "--engine", engine, "--port", "0"]
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output, stdout=output, stdin=subprocess.DEVNULL, env=environment)
    try:
        url = _ready(process, log, began + START_SECONDS)
        yield Running(process, url, time.monotonic() - began, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("{") and '"listening"' in line:
                url = str(json.loads(line)["url"])
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        return url
                except httpx.TransportError:
                    pass
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start:\n{log.read_text(errors='replace')[-3000:]}")


def replicas(client: httpx.Client, wanted: int = 2, asks: int = 200) -> dict[str, str]:
    """Ask for metrics until so many replicas have answered; returns each one's exposition by its start time."""
    found: dict[str, str] = {}
    for _ in range(asks):
        text = client.get("/metrics").text
        (born,) = [line.split()[1] for line in text.splitlines() if line.startswith("process_start_time_seconds ")]
        found[born] = text
        if len(found) == wanted:
            break
    return found


def check_coding(client: httpx.Client) -> str:
    """Encode, inspect and decode with every codec; two encodings are the same bytes, whichever replica makes them."""
    shape = np.asarray(PIL.Image.open(io.BytesIO(SMALL)).convert("RGB")).shape
    names = {codec["id"] for codec in client.get("/v1/codecs").json()["codecs"]}
    assert set(CODECS) <= names, names
    for codec in CODECS:
        files = {client.post(f"/v1/encode?codec={codec}", content=SMALL).raise_for_status().content for _ in range(6)}
        (file,) = files
        facts = client.post("/v1/inspect", content=file).raise_for_status().json()
        assert facts["codec"] == codec, facts
        picture = client.post("/v1/decode", content=file, headers={"Accept": "image/png"}).raise_for_status().content
        assert np.asarray(PIL.Image.open(io.BytesIO(picture)).convert("RGB")).shape == shape
    return f"{len(CODECS)} codecs, each encoding 6 times the same bytes"


def check_problems(client: httpx.Client) -> str:
    """Ask for what is refused: every answer is a problem."""
    asked: list[tuple[int, httpx.Response]] = [
        (404, client.get("/nothing")),
        (405, client.get("/v1/encode")),
        (415, client.post("/v1/encode", content=b"no picture")),
        (422, client.post("/v1/encode?codec=jpeg&colour=blue", content=SMALL)),
        (406, client.post("/v1/decode", content=b"x", headers={"Accept": "text/html"})),
        (413, client.post("/v1/encode", content=b"x" * (33 * 2**20))),
        (404, client.get("/v1/jobs/nothing")),
    ]
    for status, answer in asked:
        _check_problem(answer, status)
    return f"{len(asked)} refusals, each a problem with one X-Request-Id"


def _check_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, (status, answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    assert answer.json()["status"] == status and answer.json()["request_id"] == answer.headers["x-request-id"]
    assert len(answer.headers.get_list("x-request-id")) == 1


def check_jobs(client: httpx.Client) -> str:
    """Submit jobs; either replica tells of each, and both run some of them."""
    codecs = [CODECS[number % len(CODECS)] for number in range(12)]
    made = [client.post(f"/v1/jobs?op=encode&codec={codec}", content=PHOTOGRAPH).raise_for_status().json() for codec in codecs]
    for codec, job in zip(codecs, made, strict=True):
        path = f"/v1/jobs/{job['id']}"
        deadline = time.monotonic() + 120
        while (status := client.get(f"{path}?wait=10").raise_for_status().json())["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, status
        assert status["state"] == "succeeded" and status["attempts"] == 1 and status["result"]["codec"] == codec, status
        sizes = {len(client.get(f"{path}/result").raise_for_status().content) for _ in range(4)}
        assert sizes == {status["result"]["bytes"]}
    last = client.get(f"/v1/jobs/{made[-1]['id']}/events").text
    assert "event: status" in last and '"succeeded"' in last
    told = [text for text in replicas(client).values() if 'route="/v1/jobs/{job}"' in text]
    ran = [text for text in replicas(client).values() if 'jobs_ended_total{op="encode",state="succeeded"}' in text]
    assert len(told) == 2, "only one replica was asked"
    return f"{len(made)} jobs, each run once; both replicas told of them, {len(ran)} ran some"


def check_overload(client: httpx.Client) -> str:
    """Ask for more at once than all queues hold, which is 8: the rest is a 429 with Retry-After. Liveness is timed beside."""
    slowest = 0.0

    def encode(_: int) -> httpx.Response:
        return client.post("/v1/encode?codec=image-transform", content=PHOTOGRAPH)

    with ThreadPoolExecutor(40) as pool, httpx.Client(base_url=client.base_url, timeout=60) as beside:
        answers = [pool.submit(encode, number) for number in range(40)]
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            assert beside.get("/livez").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.1)
    done = [answer.result() for answer in answers]
    refused = [answer for answer in done if answer.status_code != 200]
    assert 0 < len(refused) < len(done)
    for answer in refused:
        _check_problem(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1 and answer.json()["code"] == "queue-full", answer.text
    return (
        f"40 at once: {len(done) - len(refused)} coded, {len(refused)} refused with 429; /livez at most {1000 * slowest:.0f} ms"
    )


def check_proxy_refusals(client: httpx.Client) -> str:
    """Ask for more than Ray's own queue holds, of a service whose `max_connections` is 2: its proxy's refusals are problems."""
    with ThreadPoolExecutor(24) as pool:
        done = list(pool.map(lambda _: client.post("/v1/encode?codec=image-transform", content=PHOTOGRAPH), range(24)))
    refused = [answer for answer in done if answer.status_code != 200]
    assert 0 < len(refused) < len(done), [answer.status_code for answer in done]
    for answer in refused:
        _check_problem(answer, 429)
        assert "every replica" in answer.json()["detail"] and int(answer.headers["retry-after"]) >= 1, answer.text
    return f"24 at once: {len(done) - len(refused)} coded, {len(refused)} refused by Ray with 429 in our format"


def check_death(service: Running) -> str:
    """Kill a replica with signal 9 under load: the other goes on, and a new one comes."""
    with service.client() as client:
        before = replicas(client)
        victim = next(pid for pid in family(service.process.pid) if "ServeReplica" in _command(pid))
        os.kill(victim, signal.SIGKILL)
        began, statuses, now = time.monotonic(), [], before
        while time.monotonic() - began < 90 and (len(now) < 2 or now.keys() == before.keys()):
            for _ in range(20):
                answer = client.post("/v1/encode?codec=jpeg", content=SMALL)
                statuses.append(answer.status_code)
                if answer.status_code != 200:
                    assert answer.headers["content-type"] == "application/problem+json"
            now = replicas(client, asks=20)
        assert set(statuses[-20:]) == {200} and len(now) == 2, statuses
        seconds, failed = time.monotonic() - began, sum(status != 200 for status in statuses)
        return f"replaced after {seconds:.0f} s; of {len(statuses)} encodings meanwhile {failed} failed"


def check_drain(service: Running) -> str:
    """Send SIGTERM while six requests are coded: all are answered, and no process is left."""
    members = family(service.process.pid)
    with service.client() as client, ThreadPoolExecutor(6) as pool:
        path = "/v1/encode?codec=image-transform"
        asked = [pool.submit(client.post, path, content=PHOTOGRAPH) for _ in range(6)]
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        statuses = [answer.result().status_code for answer in asked]
    assert statuses == [200] * 6, statuses
    assert service.process.wait(STOP_SECONDS) == 0
    seconds = time.monotonic() - began
    time.sleep(2)
    left = [pid for pid in members if Path(f"/proc/{pid}").exists() and "zombie" not in _status(pid)]
    assert left == [], [_command(pid) for pid in left]
    return f"6 requests answered, ended after {seconds:.1f} s, no process left"


def family(pid: int) -> list[int]:
    """Return a process and all that come from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        mine = {int(word) for task in children.parent.parent.iterdir() for word in (task / "children").read_text().split()}
    except OSError:
        mine = set()
    return [pid, *(member for child in sorted(mine) for member in family(child))]


def memory_mib(pid: int) -> float:
    """Return the proportional set size of a process and all that come from it, in MiB."""
    total = 0
    for member in family(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def processor_s(pid: int) -> float:
    """Return the processor time of a process and all that come from it, in seconds."""
    total = 0
    for member in family(pid):
        try:
            words = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(words[11]) + int(words[12])
    return total / os.sysconf("SC_CLK_TCK")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "zombie"


def stream_of(kilobytes: int) -> bytes:
    """Return an .lcn file of about this size: noise in JPEG at the best quality."""
    from laconic.codecs import compress
    from laconic.codecs.signals import Image

    side = max(16, int((kilobytes * 1000 / 1.4) ** 0.5))
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return compress.encode(Image(noise), "jpeg", {"quality": 100}).data


def measure(client: httpx.Client, pid: int, requests: int, large: bytes, small: bytes) -> dict[str, tuple[float, float, float]]:
    """Return median and 95th percentile of the times of requests, one after another, and their mean processor time, in ms."""
    asks: Mapping[str, Callable[[], httpx.Response]] = {
        "GET /livez": lambda: client.get("/livez"),
        f"POST /v1/inspect, {len(small) / 1e3:.1f} kB": lambda: client.post("/v1/inspect", content=small),
        f"POST /v1/inspect, {len(large) / 1e6:.1f} MB": lambda: client.post("/v1/inspect", content=large),
        "POST /v1/encode?codec=jpeg, 64 × 64": lambda: client.post("/v1/encode?codec=jpeg", content=SMALL),
    }
    figures = {}
    for name, ask in asks.items():
        for _ in range(10):
            ask().raise_for_status()
        times, before = [], processor_s(pid)
        for _ in range(requests):
            began = time.perf_counter()
            ask().raise_for_status()
            times.append(1000 * (time.perf_counter() - began))
        used = 1000 * (processor_s(pid) - before) / requests
        figures[name] = (float(np.percentile(times, 50)), float(np.percentile(times, 95)), used)
    return figures


def throughput(client: httpx.Client, pid: int, requests: int) -> tuple[float, float]:
    """Encode the photograph with image-transform from 8 clients; return requests a second, and processor ms of each."""
    began, before = time.perf_counter(), processor_s(pid)
    with ThreadPoolExecutor(8) as pool:
        path = "/v1/encode?codec=image-transform"
        for answer in pool.map(lambda _: client.post(path, content=PHOTOGRAPH), range(requests)):
            answer.raise_for_status()
    return requests / (time.perf_counter() - began), 1000 * (processor_s(pid) - before) / requests


class Checks:
    """Runs checks and prints a line for each."""

    failed = 0

    def run(self, name: str, check: Callable[[], str]) -> None:
        """Run one check; what it raises is its failure."""
        try:
            text, state = check(), "ok"
        except Exception as error:
            text, state = f"{type(error).__name__}: {str(error)[:600]}", "FAILED"
            self.failed += 1
        print(f"| {name} | {state} | {text} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="requests of each kind that are timed")
    parser.add_argument("--no-haproxy", dest="haproxy", action="store_false", help="leave HAProxy mode out")
    options = parser.parse_args(arguments)
    checks, large, small = Checks(), stream_of(3000), stream_of(1)
    figures: dict[str, dict[str, tuple[float, float, float]]] = {}
    facts: dict[str, tuple[float, ...]] = {}

    def figure(name: str, service: Running) -> None:
        with service.client() as client:
            pid = service.process.pid
            figures[name] = measure(client, pid, options.requests, large, small)
            facts[name] = service.started_s, memory_mib(pid), *throughput(client, pid, 24)

    print("| check | | |\n|---|---|---|")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with running("uvicorn", folder) as service:
            figure("uvicorn", service)
        with running("uvicorn", folder, queue_size=8) as service, service.client() as client:
            checks.run("overload, uvicorn", lambda: check_overload(client))
        with running("ray", folder, ray_replicas=2) as service:
            with service.client() as client:
                for check in (check_coding, check_problems, check_jobs):
                    checks.run(check.__name__[6:], lambda check=check: check(client))  # type: ignore[misc]
            figure("Ray, 2 replicas", service)
            checks.run("death", lambda: check_death(service))
            checks.run("drain", lambda: check_drain(service))
        with running("ray", folder, ray_replicas=2, queue_size=4) as service, service.client() as client:
            checks.run("overload", lambda: check_overload(client))
        with running("ray", folder, ray_replicas=2, max_connections=2) as service, service.client() as client:
            checks.run("proxy's refusals", lambda: check_proxy_refusals(client))
        if options.haproxy:
            mode = {"RAY_SERVE_ENABLE_HA_PROXY": 1, "insecure": True}
            with running("ray", folder, ray_replicas=2, **mode) as service:
                with service.client() as client:
                    checks.run("coding, HAProxy", lambda: check_coding(client))
                    checks.run("problems, HAProxy", lambda: check_problems(client))
                figure("Ray, 2 replicas, HAProxy", service)
    _print(figures, facts)
    return 1 if checks.failed else 0


FACTS = (
    "start to ready, s",
    "memory of all processes (PSS), MiB",
    "photographs a second, image-transform, 8 clients",
    "processor time of each, ms",
)


def _print(figures: Mapping[str, Mapping[str, tuple[float, float, float]]], facts: Mapping[str, tuple[float, ...]]) -> None:
    print("\n| p50 / p95, processor time | " + " | ".join(figures) + " |\n|---|" + "---:|" * len(figures))
    for ask in next(iter(figures.values())):
        cells = ["{:.1f} / {:.1f}, {:.1f} ms".format(*figure[ask]) for figure in figures.values()]
        print(f"| `{ask}` | {' | '.join(cells)} |")
    for index, name in enumerate(FACTS):
        print(f"| {name} | " + " | ".join(f"{fact[index]:,.4g}" for fact in facts.values()) + " |")


if __name__ == "__main__":
    sys.exit(main())
