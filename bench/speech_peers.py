"""Codecs that `laconic bench speech` measures beside ours: Opus through PyAV, and Lyra v2 where its weights are given."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ..codecs.errors import InvalidSettings

__all__ = ["LYRA_RATES", "Lyra", "opus"]

Sound = NDArray[np.int16]  # mono, 16 kHz
LYRA_RATES = {3.2: 16, 6.0: 30, 9.2: 46}  # kbit/s and quantisers of 4 bits, 50 frames a second


def opus(sound: Sound, kbps: float) -> tuple[int, Sound]:
    """Return the bytes of the packets of libopus (VoIP, complexity 10, variable rate) and what they decode to.

    The Ogg around the packets is not counted.
    """
    file = io.BytesIO()
    size = 0
    with av.open(file, "w", format="ogg") as container:
        stream: Any = container.add_stream("libopus", rate=16_000, layout="mono")
        stream.bit_rate = round(kbps * 1000)
        stream.options = {"application": "voip", "compression_level": "10", "vbr": "on"}
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            size += packet.size
            container.mux(packet)
    file.seek(0)
    with av.open(file, "r") as container:
        resample = av.AudioResampler("s16", "mono", 16_000)
        frames = [part for decoded in container.decode(audio=0) for part in resample.resample(decoded)]
        frames += resample.resample(None)
    decoded = np.concatenate([part.to_ndarray()[0] for part in frames])
    return size, np.pad(decoded, (0, max(0, sound.size - decoded.size)))[: sound.size]


class Lyra:
    """Google's Lyra v2 from its TensorFlow Lite files; a new set of interpreters for each sound, as they keep state."""

    def __init__(self, folder: Path) -> None:
        try:
            self._interpreter: Callable[..., Any] = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        except ImportError as error:
            raise InvalidSettings("Lyra needs ai-edge-litert: pip install ai-edge-litert") from error
        self.folder = folder

    def _open(self, name: str) -> Any:
        return self._interpreter(model_path=str(self.folder / f"{name}.tflite"), num_threads=1)

    @staticmethod
    def _run(interpreter: Any, value: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
        interpreter.invoke()
        found: NDArray[np.float32] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return found

    def __call__(self, sound: Sound, kbps: float) -> tuple[int, Sound]:
        """Return the bytes that the indices take and what they decode to; the codec's delay is left in."""
        encoder, quantiser, decoder = self._open("soundstream_encoder"), self._open("quantizer"), self._open("lyragan")
        for interpreter in (encoder, decoder):
            interpreter.allocate_tensors()
        encode, decode = quantiser.get_signature_runner("encode"), quantiser.get_signature_runner("decode")
        count, parts = LYRA_RATES[kbps], []
        samples = np.pad(sound, (0, -sound.size % 320)).astype(np.float32) / np.float32(32768)
        for frame in np.split(samples[None], samples.size // 320, axis=1):
            features = self._run(encoder, frame)
            indices = encode(input_frames=features, num_quantizers=np.int32(count))["output_0"]
            restored = decode(encoding_indices=indices)["output_0"]
            parts.append(self._run(decoder, restored.reshape(1, 1, 64))[0])
        decoded = np.rint(np.concatenate(parts).clip(-1, 1) * 32767).astype(np.int16)[: sound.size]
        return round(count * 4 * len(parts) / 8), decoded
