"""Videos as fitted networks in files: what comes back, what damage costs, targets, interrupted fits, exact frames."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from laconic.codecs import compress, container
from laconic.codecs.compress import Target
from laconic.codecs.errors import Cancelled, CorruptStream, InvalidSettings, LaconicError
from laconic.codecs.metrics import psnr
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Video
from laconic.codecs.video.inr import VideoInr
from laconic.codecs.video.inr_exact import ExactNetwork
from laconic.codecs.video.inr_frames import shown_network
from laconic.codecs.video.inr_presets import PRESETS, spec_for
from laconic.codecs.video.inr_settings import InrSettings, layout_for, plan_for
from laconic.codecs.video.inr_spec import Spec
from laconic.codecs.video.inr_stream import PARAM_EXACT, PARAM_SPEC, Layout, layout_of, split_group, unpack_network
from laconic.codecs.video.inr_tables import GRID_BITS, LARGEST, activation_table, sample_table

from .checks import check_deterministic, check_rejects, check_round_trip, check_salvages
from .moving import moving_waves

SETTINGS: dict[str, object] = {"arch": "hnerv", "steps": 150, "parameters": 3000, "frames": 8, "jobs": 1}
CLIP = moving_waves()
GROUPS = 3


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings whose fit is made once: whatever is asked for with them is another rate of it."""
    return SETTINGS | {"checkpoint": str(tmp_path_factory.mktemp("fits"))}


@pytest.fixture(scope="module")
def data(kept: dict[str, object]) -> bytes:
    """The file of that fit."""
    return compress.encode(CLIP, "video-inr", kept, device="cpu").data


def decoded(data: bytes) -> Video:
    signal = compress.decode(data, device="cpu")
    assert isinstance(signal, Video)
    return signal


def test_a_video_comes_back(kept: dict[str, object], data: bytes) -> None:
    check_round_trip("video-inr", CLIP, kept, least_psnr=14)
    assert len(container.read(data).chunks) == GROUPS


def test_a_quality_is_a_rate_of_the_same_fit(kept: dict[str, object], data: bytes) -> None:
    files = [compress.encode(CLIP, "video-inr", kept | {"quality": q}, device="cpu").data for q in (20, 70)]
    assert len(files[0]) < len(data) < len(files[1])
    assert psnr(CLIP, decoded(files[0])) < psnr(CLIP, decoded(files[1]))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert compress.encode(CLIP, "video-inr", kept | {"quality": 20}, device="cpu").data == files[0]
    finally:
        torch.set_num_threads(before)


def test_frames_of_16_bits_come_back_with_them(tmp_path: Path) -> None:
    deep = moving_waves(4, 20, 30, bits=16)
    data = compress.encode(deep, "video-inr", {"steps": 200, "parameters": 3000, "jobs": 1}, device="cpu").data
    assert decoded(data).array.dtype == np.uint16
    assert psnr(deep, decoded(data)) > 18


def test_steps_give_the_same_file_on_any_number_of_threads() -> None:
    check_deterministic("video-inr", moving_waves(6, 16, 24), {"steps": 8, "parameters": 2000, "jobs": 1})


def test_what_encoding_reports_is_what_a_new_process_decodes(tmp_path: Path) -> None:
    told: list[str] = []
    settings = SETTINGS | {"steps": 1000}  # after which a fit gains nothing by the passes that fit its integers
    encoded = compress.encode(CLIP, "video-inr", settings, device="cpu", progress=lambda part, stage: told.append(stage))
    file, frames = tmp_path / "clip.lcn", tmp_path / "frames.npy"
    file.write_bytes(encoded.data)
    program = (
        "import sys, numpy; from laconic.codecs import compress; from pathlib import Path;"
        "numpy.save(sys.argv[2], compress.decode(Path(sys.argv[1]).read_bytes(), device='cpu').array)"
    )
    subprocess.run([sys.executable, "-c", program, str(file), str(frames)], check=True)
    reached = psnr(CLIP, Video.of(np.load(frames)))
    assert told[-1] == f"{reached:.2f} dB"
    last = open_codec("video-inr", "cpu").last  # type: ignore[attr-defined]
    assert abs(last.psnr - reached) < 0.05
    assert last.float_psnr >= reached - 0.05


def test_a_frame_is_the_same_wherever_reading_begins(data: bytes) -> None:
    video = decoded(data)
    whole = video.array
    for start, stop in ((0, 1), (7, 9), (13, 24), (23, 24)):
        assert np.array_equal(video.frames(start, stop).array, whole[start:stop])


def test_a_seek_reads_one_group(data: bytes) -> None:
    stream = container.read(data)
    chunks = (b"", stream.chunks[1], b"")
    video = VideoInr("cpu").decode(replace(stream, chunks=chunks))
    assert np.array_equal(video.frames(9, 12).array, decoded(data).array[9:12])
    with pytest.raises(CorruptStream):
        video.frames(7, 9)


def test_damaged_files_raise_or_decode(data: bytes) -> None:
    def read(damaged: bytes) -> None:
        decoded(damaged).frames(8, 9)  # one frame of the middle group: decoding all takes long

    assert check_rejects(data, flips=60, truncations=40, open_file=read) > 80


def test_damage_costs_one_group(data: bytes) -> None:
    check_salvages(data, flips=150)


def test_parameters_that_lie_about_their_group_are_refused(data: bytes) -> None:
    """What passes every checksum of the container, as a writer of hostile files sees to it."""
    stream = container.read(data)
    rng = np.random.default_rng(0)
    for _ in range(25):
        payload = bytearray(stream.chunks[0])
        payload[rng.integers(len(payload))] ^= 1 << rng.integers(8)
        with pytest.raises(CorruptStream):
            VideoInr("cpu").decode(replace(stream, chunks=(bytes(payload), *stream.chunks[1:]))).frames(0, 1)
    for payload in (b"", b"\x00", b"\xff" * 40):
        with pytest.raises(CorruptStream):
            VideoInr("cpu").decode(replace(stream, chunks=(payload, *stream.chunks[1:]))).frames(0, 1)


def test_headers_that_make_no_sense_are_refused(data: bytes) -> None:
    stream = container.read(data)
    numbers = stream.params[PARAM_SPEC]
    assert isinstance(numbers, list)
    rng = np.random.default_rng(1)
    bad: list[object] = [None, b"spec", [], numbers[:-1], [*numbers, 0], [99, *numbers[1:]]]
    for params in [{PARAM_SPEC: value} for value in bad] + [{PARAM_SPEC: numbers, PARAM_EXACT: 1}]:
        with pytest.raises(CorruptStream):
            layout_of(replace(stream, params=params))  # type: ignore[arg-type]
    with pytest.raises(CorruptStream):
        layout_of(replace(stream, shape=(24, 32, 50, 3)))
    with pytest.raises(CorruptStream):
        layout_of(replace(stream, shape=(2, 32, 48, 3)))
    for _ in range(300):
        changed = list(numbers)
        changed[rng.integers(len(changed))] = int(2 ** rng.uniform(0, 62)) - 1
        try:
            video = VideoInr("cpu").decode(replace(stream, params={PARAM_SPEC: changed}))
            if Spec.from_params(changed).parameters < 10_000:
                video.frames(0, 1)
        except LaconicError:
            pass


@pytest.mark.parametrize("kind", ["psnr", "bytes", "bpp"])
def test_targets_are_met_within_2_per_cent_by_one_fit(kept: dict[str, object], data: bytes, kind: str) -> None:
    size = round(0.8 * len(data))
    targets = {
        "psnr": Target(psnr=psnr(CLIP, decoded(data)) - 0.3),
        "bytes": Target(bytes=size),
        "bpp": Target(bpp=8 * size / CLIP.pixels),
    }
    target = targets[kind]
    encoded = compress.encode(CLIP, "video-inr", kept, target, device="cpu")
    if target.psnr is not None:
        assert target.psnr <= psnr(CLIP, decoded(encoded.data)) <= 1.02 * target.psnr
    else:
        most = target.max_bytes(CLIP.pixels)
        assert most is not None
        assert 0.98 * most <= len(encoded.data) <= most


def test_a_target_beyond_the_fit_tells_what_it_reaches(kept: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings, match=r"this fit reaches \d\d\.\d\d dB; more seconds"):
        compress.encode(CLIP, "video-inr", kept, Target(psnr=60), device="cpu")
    with pytest.raises(InvalidSettings, match="the smallest file has"):
        compress.encode(CLIP, "video-inr", kept, Target(bytes=300), device="cpu")


def test_a_size_decides_the_size_of_the_network() -> None:
    sizes = [layout_for(InrSettings(), (64, 90, 160, 3), bpp).spec.parameters for bpp in (0.05, 0.1, 0.4)]
    assert sizes == sorted(sizes)
    assert 0.6 < sizes[1] * 4.5 / (64 * 90 * 160) / 0.1 <= 1.1


@pytest.mark.parametrize("arch", ["nerv", "nerv++", "boost"])
def test_every_architecture_comes_back(arch: str) -> None:
    clip = moving_waves(13, 24, 32)
    settings = {"arch": arch, "steps": 60, "parameters": 4000, "jobs": 1}
    data = compress.encode(clip, "video-inr", settings, device="cpu").data
    video = decoded(data)
    assert psnr(clip, video) > 10
    assert np.array_equal(video.frames(12, 13).array, video.array[12:])


def test_the_networks_of_a_group_lean_on_its_first_alone() -> None:
    clip = moving_waves(13, 24, 32)
    data = compress.encode(
        clip, "video-inr", {"arch": "nirvana", "steps": 40, "parameters": 4000, "jobs": 1}, device="cpu"
    ).data
    stream = container.read(data)
    layout = layout_of(stream)
    assert (layout.groups, layout.networks(0), layout.spec.frames) == (1, 3, 6)
    codes = split_group(stream.chunks[0], 3)
    first = unpack_network(codes[0], layout.spec, None)
    third = unpack_network(codes[2], layout.spec, first)
    assert all(first[name].values.shape == third[name].values.shape for name in first)


def test_frames_are_shared_among_groups_without_gaps() -> None:
    spec = spec_for("hnerv", 2000, 8, 16, 24)
    for frames, groups in ((24, 3), (23, 3), (5, 1), (8, 4)):
        layout = Layout(replace(spec, frames=-(-frames // groups), stem_times=-(-frames // groups)), frames, groups)
        spans = [layout.span(group) for group in range(groups)]
        assert [a for a, _ in spans] == list(layout.starts)
        assert spans[0][0] == 0 and spans[-1][1] == frames
        assert all(one[1] == other[0] for one, other in pairwise(spans))
        assert all(layout.spec_of(g).frames == b - a == layout.spec_of(g).stem_times for g, (a, b) in enumerate(spans))


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("arch", ["hnerv", "boost"])
def test_presets_are_sizes_and_epochs(preset: str, arch: str) -> None:
    settings = InrSettings(preset=preset, arch=arch)  # type: ignore[arg-type]
    layout = layout_for(settings, (132, 640, 1280, 3))
    assert layout.groups == (1 if preset.startswith("paper") else 2)
    assert 0.7 < layout.spec.parameters / PRESETS[preset].parameters < 1.1
    plan = plan_for(settings, layout, 0, 1)
    assert plan.steps == (PRESETS[preset].epochs * -(-132 // layout.groups // PRESETS[preset].batch),)


# Fits that end early


def child(checkpoint: Path, jobs: int) -> subprocess.Popen[bytes]:
    """Start a process whose fit would take hours."""
    program = (
        "from laconic.codecs import compress; from laconic.codecs.video import inr_fit; from tests.moving import moving_waves;"
        f"compress.encode(moving_waves(16, 16, 24), 'video-inr', {endless(checkpoint, jobs)!r}, device='cpu')"
    )
    return subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[1])


def endless(checkpoint: Path, jobs: int) -> dict[str, object]:
    return {"steps": 10**7, "parameters": 1500, "frames": 8, "jobs": jobs, "checkpoint": str(checkpoint)}


def until(met: Callable[[], bool], seconds: float) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def children_of(process: int) -> list[int]:
    """Return the processes that a process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def is_running(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks for processes in /proc")
def test_a_killed_fit_goes_on_where_it_was(tmp_path: Path) -> None:
    process = child(tmp_path, jobs=2)
    try:
        until(lambda: len(list(tmp_path.glob("*/*.checkpoint"))) == 2, 120)
        fitting = children_of(process.pid)
        assert len(fitting) == 2
    finally:
        process.kill()
        process.wait()
    until(lambda: not any(map(is_running, fitting)), 30)  # without their parent they end too
    steps: list[tuple[float, str]] = []

    def first_steps(part: float, stage: str) -> None:
        steps.append((part, stage))
        if len(steps) == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compress.encode(moving_waves(16, 16, 24), "video-inr", endless(tmp_path, 1), device="cpu", progress=first_steps)
    assert steps[0][0] > 0, "it began anew"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cancelled_fit_ends_at_once(tmp_path: Path, jobs: int) -> None:
    cancelled = []
    before = set(children_of(os.getpid())) if Path("/proc/self/stat").exists() else set()

    def cancel(part: float, stage: str) -> None:
        cancelled.append(time.monotonic())
        if len(cancelled) > 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compress.encode(moving_waves(16, 16, 24), "video-inr", endless(tmp_path, jobs), device="cpu", progress=cancel)
    assert time.monotonic() - cancelled[-1] < 5  # one on an idle machine
    assert not Path("/proc/self/stat").exists() or set(children_of(os.getpid())) <= before


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    settings = endless(tmp_path / "file" / "folder", 2)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidSettings, match="cannot be made"):
        compress.encode(moving_waves(16, 16, 24), "video-inr", settings, device="cpu")


# The exact profile


def test_the_exact_profile_gives_the_same_frames_in_every_way_of_running(kept: dict[str, object], data: bytes) -> None:
    encoded = compress.encode(CLIP, "video-inr", kept | {"exact": True}, device="cpu")
    stream = container.read(encoded.data)
    assert stream.params[PARAM_EXACT] is True
    assert abs(psnr(CLIP, decoded(encoded.data)) - psnr(CLIP, decoded(data))) < 0.2  # as good as the floating-point frames
    layout, before, found = layout_of(stream), torch.get_num_threads(), []
    network = unpack_network(split_group(stream.chunks[0], 1)[0], layout.spec, None)
    try:
        for threads, batch in ((1, 1), (2, 4), (1, 4), (2, 1)):
            torch.set_num_threads(threads)
            show = shown_network(layout.spec, network, 8, "cpu", True)
            found.append(np.concatenate([show(range(first, first + batch)) for first in range(0, 8, batch)]))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert np.array_equal(found[0], decoded(encoded.data).array[:8])


def test_an_architecture_without_integers_has_no_exact_profile() -> None:
    with pytest.raises(InvalidSettings, match="hnerv has one"):
        compress.encode(CLIP, "video-inr", {"arch": "nerv++", "exact": True, "steps": 1}, device="cpu")


def test_an_exact_network_takes_any_parameters() -> None:
    spec = spec_for("hnerv", 1500, 2, 16, 16)
    for size in (0.0, 1e-30, 1.0, 1e30):
        tensors = {name: torch.full(shape, size) for name, shape, _ in spec.tensors()}
        with contextlib.suppress(CorruptStream):
            assert ExactNetwork(spec, tensors).render(torch.arange(2), 8).max() <= 255
    tensors["head_bias"][0] = float("nan")
    with pytest.raises(CorruptStream):
        ExactNetwork(spec, tensors)


@pytest.mark.parametrize("name", ["gelu", "swish", "sine"])
def test_tables_hold_the_functions(name: str) -> None:
    x = torch.arange(-LARGEST, LARGEST + 1, dtype=torch.float64) / 2**GRID_BITS
    function = {"gelu": torch.nn.functional.gelu, "swish": torch.nn.functional.silu, "sine": torch.sin}[name]
    assert np.abs(activation_table(name) - function(x).numpy() * 2**GRID_BITS).max() <= 0.5 + 1e-6


def test_tables_hold_the_samples() -> None:
    x = torch.arange(-(2**15), 2**15 + 1, dtype=torch.float64) / 2**12
    tanh, linear = sample_table("tanh", 12, 2**15, 255), sample_table("linear", 12, 2**15, 65535)
    assert np.abs(tanh - (0.5 + 0.5 * torch.tanh(x)).numpy() * 255).max() <= 0.5 + 1e-6
    assert np.abs(linear - (0.5 + 0.5 * x).clamp(0, 1).numpy() * 65535).max() <= 0.5 + 1e-6


def test_two_budgets_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="seconds and steps contradict each other"):
        compress.encode(CLIP, "video-inr", {"seconds": 1, "steps": 1}, device="cpu")
