"""Files that the image benchmark leaves: JSON, Markdown table, SVG plot, and the marked section of a document."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from .image_anchors import load_anchors
from .image_points import versions
from .image_results import Results, markdown_table, mutual_table
from .image_timing import TIMED_NEAR
from .sections import replace_section

__all__ = ["DOCS_BEGIN", "DOCS_END", "write_report"]

IN_PLOT = ("hpcm_large", "cool_chic_5.0", "vtm", "bpg444", "hyperprior", "jpeg")
KODAK = {f"kodim{number:02}.png" for number in range(1, 25)}
DOCS_BEGIN, DOCS_END = "<!-- bench image: begin -->", "<!-- bench image: end -->"


def write_report(results: Results, out: Path, docs: Path | None = None) -> None:
    """Write `results.json`, `table.md` and `rd.svg` into `out`; with `docs`, replace the marked section of that file too."""
    from .plot import PlottedCurve, write_plot  # matplotlib is an extra

    tables = (markdown_table(results.curves, results.comparisons), mutual_table(results.curves), _footing(results))
    table = "\n".join(part for part in tables if part)
    (out / "results.json").write_text(json.dumps(_json(results), indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table, encoding="utf-8")
    anchors = load_anchors()
    shown = [
        PlottedCurve(curve.name, curve.bpp, curve.psnr, measured=True, main=curve.counted == "file")
        for curve in results.curves
        if len(set(curve.psnr)) > 1
    ]
    names = results.facts["pictures"]
    assert isinstance(names, list)
    whole = set(names) == KODAK  # published curves are of all 24
    if whole:
        shown += [
            PlottedCurve(f"{name} (published)", anchors[name].bpp, anchors[name].psnr, measured=False) for name in IN_PLOT
        ]
    title = f"Rate and distortion on {'Kodak' if whole else f'{len(names)} pictures'}, averaged per picture"
    write_plot(shown, out / "rd.svg", title)
    if docs is not None:
        _write_docs(docs, table, (out / "rd.svg").read_bytes())


def _json(results: Results) -> dict[str, object]:
    content = asdict(results)
    for curve, as_json in zip(results.curves, content["curves"], strict=True):
        if curve.overhead is not None:
            as_json["overhead"] |= {"percent": curve.overhead.percent, "bytes_per_file": curve.overhead.bytes_per_file}
    content["published"] = {name: {"source": anchor.source} for name, anchor in load_anchors().items()}
    return content


def _footing(results: Results) -> str:
    """Return the lines under the table that say what the figures are of."""
    facts = results.facts
    names, machine = facts["pictures"], facts["machine"]
    assert isinstance(names, list) and isinstance(machine, dict)
    timing = next((curve.timings for curve in results.curves if curve.timings), ())
    loads = ", ".join(f"{item.load_average:.1f}" for item in timing)
    lines = [
        f"{len(names)} pictures ({names[0]} to {names[-1]}), {facts['date']}, {machine['processor']}, {facts['device']}; "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + ".",
        "Bold rows are measured from decoded bytes: whole .lcn files for Laconic's codecs, the codec's own file for "
        + ", ".join(curve.name for curve in results.curves if curve.counted == "payload")
        + ". In brackets: the common PSNR range of each BD-rate.",
    ]
    if set(names) != KODAK:
        lines.append("**These are not the 24 Kodak pictures of the published rows: comparisons with those rows mean nothing.**")
    if timing:
        lines.append(
            f"Speed at the setting nearest {TIMED_NEAR:g} dB, median of {timing[0].pictures} pictures and "
            f"{timing[0].repeats} repeats after warm-up; load average then {loads}."
        )
    return "\n\n".join(lines) + "\n"


def _write_docs(docs: Path, table: str, plot: bytes) -> None:
    """Replace the marked section of `docs` with the table and put the plot beside it."""
    replace_section(docs, DOCS_BEGIN, DOCS_END, f"![Rate and distortion on Kodak](kodak-rd.svg)\n\n{table}")
    (docs.parent / "kodak-rd.svg").write_bytes(plot)
