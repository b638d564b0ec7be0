"""The command line, in this process through `main`, and in a few real processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from laconic import cli
from laconic.codecs import compress, container, media
from laconic.codecs.codec import Stream
from laconic.codecs.errors import LimitExceeded, WeightsMissing

from .pictures import photograph

PICTURE = photograph(48, 64)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photo.png in it, which is the current one."""
    PICTURE.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def encoded(folder: Path) -> bytes:
    assert run("encode", "photo.png", "--codec", "webp", "-q", "60") == 0
    return (folder / "photo.lcn").read_bytes()


class StandardStream(io.TextIOWrapper):
    """A standard stream of bytes that may claim to be a terminal."""

    def __init__(self, content: bytes = b"", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_round_trip_with_default_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "photo.png", "--codec", "webp", "--lossless") == 0
    assert "webp" in capsys.readouterr().err
    assert run("decode", "photo.lcn", "-f") == 0
    assert (media.read((folder / "photo.png").read_bytes()).array == PICTURE.array).all()
    assert sorted(path.name for path in folder.iterdir()) == ["photo.lcn", "photo.png"]


def test_encode_json_has_exactly_its_keys(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "photo.png", "--codec", "webp", "-q", "60", "-e", "3", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert set(result) == {"codec", "input_bytes", "output_bytes", "encode_seconds", "bpp", "settings", "device"}
    size = (folder / "photo.lcn").stat().st_size
    assert result["output_bytes"] == size and result["input_bytes"] == (folder / "photo.png").stat().st_size
    assert result["bpp"] == pytest.approx(8 * size / (48 * 64), abs=1e-4)
    assert result["settings"]["quality"] == 60 and result["settings"]["effort"] == 3
    assert captured.err == ""


def test_decode_json_has_exactly_its_keys(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoded(folder)
    capsys.readouterr()
    assert run("decode", "photo.lcn", "-o", "back.png", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"codec", "decode_seconds", "shape", "device"}
    assert (result["codec"], result["shape"], result["device"]) == ("webp", [48, 64, 3], "cpu")


@pytest.mark.parametrize("name", ["back.png", "back.webp", "back.jpg", "back.JPEG", "back.npy", "back.ppm"])
def test_decode_writes_the_format_of_the_extension(folder: Path, name: str) -> None:
    encoded(folder)
    assert run("decode", "photo.lcn", "-o", name) == 0
    assert media.read((folder / name).read_bytes()).shape == (48, 64, 3)


def test_standard_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (folder / "photo.png").read_bytes()
    out = StandardStream()
    monkeypatch.setattr(sys, "stdin", StandardStream(content))
    monkeypatch.setattr(sys, "stdout", out)
    assert run("encode", "-", "--codec", "webp", "--lossless") == 0
    stream = out.buffer.getvalue()  # type: ignore[attr-defined]
    assert container.is_laconic(stream)
    back = StandardStream()
    monkeypatch.setattr(sys, "stdin", StandardStream(stream))
    monkeypatch.setattr(sys, "stdout", back)
    assert run("decode", "-") == 0
    assert (media.read(back.buffer.getvalue()).array == PICTURE.array).all()  # type: ignore[attr-defined]


def test_no_bytes_to_a_terminal_unless_forced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = StandardStream(terminal=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("encode", "photo.png", "--codec", "webp", "-o", "-") == 2
    assert terminal.buffer.getvalue() == b""  # type: ignore[attr-defined]
    assert run("encode", "photo.png", "--codec", "webp", "-o", "-", "-f") == 0
    assert container.is_laconic(terminal.buffer.getvalue())  # type: ignore[attr-defined]


def test_no_overwriting_unless_forced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photo.lcn").write_bytes(b"precious")
    assert run("encode", "photo.png", "--codec", "webp") == 1
    assert "photo.lcn exists" in capsys.readouterr().err
    assert (folder / "photo.lcn").read_bytes() == b"precious"
    assert run("encode", "photo.png", "--codec", "webp", "-f") == 0
    assert container.is_laconic((folder / "photo.lcn").read_bytes())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--codec", "webp", "-q", "50", "--lossless"], "quality"),
        (["--codec", "webp", "--target-psnr", "30", "--target-bpp", "1"], "contradict each other"),
        (["--codec", "webp", "--target-bytes", "900", "-q", "5"], "contradicts"),
        (["--codec", "webp", "--target-bytes", "900", "--lossless"], "contradicts"),
        (["--codec", "jpeg", "--lossless"], "lossless"),
        (["--codec", "image-lossless", "-q", "50"], "image-lossless is always lossless, so it has no quality"),
        (["--codec", "image-lossless", "--lossless", "--target-psnr", "50"], "lossless contradicts a target"),
        (["--codec", "image-lossless", "--target-bytes", "50"], "image-lossless is always lossless"),
        (["--codec", "jpeg", "-e", "3"], "effort"),
        (["--codec", "webp", "-q", "50", "--set", "quality=4"], "twice"),
        (["--codec", "webp", "--set", "quality"], "key=value"),
        (["--codec", "webp", "--set", "colour=4"], "quality"),
        (["--codec", "webp", "--set", "effort=high"], "effort"),
        (["--codec", "nothing"], "webp"),
        (["--codec", "webp", "-q", "101"], "100"),
        (["--codec", "webp", "-o", "-", "--json"], "standard output"),
        (["--target-bytes", "3", "--codec", "webp"], "3"),
        (["--qualty", "3"], "qualty"),
        (["more.png"], "more.png"),
    ],
)
def test_usage_errors(folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], part: str) -> None:
    assert run("encode", "photo.png", *options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("laconic: ") and part in captured.err
    assert captured.out == "" and [path.name for path in folder.iterdir()] == ["photo.png"]


def test_settings_from_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "photo.png", "--codec", "jpeg", "--set", "chroma=444", "--set", "quality=40", "--json") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["quality"] == 40 and settings["chroma"] in ("444", 444)


@pytest.mark.parametrize("options", [[], ["--lossless"]])
def test_a_codec_that_is_always_lossless(folder: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert run("encode", "photo.png", "--codec", "image-lossless", "-e", "2", "--json", *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["codec"] == "image-lossless" and result["settings"] == {"effort": 2} and result["device"] == "cpu"
    assert (compress.decode((folder / "photo.lcn").read_bytes()).array == PICTURE.array).all()


def test_lossless_without_a_codec_takes_the_smallest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {}
    for codec in ("image-lossless", "jxl", "webp", "auto"):
        assert run("encode", "photo.png", "--codec", codec, "--lossless", "-e", "2", "--json", "-f") == 0
        result = json.loads(capsys.readouterr().out)
        sizes[codec] = result["output_bytes"]
    assert sizes["auto"] == min(sizes.values()) == sizes[result["codec"]]


def test_target_is_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "photo.png", "--codec", "jpeg", "--target-bytes", "1500", "--json") == 0
    assert json.loads(capsys.readouterr().out)["output_bytes"] <= 1500


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"this is no picture", 1),
        (container.SIGNATURE, 1),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), 3),
        (b"P5 60000 60000 255\n", 4),
    ],
)
def test_bad_input_of_encode(folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, code: int) -> None:
    (folder / "bad.png").write_bytes(content)
    assert run("encode", "bad.png", "--codec", "webp") == code
    error = capsys.readouterr().err
    assert error.startswith("laconic: ") and error.count("\n") == 1
    assert not (folder / "bad.lcn").exists()


def test_files_that_do_not_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "missing.png", "--codec", "webp") == 1
    assert capsys.readouterr().err == "laconic: missing.png: no such file or directory\n"
    assert run("decode", "missing.lcn") == 1
    assert run("encode", "photo.png", "--codec", "webp", "-o", "nowhere/photo.lcn") == 1
    assert "no folder nowhere" in capsys.readouterr().err
    assert run("encode", ".", "--codec", "webp", "-o", "x.lcn") == 1


def test_hostile_streams_exit_with_0_3_or_4(folder: Path) -> None:
    """Every truncation and many bit flips of a real file, and a codec that does not exist."""
    content = encoded(folder)
    rng = np.random.default_rng(2)
    hostile = [content[:length] for length in range(0, len(content), 7)]
    for position in rng.integers(0, 8 * len(content), 150):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        hostile.append(bytes(flipped))
    hostile.append(container.write(Stream("no-such-codec", (4, 4, 3), (b"x",))))
    hostile.append(b"")
    for bad in hostile:
        (folder / "bad.lcn").write_bytes(bad)
        assert run("decode", "bad.lcn", "-o", "out.png", "-f") in (0, 3, 4)
        assert run("inspect", "bad.lcn") in (0, 3, 4)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_test_checks_every_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = encoded(folder)
    (folder / "cut.lcn").write_bytes(content[:-9])
    assert run("test", "photo.lcn") == 0
    assert run("test", "cut.lcn", "photo.lcn", "gone.lcn") == 3
    captured = capsys.readouterr()
    assert captured.out == "photo.lcn: ok\nphoto.lcn: ok\n"
    assert "laconic: cut.lcn: " in captured.err and "laconic: gone.lcn: " in captured.err


def test_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = encoded(folder)
    capsys.readouterr()
    assert run("inspect", "photo.lcn", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["codec"] == "webp" and facts["shape"] == [48, 64, 3] and facts["file_bytes"] == len(content)
    assert run("inspect", "photo.lcn") == 0
    assert "48 × 64 × 3" in capsys.readouterr().out


def test_codecs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("codecs", "--json") == 0
    entries = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {"image-transform", "jpeg", "webp", "avif", "jxl"} <= set(entries)
    assert entries["jpeg"]["settings"]["properties"]["quality"]["maximum"] == 100
    assert run("codecs") == 0
    assert "webp" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"), [(WeightsMissing("no weights"), 5), (LimitExceeded("pixels", 1, 2, "max_pixels"), 4), (MemoryError(), 1)]
)
def test_exit_codes(folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(compress, "encode", refuse)
    assert run("encode", "photo.png") == code


def test_interruption_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert run("encode", "photo.png", "--codec", "webp") == 130
    assert [path.name for path in folder.iterdir()] == ["photo.png"]


def test_output_takes_the_time_of_the_input(folder: Path) -> None:
    os.utime(folder / "photo.png", (1_000_000_000, 1_000_000_000))
    encoded(folder)
    assert (folder / "photo.lcn").stat().st_mtime == 1_000_000_000


def test_output_through_a_symbolic_link(folder: Path) -> None:
    (folder / "real.lcn").write_bytes(b"old")
    (folder / "link.lcn").symlink_to("real.lcn")
    assert run("encode", "photo.png", "--codec", "webp", "-o", "link.lcn", "-f") == 0
    assert (folder / "link.lcn").is_symlink() and container.is_laconic((folder / "real.lcn").read_bytes())


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("laconic 0.")
    for command in ("encode", "decode", "inspect", "test", "codecs", "compare", "bench", "serve"):
        assert run(command, "--help") == 0
        assert command in capsys.readouterr().out
    assert run("no-such-command") == 2
    capsys.readouterr()
    assert run() == 2
    assert capsys.readouterr().err == ""
    assert run("bench", "nothing") == 2
    assert "image" in capsys.readouterr().err
    assert run("serve", "--engine", "ray") == 2


def test_bench_runs_a_suite_with_its_own_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "fuzz", "--inputs", "200") == 0
    assert "nothing but LaconicError escaped" in capsys.readouterr().out
    assert run("bench", "fuzz", "-o", "results") == 2
    assert "writes no files" in capsys.readouterr().err
    assert run("bench", "image", "-o", "results") == 2  # the suite wants --pictures
    assert run("bench", "image", "--pictures", "nowhere") == 1
    assert run("bench", "fuzz", "--", "--help") == 0
    assert "--inputs" in capsys.readouterr().out


def process(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "laconic.cli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_pipe_between_processes(folder: Path) -> None:
    first = process("encode", "-", "--codec", "webp", "--lossless", input=(folder / "photo.png").read_bytes())
    assert first.returncode == 0
    second = process("decode", "-", input=first.stdout)
    assert second.returncode == 0 and (media.read(second.stdout).array == PICTURE.array).all()


def test_mistakes_are_answered_without_heavy_imports(folder: Path) -> None:
    script = (
        "import sys; from laconic.cli import main; code = main(['encode', 'photo.png', '--qualty', '3']);"
        "print(code, sorted({'torch', 'numba', 'numpy', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "2 []\n"


def test_ctrl_c_ends_with_130(folder: Path) -> None:
    """A process that waits for standard input is interrupted as a terminal would do it."""
    command = [sys.executable, "-P", "-m", "laconic.cli", "encode", "-", "--codec", "webp", "-o", "out.lcn"]
    # a shell that runs the tests in the background has SIGINT ignored, which children inherit; a terminal's have not
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listening) as child:
        assert child.stdin is not None
        child.stdin.write(b"\x89PNG")
        child.stdin.flush()
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    assert not (folder / "out.lcn").exists()
