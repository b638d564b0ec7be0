"""The circuits benchmark on two dozen pictures of each set: its files come out and agree with files encoded again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from laconic.bench import circuits as bench
from laconic.bench.circuits import DOCS_BEGIN, DOCS_END, Measured
from laconic.codecs import compress
from laconic.codecs.errors import CorruptMedia, InvalidSettings
from laconic.codecs.image.idx import read_idx
from laconic.codecs.signals import Pictures

from .pictures import FOLDER


def idx(folder: Path, name: str) -> Path:
    """An IDX file of the 24 test pictures called "digits" or "clothes"."""
    with PIL.Image.open(FOLDER / f"{name}.png") as strip:
        pictures = np.asarray(strip).reshape(-1, 28, 28)
    path = folder / f"{name}-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x03" + np.array(pictures.shape, ">u4").tobytes() + pictures.tobytes())
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def rows(out: Path) -> list[Measured]:
    docs = out / "docs.md"
    docs.write_text(f"before\n{DOCS_BEGIN}\nearlier\n{DOCS_END}\nafter\n")
    return bench.run(out, idx(out, "digits"), idx(out, "clothes"), threads=(1,), docs=docs)


def test_rates_are_those_of_files(rows: list[Measured], out: Path) -> None:
    written = json.loads((out / "results.json").read_text())["rows"]
    assert [(row["codec"], row["dataset"]) for row in written] == [
        (codec, name) for name in ("digits", "fashion") for codec in ("image-circuit", "jxl", "webp", "png")
    ]
    for name in ("digits", "clothes"):
        data = compress.encode(Pictures(read_idx(out / f"{name}-idx3-ubyte")), "image-circuit").data
        row = next(row for row in rows if row.codec == "image-circuit" and (row.dataset == "digits") == (name == "digits"))
        assert row.bytes == len(data)
        assert row.bits_per_dimension == pytest.approx(8 * len(data) / (24 * 784))
        assert row.ideal is not None and row.ideal < row.bits_per_dimension < row.ideal + 8 * 64 / (24 * 784)
        assert row.encode_seconds.keys() == row.decode_seconds.keys() == {1}


def test_the_table_has_measured_and_published_rows(rows: list[Measured], out: Path) -> None:
    table = (out / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "| MNIST | hclt-32 (published) | 1.24 |" in table and "| MNIST | **webp** |" in table
    text = (out / "docs.md").read_text()
    assert text.startswith(f"before\n{DOCS_BEGIN}") and text.endswith(f"{DOCS_END}\nafter\n") and lines[-1] in text
    assert "earlier" not in text


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidSettings, match="--digits"):
        bench.run(tmp_path)
    (tmp_path / "short").write_bytes(b"\0\0\x08\x03\0\0\0\1\0\0\0\1\0\0\0\2ab"[:-1])
    (tmp_path / "other").write_bytes(b"GIF89a")
    for name in ("short", "other"):
        with pytest.raises(CorruptMedia):
            read_idx(tmp_path / name)
    assert bench.main(["--digits", str(tmp_path / "short"), "-o", str(tmp_path / "out")]) == 1
    assert "corrupt-media" in capsys.readouterr().err
