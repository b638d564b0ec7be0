"""The suites that load the service, in small: what they measure, and that the service holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.bench import bombs, mutations, overload, soak
from laconic.bench.hostile_files import Bomb, small_streams
from laconic.bench.load import Answer, milliseconds, statuses
from laconic.codecs import container, media
from laconic.codecs.errors import LaconicError, LimitExceeded
from laconic.codecs.limits import Limits
from laconic.service.settings import ServiceSettings

from .pictures import photograph

CODECS = "jpeg,webp"


@pytest.fixture(autouse=True)
def few_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services of these tests start quickly."""
    monkeypatch.setenv("LACONIC_CODECS", CODECS)


def only_the_few(kind: str) -> list[str]:
    """Return the codecs of these tests that take a kind of signal."""
    return CODECS.split(",") if kind == "image" else []


@pytest.fixture(scope="module")
def found() -> list[Bomb]:
    """All bombs, with streams of the few codecs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("laconic.bench.hostile_files.codecs_with", only_the_few)
        return bombs.bombs()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(media.write(photograph(), "png"))
    return path


def test_overload_is_refused_with_retry_after_and_health_answers(picture: Path, tmp_path: Path) -> None:
    overload.run(picture, tmp_path, "codec=webp", seconds=2, calibrate_s=0.6)
    facts = json.loads((tmp_path / "overload.json").read_text())
    answers = facts["statuses"]
    # senders on a machine as busy as a test's now and then find that a connection kept open for them has been closed
    assert answers.keys() >= {"200", "429"} and answers["200"] + answers["429"] >= 0.99 * sum(answers.values())
    assert answers.keys() <= {"200", "429", "none"} and facts["without_retry_after"] == facts["livez_failures"] == 0
    assert facts["accepted"] > 0 and 0 < facts["refused_share"] < 1
    assert facts["memory_start"] > 10 and facts["livez_p99"] < 5_000
    assert "| capacity |" in (tmp_path / "overload.md").read_text()


def test_a_short_soak_has_no_errors(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "QUERIES", ("codec=jpeg", "codec=webp&effort=1"))
    monkeypatch.setattr(soak, "FORMS", ("codec=webp&quality=50",))
    monkeypatch.setattr(soak, "SAMPLE_S", 0.2)
    assert soak.main(["--picture", str(picture), "-o", str(tmp_path), "--minutes", "0.04", "--burst-s", "0.5"]) == 0
    facts = json.loads((tmp_path / "soak.json").read_text())
    assert facts["requests"] > 3 and set(facts["statuses"]) == {"200"} and len(facts["memory"]) > 3
    assert sum(facts["burst"].values()) > 1 and facts["burst"].keys() <= {"200", "429"}
    assert all(0 < anonymous <= resident for _, resident, anonymous in facts["memory"])


def test_slopes_of_medians_with_errors_that_own_up_to_steps() -> None:
    line = [(float(x), 5 + 0.25 * x) for x in range(20)]
    assert soak.slope(line) == pytest.approx((0.25, 0.0), abs=1e-9)
    assert soak.slope(line[:2]) == (0.0, float("inf"))
    points = soak.medians([(0.0, 1.0), (0.4, 9.0), (0.9, 2.0), (2.5, 4.0)], 1.0)
    assert points == [(0.5, 2.0), (2.5, 4.0)]
    random = np.random.default_rng(1).normal(size=400)
    rough, wave = random / random.std(), np.sqrt(2) * np.cos(np.arange(400) * 8 * np.pi / 400)
    errors = [soak.slope(list(zip(map(float, range(400)), map(float, y), strict=True)))[1] for y in (rough, wave)]
    assert errors[0] == pytest.approx(1 / np.sqrt(400 * (400**2 - 1) / 12), rel=0.05)
    assert errors[1] > 5 * errors[0]


def test_bombs_are_refused(tmp_path: Path, found: list[Bomb], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "bombs", lambda: found)
    monkeypatch.setattr("laconic.bench.hostile_files.codecs_with", only_the_few)
    assert {bomb.name for bomb in found if "header" in bomb.name and not bomb.refusable} == set()
    blasts = bombs.run(tmp_path, repeats=1, only="of 65535")
    assert len(blasts) >= 6
    assert all(blast.refused and blast.growth_mib < bombs.SMALL_MIB for blast in blasts), bombs.table_of(blasts)
    assert [fact["name"] for fact in json.loads((tmp_path / "bombs.json").read_text())["bombs"]] == [b.name for b in blasts]
    assert "65535 × 65535" in (tmp_path / "bombs.md").read_text()


def test_a_bomb_that_is_not_refused_in_time_is_told() -> None:
    blasts = [
        bombs.Blast("fast", 1, True, 413, "limit-exceeded", 3.0, 1.0),
        bombs.Blast("slow", 1, True, 413, "limit-exceeded", 51.0, 1.0),
        bombs.Blast("large", 1, True, 400, "corrupt-media", 3.0, 65.0),
        bombs.Blast("accepted", 1, True, 200, "", 3.0, 1.0),
        bombs.Blast("legitimate", 1, False, 200, "", 900.0, 200.0),
        bombs.Blast("failure", 1, False, 500, "internal-error", 3.0, 0.0),
    ]
    assert [blast.ok for blast in blasts] == [True, False, False, False, True, False]
    assert bombs.table_of(blasts).count("NOT REFUSED") == 4


def test_bombs_of_pictures_are_refused_by_the_library_too(found: list[Bomb]) -> None:
    limits = Limits(max_frames=ServiceSettings().max_frames)  # the service takes fewer frames than the library
    for bomb in found:
        if bomb.path.startswith("/v1/encode") and bomb.refusable:
            with pytest.raises(LaconicError):
                media.read(bomb.body, limits)
    giants = [bomb for bomb in found if "65535 × 65535" in bomb.name and bomb.path.startswith("/v1/encode")]
    assert len(giants) == 7
    for bomb in giants:
        if "AVIF" not in bomb.name:  # its decoder has a limit of its own
            with pytest.raises(LimitExceeded):
                media.read_header(bomb.body, Limits())


def test_mutants_never_give_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.bench.hostile_files.codecs_with", only_the_few)
    assert mutations.main(["--files", "250", "-o", str(tmp_path)]) == 0
    tallies = json.loads((tmp_path / "mutations.json").read_text())["codecs"]
    assert [tally["codec"] for tally in tallies] == CODECS.split(",")
    assert all(tally["files"] == 250 and tally["statuses"]["400"] > 100 for tally in tallies)


def test_mutants_are_the_same_each_time_and_reach_the_codec() -> None:
    stream = small_streams()["jpeg"]
    first = list(mutations.mutants(stream, 300, 7))
    assert first == list(mutations.mutants(stream, 300, 7)) != list(mutations.mutants(stream, 300, 8))
    intact = 0
    for mutant in first:
        try:
            intact += container.read(mutant).chunks != container.read(stream).chunks
        except LaconicError:
            continue
    assert intact > 100  # damaged payloads that only the codec can find out


def test_a_tally_with_a_failure_is_not_ok() -> None:
    fine = mutations.Tally("jpeg", 3, {"400": 3}, 1.0, 2.0, [])
    assert fine.ok and not mutations.Tally("jpeg", 3, {"500": 1, "400": 2}, 1.0, 2.0, []).ok
    assert not mutations.Tally("jpeg", 3, {"400": 3}, 1.0, 20_000.0, []).ok
    assert not mutations.Tally("jpeg", 3, {"400": 3}, 1.0, 2.0, ["traceback"]).ok
    assert "**FAILED**" in mutations.table_of([fine, mutations.Tally("webp", 1, {"none": 1}, 1.0, 1.0, [])])


def test_percentiles_and_counts() -> None:
    answers = [Answer(200 if number % 10 else 0, number / 1000, 0.0) for number in range(1, 101)]
    assert milliseconds(answers, 0.5) == 50 and milliseconds(answers, 0.99) == 99 and milliseconds(answers, 1.0) == 100
    assert statuses(answers) == {"none": 10, "200": 90}


def test_the_slope_is_that_of_the_line() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 200)
    samples = [(float(x), 5 + 0.02 * x + float(noise[x])) for x in range(200)]
    rise, error = soak.slope(samples)
    assert rise == pytest.approx(0.02, abs=4 * error) and 0 < error < 0.001
    assert soak.slope(samples[:2]) == (0.0, float("inf"))
