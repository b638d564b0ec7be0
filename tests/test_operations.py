"""What docs/operations.md and docs/service.md tell operators is so: settings, metrics, log lines, the capacity model."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from laconic.bench import capacity, costs
from laconic.bench.costs import Cost
from laconic.codecs.settings import codecs_at_once
from laconic.service.metrics import Metrics
from laconic.service.settings import PREFIX, ServiceSettings, variable

ROOT = Path(__file__).resolve().parent.parent
SERVICE, OPERATIONS, BENCHMARKS = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("service", "operations", "benchmarks")
)
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
PROMQL_WORDS = {
    "up",
    "sum",
    "avg",
    "rate",
    "deriv",
    "count",
    "by",
    "le",
    "histogram_quantile",
    "route",
    "status",
    "span",
    "codec",
}
PROMQL_WORDS |= {"reason", "instance", "worker", "kind", "state", "max"}


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = text.split(f"\n{heading}\n")[1].splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|"))
    last = next((index for index in range(first, len(lines)) if not lines[index].startswith("|")), len(lines))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[first + 2 : last]]


def between(text: str, begin: str, end: str) -> list[list[str]]:
    """The cells of the table between two markers."""
    section = text.split(begin)[1].split(end)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def settings_of(table: list[list[str]]) -> set[str]:
    return {name for row in table for name in re.findall(rf"`({PREFIX}\w+)`", row[0])}


def test_every_setting_has_its_meaning_and_its_reason() -> None:
    fields = {variable(name) for name in ServiceSettings.model_fields}
    listed, reasons = rows(SERVICE, "## Settings"), rows(OPERATIONS, "## Settings, and why")
    assert settings_of(listed) == fields
    assert fields - settings_of(reasons) == set()
    assert all(len(row[-1]) > 20 for row in reasons)


def number(text: str) -> float | None:
    """What a default in words is as a number; None for other words."""
    match = re.fullmatch(r"([\d,.]+)(?: (\w+))?", text.strip().strip("`"))
    return float(match[1].replace(",", "")) * UNITS.get(match[2] or "", 1) if match else None


def test_defaults_are_the_documented_ones() -> None:
    checked = 0
    for names, defaults, *_ in rows(SERVICE, "## Settings"):
        fields = [name.removeprefix(PREFIX).lower() for name in re.findall(rf"`({PREFIX}\w+)`", names)]
        written = defaults.split(", ") if len(fields) > 1 else [defaults]
        assert len(fields) == len(written), f"{names} has the defaults {defaults}"
        for field, text in zip(fields, written, strict=True):
            default = ServiceSettings.model_fields[field].default
            if isinstance(default, str):
                assert text.strip("`") == default, field
            elif isinstance(default, int | float) and not isinstance(default, bool):
                assert number(text) == default, field
                checked += 1
    assert checked >= 10


def test_queries_and_alerts_name_metrics_that_there_are() -> None:
    metrics = Metrics()
    metrics.have_workers("device", 1)
    text = metrics.exposition().decode()
    families = list(text_string_to_metric_families(text))
    there = {sample.name for family in families for sample in family.samples}
    for family in families:  # those with labels have no samples yet
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}.get(
            family.type, ("",)
        )
        there |= {family.name + suffix for suffix in suffixes}
    queries = OPERATIONS.split("```promql\n")[1].split("```")[0]
    alerts = "\n".join(row[1] for row in rows(OPERATIONS, "## Metrics: queries and alerts"))
    assert "failing" in OPERATIONS and alerts.count("rate(") >= 5
    plain = re.sub(r'#.*|"[^"]*"|\[[^]]*\]', "", f"{queries}\n{' '.join(re.findall('`([^`]*)`', alerts))}")
    used = set(re.findall(r"[a-z][a-z_]+", plain)) - PROMQL_WORDS
    assert len(used) >= 12 and used - there == set()


def test_log_lines_are_what_the_service_logs() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
    events = [event for row in rows(OPERATIONS, "## Logs") for event in re.findall(r"`([^`]+)`", row[0])]
    assert len(events) >= 9
    assert [event for event in events if not re.search(rf'log\.\w+\(\s*"{event}"', source)] == []


def documented_costs() -> list[Cost]:
    """The costs that docs/benchmarks.md shows, for every codec."""
    found = []
    for name, bpp, *figures in between(BENCHMARKS, costs.DOCS_BEGIN, costs.DOCS_END):
        codec, *settings = name.split()
        values = [float(figure.replace(",", "")) for figure in figures]
        pairs = {settings[0]: settings[1] if len(settings) > 1 else True} if settings else {}
        found.append(Cost(codec, pairs, *values, float(bpp)))
    return found


def test_the_capacity_model_follows_from_the_measured_costs() -> None:
    measured = documented_costs()
    assert {cost.codec for cost in measured} == set(codecs_at_once("image"))
    begin, end = capacity.DOCS_BEGIN, capacity.DOCS_END
    expected = between(begin + capacity.capacity_table(measured) + end, begin, end)
    assert between(OPERATIONS, begin, end) == expected and len(expected) == 2 * len(measured)
    assert f"+ {capacity.HTTP_MS:g} ms) / 1000 / {capacity.UTILISATION:g}" in OPERATIONS


def test_the_capacity_formula() -> None:
    assert doctest.testmod(capacity).failed == 0
    assert capacity.cores(0.001, 1.0) == 1
    assert capacity.cores(1000, 200, 1.0, 1.0) == pytest.approx(2 * capacity.cores(500, 200, 1.0, 1.0), abs=1)
    assert capacity.cores(10_000, 250) > 1000 > capacity.cores(100, 250)


def test_costs_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(ROOT / "tests" / "media" / "photograph.png")
    assert costs.main(["--picture", picture, "--codec", "jpeg", "--side", "3", "--rounds", "1", "-o", str(tmp_path)]) == 0
    (cost,) = json.loads((tmp_path / "costs.json").read_text())
    assert cost["codec"] == "jpeg" and 0 < cost["bpp"] < 24
    assert 1 < cost["encode_ms"] < 10_000 and 1 < cost["decode_ms"] < 10_000 and 20 < cost["ready_mib"] < 2_000
    assert "| jpeg |" in capsys.readouterr().out == (tmp_path / "costs.md").read_text()
