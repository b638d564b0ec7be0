"""The filter of system calls around processes that read media: what it lets through, what it ends, and that codecs go on."""

from __future__ import annotations

import errno
import io
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from laconic.codecs import compress, media
from laconic.codecs.errors import CorruptMedia, LaconicError
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Audio, Image, Signal, Video
from laconic.doctor import examine
from laconic.service import seccomp
from laconic.service.logs import make_log
from laconic.service.sandbox import PROGRAM, Sandbox
from laconic.service.seccomp import ALLOW, CALLS, ENOSYS, EPERM, KILL, MACHINES, program
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

LIMITS = Limits(max_pixels=1_000_000, max_video_pixels=8_000_000)
HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
EXEC, THREAD = 4, 0x10000
live = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in MACHINES, reason="there is no filter for this system"
)

# A decoder with the worst of all defects: it does what the file says, and tells what came of it in the error's text.
TAKEN_OVER = """
import ctypes, mmap, os, socket, sys, threading
from laconic.codecs import errors, media
def attack(file, *_):
    try:
        outcome = eval(file)
    except OSError as error:
        outcome = "errno %d" % error.errno
    raise errors.CorruptMedia("outcome: %s" % outcome)
media.read = attack
"""
UNFILTERED = "from laconic.service import seccomp\ndef confine(): raise OSError('not here')\nseccomp.confine = confine\n"
PNG = media.write(Image(np.arange(16 * 16 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)), "png")


def broken(fault: str) -> Sandbox:
    """A sandbox whose processes run `fault` once they have loaded everything."""
    program = (
        "import laconic.service.media_worker as worker\nload = worker._load_everything\n"
        f"def load_and_break():\n    load()\n    exec({fault!r}, globals())\n"
        "worker._load_everything = load_and_break\nworker.main({memory}, {seconds})"
    )
    return Sandbox(1, LIMITS, 30, program)


@pytest.fixture(scope="module")
def taken_over() -> Iterator[Mapping[bool, Sandbox]]:
    """Sandboxes that do what files say, with the filter and without."""
    boxes = {True: broken(TAKEN_OVER), False: broken(TAKEN_OVER + UNFILTERED)}
    yield boxes
    for box in boxes.values():
        box.stop()


def verdict(machine: str, call: str | int, *arguments: int, arch: int | None = None) -> int:
    """What the filter says of a call: classic BPF, interpreted."""
    number = call if isinstance(call, int) else getattr(CALLS[call], machine)
    words = [number, MACHINES[machine] if arch is None else arch, 0, 0]
    words += [word for value in (*arguments, *[0] * (6 - len(arguments))) for word in (value & 0xFFFFFFFF, value >> 32)]
    at, accumulator, code = 0, 0, program(machine)
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        match operation:
            case seccomp.LOAD:
                accumulator = words[constant // 4]
            case seccomp.RETURN:
                return constant
            case seccomp.EQUAL:
                at += if_true if accumulator == constant else if_false
            case seccomp.ABOVE:
                at += if_true if accumulator > constant else if_false
            case seccomp.FROM:
                at += if_true if accumulator >= constant else if_false
            case seccomp.BITS:
                at += if_true if accumulator & constant else if_false
            case _:
                raise AssertionError(operation)


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_and_their_arguments(machine: str) -> None:
    for call in ("futex", "munmap", "brk", "madvise", "mremap", "exit", "exit_group", "getrandom", "rt_sigreturn"):
        assert verdict(machine, call, 1, 2, 3) == ALLOW
    for call in ("execve", "execveat", "ptrace", "socket", "connect", "bind", "kill", "setns", "io_uring_setup"):
        assert verdict(machine, call, 1, 2, 3) == KILL
    for call in ("mmap", "mprotect"):
        assert verdict(machine, call, 0, 4096, 3) == ALLOW
        assert verdict(machine, call, 0, 4096, 3 | EXEC) == EPERM
    for call in ("recvfrom", "sendto"):
        assert [verdict(machine, call, descriptor) for descriptor in (0, 1, 3)] == [ALLOW, EPERM, EPERM]
    for call in ("read", "write"):
        assert [verdict(machine, call, descriptor) for descriptor in (0, 1, 2, 3, 2**32 - 1)] == [ALLOW] * 3 + [EPERM] * 2
    assert verdict(machine, "clone", 0x3D0F00 | THREAD) == ALLOW
    assert verdict(machine, "clone", 17) == KILL and verdict(machine, "clone3") == ENOSYS
    assert [verdict(machine, "prctl", option) for option in (15, 22, 38)] == [ALLOW, EPERM, EPERM]
    assert verdict(machine, "prlimit64", 0, 0) == ALLOW
    assert verdict(machine, "prlimit64", 0, 7) == verdict(machine, "prlimit64", 1, 0) == EPERM
    reading, writing = 0o2000000, (1, 2, 0o100, 0o1000)
    assert verdict(machine, "openat", 2**64 - 100, 0, reading) == EPERM
    assert [verdict(machine, "openat", 2**64 - 100, 0, reading | flag) for flag in writing] == [KILL] * 4
    assert verdict(machine, 1000) == EPERM


def test_other_ways_into_the_kernel_are_closed() -> None:
    for machine, other in (("x86_64", 0x40000003), ("x86_64", MACHINES["aarch64"]), ("aarch64", 0x40000028)):
        assert verdict(machine, "getpid", arch=other) == KILL
    for number in (0, 512, CALLS["getpid"].x86_64 or 0):
        assert verdict("x86_64", 0x40000000 | number) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    header = Path("/usr/include") / HEADERS[machine]
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\n", header.read_text()))
    for name, numbers in CALLS.items():
        number = getattr(numbers, machine)
        assert (None if number is None else str(number)) == found.get(name), name


@live
def test_what_the_kernel_says_of_a_worker() -> None:
    box = Sandbox(1, LIMITS, 30)
    try:
        assert box.read(PNG, LIMITS).shape == (16, 16, 3) and box.unfiltered() == ""
        workers = [worker for worker in [*box._pictures.queue, *box._headers.queue] if worker is not None]
        assert len(workers) == 2
        for worker in workers:
            status = Path(f"/proc/{worker.process}/status").read_text()
            assert re.search(r"^NoNewPrivs:\s*1$", status, re.M) and re.search(r"^Seccomp:\s*2$", status, re.M)
    finally:
        box.stop()


# What is tried, what comes of it behind the filter (None: the kernel ends the process), and with the limits alone.
ATTEMPTS = [
    ("open('/etc/passwd').read()", f"errno {errno.EPERM}", f"errno {errno.EMFILE}"),
    ("os.stat('/etc/passwd').st_size > 0", f"errno {errno.EPERM}", "True"),
    ("os.listdir('/')", f"errno {errno.EPERM}", f"errno {errno.EMFILE}"),
    ("os.dup(0)", f"errno {errno.EPERM}", f"errno {errno.EMFILE}"),
    ("[os.close(1), os.dup(0)]", f"errno {errno.EPERM}", "[None, 1]"),  # limits alone let one take another's place
    ("len(mmap.mmap(-1, 4096, prot=7))", f"errno {errno.EPERM}", "4096"),
    ("threading.Thread(target=print).start()", "None", "None"),
    ("open('/tmp/laconic-seccomp', 'w')", None, f"errno {errno.EMFILE}"),
    ("os.execv('/nonexistent', ['x'])", None, f"errno {errno.ENOENT}"),
    ("(os.fork() or os._exit(0)) > 0", None, "True"),
    ("socket.socket()", None, f"errno {errno.EMFILE}"),
    ("os.kill(os.getppid(), 0)", None, "None"),
    ("ctypes.CDLL(None).ptrace(0, 0, 0, 0)", None, "0"),
]


@live
@pytest.mark.parametrize(("attempt", "filtered", "unfiltered"), ATTEMPTS)
def test_what_a_worker_that_was_taken_over_tries(
    taken_over: Mapping[bool, Sandbox], attempt: str, filtered: str | None, unfiltered: str
) -> None:
    for box, outcome in ((taken_over[True], filtered), (taken_over[False], unfiltered)):
        with pytest.raises(CorruptMedia) as caught:
            box.read(attempt.encode(), LIMITS)
        expected = "the file ended the process that was at work on it" if outcome is None else f"outcome: {outcome}"
        assert str(caught.value) == expected


@live
def test_the_process_that_forks_outlives_its_workers(taken_over: Mapping[bool, Sandbox]) -> None:
    box = taken_over[True]
    with pytest.raises(CorruptMedia, match="ended the process"):
        box.read(b"os.kill(os.getppid(), 9)", LIMITS)
    assert box._forks._process is not None and box._forks._process.poll() is None
    assert box.write(media.read(PNG), "png") == PNG


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(1, LIMITS, 60)
    yield box
    box.stop()


def _signals() -> Iterator[Signal]:
    random = np.random.default_rng(0)
    for channels in (1, 3, 4):
        yield Image(random.integers(0, 256, (90, 121, channels), dtype=np.uint8))
        yield Image(random.integers(0, 65536, (33, 34, channels), dtype=np.uint16))
    for depth, kind in ((256, np.uint8), (65536, np.uint16)):
        yield Video.of(random.integers(0, depth, (9, 64, 96, 3)).astype(kind))
    noise = random.integers(-9000, 9000, (2, 24_000))
    yield from (Audio.of(noise.astype(np.int16), 44_100), Audio.of(noise.astype(np.int32), 48_000))
    yield Audio.of((noise / 32768).astype(np.float32), 16_000)


FORMS = ("png", "jpeg", "webp", "avif", "jxl", "npy", "ppm", "mp4", "webm", "mkv", "y4m", "zip")
FORMS_OF_SOUND = ("wav", "flac", "ogg", "mp3", "m4a")


@live
@pytest.mark.parametrize("form", FORMS + FORMS_OF_SOUND)
def test_every_format_is_read_and_written_behind_the_filter(sandbox: Sandbox, form: str) -> None:
    done = 0
    for signal in _signals():
        try:
            file = media.write(signal, form, 40)
        except LaconicError:  # not what this format holds
            continue
        assert sandbox.write(signal, form, 40) == file
        try:
            array = media.read(file, LIMITS).array
        except LaconicError as error:  # frames in a .zip, and some arrays, are for people to read
            with pytest.raises(type(error)):
                sandbox.read(file, LIMITS)
        else:
            assert np.array_equal(sandbox.read(file, LIMITS).array, array)
        done += 1
    assert done


@live
@pytest.mark.parametrize("form", ["gif", "bmp", "tiff"])
def test_formats_that_are_only_read(sandbox: Sandbox, form: str) -> None:
    for mode in ("1", "L", "P", "RGB"):
        file = io.BytesIO()
        PIL.Image.fromarray(next(_signals()).array[:, :, 0]).convert(mode).save(file, form)
        assert np.array_equal(sandbox.read(file.getvalue(), LIMITS).array, media.read(file.getvalue(), LIMITS).array)


@live
@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif", "jxl", "av1", "hevc", "h264", "opus", "flac"])
def test_streams_are_decoded_behind_the_filter(sandbox: Sandbox, codec: str) -> None:
    done = 0
    for signal in _signals():
        try:
            file = compress.encode(signal, codec).data
        except LaconicError:
            continue
        assert np.array_equal(sandbox.decode(file, LIMITS).array, compress.decode(file, LIMITS).array)
        done += 1
    assert done


def test_a_system_without_filters_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "refusal", lambda: "the system allows no filter")
    (finding,) = [one for one in examine(codecs=()) if one.check == "media workers"]
    assert finding.state == "warning" and "the system allows no filter" in finding.found
    assert "docs/security.md" in finding.advice
    monkeypatch.setattr(Sandbox.__init__, "__defaults__", (UNFILTERED + PROGRAM,))
    told = io.StringIO()
    with background(ServiceSettings(port=0, threads=1, codecs=("jpeg",)), make_log(told)):
        pass
    assert "without a filter of system calls" in told.getvalue() and "not here" in told.getvalue()


@live
def test_a_system_with_filters_is_told_and_the_caller_keeps_its_calls() -> None:
    (finding,) = [one for one in examine(codecs=()) if one.check == "media workers"]
    assert finding.state == "ok" and "filter" in finding.found
    assert re.search(r"^Seccomp:\s*[02]$", Path("/proc/self/status").read_text(), re.M)
