"""The lossless benchmark on two crops of a photograph: its files come out and agree with files encoded again."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest

from laconic.bench import lossless as bench
from laconic.bench.lossless import DOCS_BEGIN, DOCS_END, HALVED_BEGIN, HALVED_END, Row
from laconic.bench.pictures import load_picture
from laconic.codecs import compress, container
from laconic.codecs.errors import InvalidSettings
from laconic.codecs.image.lossless import ImageLossless, LosslessSettings
from laconic.codecs.signals import Image

from .pictures import photograph

ROWS = ["image-lossless -e 1", "image-lossless -e 1, RGB", "webp", "png"]
PEERS = ROWS[2:]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of 48 x 64 and of 49 x 65 pixels, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    array = photograph().array
    PIL.Image.fromarray(array[:48, :64]).save(folder / "a.png")
    PIL.Image.fromarray(array[-49:, -65:]).save(folder / "b.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def rows(pictures: Path, out: Path) -> list[Row]:
    seen: list[float] = []
    (out / "docs.md").write_text(f"before\n{DOCS_BEGIN}\nearlier\n{DOCS_END}\n{HALVED_BEGIN}\n{HALVED_END}\nafter\n")
    found = bench.run(out, pictures, rows=ROWS, docs=out / "docs.md", progress=lambda done, stage: seen.append(done))
    assert seen == [k / 8 for k in range(1, 9)]
    return found


def size(row: str, picture: Image) -> int:
    """The bytes that a row counts, by another way than the benchmark's."""
    if row == "png":
        return len(imagecodecs.png_encode(picture.array, level=9))
    if row == "webp":
        return len(container.read(compress.encode(picture, "webp", {"lossless": True}).data).chunks[0])
    codec = ImageLossless(recover_origin=not row.endswith("RGB"))
    return len(container.write(codec.encode(picture, LosslessSettings(effort=1))))


def test_sizes_are_those_of_files_encoded_again(rows: list[Row], pictures: Path, out: Path) -> None:
    points = json.loads((out / "results.json").read_text())["points"]
    found = {(point["row"], point["picture"]): point["bytes"] for point in points}
    expected = {(row, path.name): size(row, load_picture(path)) for row in ROWS for path in pictures.glob("*.png")}
    assert found == expected and len(points) == 8
    for row in rows:
        total = sum(count for (name, _), count in expected.items() if name == row.name)
        assert row.bpp == pytest.approx(8 * total / (48 * 64 + 49 * 65))
        assert row.encode_mps and row.decode_mps


def test_rows_are_in_order_in_every_file(rows: list[Row], out: Path) -> None:
    names = [row.name for row in rows]
    assert sorted(names) == sorted(ROWS) and [row.bpp for row in rows] == sorted(row.bpp for row in rows)
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == names
    assert results["pictures"] == ["a.png", "b.png"]
    table = (out / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + len(ROWS)
    assert [line.split("|")[1].strip(" *") for line in lines[2:]] == names
    assert "| **image-lossless -e 1** |" in table and "| png |" in table and "2 pictures (a.png to b.png)" in table
    assert "published" not in table
    root = xml.etree.ElementTree.fromstring((out / "lossless.svg").read_text())
    texts = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"image-lossless", "image-lossless, RGB", "webp", "png", "bits per pixel"} <= texts


def test_the_documents_section_is_replaced(rows: list[Row], out: Path) -> None:
    text = (out / "docs.md").read_text()
    assert text.startswith(f"before\n{DOCS_BEGIN}") and text.endswith(f"{DOCS_END}\n{HALVED_BEGIN}\n{HALVED_END}\nafter\n")
    assert "earlier" not in text and (out / "table.md").read_text() in text
    shipped = (Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md").read_text()
    assert all(shipped.count(marker) == 1 for marker in (DOCS_BEGIN, DOCS_END, HALVED_BEGIN, HALVED_END))


def test_a_second_run_measures_nothing_again(
    rows: list[Row], pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, too; and points are of their pictures, not of their names."""
    monkeypatch.setattr("laconic.bench.image_points.ProcessPoolExecutor", None)  # a new point would need it
    assert bench.run(out, pictures, rows=ROWS) == rows
    options = [option for name in PEERS for option in ("--row", name)]
    assert bench.main(["--pictures", str(pictures), "-o", str(out), "--limit", "1", *options]) == 0
    assert capsys.readouterr().out == (out / "table.md").read_text()
    for halved, path in ((True, pictures / "a.png"), (False, pictures / "b.png")):
        assert bench._key(path, "png", halved) != bench._key(pictures / "a.png", "png", False)


def test_published_rows_stand_beside_kodak(rows: list[Row], pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.bench.image_points.ProcessPoolExecutor", None)
    monkeypatch.setattr(bench, "KODAK", {"a.png", "b.png"})
    published = [row for row in bench.run(out, pictures, rows=ROWS) if row.published]
    assert {row.name: row.bpp for row in published}["gralic (published)"] == 8.41
    assert all(row.encode_mps is None and row.decode_mps is None for row in published) and len(published) > 5
    table = (out / "table.md").read_text()
    assert "| gralic (published) | 8.410 | – | – | – |" in table
    assert "published" not in (out / "lossless.svg").read_text()


def test_halved_pictures(rows: list[Row], pictures: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "docs.md").write_text((out / "docs.md").read_text())
    halved = bench.run(tmp_path, pictures, rows=["png"], halved=True, docs=tmp_path / "docs.md")
    expected = 0
    for path in sorted(pictures.glob("*.png")):
        array = load_picture(path).array[:48, :64].astype(float)
        means = array.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
        expected += len(imagecodecs.png_encode(np.floor(means + 0.5).astype(np.uint8), level=9))
    assert halved[0].bpp == pytest.approx(8 * expected / (2 * 24 * 32))
    text, table = (tmp_path / "docs.md").read_text(), (tmp_path / "table.md").read_text()
    assert "2 pictures, halved (a.png" in table
    assert text == (out / "docs.md").read_text().replace(HALVED_BEGIN + "\n", f"{HALVED_BEGIN}\n\n{table}\n")


def test_what_is_wrong_is_said(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidSettings, match="no rows gif, image-lossless; there are image-lossless -e 1,"):
        bench.run(tmp_path, pictures, rows=["png", "image-lossless", "gif"])
    for folder in (tmp_path, None):
        with pytest.raises(InvalidSettings, match="pictures"):
            bench.run(tmp_path, folder, rows=["png"])
    assert bench.main(["--pictures", str(pictures), "-o", str(tmp_path), "--row", "gif"]) == 1
    assert "invalid-settings: there are no rows gif" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pictures_that_do_not_come_back_stop_the_run(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.ROWS, "png", lambda picture: (b"", lambda _: picture.array ^ 1))
    with pytest.raises(RuntimeError, match=r"png does not give a\.png back"):
        bench._measure(bench.Job(pictures / "a.png", "png", False, "key"))
