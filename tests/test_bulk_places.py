"""`laconic bulk` on object storage and on Ray: the files are those of folders on one machine, byte for byte."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from laconic import cli
from laconic.bulk import Encoding, bulk
from laconic.bulk_ray import RayEngine, _check_address
from laconic.codecs import object_storage
from laconic.codecs.container import is_laconic
from laconic.codecs.errors import DeviceUnavailable, InvalidSettings

from .stores import BUCKET, S3

MEDIA = Path(__file__).resolve().parent / "media"
WEBP = Encoding("webp", {"quality": 50}, None)
NAMES = ("one.png", "a/two.png", "a/b/ü one & two.png")
HAS_RAY = getattr(importlib.util.find_spec("ray"), "origin", None) is not None  # a mere folder called ray has none


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three pictures that differ, and a text."""
    folder = tmp_path / "source"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def sent(s3: S3, folder: Path) -> str:
    """The URL of objects that are the files of a folder."""
    url = s3.url()
    for name in files_of(folder):
        s3.put(f"{url}/{name}", (folder / name).read_bytes())
    return url


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Mapping[str, Any], str]:
    """The exit code, the JSON summary and what went to standard error."""
    code = cli.main(["bulk", *map(str, arguments), "--json", "--jobs", "2"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else {}, printed.err


def test_storage_there_and_back(source: Path, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, files, back = sent(s3, source), s3.url(), tmp_path / "back"
    code, summary, complaints = run(capsys, url, files, "--codec", "webp", "--lossless")
    assert code == 1 and (summary["files"], summary["coded"], summary["skipped"]) == (4, 3, 0)
    assert [failure["file"] for failure in summary["failures"]] == ["notes.txt"] and complaints.count("\n") == 1
    here = tmp_path / "files"
    assert bulk(source, here, Encoding("webp", {"lossless": True}, None)).coded == 3
    assert s3.objects(files) == files_of(here), "the same bytes as in a folder"
    assert summary["output_bytes"] == sum(map(len, files_of(here).values()))

    code, summary, _ = run(capsys, files, back, "--decode")
    assert (code, summary["coded"]) == (0, 3) and set(files_of(back)) == set(NAMES)
    for name in NAMES:
        with PIL.Image.open(source / name) as before, PIL.Image.open(back / name) as after:
            assert np.array_equal(np.asarray(before), np.asarray(after))
    again = s3.url()
    assert run(capsys, here, again, "--decode", "--to", "webp")[0] == 0
    assert {name[-5:] for name in s3.objects(again)} == {".webp"}


def test_what_is_there_stays_and_the_rest_is_made(source: Path, s3: S3) -> None:
    url, files = sent(s3, source), s3.url()
    s3.put(f"{files}/a/two.png.lcn", b"mine")
    summary = bulk(url, files, WEBP, patterns=["*.png"])
    assert (summary.coded, summary.skipped, summary.failures) == (2, 1, [])
    assert s3.objects(files)["a/two.png.lcn"] == b"mine"
    again = bulk(url, f"{files}/", WEBP, patterns=["*.png"])
    assert (again.coded, again.skipped) == (0, 3)
    forced = bulk(url, files, WEBP, patterns=["*.png"], force=True)
    assert (forced.coded, forced.skipped) == (3, 0) and is_laconic(s3.objects(files)["a/two.png.lcn"])


def test_what_is_no_input(s3: S3) -> None:
    """Hidden names, outputs below the source, and the empty objects that consoles make for folders."""
    url = s3.url()
    picture = (MEDIA / "photograph.png").read_bytes()
    for name in ("a/one.png", ".hidden/two.png", "a/.three.png"):
        s3.put(f"{url}/{name}", picture)
    for name in ("a/", "empty/", "v1.2/", "v1.2/four.txt"):
        s3.put(f"{url}/{name}", b"")
    summary = bulk(url, f"{url}/out", WEBP)
    assert (summary.coded, [failure.file for failure in summary.failures]) == (1, ["v1.2/four.txt"])
    assert set(s3.objects(f"{url}/out")) == {"a/one.png.lcn"}
    assert bulk(url, f"{url}/out", WEBP, patterns=["*"]).files == 2


def test_damaged_and_large_objects_fail_alone(source: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "files"
    bulk(source, files, WEBP, patterns=["*.png"])
    url = sent(s3, files)
    damaged = (files / "a" / "two.png.lcn").read_bytes()[:-20]
    s3.put(f"{url}/a/two.png.lcn", damaged)
    back = s3.url()
    summary = bulk(url, back, None)
    assert summary.coded == 2 and [failure.file for failure in summary.failures] == ["a/two.png.lcn"]
    assert len(s3.objects(back)) == 2
    with pytest.raises(Exception, match="max_input_bytes"):
        object_storage.Bucket(url).read("a/two.png.lcn", len(damaged) - 1)
    assert object_storage.Bucket(url).read("a/two.png.lcn", len(damaged)) == damaged


def test_storage_that_breaks_down_is_told_of_each_file(s3: S3, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing answers, and then the storage is gone: every file says so, and nothing hangs."""
    from laconic import bulk as module

    monkeypatch.setattr(object_storage, "RETRIES", {"max_retries": 0})
    url = sent(s3, source)
    attempts = []

    def gone(work: Any, task: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            module._place.cache_clear()
            attempts.append(module.attempt(work, task))
            return attempts[-1]

    def engine(work: Any, tasks: Any) -> Any:
        return (gone(work, task) for task in tasks)

    summary = bulk(url, s3.url(), WEBP, patterns=["*.png"], engine=engine)
    module._place.cache_clear()
    assert summary.coded == 0 and len(summary.failures) == len(attempts) == 3
    assert all(failure.reason.startswith("the object storage: ") for failure in summary.failures)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["s3://there-is-none/x", "out"], 1, "NoSuchBucket"),
        ([".", "s3://there-is-none/x"], 1, "NoSuchBucket"),
        (["gs://bucket/x", "out"], 2, "s3://bucket/prefix"),
        (["s3://", "out"], 2, "s3://"),
        ([".", "out", "--gpus", "1"], 2, "--engine ray"),
        ([".", "out", "--engine", "spark"], 2, "spark"),
        ([".", "out", "--engine", "ray", "--gpus", "1.5"], 2, "--gpus"),
        ([".", "out", "--engine", "ray", "--gpus", "nan"], 2, "--gpus"),
        ([".", "out", "--engine", "ray", "--device", "cuda"], 2, "--gpus"),
    ],
)
def test_mistakes_end_it_at_once(
    arguments: list[str],
    code: int,
    said: str,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(object_storage, "RETRIES", {"max_retries": 0})
    shutil.copy(MEDIA / "photograph.png", "photograph.png")
    assert cli.main(["bulk", *arguments, "--codec", "webp"]) == code
    complaints = capsys.readouterr().err
    assert said in complaints and "Traceback" not in complaints
    assert not Path("out").exists()


def test_without_the_extras_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidSettings, match=r"laconic\[ray\]"):
        RayEngine(None, 0, "auto")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InvalidSettings, match=r"laconic\[cluster\]"):
        bulk(tmp_path, f"s3://{BUCKET}/x", WEBP)


def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9"):
        with pytest.raises(DeviceUnavailable, match="where no cluster answers"):
            _check_address(address)
    _check_address("auto")


KILLED = """
import contextlib, json, os, sys
from laconic import bulk_ray
from laconic.bulk import Encoding, bulk

class Coder(bulk_ray._Coder):
    def __init__(self, work):
        from laconic import bulk_ray

        super().__init__(work)
        attempt = bulk_ray.attempt
        bulk_ray.attempt = lambda work, task: os.kill(os.getpid(), 9) if task.name.name == "two.png" else attempt(work, task)

bulk_ray._Coder, bulk_ray.BLOCKS = Coder, 1  # so that a block has several files
with contextlib.redirect_stdout(sys.stderr):
    summary = bulk(*sys.argv[1:], Encoding("webp", {"quality": 50}, None), engine=bulk_ray.RayEngine(1, 0, "cpu"))
print(json.dumps(summary.facts()))
"""


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
class TestRay:
    def run(self, *command: str | Path, code: int) -> Mapping[str, Any]:
        """What a process of its own prints, so that nothing of Ray is left in this one."""
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        asked = [sys.executable, "-P", *map(str, command)]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == code, done.stderr
        return dict(json.loads(done.stdout))

    def test_the_files_are_those_of_one_machine(self, source: Path, s3: S3, tmp_path: Path) -> None:
        here, there = tmp_path / "here", s3.url()
        how = ("-m", "laconic.cli", "bulk", sent(s3, source / "a"), there, "--codec", "webp", "--json")
        bulk(source / "a", here, Encoding("webp", {}, None))
        summary = self.run(*how, "--engine", "ray", "-j", "2", code=0)
        assert (summary["files"], summary["coded"], summary["skipped"]) == (2, 2, 0)
        assert s3.objects(there) == files_of(here)

    def test_a_process_that_dies_takes_only_its_own_file(self, source: Path, tmp_path: Path) -> None:
        os.mkdir(source / os.fsdecode(b"\xff"))  # no UTF-8
        shutil.copy(source / "one.png", source / os.fsdecode(b"\xff") / "one.png")
        script = tmp_path / "killed.py"
        script.write_text(KILLED)
        files = tmp_path / "files"
        summary = self.run(script, source, files, code=0)
        failed = {failure["file"]: failure["reason"] for failure in summary["failures"]}
        assert summary["coded"] == 3 and set(failed) == {"a/two.png", "notes.txt"}
        assert "a process died" in failed["a/two.png"] and "died" not in failed["notes.txt"]
        bulk(source, tmp_path / "here", WEBP)
        expected = {name: content for name, content in files_of(tmp_path / "here").items() if name[-11:] != "two.png.lcn"}
        expected |= {name: content for name, content in files_of(files).items() if name == "a/b/ü one & two.png.lcn"}
        assert files_of(files) == expected
