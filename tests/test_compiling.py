"""Word of kernels that compile: said when they do, not when they come from the cache, and never in the way of the work."""

from __future__ import annotations

import sys
from pathlib import Path

import numba
import pytest

from laconic import warming
from laconic.codecs import compress
from laconic.codecs.compiling import COMPILING, reported
from laconic.codecs.errors import Cancelled, UnsupportedMedia
from laconic.codecs.registry import codec_class, codec_ids
from laconic.codecs.settings import shortest_fit, takes
from laconic.trials import check_kernels

KERNEL = "import numba\n@numba.njit(cache=True)\ndef doubled(x):\n    return 2 * x\n"


def fresh(tmp_path: Path) -> numba.core.dispatcher.Dispatcher:
    """A kernel in a file of its own, so that numba's cache knows it from one call of this function to the next."""
    path = tmp_path / "kernel_of_a_test.py"
    if not path.exists():
        path.write_text(KERNEL)
    names: dict[str, object] = {"__name__": "kernel_of_a_test"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    kernel = names["doubled"]
    assert isinstance(kernel, numba.core.dispatcher.Dispatcher)
    return kernel


def test_compiling_is_told_and_reading_from_the_cache_is_not(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    with reported(lambda part, stage: told.append((part, stage))) as report:
        assert report is not None
        kernel = fresh(tmp_path)
        report(0.25, "at work")
        assert kernel(3) == 6 and kernel(4) == 8
        assert told == [(0.25, "at work"), (0.25, COMPILING)]
        assert fresh(tmp_path)(5) == 10
        assert len(told) == 2, "this one came from the cache"
        assert kernel(1.5) == 3.0 and told[2:] == [(0.25, COMPILING)]
    assert numba.njit(lambda x: x + 1)(1) == 2 and len(told) == 3, "beyond the block nothing is told"


def test_what_hears_of_it_may_raise_only_when_its_own_work_reports() -> None:
    def cancelled(part: float, stage: str) -> None:
        raise Cancelled(stage)

    with reported(cancelled) as report:
        assert numba.njit(lambda x: x + 2)(1) == 3
        assert report is not None
        with pytest.raises(Cancelled, match="at work"):
            report(0.5, "at work")


def test_without_numba_or_progress_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(part: float, stage: str) -> None: ...

    with reported(None) as report:
        assert report is None
    monkeypatch.delitem(sys.modules, "numba")
    with reported(progress) as report:
        assert report is progress
        assert "numba" not in sys.modules


def test_codecs_pass_it_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    kind = codec_class("jpeg")

    def compiling(function):  # type: ignore[no-untyped-def]
        def wrapped(*args, **kwargs):  # type: ignore[no-untyped-def]
            numba.njit(lambda x: x + 3)(1)
            return function(*args, **kwargs)

        return wrapped

    for name in ("encode", "decode"):
        monkeypatch.setattr(kind, name, compiling(getattr(kind, name)))
    picture = warming._pictures()[0]
    for target in (None, compress.Target(bytes=9000)):
        told.clear()
        data = compress.encode(picture, "jpeg", target=target, progress=lambda part, stage: told.append(stage)).data
        assert COMPILING in told
    told.clear()
    compress.decode(data, progress=lambda part, stage: told.append(stage))
    assert COMPILING in told


def test_its_pictures_differ_in_kind() -> None:
    kinds = {(picture.array.shape[2], picture.array.dtype.name) for picture in warming._pictures()}
    assert kinds == {(1, "uint8"), (3, "uint8"), (4, "uint8"), (1, "uint16"), (3, "uint16")}


def test_warming_codes_what_each_codec_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    found = list(warming.warmed(("jpeg", "webp", "flac", "h264"), lambda part, stage: told.append(part)))
    assert [name for name, _, _ in found] == ["jpeg", "webp", "flac", "h264"]
    assert any("16" in reason for reason in found[0][2]) and found[2][2], "some media are declined"
    assert told == sorted(told) and told[-1] <= 1
    for name in codec_ids():
        kind = codec_class(name)
        signals = warming._signals(kind)
        assert signals and all(takes(kind, signal.kind) for signal in signals)
        kind.Settings(**shortest_fit(name))
    monkeypatch.setattr(warming, "_signals", lambda kind: [warming._sounds()[0]])
    with pytest.raises(UnsupportedMedia):
        list(warming.warmed(("jpeg",)))


def test_the_doctor_names_what_is_compiled() -> None:
    picture = warming._pictures()[0]
    compress.test(compress.encode(picture, "image-lossless").data)
    (finding,) = check_kernels(1.0)
    assert "plane_coder" in finding.found and "compiled now" in finding.found
