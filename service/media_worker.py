"""The processes that read and write third-party media for `sandbox`: each may use so much memory and time, and nothing else.

Messages are a JSON line's length and a payload's length (4 and 8 bytes, little-endian), the JSON and
the payload. What media need is imported and no more, so that a worker is small: no torch, no numba.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image as Pillow

from ..codecs import compress, media
from ..codecs.errors import LaconicError, LimitExceeded, UnsupportedMedia
from ..codecs.limits import Limits
from ..codecs.signals import Audio, Image, Video
from . import seccomp
from .excerpts import Excerpt, restore
from .packing import Reply, pack_signal, unpack_signal

__all__ = ["FRAME", "main", "serve"]

FRAME = struct.Struct("<IQ")


def _read_header(body: memoryview, asked: Mapping[str, Any]) -> Reply:
    return {"header": media.read_header(bytes(body), Limits(**asked["limits"]))}, []


def _read(body: memoryview, asked: Mapping[str, Any]) -> Reply:
    limits = Limits(**asked["limits"])
    signal = media.read(bytes(body), limits, asked["kind"])
    if isinstance(signal, Video):
        limits.check("max_video_pixels", signal.pixels, "the video's number of pixels, of all frames")
    return pack_signal(signal)


def _write(body: memoryview, asked: Mapping[str, Any]) -> Reply:
    return {}, [media.write(unpack_signal(asked["signal"], body), asked["form"], asked["quality"])]


def _decode(body: memoryview, asked: Mapping[str, Any]) -> Reply:
    return pack_signal(restore(bytes(body), Limits(**asked["limits"]), "cpu", Excerpt(**asked["excerpt"])))


def _confinement(body: memoryview, asked: Mapping[str, Any]) -> Reply:
    return {"unfiltered": UNFILTERED}, []


UNFILTERED: list[str] = []  # in a worker: why its system calls are not filtered
TASKS: dict[str, Callable[[memoryview, Mapping[str, Any]], Reply]] = {
    "read_header": _read_header,
    "read": _read,
    "write": _write,
    "decode": _decode,
    "confinement": _confinement,
}


def main(memory: int, seconds: int) -> None:
    """Fork a worker for every socket that comes in over standard input, and answer with its process id, until that ends.

    A fork takes milliseconds and shares what is loaded here. `memory` is in bytes of a worker's address space, `seconds` of its
    processor time for a task, which may ask for several times that.
    """
    warnings.simplefilter("ignore")
    control = socket.socket(fileno=os.dup(0))
    _load_everything()
    gc.freeze()  # its pages stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        process = os.fork()
        if process == 0:
            control.close()
            os.dup2(descriptors[0], 0)
            os.close(descriptors[0])
            channel = socket.socket(fileno=0)
            _confine(memory)
            serve(channel, seconds)
            os._exit(0)
        os.close(descriptors[0])
        control.sendall(process.to_bytes(4, "little"))


def serve(channel: socket.socket, seconds: int) -> None:
    """Do tasks until the channel ends."""
    while head := _receive(channel, FRAME.size):
        asked_length, length = FRAME.unpack(head)
        asked = json.loads(_receive(channel, asked_length))
        body = _receive(channel, length)
        _allow_seconds(int(seconds * asked["times"]))
        facts, parts = _answer(asked, memoryview(body))
        text = json.dumps(facts).encode()
        for part in (FRAME.pack(len(text), sum(map(len, parts))), text, *parts):
            channel.sendall(part)


def _receive(channel: socket.socket, length: int) -> bytearray:
    """Return so many bytes, or none if the channel ends before."""
    content = bytearray(length)
    view = memoryview(content)
    while view:
        received = channel.recv_into(view)
        if received == 0:
            return bytearray()
        view = view[received:]
    return content


def _answer(asked: Mapping[str, Any], body: memoryview) -> Reply:
    try:
        return TASKS[asked["task"]](body, asked)
    except LaconicError as error:
        limits = vars(error) if isinstance(error, LimitExceeded) else {}
        return {"error": error.code, "detail": str(error), **limits}, []
    except MemoryError:
        return {"error": "out-of-memory", "detail": f"{asked['task']} needs more memory than it may have"}, []
    except Exception as error:  # a defect of ours: the service logs it as such
        return {"error": "internal-error", "detail": f"{type(error).__name__}: {error}"}, []


def _load_everything() -> None:
    """Use every reader and writer once: what they load when first used cannot be loaded once no file may be opened."""
    picture = Image(np.arange(16 * 16 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    deep = Image(np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3))
    for form in media.WRITERS:
        media.read(media.write(picture, form))
        media.read(media.write(picture, form, 50))
        if form in ("png", "npy", "ppm"):
            media.read(media.write(deep, form))
    for form in ("gif", "bmp", "tiff"):
        file = BytesIO()
        Pillow.fromarray(picture.array).save(file, form)
        media.read(file.getvalue())
    media.read(bytes(imagecodecs.tiff_encode(deep.array)))
    shown = np.stack([picture.array, picture.array[::-1]])
    clips = Video.of(shown.astype(np.uint8)), Video.of(shown.astype(np.uint16) * np.uint16(257))
    for form in ("mp4", "webm", "mkv", "y4m", "zip", "npy"):
        for clip in clips:
            with contextlib.suppress(UnsupportedMedia):  # some write no 16 bits, some are not read
                media.read(media.write(clip, form))
    for name in ("av1", "hevc", "h264"):
        for clip in clips:
            compress.test(compress.encode(clip, name, device="cpu").data, device="cpu")
    silence = np.zeros((2, 4800), np.int16)
    for tone in (Audio.of(array, 44_100) for array in (silence, silence.astype(np.int32), silence.astype(np.float32))):
        for form in ("wav", "flac", "ogg", "mp3", "m4a"):
            with contextlib.suppress(UnsupportedMedia):
                media.read(media.write(tone, form))
        for name in ("opus", "flac"):
            with contextlib.suppress(UnsupportedMedia):
                compress.test(compress.encode(tone, name, device="cpu").data, device="cpu")
    for name in ("jpeg", "webp", "avif", "jxl"):
        for settings in ({}, {"lossless": True}) if name != "jpeg" else ({},):
            compress.decode(compress.encode(picture, name, settings, device="cpu").data, device="cpu")


def _confine(memory: int) -> None:
    """Give up, for good, memory beyond `memory`, files, core dumps, opening anything at all, and most system calls.

    Where the system cannot filter calls, that is noted in `UNFILTERED`, and the limits hold alone.
    """
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),  # as many as are open
    ):
        resource.setrlimit(limit, (value, value))
    try:
        seccomp.confine()
    except (OSError, AttributeError) as error:
        UNFILTERED.append(str(error))


def _allow_seconds(seconds: int) -> None:
    """Have the kernel end this process when the next task has used so many seconds of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))
