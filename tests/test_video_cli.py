"""The command line with videos: encode, decode, parts, salvage, inspect, test, bulk."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from laconic import cli
from laconic.codecs import container, media
from laconic.codecs.signals import Image, Video
from laconic.terminal import progress_bar

from .flipbooks import clip, clip_array, flipbook

__all__ = ["flipbook"]

Captured = pytest.CaptureFixture[str]
COUNT, HEIGHT, WIDTH = 10, 24, 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flipbook: str) -> Path:
    """The current folder, with clip.mkv, lossless, and clip.lcn that has three groups of frames."""
    monkeypatch.chdir(tmp_path)
    Path("clip.mkv").write_bytes(media.write(clip(COUNT), "ffv1"))
    assert cli.main(["encode", "clip.mkv", "--codec", "flipbook"]) == 0
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def facts(capsys: Captured, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def frames_of(path: str) -> np.ndarray:
    return np.load(path)


def damage(path: Path, *groups: int) -> None:
    content = bytearray(path.read_bytes())
    payloads = [chunk for chunk in container.describe(bytes(content)).chunks if chunk.type == "payload"]
    for group in groups:
        content[payloads[group].offset + 3] ^= 1
    path.write_bytes(content)


def test_there_and_back(folder: Path, capsys: Captured) -> None:
    assert run("decode", "clip.lcn", "-o", "back.npy") == 0
    assert "back.npy: 10 frames of 32 × 24, flipbook" in capsys.readouterr().err
    assert np.array_equal(frames_of("back.npy"), clip_array(COUNT))


def test_encode_json_has_both_rates(folder: Path, capsys: Captured) -> None:
    found = facts(capsys, "encode", "clip.mkv", "--codec", "flipbook", "-f")
    keys = {"codec", "input_bytes", "output_bytes", "encode_seconds", "bpp", "kbps", "settings", "device"}
    assert set(found) == keys
    size = (folder / "clip.lcn").stat().st_size
    assert found["output_bytes"] == size and found["bpp"] == pytest.approx(8 * size / (COUNT * HEIGHT * WIDTH), abs=1e-4)
    assert found["kbps"] == pytest.approx(8 * size / 1000 / (COUNT / 25), abs=1e-2)


def test_the_default_is_mp4_beside_the_input(folder: Path, capsys: Captured) -> None:
    found = facts(capsys, "decode", "clip.lcn")
    assert set(found) == {"codec", "decode_seconds", "shape", "rate", "lost", "device"}
    assert (found["codec"], found["shape"], found["rate"], found["lost"]) == ("flipbook", [10, 24, 32, 3], 25.0, [])
    video = media.read((folder / "clip.mp4").read_bytes())
    assert isinstance(video, Video) and video.shape == (COUNT, HEIGHT, WIDTH, 3) and video.rate == 25


@pytest.mark.parametrize("name", ["back.mp4", "back.webm", "back.mkv", "back.y4m"])
def test_the_format_is_the_extension(folder: Path, name: str) -> None:
    assert run("decode", "clip.lcn", "-o", name) == 0
    video = media.read((folder / name).read_bytes())
    assert isinstance(video, Video) and video.shape == (COUNT, HEIGHT, WIDTH, 3)
    assert np.abs(video.array.astype(int) - clip_array(COUNT)).mean() < 12


def test_a_zip_of_pictures(folder: Path) -> None:
    assert run("decode", "clip.lcn", "-o", "back.zip", "--frames", "2:5") == 0
    with zipfile.ZipFile("back.zip") as archive:
        pictures = [np.asarray(PIL.Image.open(io.BytesIO(archive.read(name)))) for name in sorted(archive.namelist())]
    assert np.array_equal(np.stack(pictures), clip_array(COUNT)[2:5])


@pytest.mark.parametrize(
    ("frames", "taken"), [("3:6", (3, 6)), (":2", (0, 2)), ("-3:", (7, 10)), ("8:-1", (8, 9)), (":", (0, 10))]
)
def test_frames(folder: Path, capsys: Captured, frames: str, taken: tuple[int, int]) -> None:
    found = facts(capsys, "decode", "clip.lcn", f"--frames={frames}", "-o", "part.npy")
    assert found["shape"] == [taken[1] - taken[0], HEIGHT, WIDTH, 3]
    assert np.array_equal(frames_of("part.npy"), clip_array(COUNT)[slice(*taken)])


@pytest.mark.parametrize("frames", ["5:3", "0:11", "10:", "-11:", "3", "a:b", "1:2:3", ""])
def test_frames_that_are_none(folder: Path, capsys: Captured, frames: str) -> None:
    assert run("decode", "clip.lcn", f"--frames={frames}", "-o", "part.npy") == 2
    assert capsys.readouterr().err.startswith("laconic: ") and not (folder / "part.npy").exists()


def test_formats_of_the_other_kind(folder: Path, capsys: Captured) -> None:
    assert run("decode", "clip.lcn", "-o", "back.png") == 1
    assert ".png files hold pictures, and this is a video" in capsys.readouterr().err
    Image(clip_array()[0]).save("photo.png")
    assert run("encode", "photo.png", "--codec", "webp") == 0
    assert run("decode", "photo.lcn", "-o", "photo.mp4") == 1
    assert run("decode", "photo.lcn", "-o", "more.png", "--frames", "0:1") == 2
    assert run("encode", "photo.png", "--codec", "flipbook", "-f") == 1
    assert "flipbook takes video, not image" in capsys.readouterr().err


def test_damage_is_named_and_salvaged(folder: Path, capsys: Captured) -> None:
    damage(folder / "clip.lcn", 1)
    assert run("decode", "clip.lcn", "-o", "back.npy") == 3
    capsys.readouterr()
    assert run("test", "clip.lcn") == 3
    said = capsys.readouterr().err
    assert "group of frames 1 of 3 is damaged" in said and "lost: frames 4 to 7 of 10" in said and "--salvage" in said
    assert run("decode", "clip.lcn", "-o", "back.npy", "--salvage") == 0
    assert "lost to damage: frames 4 to 7 of 10; they repeat" in capsys.readouterr().err
    expected = clip_array(COUNT)
    expected[4:8] = expected[3]
    assert np.array_equal(frames_of("back.npy"), expected)
    found = facts(capsys, "decode", "clip.lcn", "-o", "part.npy", "--salvage", "--frames", "6:9")
    assert found["lost"] == [[0, 2]] and found["shape"][0] == 3
    assert run("decode", "clip.lcn", "-o", "rest.npy", "--frames", "8:10") == 3


@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_a_truncated_file_is_salvaged(folder: Path, capsys: Captured, kept: float) -> None:
    content = (folder / "clip.lcn").read_bytes()
    (folder / "clip.lcn").write_bytes(content[: int(len(content) * kept)])
    assert run("test", "clip.lcn") == 3
    said = capsys.readouterr().err
    assert "; lost: frames" in said
    found = facts(capsys, "decode", "clip.lcn", "-o", "back.npy", "--salvage")
    first, last = found["lost"][0][0], found["lost"][-1][1]
    assert last == COUNT and np.array_equal(frames_of("back.npy")[:first], clip_array(COUNT)[:first])


def test_inspect(folder: Path, capsys: Captured) -> None:
    damage(folder / "clip.lcn", 0, 2)
    found = facts(capsys, "inspect", "clip.lcn")
    assert found["shape"] == [10, 24, 32, 3] and found["rate"] == 25 and found["seconds"] == 0.4
    assert found["groups"] == 3 and found["damaged"] == [0, 2]
    size = (folder / "clip.lcn").stat().st_size
    assert found["kbps"] == pytest.approx(8 * size / 400, abs=1e-2)
    assert run("inspect", "clip.lcn") == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("10 frames of 32 × 24", "rate 25.0", "seconds 0.4", "groups 3, 2 damaged", "damaged 0, 2", "sound none"):
        assert part in text


def test_standard_output_is_mp4(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    assert run("decode", "clip.lcn", "-o", "-") == 0
    assert media.read(out.buffer.getvalue()).shape == (COUNT, HEIGHT, WIDTH, 3)  # type: ignore[attr-defined]


def test_targets_in_kbps(folder: Path, capsys: Captured) -> None:
    most = 8 * (folder / "clip.lcn").stat().st_size / 400 * 0.8
    found = facts(capsys, "encode", "clip.mkv", "--codec", "flipbook", "--target-kbps", str(most), "-f")
    assert 0 < found["kbps"] <= most
    Image(clip_array()[0]).save("photo.png")
    assert run("encode", "photo.png", "--codec", "webp", "--target-kbps", "9") == 2
    assert run("encode", "clip.mkv", "--codec", "flipbook", "--target-kbps", "9", "--target-bpp", "1", "-f") == 2
    assert "--target-bpp and --target-kbps contradict each other" in capsys.readouterr().err


def test_an_animated_gif_is_a_video_unless_a_codec_of_pictures_is_named(folder: Path, capsys: Captured) -> None:
    first, *others = (PIL.Image.fromarray(frame) for frame in clip_array(3))
    first.save("moving.gif", save_all=True, append_images=others, duration=40)
    assert len(facts(capsys, "encode", "moving.gif", "--codec", "flipbook")) == 8
    assert container.describe((folder / "moving.lcn").read_bytes()).shape == (3, HEIGHT, WIDTH, 3)
    assert run("encode", "moving.gif", "--codec", "webp", "-o", "still.lcn") == 0
    assert container.describe((folder / "still.lcn").read_bytes()).shape == (HEIGHT, WIDTH, 3)


def test_bulk_takes_both_kinds(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    from laconic import bulk
    from laconic.places import Folder

    here = Folder(folder)
    Image(clip_array()[0]).save("photo.png")
    assert run("encode", "photo.png", "--codec", "webp", "--lossless") == 0
    assert bulk._ending_of(here, (), Path("clip.lcn")) == ".mp4"
    assert bulk._ending_of(here, ("webp", "webm"), Path("clip.lcn")) == ".webm"
    assert bulk._ending_of(here, ("webp", "webm"), Path("photo.lcn")) == ".webp"
    assert bulk._ending_of(here, ("npy",), Path("clip.lcn")) == ".npy"
    (folder / "broken.lcn").write_bytes(b"nothing")
    assert bulk._ending_of(here, ("webm",), Path("broken.lcn")) == ".png"
    outcome = bulk.attempt(bulk.Work(".", ".", None, "cpu", False), bulk.Task(Path("clip.lcn"), Path("back.npy")))
    assert outcome.reason == "" and outcome.after == (folder / "back.npy").stat().st_size
    assert np.array_equal(frames_of("back.npy"), clip_array(COUNT))


def test_frames_are_told_of_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar() as progress:
        assert progress is not None
        progress(0.5, "frame 5 of 10")
    assert "frame 5 of 10" in terminal.getvalue()
    assert run("encode", "clip.mkv", "--codec", "flipbook", "-f") == 0
    assert "flipping" in terminal.getvalue()
    assert run("decode", "clip.lcn", "-o", "back.npy") == 0
    assert "frame 10 of 10" in terminal.getvalue()


def test_codecs_say_what_they_take(flipbook: str, capsys: Captured) -> None:
    assert run("codecs", "--json") == 0
    entries = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries[flipbook]["signal"] == "video" and entries["webp"]["signal"] == "image"
