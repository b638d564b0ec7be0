"""Rate-distortion and speed of the image codecs on a folder of pictures, beside published curves.

    python -m laconic.bench.image --pictures KODAK -o OUT [--docs docs/benchmarks.md]

writes `results.json`, `table.md` and `rd.svg` into OUT. Rates are of real bytes, distortions of the pictures decoded from
them, both averaged per picture. Points are kept in `OUT/points.jsonl`: an interrupted run continues, and a changed codec,
setting, weights file, library or picture is measured anew. Speed is measured afterwards, alone, in processes of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.registry import codec_class
from ..codecs.settings import codecs_at_once
from .image_anchors import load_anchors
from .image_points import Job, Point, PointCache, Scalar, make_job, measure_all, versions, weights_digests
from .image_report import write_report
from .image_results import Curve, Results, averaged, compare
from .image_timing import TIMED_NEAR, Timing, TimingJob, time_jobs
from .program import run_program

__all__ = ["main", "processor", "run"]

PICTURES = (".png", ".ppm", ".bmp", ".tif", ".tiff")
QUALITIES: dict[str, tuple[int, ...]] = {  # chosen to span about 27 to 42 dB on Kodak
    "image-transform": (2, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    "image-overfit": (20, 50, 80),
    "jpeg": (8, 15, 25, 40, 55, 70, 82, 90, 95),
    "webp": (2, 15, 35, 55, 72, 83, 91, 96),
    "avif": (15, 28, 40, 50, 60, 70, 80, 90),
    "jxl": (10, 25, 40, 55, 68, 80, 90, 95),
}
OTHER_QUALITIES = (10, 25, 40, 50, 60, 70, 80, 90)
VARIANTS: dict[str, dict[str, dict[str, Scalar]]] = {"avif": {"avif 4:4:4": {"chroma": "444"}}}  # further curves of a codec
PEERS = frozenset({"jpeg", "webp", "avif", "jxl"})  # charged for their own format's bytes, without the .lcn header


@dataclass(frozen=True)
class _Plan:
    """One curve to measure: a codec at several settings."""

    name: str
    codec: str
    settings: tuple[dict[str, Scalar], ...]

    @property
    def counted(self) -> str:
        return "payload" if self.codec in PEERS else "file"


def run(
    out: Path,
    pictures: Path | None = None,
    *,
    codecs: Sequence[str] | None = None,
    qualities: Sequence[int] | None = None,
    efforts: Sequence[int] | None = None,
    threads: int = 1,
    limit: int | None = None,
    jobs: int = 1,
    device: str = "cpu",
    timing_cores: Sequence[int] = (1, 2),
    timing_pictures: int = 3,
    repeats: int = 3,
    progress: Progress | None = None,
    docs: Path | None = None,
) -> Results:
    """Measure the codecs on the pictures of a folder and write `results.json`, `table.md` and `rd.svg` into `out`.

    `codecs` (default: all but fits) at `qualities` (default: a set for each codec), on the first `limit` pictures, in
    `jobs` processes of `threads` threads; codecs that have efforts once more at each of `efforts`; then speed on each count of
    `timing_cores` (none: not measured; fits never are), as medians over `timing_pictures` pictures and `repeats` repeats.
    `docs` names a Markdown file whose marked section is replaced. Raises `InvalidSettings` for an unknown codec, a folder
    without pictures or a missing matplotlib, and what codecs raise.
    """
    report = progress or (lambda done, stage: None)
    paths = _pictures(pictures, limit)
    plans = [plan for codec in codecs or _image_codecs() for plan in _plans(codec, qualities, efforts or ())]
    _need_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    work = [
        [[make_job(path, plan.codec, settings, plan.codec in PEERS, device) for path in paths] for settings in plan.settings]
        for plan in plans
    ]
    points = _measured(work, PointCache(out / "points.jsonl"), jobs, threads, report)
    curves = []
    for plan, settings in zip(plans, work, strict=True):
        groups = [[points[job.key] for job in group] for group in settings]
        curves.append(averaged(plan.name, plan.counted, weights_digests(plan.codec, device), groups))
    fits = [curve for curve in curves if curve.codec not in codecs_at_once("image")]  # a picture takes minutes: not timed
    others = [curve for curve in curves if curve not in fits]
    timed = [*fits, *_timed(others, paths[:timing_pictures], _possible(timing_cores), repeats, device, report)]
    facts = _facts(paths, sum(points[job.key].pixels for job in work[0][0]), threads, jobs, device)
    keys = [job.key for codec in work for group in codec for job in group]
    results = Results(facts, tuple(timed), compare(timed, load_anchors()), tuple(points[key] for key in keys))
    write_report(results, out, docs)
    report(1.0, "done")
    return results


def _pictures(folder: Path | None, limit: int | None) -> list[Path]:
    if folder is None:
        raise InvalidSettings("say where the pictures are, for example the 24 of Kodak: --pictures DIR")
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)[:limit]
    if not found:
        raise InvalidSettings(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return found


def _image_codecs() -> list[str]:
    """Return the lossy codecs of pictures, but for those whose encodings take minutes: these are measured where named."""
    return [codec for codec in codecs_at_once("image") if not codec_class(codec).lossless]


def _plans(codec: str, qualities: Sequence[int] | None, efforts: Sequence[int]) -> list[_Plan]:
    fields = codec_class(codec).Settings.model_fields
    if "quality" not in fields:
        raise InvalidSettings(f"codec {codec!r} has no quality to measure at")
    chosen = qualities or QUALITIES.get(codec, OTHER_QUALITIES)
    curves: dict[str, dict[str, Scalar]] = {codec: {}, **VARIANTS.get(codec, {})}
    if "effort" in fields:
        curves |= {f"{codec} -e {effort}": {"effort": effort} for effort in efforts}
    return [_Plan(name, codec, tuple({"quality": quality, **fixed} for quality in chosen)) for name, fixed in curves.items()]


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InvalidSettings('the plot needs matplotlib: pip install "laconic[bench]"') from error


def _measured(
    work: Sequence[Sequence[Sequence[Job]]], known: PointCache, jobs: int, threads: int, report: Progress
) -> dict[str, Point]:
    """Return the points of all jobs by key; takes the first 0.8 of the progress."""
    flat = [job for codec in work for group in codec for job in group]
    points: dict[str, Point] = {}
    for point in measure_all(flat, known, jobs, threads):
        points[point.key] = point
        report(0.8 * (len(points) / len(flat)), f"{point.codec} {point.picture}")
    return points


def _possible(cores: Sequence[int]) -> list[int]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({min(count, available) for count in cores})


def _timed(
    curves: Sequence[Curve], pictures: Sequence[Path], cores: Sequence[int], repeats: int, device: str, report: Progress
) -> list[Curve]:
    """Return the curves with their timings; takes the last 0.2 of the progress."""
    jobs = []
    for curve in curves:
        nearest = min(range(len(curve.psnr)), key=lambda k: abs(curve.psnr[k] - TIMED_NEAR))
        jobs.append(TimingJob(curve.codec, curve.settings[nearest], tuple(pictures), repeats, device))
    timings: dict[str, list[Timing]] = {curve.name: [] for curve in curves}
    for index, count in enumerate(cores):
        report(0.8 + 0.2 * index / len(cores), f"timing on {count} cores")
        for curve, timing in zip(curves, time_jobs(jobs, count), strict=True):
            timings[curve.name].append(timing)
    return [replace(curve, timings=tuple(timings[curve.name])) for curve in curves]


def _facts(paths: Sequence[Path], pixels: int, threads: int, jobs: int, device: str) -> dict[str, object]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "pictures": [path.name for path in paths],
        "pixels": pixels,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "threads": threads,
        "jobs": jobs,
        "device": device,
        "versions": versions(),
    }


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic.bench.image", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of PNG pictures, for example Kodak's 24")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results and the cache")
    parser.add_argument("--codec", action="append", dest="codecs", help="measure this codec (repeat for more; default: all)")
    parser.add_argument("--quality", action="append", type=int, dest="qualities", help="measure at this quality (repeat)")
    parser.add_argument("--effort", action="append", type=int, dest="efforts", help="a further curve at this effort (repeat)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--timing-cores", type=int, nargs="*", default=(1, 2), help="measure speed on so many cores")
    parser.add_argument("--timing-pictures", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats")
    parser.add_argument("--docs", type=Path, help="Markdown file whose marked section is replaced")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    return run_program(run, _parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
