"""Lyra v2, which `laconic bench speech` measures beside ours where its weights are given."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.errors import InvalidSettings
from .sound_peers import Coded, Sound

__all__ = ["LYRA_RATES", "Lyra"]

LYRA_RATES = {3.2: 16, 6.0: 30, 9.2: 46}  # kbit/s and quantisers of 4 bits, 50 frames a second


class Lyra:
    """Google's Lyra v2 from its TensorFlow Lite files; a new set of interpreters for each sound, as they keep state."""

    def __init__(self, folder: Path) -> None:
        try:
            self._interpreter: Callable[..., Any] = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        except ImportError as error:
            raise InvalidSettings("Lyra needs ai-edge-litert: pip install 'laconic[speech]'") from error
        self.folder = folder

    def _open(self, name: str) -> Any:
        return self._interpreter(model_path=str(self.folder / f"{name}.tflite"), num_threads=1)

    @staticmethod
    def _run(interpreter: Any, value: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
        interpreter.invoke()
        found: NDArray[np.float32] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return found

    def __call__(self, sound: Sound, kbps: float) -> Coded:
        """Return the bytes that the indices of a mono sound at 16 kHz take, and what they decode to, the delay left in."""
        encoder, quantiser, decoder = self._open("soundstream_encoder"), self._open("quantizer"), self._open("lyragan")
        for interpreter in (encoder, decoder):
            interpreter.allocate_tensors()
        encode, decode = quantiser.get_signature_runner("encode"), quantiser.get_signature_runner("decode")
        samples = np.pad(sound[0], (0, -sound.shape[1] % 320)).astype(np.float32) / np.float32(32768)
        count, frames = LYRA_RATES[kbps], np.split(samples[None], samples.size // 320, axis=1)
        began = time.process_time()
        features = [self._run(encoder, frame) for frame in frames]
        indices = [encode(input_frames=one, num_quantizers=np.int32(count))["output_0"] for one in features]
        encoded = time.process_time()
        restored = [decode(encoding_indices=one)["output_0"].reshape(1, 1, 64) for one in indices]
        parts = [self._run(decoder, one)[0] for one in restored]
        ended = time.process_time()
        decoded = np.rint(np.concatenate(parts).clip(-1, 1) * 32767).astype(np.int16)[None, : sound.shape[1]]
        return Coded(round(count * 4 * len(parts) / 8), decoded, encoded - began, ended - encoded)
