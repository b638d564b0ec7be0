"""What `laconic encode`, `decode`, `inspect` and `test` do, once their options are known. Heavy parts are imported inside."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .codecs import container
from .codecs.errors import CorruptStream, LaconicError, UnsupportedMedia
from .errors import exit_code
from .files import (
    DEFAULT_ENDINGS,
    LIMITS,
    check_output,
    format_for,
    output_path,
    place_name,
    read_input,
    write_output,
    write_signal,
)
from .options import EncodeOptions, settings_and_target
from .terminal import complain, note, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from .codecs.compress import Encoded
    from .codecs.signals import Audio, Signal, Video

__all__ = ["run_decode", "run_encode", "run_inspect", "run_test"]


def run_encode(source: str, output: str | None, options: EncodeOptions, device: str, force: bool, as_json: bool) -> None:
    """Compress a media file."""
    from .api import read_media
    from .codecs import compress
    from .codecs.signals import Audio, Video

    settings, target = settings_and_target(options)
    path = output_path(source, output, ".lcn", as_json)
    check_output(path, force)
    content = read_input(source, LIMITS.max_input_bytes)
    if container.is_laconic(content):
        raise UnsupportedMedia(f"{source} is an .lcn file already")
    signal = read_media(content, options.codec, LIMITS)
    with progress_bar() as progress:
        encoded = compress.encode(signal, options.codec, settings, target, device, progress)
    write_output(path, encoded.data, force, times_of=source)
    rates = {} if isinstance(signal, Audio) else {"bpp": round(encoded.bpp, 5)}
    if isinstance(signal, Audio | Video):
        rates["kbps"] = round(8 * len(encoded.data) / 1000 / signal.seconds, 3) if signal.seconds else 0.0
    if as_json:
        _print_encoded(encoded, len(content), rates)
        return
    part = 100 * len(encoded.data) / max(1, len(content))
    rate_text = ", ".join(f"{value:.3f} {unit}" for unit, value in rates.items())
    note(
        f"{place_name(path)}: {len(encoded.data):,} bytes, {part:.1f} % of {len(content):,}, {rate_text}, "
        f"{encoded.codec}{_settings_text(encoded.settings)}, {encoded.seconds:.2f} s"
    )


def _print_encoded(encoded: Encoded, input_bytes: int, rates: Mapping[str, float]) -> None:
    print_json(
        codec=encoded.codec,
        input_bytes=input_bytes,
        output_bytes=len(encoded.data),
        encode_seconds=round(encoded.seconds, 4),
        **rates,
        settings=encoded.settings,
        device=encoded.device,
    )


def run_decode(
    source: str,
    output: str | None,
    frames: str | None,
    seconds: str | None,
    salvage: bool,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Restore a media file; the frames of a video, and sound, are written as they are decoded."""
    from .codecs import compress
    from .codecs.parts import check_one_part, frame_range, part_of, seconds_range, sound_of
    from .codecs.signals import Audio, Video
    from .codecs.watched import watched, watched_samples

    check_one_part(frames, seconds)
    wanted = None if frames is None else frame_range(frames)
    heard = None if seconds is None else seconds_range(seconds)
    content = read_input(source, LIMITS.max_input_bytes)
    stream = container.read(content, LIMITS, salvage)
    kind = "video" if stream.video else "audio" if stream.audio else "image"
    path = output_path(source, output, DEFAULT_ENDINGS[kind], as_json)
    form = format_for(path, kind)
    check_output(path, force)
    with progress_bar() as progress:
        began = time.perf_counter()
        with _refused_is_corrupt():
            own = progress if kind == "image" else None
            signal = compress.decode(content, LIMITS, device, own, salvage=salvage, whole=False)
            signal = signal if wanted is None else part_of(signal, wanted)
            signal = signal if heard is None else sound_of(signal, heard, LIMITS)
        took = time.perf_counter() - began
        if isinstance(signal, Video):
            signal, frames_decoded = watched(signal, "frame", progress)
        if isinstance(signal, Audio):
            signal, samples_decoded = watched_samples(signal, "decoding", progress)
        write_signal(path, signal, form, force, source)
        took += frames_decoded.seconds if isinstance(signal, Video) else 0.0
        took += samples_decoded.seconds if isinstance(signal, Audio) else 0.0
    _report_decoded(signal, stream.codec, took, path, device, as_json)


def _report_decoded(signal: Signal, codec: str, seconds: float, path: str, device: str, as_json: bool) -> None:
    from .codecs.compress import device_of
    from .codecs.registry import codec_class
    from .codecs.signals import Audio, Video

    if isinstance(signal, Audio | Video) and signal.lost:
        note(f"laconic: lost to damage: {_lost_in_words(signal)}")
    if as_json:
        facts = {"rate": float(signal.rate), "lost": signal.lost} if isinstance(signal, Audio | Video) else {}
        used = device_of(codec_class(codec), device)
        print_json(codec=codec, decode_seconds=round(seconds, 4), shape=list(signal.shape), **facts, device=used)
        return
    if isinstance(signal, Audio):
        facts_text = f"{signal.seconds:.3f} seconds, {signal.layout}, {signal.rate:,} Hz"
        note(f"{place_name(path)}: {facts_text}, {codec}, {seconds:.2f} s")
        return
    height, width = signal.shape[-3:-1]
    count = f"{signal.shape[0]:,} frames of " if isinstance(signal, Video) else ""
    note(f"{place_name(path)}: {count}{width} × {height}, {codec}, {seconds:.2f} s")


def _lost_in_words(signal: Audio | Video) -> str:
    from .codecs.parts import ranges_text, seconds_text
    from .codecs.signals import Audio

    if isinstance(signal, Audio):
        return f"{seconds_text(signal.lost, signal.rate)} of {signal.seconds:.3f}; they are silent"
    return f"{ranges_text(signal.lost)} of {signal.shape[0]:,}; they repeat the frame before"


def run_inspect(source: str, as_json: bool) -> None:
    """Describe a stream."""
    content = read_input(source, LIMITS.max_input_bytes)
    description = container.describe(content, LIMITS)
    facts = dataclasses.asdict(description) | {"bpp": round(description.bpp, 5)}
    sound = _sound_facts(content) if len(description.shape) == 2 else {}
    if as_json:
        print_json(**facts, **(_rates(description) if description.kbps else {}), **sound)
        return
    facts["shape"] = " × ".join(map(str, description.shape))
    facts["chunks"] = f"{len(description.chunks)}, {_intact_text([c for c in description.chunks if not c.intact])}"
    facts["metadata"] = {name: f"{size:,} bytes" for name, size in description.metadata.items()}
    if len(description.shape) == 4:
        frames, height, width = description.shape[:3]
        facts["shape"] = f"{frames:,} frames of {width} × {height}"
        facts |= _rates(description)
        facts["groups"] = f"{description.groups:,}, {_intact_text(description.damaged)}"
        facts["damaged"] = description.damaged or None
        facts["sound"] = f"{description.metadata['audio']:,} bytes" if "audio" in description.metadata else "none"
    if sound:
        channels, samples = description.shape
        facts["shape"] = f"{channels} channel{'s' * (channels > 1)} of {samples:,} samples"
        facts |= _rates(description) | {"packets": f"{description.groups:,}, {_intact_text(description.damaged)}", **sound}
        facts["damaged"] = description.damaged or None
        del facts["groups"], facts["bpp"]
    rows = [(name.replace("_", " "), _plain(value)) for name, value in facts.items() if value is not None]
    print_table("", ("", ""), rows, left=2)


def _sound_facts(content: bytes) -> dict[str, object]:
    """Return the layout and tags that a file of sound tells."""
    import json

    stream = container.read(content, LIMITS, salvage=True)
    try:
        tags = json.loads(stream.metadata.get("tags", b"{}"))
    except ValueError:
        tags = {}
    return {"layout": stream.audio.layout if stream.audio else "", "tags": tags}


def _rates(description: container.Description) -> dict[str, object]:
    return {"kbps": round(description.kbps or 0, 3), "groups": description.groups, "damaged": description.damaged}


def run_test(sources: Sequence[str], device: str) -> int:
    """Check streams; returns the highest exit code of all."""
    from .codecs import compress

    worst = 0
    for source in sources:
        content = b""
        try:
            content = read_input(source, LIMITS.max_input_bytes)
            with _refused_is_corrupt():
                compress.test(content, LIMITS, device)
            print(f"{source}: ok")
        except (LaconicError, OSError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
            complain(f"{source}: {reason}{_lost_text(content, device) if isinstance(error, CorruptStream) else ''}")
            worst = max(worst, exit_code(error))
    return worst


def _lost_text(content: bytes, device: str) -> str:
    """Return which frames or seconds of a damaged file are lost, and that others are not; nothing where nothing is left."""
    from .codecs import compress
    from .codecs.signals import Audio, Video

    try:
        signal = compress.decode(content, LIMITS, device, salvage=True, whole=False)
    except LaconicError:
        return ""
    if not isinstance(signal, Audio | Video) or not signal.lost:
        return ""
    lost = _lost_in_words(signal).partition(";")[0]
    return f"; lost: {lost}; `laconic decode --salvage` gives the others"


@contextmanager
def _refused_is_corrupt() -> Iterator[None]:
    """Turn a refusal to decode into `CorruptStream`: a file that asks for what does not exist exits like a damaged one."""
    try:
        yield
    except UnsupportedMedia as error:
        raise CorruptStream(str(error)) from error


def _settings_text(settings: Mapping[str, object]) -> str:
    quality = settings.get("quality")
    return "" if quality is None else f" at quality {quality:g}" if isinstance(quality, int | float) else ""


def _intact_text(damaged: Sequence[object]) -> str:
    return f"{len(damaged)} damaged" if damaged else "all intact"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if value != "" else "none"
