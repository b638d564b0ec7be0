"""The report of a comparison of sounds: one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from html import escape

from .codecs import media
from .codecs.audio.rvq_packets import float_samples, integer_samples
from .codecs.audio.speech_quality import HEARD_SECONDS
from .codecs.signals import Audio
from .compare_page import fill, missing_text, settings_text
from .compare_sound import SoundComparison, SoundEntry
from .plot import Scales, Series, rd_plot
from .spectrogram import ERROR_SPAN, SPAN, error_picture, level_picture, levels

__all__ = ["render_sound"]

PLAYED_BYTES = 12_000_000  # of all players' samples: of sound that takes more a shorter beginning is played
PLAYED_BITS = 16  # that every browser plays
SPEECH = Scales("kbit/s", "kbit/s", "PESQ", "")
SIGNAL = Scales("kbit/s", "kbit/s", "SNR", "dB")


def render_sound(comparison: SoundComparison) -> str:
    """Return the report as one HTML page that needs nothing from anywhere else."""
    entries, original = comparison.entries, comparison.original
    heard = _heard_seconds(comparison)
    lossless = next((entry for entry in entries if entry.snr == math.inf), None)
    exact = f" <b>{escape(lossless.codec)}</b> gives every sample back in {lossless.bytes:,}." if lossless else ""
    with_speech = any(entry.speech for entry in entries)
    colours = {codec: number for number, codec in enumerate(dict.fromkeys(entry.codec for entry in entries))}
    smallest = entries[0]
    return fill(
        "compare_sound.html",
        title=escape(comparison.name),
        summary=f"The smallest file, by <b>{escape(smallest.codec)}</b>, has <b>{smallest.bytes:,} bytes</b>, "
        f"{smallest.kbps:.2f} kbit/s.{exact}",
        facts=f"{comparison.seconds:.3f} seconds, {escape(original.layout)}, {original.rate:,} Hz, {original.bits} bits; "
        f"{comparison.original_bytes:,} bytes in the file given.",
        top=f"{original.rate / 2000:g}",
        length=f"{original.seconds:.3g}",
        span=f"{SPAN:.0f}",
        error=f"{ERROR_SPAN:.0f}",
        heard=_heard_text(comparison, heard),
        further="<th>PESQ</th><th>STOI</th>" if with_speech else "",
        rows="\n".join(_row(number, entry, colours, with_speech) for number, entry in enumerate(entries, 1)),
        measures=_measures_text(comparison, with_speech),
        notes=missing_text(comparison.skipped),
        plot=_plot(entries, colours, with_speech),
        sounds=_sounds(comparison, heard),
        first=str(next((number for number, entry in enumerate(entries, 1) if entry.codec != smallest.codec), 1)),
    )


def _heard_seconds(comparison: SoundComparison) -> float:
    """Return how many seconds each player has."""
    original = comparison.original
    a_second = original.rate * original.shape[0] * PLAYED_BITS // 8
    return min(original.seconds, PLAYED_BYTES / (1 + len(comparison.entries)) / a_second)


def _heard_text(comparison: SoundComparison, heard: float) -> str:
    shown = comparison.original.seconds
    if shown == comparison.seconds == heard:
        return "Pictures and players have all of the sound, in 16 bits."
    if heard == shown:
        return f"Pictures and players have the first {shown:.3g} seconds, in 16 bits; all figures are of the whole."
    return f"Pictures have the first {shown:.3g} seconds, players {heard:.3g}, in 16 bits; all figures are of the whole."


def _measures_text(comparison: SoundComparison, with_speech: bool) -> str:
    if not with_speech:
        return "SNR is over all samples."
    part = f", of the first {HEARD_SECONDS} seconds" if comparison.seconds > HEARD_SECONDS else ""
    return (
        f"SNR is over all samples. PESQ (1.04 to 4.64) and STOI (to 1) are measures of speech at 16 kHz{part}; of other sound "
        "they say little. A codec of few bits that makes speech sound alike has a low SNR all the same."
    )


def _row(number: int, entry: SoundEntry, colours: dict[str, int], with_speech: bool) -> str:
    speech = ["", ""] if entry.speech is None else [f"{entry.speech.pesq:.2f}", f"{entry.speech.stoi:.3f}"]
    cells = [
        f"{entry.bytes:,}",
        f"{entry.kbps:.2f}",
        _snr_text(entry.snr),
        *(speech if with_speech else []),
        f"{entry.encode_seconds:.3f} s",
        f"{entry.decode_seconds:.3f} s",
    ]
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    name = f'<span class="dot"></span>{escape(entry.codec)}'
    return (
        f'<tr data-sound="{number}" class="series-{colours[entry.codec] % 8}"><td>{name}</td>'
        f'{columns}<td class="settings">{escape(settings_text(entry.settings))}</td></tr>'
    )


def _snr_text(snr: float) -> str:
    return "exact" if snr == math.inf else "none" if snr == -math.inf else f"{snr:.2f} dB"


def _plot(entries: tuple[SoundEntry, ...], colours: dict[str, int], with_speech: bool) -> str:
    """Return the plot with its heading: PESQ where it was measured, else SNR; nothing where all files are lossless."""
    points: dict[str, list[tuple[float, float]]] = {codec: [] for codec in colours}
    for entry in entries:
        if not with_speech or entry.speech is not None:
            points[entry.codec].append((entry.kbps, entry.speech.pesq if entry.speech else entry.snr))
    drawn = rd_plot([Series(codec, tuple(own)) for codec, own in points.items()], None, SPEECH if with_speech else SIGNAL)
    return f"<h2>Rate and quality</h2>\n{drawn}" if drawn else ""


def _sounds(comparison: SoundComparison, heard: float) -> str:
    """Return pictures and samples as JSON for the page's script: the original first, then the table's rows in order."""
    first = levels(comparison.original)
    sounds = [{"name": "original", "levels": _url("image/png", level_picture(first)), "wav": _wav(comparison.original, heard)}]
    for entry in comparison.entries:
        found = levels(entry.decoded)
        sounds.append(
            {
                "name": entry.codec,
                "caption": f"{entry.kbps:.2f} kbit/s",
                "levels": _url("image/png", level_picture(found)),
                "error": _url("image/png", error_picture(first, found)),
                "wav": _wav(entry.decoded, heard),
            }
        )
    return json.dumps(sounds).replace("<", "\\u003c")


def _wav(sound: Audio, seconds: float) -> str:
    part = sound.part(0, min(sound.shape[1], round(seconds * sound.rate)))
    samples = integer_samples(float_samples(part.array, part.bits), PLAYED_BITS)
    return _url("audio/wav", media.write(replace(Audio.of(samples, part.rate), layout=part.layout), "wav"))


def _url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64," + base64.b64encode(content).decode()
