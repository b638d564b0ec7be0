"""The image benchmark on two small crops with two codecs: its files come out and agree with each other and with re-encoding."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from laconic.bench import image as bench
from laconic.bench.image_points import LOSSLESS_PSNR, Point, PointCache, imported_files, make_job, measure
from laconic.bench.image_report import DOCS_BEGIN, DOCS_END, KODAK, write_report
from laconic.bench.image_results import Results, averaged, compare, markdown_table, mutual_table
from laconic.bench.pictures import load_picture
from laconic.codecs import compress, container
from laconic.codecs.errors import InvalidSettings
from laconic.codecs.metrics import psnr

QUALITIES = (20, 60, 85)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photograph-like pictures of 72 x 96 and 64 x 80."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, (height, width) in {"a.png": (72, 96), "b.png": (64, 80)}.items():
        y, x = np.mgrid[:height, :width]
        noise = np.random.default_rng(height).normal(0, 6, (height, width, 3))
        waves = np.stack([np.sin(x / 9) + np.cos(y / 7), np.sin((x + y) / 11), np.cos((x - 2 * y) / 15)], axis=2)
        array = np.clip(128 + 50 * waves + 40 * ((x // 24 + y // 16) % 2)[..., None] + noise, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(array).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def results(pictures: Path, out: Path) -> Results:
    """One run with a timing on one core."""
    seen: list[float] = []
    found = bench.run(
        out,
        pictures,
        codecs=["jpeg", "webp"],
        qualities=QUALITIES,
        timing_cores=(1,),
        timing_pictures=1,
        repeats=1,
        progress=lambda done, stage: seen.append(done),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    return found


def test_json_agrees_with_files_encoded_again(results: Results, pictures: Path, out: Path) -> None:
    written = json.loads((out / "results.json").read_text())
    assert [curve["name"] for curve in written["curves"]] == ["jpeg", "webp"]
    assert len(written["points"]) == 2 * 2 * len(QUALITIES)
    for curve in written["curves"]:
        for k, settings in enumerate(curve["settings"]):
            rates, qualities = [], []
            for path in sorted(pictures.glob("*.png")):
                picture = load_picture(path)
                data = compress.encode(picture, curve["name"], settings).data
                payload = b"".join(container.read(data).chunks)
                with PIL.Image.open(io.BytesIO(payload)) as peer:  # the payload is the peer's own file
                    assert peer.format is not None
                    assert peer.format.lower() == curve["name"]
                rates.append(8 * len(payload) / picture.pixels)
                qualities.append(psnr(picture, compress.decode(data)))
            assert curve["bpp"][k] == pytest.approx(np.mean(rates), rel=1e-12)
            assert curve["psnr"][k] == pytest.approx(np.mean(qualities), rel=1e-12)


def test_points_say_what_was_counted(results: Results) -> None:
    for point in results.points:
        assert point.bpp * point.pixels == pytest.approx(8 * point.bytes)
        assert 0 < point.file_bytes - point.bytes <= 48


def test_speed_is_measured(results: Results) -> None:
    for curve in results.curves:
        (timing,) = curve.timings
        assert timing.cores == 1
        assert timing.settings in curve.settings
        assert timing.encode_mps == pytest.approx(72 * 96 / 1e6 / timing.encode_seconds)


def test_table_has_measured_and_published_rows(results: Results, out: Path) -> None:
    lines = (out / "table.md").read_text().splitlines()
    heads = lines[0].count("|")
    rows = [line for line in lines[: lines.index("")] if line.startswith("| ")]
    assert all(line.count("|") == heads for line in rows)
    assert any(line.startswith("| **jpeg** |") for line in rows)
    assert any(line.startswith("| hyperprior (published) |") and "+30.5 (" in line for line in rows)
    text = "\n".join(lines)
    assert "a.png to b.png" in text
    assert "not the 24 Kodak pictures" in text


def test_efforts_are_further_curves(pictures: Path, tmp_path: Path) -> None:
    found = bench.run(tmp_path, pictures, codecs=["jpeg", "webp"], qualities=QUALITIES[:2], efforts=[1], timing_cores=())
    assert [curve.name for curve in found.curves] == ["jpeg", "webp", "webp -e 1"]
    assert [curve.settings[0].get("effort") for curve in found.curves] == [None, None, 1]
    assert found.curves[2].bpp != found.curves[1].bpp


def texts_of(plot: Path) -> set[str]:
    root = xml.etree.ElementTree.fromstring(plot.read_text())
    return {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}


def test_plot_names_every_curve(results: Results, out: Path, tmp_path: Path) -> None:
    """Published curves are of all of Kodak, and shown beside nothing else."""
    assert {"jpeg", "webp", "PSNR (dB)"} <= texts_of(out / "rd.svg")
    assert not any("published" in text for text in texts_of(out / "rd.svg"))
    write_report(replace(results, facts={**results.facts, "pictures": sorted(KODAK)}), tmp_path)
    assert {"jpeg", "webp", "vtm (published)", "jpeg (published)", "PSNR (dB)", "published"} <= texts_of(tmp_path / "rd.svg")


def test_second_run_measures_nothing_again(
    results: Results, pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconic.bench.image_points.ProcessPoolExecutor", None)  # a new point would need it
    again = bench.run(out, pictures, codecs=["jpeg", "webp"], qualities=QUALITIES, timing_cores=())
    assert again.points == results.points
    assert again.comparisons == results.comparisons


def test_cache_survives_an_interrupted_line(results: Results, out: Path, tmp_path: Path) -> None:
    whole = (out / "points.jsonl").read_bytes()
    damaged = tmp_path / "points.jsonl"
    damaged.write_bytes(whole[:-20])
    last = json.loads(whole.splitlines()[-1])
    known = PointCache(damaged)
    assert known.get(last["key"]) is None
    known.add(Point(**last))
    reread = PointCache(damaged)
    assert all(reread.get(point.key) == point for point in results.points)


def test_key_depends_on_setting_picture_and_codec(pictures: Path) -> None:
    a, b = pictures / "a.png", pictures / "b.png"
    jobs = [make_job(a, "jpeg", {"quality": 20}, True), make_job(a, "jpeg", {"quality": 21}, True)]
    jobs += [make_job(b, "jpeg", {"quality": 20}, True), make_job(a, "webp", {"quality": 20}, True)]
    assert len({job.key for job in jobs}) == 4
    assert make_job(a, "jpeg", {"quality": 20}, True) == jobs[0]


def test_ideal_rate_is_reported_where_a_codec_has_one(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(pictures / "a.png", "jpeg", {"quality": 50}, False)
    point = measure(job)
    assert point.ideal_bits is None
    assert point.bytes == point.file_bytes
    groups = [[Point(**{**vars(point), "ideal_bits": 8 * (point.file_bytes - 30)})]] * 2
    curve = averaged("jpeg", "file", (), groups)
    assert curve.overhead is not None
    assert curve.overhead.bytes_per_file == pytest.approx(30)
    assert "+30.0 bytes a file" in markdown_table([curve], [])


def test_documents_section_is_replaced(results: Results, tmp_path: Path) -> None:
    docs = tmp_path / "benchmarks.md"
    docs.write_text(f"before\n{DOCS_BEGIN}\nearlier figures\n{DOCS_END}\nafter\n")
    write_report(results, tmp_path, docs)
    text = docs.read_text()
    assert text.startswith(f"before\n{DOCS_BEGIN}")
    assert text.endswith(f"{DOCS_END}\nafter\n")
    assert "earlier figures" not in text
    assert (tmp_path / "table.md").read_text() in text
    assert (tmp_path / "kodak-rd.svg").read_bytes() == (tmp_path / "rd.svg").read_bytes()
    docs.write_text("no markers")
    with pytest.raises(InvalidSettings, match="markers"):
        write_report(results, tmp_path, docs)


def test_shipped_document_has_the_section() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md").read_text()
    assert text.count(DOCS_BEGIN) == text.count(DOCS_END) == 1


def test_command_line(results: Results, pictures: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--pictures", str(pictures), "-o", str(out), "--timing-cores"]
    codecs = [option for codec in ("jpeg", "webp") for option in ("--codec", codec)]
    qualities = [option for quality in QUALITIES for option in ("--quality", str(quality))]
    assert bench.main([*common, *codecs, *qualities]) == 0
    assert capsys.readouterr().out == (out / "table.md").read_text()
    assert bench.main([*common, "--codec", "nothing"]) == 1
    assert "no codec is called 'nothing'" in capsys.readouterr().err


def test_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, None):
        with pytest.raises(InvalidSettings, match="pictures"):
            bench.run(tmp_path, folder, codecs=["jpeg"])


def test_equal_pictures_have_finite_psnr(pictures: Path) -> None:
    job = make_job(pictures / "a.png", "webp", {"lossless": True}, True)
    assert measure(job).psnr == LOSSLESS_PSNR


def test_comparison_without_a_common_range_is_left_out(results: Results) -> None:
    (jpeg, _) = results.curves
    rows = compare([jpeg], {name: anchor for name, anchor in bench.load_anchors().items() if name in ("vtm", "jpeg")})
    assert [row.name for row in rows] == ["jpeg", "vtm", "jpeg"]
    assert rows[0].bd["jpeg measured"] is not None
    assert rows[0].bd["jpeg measured"].percent == pytest.approx(0)


def test_measured_curves_are_compared_with_each_other(results: Results) -> None:
    curves = [curve for curve in results.curves if len(set(curve.psnr)) > 1]
    rows = [line.split("|")[2:-1] for line in mutual_table(curves).splitlines()[2:]]
    assert len(rows) == len(curves) > 1 and mutual_table(curves[:1]) == ""
    for i, row in enumerate(rows):
        assert not row[i].strip()
        for k, cell in enumerate(row[:i]):  # a rate a part higher is the other way about that part lower
            ahead, behind = (1 + float(text.split()[0]) / 100 for text in (cell, rows[k][i]))
            assert ahead * behind == pytest.approx(1, abs=0.01)


def test_the_code_of_a_codec_is_what_its_module_imports() -> None:
    overfit, transform = (
        {path.name for path in imported_files(f"laconic.codecs.image.{name}")} for name in ("overfit", "transform")
    )
    assert {"overfit.py", "overfit_fit.py", "overfit_dense.py", "rgb.py", "alpha.py", "adaptive_binary.py"} <= overfit
    assert {"transform.py", "transform_networks.py", "fixed_point.py", "range_coder.py"} <= transform
    assert not any(name.startswith("transform") for name in overfit) and not any(
        name.startswith("overfit") for name in transform
    )
