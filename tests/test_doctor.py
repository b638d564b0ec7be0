"""`laconic doctor`: a healthy installation passes, and each thing that can be wrong is found, with advice and an exit code."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from laconic import doctor, machine, trials
from laconic.cli import main
from laconic.codecs import weights
from laconic.codecs.errors import DeviceUnavailable
from laconic.doctor import examine, exit_status
from laconic.findings import Finding
from laconic.service.postgres import SCHEMA
from laconic.service.postgres_jobs import PostgresJobStore
from laconic.service.settings import ServiceSettings

from .stores import S3, Postgres

LIGHT = ("jpeg", "webp")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(f"LACONIC_{name.upper()}", raising=False)


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the installed weights, in their place."""
    for name in ("pins.json", *(f"image-transform-{number}.safetensors" for number in (1, 2, 3))):
        shutil.copy(str(files("laconic.weights").joinpath(name)), tmp_path / name)
    monkeypatch.setattr(weights, "files", lambda package: tmp_path)
    cached = (weights.load_weights, weights.pinned_weights)
    for function in cached:
        function.cache_clear()
    yield tmp_path
    for function in cached:
        function.cache_clear()


def found(check: str, *codecs: str) -> Finding:
    """The one finding of a check."""
    return next(finding for finding in examine(codecs=codecs) if finding.check == check)


def test_a_healthy_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr()
    for part in ("libraries", "device cpu", "weights image-transform", "codec image-lossless", "kernels", "temporary folder"):
        assert part in shown.out
    assert "0 failed" in shown.err


def test_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "codec_ids", lambda: ["webp"])
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert report["versions"]["torch"] and report["versions"]["laconic"] and report["versions"]["python"].startswith("3.")
    webp = next(finding for finding in report["findings"] if finding["check"] == "codec webp")
    assert webp["state"] == "ok" and webp["advice"] == "" and "every sample back" in webp["found"]


def test_it_tells_how_far_it_is() -> None:
    told: list[tuple[float, str]] = []
    examine(lambda done, stage: told.append((done, stage)), LIGHT)
    assert [done for done, _ in told] == sorted(done for done, _ in told) and told[0][0] == 0 < told[-1][0] < 1
    assert any("codec webp" in stage for _, stage in told)


def test_tampered_weights_end_with_5(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights_folder / "image-transform-2.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(doctor, "codec_ids", lambda: ["image-transform"])
    assert main(["doctor"]) == 5
    shown = " ".join(capsys.readouterr().out.split())
    assert "weights image-transform failed" in shown and "differs from the" in shown and "--force-reinstall" in shown


@pytest.mark.parametrize(
    ("removed", "check"), [("image-transform-2.safetensors", "weights image-transform"), ("pins.json", "weights")]
)
def test_missing_weights(weights_folder: Path, removed: str, check: str) -> None:
    (weights_folder / removed).unlink()
    findings = examine(codecs=["image-transform"])
    finding = next(finding for finding in findings if finding.check == check)
    assert finding.state == "failed" and "installed" in finding.found and "install" in finding.advice
    assert exit_status(findings) == 5


def test_an_inexact_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def inexact(device: str) -> None:
        raise DeviceUnavailable(f"device {device} does not compute integer convolutions exactly: 1, not 2")

    monkeypatch.setattr(trials, "check_exact", inexact)
    findings = examine(codecs=())
    cpu = next(finding for finding in findings if finding.check == "device cpu")
    assert cpu.state == "failed" and "exactly" in cpu.found and "LACONIC_DEVICE" in cpu.advice
    assert exit_status(findings) == 1


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert found("device cuda").state in ("ok", "warning")
    monkeypatch.setenv("LACONIC_DEVICE", "cuda")
    assert found("device cuda").state == "failed"


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = types.SimpleNamespace(name="A card", total_memory=80 * 2**30)
    asked: list[str] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: card)
    monkeypatch.setattr(trials, "check_exact", asked.append)
    finding = found("device cuda")
    assert finding.state == "ok" and "A card, 80.0 GiB" in finding.found and asked == ["cpu", "cuda"]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RuntimeError("cannot cache function 'f': no locator available for file 'x.py'"), "NUMBA_CACHE_DIR"),
        (ImportError("no module named imagecodecs"), "pip install"),
        (TypeError("a defect"), "bug"),
    ],
)
def test_a_codec_that_does_not_open(error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise error

    monkeypatch.setattr(trials, "codec_class", broken)
    finding = found("codec webp", "webp")
    assert finding.state == "failed" and str(error) in finding.found and advice in finding.advice


def test_a_codec_that_changes_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = trials.compress.decode

    def damaging(data: bytes, device: str) -> Any:
        signal = decode(data, device=device)
        signal.array[0, 0, 0] ^= 1
        return signal

    monkeypatch.setattr(trials.compress, "decode", damaging)
    findings = {finding.check: finding for finding in examine(codecs=("jpeg", "webp"))}
    assert findings["codec webp"].state == "failed" and "changed" in findings["codec webp"].found
    assert findings["codec jpeg"].state == "ok"


def test_settings_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_MAX_PIXELS", "many")
    findings = examine(codecs=())
    assert findings[0].state == "failed" and "LACONIC_MAX_PIXELS" in findings[0].found and exit_status(findings) == 1
    monkeypatch.setenv("LACONIC_MAX_PIXELS", "1000")
    assert "LACONIC_MAX_PIXELS" in found("settings").found and found("settings").state == "ok"


@pytest.mark.parametrize(
    ("installed", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("", ">=1", False),
        ("0.5.3", "~=0.5.0", True),
        ("0.6.0", "~=0.5.0", False),
        ("0.4.9", "~=0.5.0", False),
        ("1.26rc1", ">=1.26", True),
        ("3", "", True),
    ],
)
def test_versions_that_fit(installed: str, wanted: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_requirements", lambda: [("thing", wanted)])
    monkeypatch.setattr(doctor, "_installed", lambda name: installed)
    (finding,) = doctor._libraries()
    assert (finding.state == "ok") == fits and "thing" in finding.found


def test_requirements_are_those_of_the_package() -> None:
    wanted = dict(doctor._requirements())
    assert wanted["constriction"].startswith("~=") and wanted["torch"].startswith(">=") and "pytest" not in wanted


def test_threads_beyond_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_THREADS", "64")
    finding = found("processor")
    assert finding.state == "warning" and "LACONIC_THREADS" in finding.advice


@pytest.mark.parametrize(("free", "state"), [(10, "failed"), (200 * 2**20, "warning"), (2**40, "ok")])
def test_disks_that_fill(free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: free)
    assert found("temporary folder").state == state


def test_folders_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doctor, trials):
        monkeypatch.setattr(module, "is_writable", lambda folder: False)
    findings = {finding.check: finding for finding in examine(codecs=("image-lossless",))}
    assert findings["temporary folder"].state == "failed" and "TMPDIR" in findings["temporary folder"].advice
    assert findings["kernels"].state == "warning" and "NUMBA_CACHE_DIR" in findings["kernels"].advice


def test_what_a_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    cores, quota = machine.processors()
    assert cores == quota >= 1 and machine.memory_bytes() is None
    assert found("memory").state == "ok"
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.processors() == (cores, 0.5)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.processors() == (cores, cores)
    (tmp_path / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n")
    assert machine.memory_bytes() == 2_048_000_000
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("400000000\n")
    assert machine.memory_bytes() == 600_000_000
    assert found("memory").state == "warning"


def test_folders_and_files_that_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(ServiceSettings):
        keys_file: Path | None = None

    monkeypatch.setattr(doctor, "ServiceSettings", Settings)
    assert "file keys_file" not in {finding.check for finding in examine(codecs=())}
    monkeypatch.setenv("LACONIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LACONIC_KEYS_FILE", str(tmp_path / "keys"))
    assert found("folder state_dir").state == "ok" and str(tmp_path) in found("folder state_dir").found
    assert found("file keys_file").state == "failed" and "LACONIC_KEYS_FILE" in found("file keys_file").advice
    (tmp_path / "keys").touch()
    assert found("file keys_file").state == "ok"


def test_no_folder_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "nowhere")  # not absolute, so it does not count
    finding = found("folder state_dir")
    assert finding.state == "warning" and "LACONIC_STATE_DIR" in finding.advice


def test_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    assert machine.is_writable(inside) and machine.free_bytes(inside) == pytest.approx(machine.free_bytes(tmp_path), rel=0.01)
    (tmp_path / "file").touch()
    assert not machine.is_writable(tmp_path / "file" / "below")


def test_stores_that_settings_name(monkeypatch: pytest.MonkeyPatch, postgres: Postgres, s3: S3) -> None:
    url = postgres.url()
    monkeypatch.setenv("LACONIC_JOB_STORE", url)
    assert found("store job_store").state == "ok" and "without tables" in found("store job_store").found
    assert found("store blob_store").state == "warning"
    monkeypatch.setenv("LACONIC_BLOB_STORE", s3.url())
    PostgresJobStore(url, ServiceSettings()).close()
    assert f"schema {SCHEMA} of {SCHEMA}, 0 jobs" in found("store job_store").found
    assert found("store blob_store").state == "ok" and " 0 blobs" in found("store blob_store").found
    postgres.query(f"UPDATE {url.rpartition('%3D')[2]}.laconic SET version = 99")
    assert found("store job_store").state == "failed" and "newer" in found("store job_store").found


def test_stores_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_JOB_STORE", "postgresql://me:hush@127.0.0.1:1/laconic")
    monkeypatch.setenv("LACONIC_BLOB_STORE", "gs://bucket")
    for setting in ("job_store", "blob_store"):  # without the extra that is said
        finding = found(f"store {setting}")
        assert finding.state == "failed" and f"LACONIC_{setting.upper()}" in finding.advice and "hush" not in str(finding)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_JOB_STORE", "postgresql://127.0.0.1:1/laconic")
    monkeypatch.setenv("LACONIC_BLOB_STORE", "s3://bucket")
    for module in ("psycopg", "obstore"):
        monkeypatch.setitem(sys.modules, module, None)
    for setting in ("job_store", "blob_store"):
        assert "pip install 'laconic[cluster]'" in found(f"store {setting}").found
