"""Scores of decoded sound: PESQ, STOI, ViSQOL, DNSMOS, signal-to-noise ratio and distance of mel spectra.

The first four come from packages of the extra `speech`, which measure only and are no part of the product: pesq (MIT), pystoi
(MIT), visqol-python (Apache-2.0; for speech with ai-edge-litert, Apache-2.0), and Microsoft's network of DNSMOS, which
speechmos (MIT) carries and onnxruntime (MIT) runs. All run on one thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.errors import InvalidSettings

__all__ = [
    "EXTRA",
    "Samples",
    "Score",
    "installed",
    "mel_distance",
    "needed",
    "open_dnsmos",
    "open_pesq",
    "open_stoi",
    "open_visqol",
    "snr",
]

EXTRA = "speech"
Samples = NDArray[np.float64]  # in ±1
Score = Callable[[Samples, Samples], float]  # of an original and what was decoded, [N] each

DNSMOS_RATE, DNSMOS_WINDOW = 16_000, 144_160  # 9.01 s
DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)  # from what the network says to a mean opinion, by speechmos
MEL_WINDOW, MEL_HOP, MEL_BANDS, MEL_FLOOR = 2048, 512, 64, 1e-8  # samples, samples, bands, power: 80 dB below full scale


def open_pesq() -> Score:
    """Return PESQ, wide band (ITU-T P.862.2), of speech at 16 kHz: 1.04 to 4.64."""
    pesq = importlib.import_module("pesq").pesq
    return lambda original, decoded: float(pesq(16_000, original, decoded, "wb"))


def open_stoi() -> Score:
    """Return short-time objective intelligibility (Taal et al. 2011) of speech at 16 kHz: 0 to 1."""
    stoi = importlib.import_module("pystoi").stoi
    return lambda original, decoded: float(stoi(original, decoded, 16_000))


def open_visqol(mode: str) -> Score:
    """Return ViSQOL v3 (Chinen et al. 2020), 1 to 5: `mode` is "speech" at 16 kHz or "audio" at 48 kHz.

    Speech is mapped to opinions by the lattice network, as in Google's program; the polynomial that the package would
    take without ai-edge-litert gives other figures, so that there is no ViSQOL then.
    """
    importlib.import_module("libsvm.svmutil" if mode == "audio" else "ai_edge_litert.interpreter")
    api = importlib.import_module("visqol").VisqolApi()
    api.create(mode=mode, use_lattice_model=mode == "speech" or None)
    rate = 16_000 if mode == "speech" else 48_000
    return lambda original, decoded: float(api.measure_from_arrays(original, decoded, rate).moslqo)


def open_dnsmos() -> Score:
    """Return DNSMOS P.835's overall quality (Reddy et al. 2022) of speech at 16 kHz, 1 to 5; the original is not looked at.

    Windows of 9.01 s begin every second, as in speechmos; shorter sound is repeated until it fills one window (there, until it
    fills more than one, whose mean differs little and takes several times as long).
    """
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with as_file(files("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx") as path:
        session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(original: Samples, decoded: Samples) -> float:
        sound = np.resize(decoded.astype(np.float32), max(decoded.size, DNSMOS_WINDOW))
        last = max(0, int(sound.size // DNSMOS_RATE - DNSMOS_WINDOW / DNSMOS_RATE))
        windows = (sound[DNSMOS_RATE * k :][:DNSMOS_WINDOW] for k in range(last + 1))
        overall = [session.run(None, {"input_1": window[None]})[0][0][2] for window in windows]
        return float(np.mean(np.polyval(DNSMOS_OVERALL, np.array(overall, np.float64))))

    return score


def needed(name: str, opening: Callable[[], Score]) -> Score:
    """Return a score; raises `InvalidSettings` where its package is missing."""
    try:
        return opening()
    except ImportError as error:
        raise InvalidSettings(f"the measurement needs {name}: pip install 'laconic[{EXTRA}]'") from error


def installed(openings: Mapping[str, Callable[[], Score]]) -> dict[str, Score]:
    """Return those scores whose packages are installed."""
    found = {}
    for name, opening in openings.items():
        try:
            found[name] = opening()
        except ImportError:
            continue
    return found


def snr(original: Samples, decoded: Samples) -> float:
    """Return the ratio of signal to noise in dB of samples of any shape; a mean square below 1e-12 counts as that."""
    noise = float(np.mean((original - decoded) ** 2))
    return float(10 * np.log10(max(float(np.mean(original**2)), 1e-12) / max(noise, 1e-12)))


def _mel_bank(rate: int) -> Samples:
    """Return triangles [bands, bins] on the mel scale (O'Shaughnessy) from 20 Hz to half the rate, each with sum 1."""
    lowest, highest = (float(2595 * np.log10(1 + hertz / 700)) for hertz in (20.0, rate / 2))
    mels = np.linspace(lowest, highest, MEL_BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1) * MEL_WINDOW / rate  # in bins
    bins = np.arange(MEL_WINDOW // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
    return np.asarray(bank / np.maximum(bank.sum(1, keepdims=True), 1e-3), np.float64)


def mel_distance(original: Samples, decoded: Samples, rate: int) -> float:
    """Return the mean absolute difference in dB of the levels of 64 mel bands, over frames of 2048 samples and all channels.

    Samples are [C, N]. Levels below -80 dB of full scale count as -80 dB.
    """
    window, bank = np.hanning(MEL_WINDOW), _mel_bank(rate)

    def levels(samples: Samples) -> Samples:
        padded = np.pad(samples, ((0, 0), (0, max(0, MEL_WINDOW - samples.shape[1]))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, MEL_WINDOW, axis=1)[:, ::MEL_HOP]
        power = np.abs(np.fft.rfft(frames * window, axis=2) / window.sum() * 2) ** 2
        return np.asarray(10 * np.log10(np.maximum(power @ bank.T, MEL_FLOOR)), np.float64)

    return float(np.mean(np.abs(levels(original) - levels(decoded))))
