"""Rate and distortion of `video-inr` on a clip, from real files, beside H.264, H.265 and AV1 in the same run.

    python -m laconic.bench.video --clip bunny --clips FOLDER --preset tiny --size 160x320 -o OUT [--docs docs/benchmarks.md]

fits the preset's networks, writes `NAME-qQ.lcn` for several qualities from the one fit, decodes each in a new process from its
bytes alone, and writes `NAME.json`, `table.md` and plots into OUT, the table of everything measured there. Fits are kept in
`OUT/fit`: an interrupted run continues, to within ten seconds, and a second run only codes and measures. The conventional
codecs are charged for their own streams, ours for the whole .lcn file.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from ..codecs import compress, container
from ..codecs import device as devices
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.metrics import ms_ssim, psnr
from ..codecs.registry import codec_ids, open_codec
from ..codecs.signals import ArrayFrames, Video
from ..codecs.video.inr import VideoInr
from ..codecs.video.inr_presets import PRESETS
from ..codecs.video.inr_settings import Architecture, PresetName
from .image import processor
from .program import run_program
from .video_clips import CLIPS, load_clip
from .video_decode import decode_in_new_process
from .video_report import Measurement, keep, write_report

__all__ = ["main", "run"]

QUALITIES = (80, 60, 40, 20)  # of ours, from one fit
PEERS = {"h264": (20, 35, 50, 65), "hevc": (20, 35, 50, 65), "av1": (15, 30, 45, 60)}  # qualities
Settings = dict[str, object]


def run(
    out: Path,
    clip: str = "bunny",
    *,
    clips: Path = Path(),
    preset: str = "tiny",
    arch: str | None = None,
    size: str | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    limit: int | None = None,
    qualities: Sequence[int] = QUALITIES,
    peers: bool = True,
    threads: int = 2,
    jobs: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    docs: Path | None = None,
) -> list[Measurement]:
    """Measure one preset of one architecture on the first `limit` frames of a clip, and the conventional codecs.

    `size` is "HEIGHTxWIDTH"; `seconds` or `steps` replace the preset's epochs; frames are decoded on `threads` threads. Returns
    what is in the table now. Raises `InvalidSettings`, and what codecs raise.
    """
    report = progress or (lambda done, stage: None)
    video = load_clip(clip, clips, None if size is None else _size(size), limit)
    out.mkdir(parents=True, exist_ok=True)
    name = f"{Path(clip).stem}-{video.shape[1]}x{video.shape[2]}-{video.shape[0]}"
    arch = arch or PRESETS[preset].architecture
    settings: Settings = {"preset": preset, "arch": arch, "jobs": jobs, "checkpoint": str(out / "fit")}
    settings |= {key: value for key, value in (("seconds", seconds), ("steps", steps)) if value is not None}
    place = devices.resolve(device)
    rows = []
    for number, quality in enumerate(qualities):

        def shared(done: float, stage: str, number: int = number) -> None:
            report((number + done) / (len(qualities) + 1), stage)

        rows.append(_ours(video, name, settings | {"quality": quality}, place, threads, out, shared))
    keep(out, f"{name}-{preset}-{arch}", rows)
    if peers:
        keep(out, f"{name}-conventional", [_peer(video, name, c, q) for c in PEERS if c in codec_ids() for q in PEERS[c]])
    table = write_report(out, docs)
    report(1.0, "done")
    return table


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InvalidSettings(f"a size is HEIGHTxWIDTH, not {text!r}")
    return int(height), int(width)


def _ours(video: Video, clip: str, settings: Settings, place: str, threads: int, out: Path, progress: Progress) -> Measurement:
    """Encode, write the file, decode it in a new process and compare."""
    encoded = compress.encode(video, VideoInr.id, settings, device=place, progress=progress)
    codec = open_codec(VideoInr.id, place)
    assert isinstance(codec, VideoInr) and codec.last is not None
    measured = codec.last
    name = f"{clip}-{settings['preset']}-{settings['arch']}-q{settings['quality']}"
    (out / f"{name}.lcn").write_bytes(encoded.data)
    array, decoding = decode_in_new_process(out / f"{name}.lcn", out / f"{name}.npy", place, threads)
    decoded = Video(ArrayFrames(array))
    return Measurement(
        clip=clip,
        codec=VideoInr.id,
        label=f"{settings['arch']} {settings['preset']}",
        settings={**encoded.settings, "checkpoint": None},  # a path of this machine
        pixels=video.pixels,
        bytes=len(encoded.data),
        psnr=psnr(video, decoded),
        ms_ssim=ms_ssim(video, decoded),
        encode_seconds=measured.fit_seconds,
        decode_seconds=decoding.seconds,
        frames=video.shape[0],
        device=place,
        processor=processor(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        load_average=decoding.load_average,
        threads=decoding.threads,
        parameters=measured.parameters,
        reported_psnr=measured.psnr,
        float_psnr=measured.float_psnr,
        seek_seconds=decoding.seek_seconds,
    )


def _peer(video: Video, clip: str, codec: str, quality: int) -> Measurement:
    """Encode and decode with a conventional codec, in this process."""
    began = time.perf_counter()
    encoded = compress.encode(video, codec, {"quality": quality})
    coded = time.perf_counter()
    decoded = compress.decode(encoded.data)
    assert isinstance(decoded, Video)
    decoded = Video(ArrayFrames(decoded.array))
    seconds = time.perf_counter() - coded
    return Measurement(
        clip=clip,
        codec=codec,
        label=codec,
        settings=encoded.settings,
        pixels=video.pixels,
        bytes=sum(map(len, container.read(encoded.data).chunks)),
        psnr=psnr(video, decoded),
        ms_ssim=ms_ssim(video, decoded),
        encode_seconds=coded - began,
        decode_seconds=seconds,
        frames=video.shape[0],
        device="cpu",
        processor=processor(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        load_average=os.getloadavg()[0],
        threads=os.cpu_count() or 1,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic.bench.video", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for files, results and fits")
    parser.add_argument("--clip", default="bunny", help=f"{', '.join(CLIPS)}, or a video file (default bunny)")
    parser.add_argument("--clips", type=Path, default=Path(), help="folder with the files of the named clips")
    parser.add_argument("--preset", default="tiny", choices=get_args(PresetName), help="size and schedule (default tiny)")
    parser.add_argument("--arch", choices=get_args(Architecture), help="architecture instead of the preset's")
    parser.add_argument("--size", help="HEIGHTxWIDTH that frames are cropped and reduced to, such as 160x320")
    parser.add_argument("--seconds", type=float, help="time for fitting instead of the preset's epochs")
    parser.add_argument("--steps", type=int, help="steps of each group's fit instead")
    parser.add_argument("--limit", type=int, help="only the first frames")
    parser.add_argument("--quality", type=int, action="append", dest="qualities", help=f"repeat; default {QUALITIES}")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave the conventional codecs out")
    parser.add_argument("--threads", type=int, default=2, help="threads that decode (default 2)")
    parser.add_argument("--jobs", type=int, default=0, help="processes that fit (default: one for each processor)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--docs", type=Path, help="Markdown file whose marked section is replaced")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    return run_program(run, _parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
