"""`laconic bulk`: folders there and back, what is left alone, what fails, and what must not be followed."""

from __future__ import annotations

import doctest
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from laconic import bulk as module
from laconic import cli, places
from laconic.bulk import Encoding, Outcome, Task, Work, bulk, output_of
from laconic.codecs.container import is_laconic
from laconic.places import files_in

MEDIA = Path(__file__).resolve().parent / "media"
WEBP = Encoding("webp", {"quality": 50}, None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with pictures in it and below it, a text, hidden files, and links that lead out of it."""
    folder = tmp_path / "source"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for place in ("one.png", "a/two.png", "a/b/one.png", ".hidden/three.png"):
        shutil.copy(MEDIA / "photograph.png", folder / place)
    PIL.Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(folder / "one.bmp")
    (folder / "notes.txt").write_text("not a picture")
    (tmp_path / "outside").mkdir()
    shutil.copy(MEDIA / "photograph.png", tmp_path / "outside" / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.png")
    return folder


def tree(folder: Path) -> list[str]:
    """Every file of a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Mapping[str, Any], str]:
    """The exit code, the JSON summary and what went to standard error."""
    code = cli.main(["bulk", *map(str, arguments), "--json", "--jobs", "2"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else {}, printed.err


def test_a_folder_there_and_back(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, back = tmp_path / "files", tmp_path / "back"
    code, summary, complaints = run(capsys, source, files, "--codec", "webp", "--lossless")
    assert code == 1 and (summary["files"], summary["coded"], summary["skipped"]) == (5, 4, 0)
    assert [failure["file"] for failure in summary["failures"]] == ["notes.txt"] and "notes.txt: " in complaints
    names = ["a/b/one.png.lcn", "a/two.png.lcn", "one.bmp.lcn", "one.png.lcn"]
    assert tree(files) == names
    assert all(is_laconic((files / name).read_bytes()) for name in names)
    assert summary["output_bytes"] == sum((files / name).stat().st_size for name in names)
    assert (files / "one.png.lcn").stat().st_mtime_ns == (source / "one.png").stat().st_mtime_ns

    code, summary, _ = run(capsys, files, back, "--decode")
    assert code == 0 and summary["coded"] == 4
    assert tree(back) == ["a/b/one.png", "a/two.png", "one.bmp.png", "one.png"]
    with PIL.Image.open(source / "a" / "two.png") as before, PIL.Image.open(back / "a" / "two.png") as after:
        assert np.array_equal(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB")))


def test_what_is_there_stays_and_the_rest_is_made(source: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "a").mkdir(parents=True)
    (files / "a" / "two.png.lcn").write_bytes(b"mine")
    chosen: dict[str, Any] = {"patterns": ["*.png"]}
    summary = bulk(source, files, WEBP, **chosen)
    assert (summary.coded, summary.skipped, summary.failures) == (2, 1, [])
    assert (files / "a" / "two.png.lcn").read_bytes() == b"mine"
    summary = bulk(source, files, WEBP, **chosen, force=True)
    assert (summary.coded, summary.skipped) == (3, 0) and is_laconic((files / "a" / "two.png.lcn").read_bytes())


def test_what_is_taken(source: Path) -> None:
    assert [path.as_posix() for path in files_in(source)] == ["notes.txt", "one.bmp", "one.png", "a/two.png", "a/b/one.png"]
    assert "a/two.png" not in [path.as_posix() for path in files_in(source, without=source / "a")]


def test_outputs_within_the_source_are_not_inputs(source: Path) -> None:
    first = bulk(source, source / "a" / "out", WEBP, patterns=["*.png*"])
    again = bulk(source, source / "a" / "out", WEBP, patterns=["*.png*"])
    assert (first.coded, again.coded, again.skipped, again.files) == (3, 0, 3, 3)


def test_links_in_the_destination_lead_nowhere(source: Path, tmp_path: Path) -> None:
    files, outside = tmp_path / "files", tmp_path / "outside"
    files.mkdir()
    (files / "a").symlink_to(outside)
    (files / "one.png.lcn").symlink_to(outside / "new.lcn")
    summary = bulk(source, files, WEBP, patterns=["*.png"], force=True)
    assert [failure.file for failure in summary.failures] == ["a/b/one.png", "a/two.png", "one.png"]
    assert all("symbolic link" in failure.reason for failure in summary.failures)
    assert tree(outside) == ["secret.png"]


def test_damaged_files_fail_alone(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "files"
    assert run(capsys, source, files, "--codec", "webp", "--only", "*.png")[0] == 0
    damaged = files / "a" / "two.png.lcn"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    code, summary, complaints = run(capsys, files, tmp_path / "back", "--decode")
    assert code == 1 and summary["coded"] == 2 and complaints.count("\n") == 1
    assert [failure["file"] for failure in summary["failures"]] == ["a/two.png.lcn"]
    assert tree(tmp_path / "back") == ["a/b/one.png", "one.png"]


def test_two_files_for_one_output(source: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    bulk(source, files, WEBP, patterns=["one.png"])
    shutil.copy(files / "one.png.lcn", files / "one.lcn")
    summary = bulk(files, tmp_path / "back", None)
    assert summary.coded == 2 and [failure.file for failure in summary.failures] == ["one.png.lcn"]


def _dies(work: Work, task: Task) -> Outcome:
    """Stands for a codec that takes its process with it at one of the files."""
    if task.name.name == "two.png":
        os.kill(os.getpid(), 9)
    return Outcome(task, 1, 1)


def test_a_process_that_dies_takes_only_its_own_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    monkeypatch.syspath_prepend(Path(__file__).parent.parent)  # the processes import `_dies` from here
    monkeypatch.setattr(module, "attempt", _dies)
    monkeypatch.setattr(module, "_start", int)
    monkeypatch.setattr(module, "get_context", lambda name: multiprocessing.get_context("forkserver"))
    summary = bulk(source, tmp_path / "files", WEBP, patterns=["*.png"])
    assert summary.coded == 2 and [failure.file for failure in summary.failures] == ["a/two.png"]
    assert "a process died" in summary.failures[0].reason


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing", "out"], 1, "missing"),
        (["source", "out", "--decode", "--codec", "webp"], 2, "--decode"),
        (["source", "out", "--decode", "--to", "exe"], 1, "exe"),
        (["source", "out", "-q", "50", "--lossless"], 2, "quality"),
        (["source", "out", "--codec", "nothing"], 2, "nothing"),
        (["source", "out", "--codec", "webp", "--set", "colour=blue"], 2, "colour"),
    ],
)
def test_mistakes_end_it_at_once(
    arguments: list[str],
    code: int,
    said: str,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(source.parent)
    assert cli.main(["bulk", *arguments]) == code
    complaints = capsys.readouterr().err
    assert said in complaints and complaints.count("\n") == 1
    assert not Path("out").exists()


def test_names() -> None:
    assert doctest.testmod(module).failed == doctest.testmod(places).failed == 0
    assert output_of(Path("x.LCN"), ".webp") == Path("x.webp")
    with pytest.raises(NotADirectoryError):
        bulk(MEDIA / "photograph.png", MEDIA, WEBP)
