"""Run an image that is mounted at ROOT as an orchestrator would, check it, and print a table: scripts/container-check calls it.

    container.py ROOT IMAGE.json

IMAGE.json is what `buildah inspect --type image` prints. The container has a read-only root, user 10001, no capabilities, no
new privileges, and namespaces of its own for processes, mounts and the network. Exits 1 if a check fails.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
PHOTOGRAPH = HERE.parent / "sdk" / "photograph.png"
URL = "http://127.0.0.1:8000"
LARGEST = 1.5e9  # bytes of the CPU image
START_SECONDS = 20.0
STOP_SECONDS = 40.0  # what compose.yaml allows
JOB_SECONDS = 300.0

# Arguments: the root, the folders that must be writable, the working folder, then `NAME=VALUE`... and the command.
ISOLATE = """
root=$1 volumes=$2 folder=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev,size=1g tmpfs "$root/tmp"
for volume in $volumes; do mount -t tmpfs -o mode=700,uid=10001,gid=10001,noexec,nosuid,nodev tmpfs "$root$volume"; done
mount -o remount,bind,ro "$root"
ip link set lo up
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    env -i -C "$folder" "$@"
"""


class Container:
    """A running container: `pid` is its first process as this machine sees it, `log` its standard error."""

    def __init__(self, root: str, config: dict[str, Any], log: Path) -> None:
        self.log = log
        volumes = " ".join(config.get("Volumes") or {})
        environment = [*config["Env"], "LACONIC_INSECURE=true"]
        command = [*(config.get("Entrypoint") or []), *config["Cmd"]]
        namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
        isolated = ["unshare", *namespaces, "sh", "-ec", ISOLATE, "sh"]
        self.began = time.monotonic()
        with log.open("wb") as stderr:
            self.outer = subprocess.Popen(
                [*isolated, root, volumes, config["WorkingDir"] or "/", *environment, *command], stderr=stderr
            )
        self.pid = self._inner()

    def _inner(self) -> int:
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children")
        while not (found := children.read_text().split()):
            if self.outer.poll() is not None:
                raise SystemExit(f"the container does not start: {self.log.read_text()}")
            time.sleep(0.01)
        return int(found[0])

    def run(self, *command: str, root: bool = True, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the container's namespaces, as its user and in its file system unless `root` is false."""
        entered = ["nsenter", "--target", str(self.pid), "--net"]
        if root:
            entered += ["--mount", "--pid", "--root", "--wd", "--setuid", "10001", "--setgid", "10001"]
        return subprocess.run([*entered, *command], capture_output=True, check=False, **options)

    def curl(self, path: str, *options: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return the status and the body of an answer; 0 where there is none."""
        sent = ["--data-binary", "@-"] if body is not None else []
        done = self.run(
            "curl",
            "-s",
            "--max-time",
            "120",
            "-w",
            "%{stderr}%{http_code}",
            *options,
            *sent,
            URL + path,
            root=False,
            input=body,
        )
        return int(done.stderr or b"0"), done.stdout

    def wait_ready(self, seconds: float = 180.0) -> float:
        """Wait for /readyz to answer 200; returns the seconds since the start."""
        while self.curl("/readyz")[0] != 200:
            if self.outer.poll() is not None or time.monotonic() > self.began + seconds:
                raise SystemExit(f"the container does not get ready: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return time.monotonic() - self.began

    def events(self) -> list[dict[str, Any]]:
        """Return the log's lines."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def status(self) -> dict[str, str]:
        """Return what the kernel says of the first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextmanager
def running(root: str, config: dict[str, Any]) -> Iterator[Container]:
    """Start the container; what is left of it when the block ends is killed."""
    with tempfile.TemporaryDirectory() as folder:
        container = Container(root, config, Path(folder) / "log")
        try:
            yield container
        finally:
            container.outer.kill()  # takes the container's first process, and so all, with it
            container.outer.wait()


class Table:
    """Rows of what was checked."""

    def __init__(self) -> None:
        self.failed = 0

    def row(self, name: str, measured: object, fine: bool = True) -> None:
        """Print one row."""
        self.failed += not fine
        print(f"{'ok  ' if fine else 'FAIL'}  {name:<44}  {measured}", flush=True)


def check_image(table: Table, root: str, config: dict[str, Any]) -> None:
    """What can be said of the image without running it."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            entry = os.lstat(os.path.join(folder, name))
            seen[entry.st_dev, entry.st_ino] = entry.st_size
    size = sum(seen.values())
    variant = config["Labels"]["laconic.variant"]
    table.row("size", f"{size / 1e6:,.0f} MB", variant != "cpu" or size < LARGEST)
    table.row("user, stop signal", f"{config['User']}, {config['StopSignal']}", config["User"].startswith("10001"))
    secrets = [entry for entry in config["Env"] if entry.startswith("PIP_")]
    left = [path.name for place in ("opt", "build", "mnt") for path in Path(root, place).glob("*") if path.name != "laconic"]
    left += [path.name for path in Path(root, "run").glob("*.pem")]
    table.row("nothing of the build is left", (secrets + left) or "nothing", not secrets + left)
    bill = json.loads(Path(root, "usr/share/laconic/sbom.json").read_text())
    versions = {part["name"].lower(): part["version"] for part in bill["components"]}
    installed = {
        path.name.split("-")[0].lower() for path in Path(root, "opt/laconic/lib").glob("python3*/site-packages/*.dist-info")
    }
    listed = {name.replace("-", "_").replace(".", "_") for name in versions} | {bill["metadata"]["component"]["name"]}
    table.row("SBOM", f"CycloneDX {bill['specVersion']}, {len(versions)} parts, torch {versions['torch']}", installed <= listed)


def check_isolation(table: Table, container: Container) -> None:
    """That the process is as weak as it was meant to be."""
    status = container.status()
    ids = {*status["Uid"].split(), *status["Gid"].split()}
    weak = ids == {"10001"} and int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1"
    table.row("user, capabilities", f"{'/'.join(sorted(ids))}, {status['CapBnd']}", weak)
    refused = container.run("touch", "/usr/x").returncode != 0 and container.run("touch", "/opt/laconic/x").returncode != 0
    table.row("root is read-only", "yes" if refused else "no", refused)


def _photograph() -> tuple[np.ndarray[Any, Any], bytes]:
    content = PHOTOGRAPH.read_bytes()
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB")), content


def _clip() -> tuple[np.ndarray[Any, Any], bytes]:
    """Eight frames of a part of the photograph that moves to the left."""
    photograph, _ = _photograph()
    frames = np.stack([photograph[:64, 2 * step : 2 * step + 96] for step in range(8)])
    file = io.BytesIO()
    np.save(file, frames)
    return frames, file.getvalue()


def _tone() -> tuple[np.ndarray[Any, Any], bytes]:
    """A second of two tones, at 16 kHz."""
    at = np.arange(16_000) / 16_000
    samples = (6000 * np.sin(2 * np.pi * 220 * at) + 3000 * np.sin(2 * np.pi * 660 * at)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(samples.tobytes())
    return samples[None], file.getvalue()


SOURCES = {"image": _photograph, "video": _clip, "audio": _tone}  # samples as decoding gives them, and the file


def _at_once(container: Container, query: str, body: bytes) -> tuple[int, bytes]:
    return container.curl(f"/v1/encode?{query}", body=body)


def _as_job(container: Container, query: str, body: bytes) -> tuple[int, bytes]:
    """Encode with a codec that fits in steps; returns the status and the body of the result."""
    status, text = container.curl(f"/v1/jobs?op=encode&{query}", body=body)
    if status != 202:
        return status, text
    links, deadline = json.loads(text)["links"], time.monotonic() + JOB_SECONDS
    while json.loads(container.curl(f"{links['self']}?wait=20")[1])["state"] in ("queued", "running"):
        if time.monotonic() > deadline:
            return 0, b"the job does not end"
    return container.curl(links["result"])


def check_codecs(table: Table, container: Container) -> None:
    """Codecs that lose nothing return the photograph, others come near it; golden streams decode to their digests."""
    npy = ("-H", "Accept: application/x-npy")
    for entry in json.loads(container.curl("/v1/codecs")[1])["codecs"]:
        codec, signal = entry["id"], entry["signal"]
        lossless = "&lossless=true" if "lossless" in entry["settings"]["properties"] else ""
        source, body = SOURCES[signal]()
        began = time.monotonic()
        brief = "&seconds=20" if "seconds" in entry["settings"]["properties"] else "&effort=1" if entry["job"] else ""
        encoded, stream = (_as_job if entry["job"] else _at_once)(container, f"codec={codec}{lossless}{brief}", body)
        between = time.monotonic()
        decoded, samples = container.curl("/v1/decode", *npy, body=stream)
        ended = time.monotonic()
        if (encoded, decoded) != (200, 200):
            table.row(codec, f"statuses {encoded}, {decoded}: {(stream if encoded != 200 else samples)[:200]!r}", False)
            continue
        restored = np.load(io.BytesIO(samples), allow_pickle=False)
        error = float(np.square(source.astype(float) - restored).mean()) if restored.shape == source.shape else float("inf")
        shown = "exact" if error == 0 else f"{10 * np.log10(np.square(np.ptp(source.astype(float))) / error):.2f} dB"
        times = f"encode {between - began:.2f} s, decode {ended - between:.2f} s"
        silence = float(np.square(source.astype(float)).mean())  # a codec of speech keeps of tones hardly more than their sound
        fine = error == 0 if entry["lossless"] else error < (silence if signal == "audio" else 65)
        table.row(codec, f"{len(stream):,} bytes, {shown}, {times}", fine)
    digests = json.loads((GOLDEN / "digests.json").read_text())
    pinned = {name: entry["pixels"] for name, entry in digests.items() if "pixels" in entry}
    wrong = []
    for name, expected in sorted(pinned.items()):
        status, samples = container.curl("/v1/decode", *npy, body=(GOLDEN / f"{name}.lcn").read_bytes())
        if status != 200 or hashlib.sha256(np.load(io.BytesIO(samples), allow_pickle=False).tobytes()).hexdigest() != expected:
            wrong.append(f"{name} ({status})")
    table.row("golden streams", ", ".join(wrong) or f"{len(pinned)} decode to their digests", not wrong)


def check_stop(table: Table, container: Container) -> None:
    """SIGTERM in the midst of a request: it is answered, and the service leaves with status 0."""
    entered = ["nsenter", "--target", str(container.pid), "--net", "curl", "-s", "-o", os.devnull, "-w", "%{http_code}"]
    slow = [*entered, "--data-binary", f"@{PHOTOGRAPH}", f"{URL}/v1/encode?codec=image-lossless"]
    with subprocess.Popen(slow, stdout=subprocess.PIPE) as request:
        time.sleep(0.5)
        began = time.monotonic()
        os.kill(container.pid, signal.SIGTERM)
        refused = container.curl("/readyz")[0]
        answer, _ = request.communicate()
    try:
        code = container.outer.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        table.row("SIGTERM", f"still there after {STOP_SECONDS:.0f} s", False)
        return
    seconds = time.monotonic() - began
    answered = (refused, answer) == (503, b"200")
    table.row("SIGTERM during a request", f"/readyz {refused}, the request {answer.decode()}", answered)
    table.row("exit", f"code {code} after {seconds:.1f} s", code == 0)


def check_start(table: Table, container: Container, config: dict[str, Any]) -> None:
    """It gets ready in time, and the image's own health check sees when."""
    health = config["Healthcheck"]["Test"][1:]
    path = next(entry for entry in config["Env"] if entry.startswith("PATH="))
    while container.curl("/livez")[0] != 200 and container.outer.poll() is None:
        time.sleep(0.1)
    before = container.run("/usr/bin/env", path, *health).returncode
    seconds = container.wait_ready()
    table.row("start to ready", f"{seconds:.1f} s", seconds < START_SECONDS)
    after = container.run("/usr/bin/env", path, *health).returncode
    table.row("health check while it starts, when ready", f"exit codes {before}, {after}", before == 1 and after == 0)
    live = container.curl("/livez")[0]
    table.row("/livez", live, live == 200)


def check_kernels(table: Table, container: Container) -> None:
    """All that was needed until now had been compiled when the image was built."""
    events = container.events()
    warm = [f"{event['codec']} {event['seconds']:.1f} s" for event in events if event["event"] == "codec warm"]
    broken = [event["codec"] for event in events if event["event"] in ("codec broken", "codec missing")]
    table.row("warmed beside requests", ", ".join(warm + [f"broken: {codec}" for codec in broken]), not broken)
    places = ("/opt/laconic/kernels", "/tmp/numba")
    built, used = (container.run("find", place, "-name", "*.nbc", "-printf", "%f\n").stdout.split() for place in places)
    late = sorted(name.decode() for name in set(used) - set(built))
    shown = ", ".join([f"{len(built)}, {len(used)}", *late[:4]])
    table.row("kernels in the image, in use", shown, len(built) == len(used) > 0)


def main() -> int:
    """Check everything."""
    root, image = sys.argv[1:]
    config = json.loads(Path(image).read_text())["Docker"]["config"]
    table = Table()
    check_image(table, root, config)
    with running(root, config) as container:
        check_start(table, container, config)
        check_isolation(table, container)
        check_codecs(table, container)
        check_kernels(table, container)
        table.row("most memory", f"{int(container.status()['VmHWM'].split()[0]) / 1000:,.0f} MB")
        check_stop(table, container)
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
