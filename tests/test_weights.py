"""Pinned weights: found by codec or digest, refused when missing, changed or damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from laconic.codecs import weights
from laconic.codecs.errors import WeightsMismatch, WeightsMissing
from laconic.codecs.weights import DIGEST_BYTES, load_weights, pinned_weights

FILES = {
    "new.safetensors": save({"a": np.arange(3, dtype=np.int8)}, {"spec": "{}"}),
    "old.safetensors": save({"a": np.arange(5, dtype=np.int8)}),
}


def pins(files: dict[str, bytes]) -> str:
    return json.dumps({"toy": [{"file": name, "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()]})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of weights of a codec called "toy", in the place of the installed one."""
    for name, raw in FILES.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "pins.json").write_text(pins(FILES))
    monkeypatch.setattr(weights, "files", lambda package: tmp_path)
    for cached in (load_weights, pinned_weights):
        cached.cache_clear()
    yield tmp_path
    for cached in (load_weights, pinned_weights):
        cached.cache_clear()


def test_the_shipped_weights_are_the_pinned_ones() -> None:
    pinned = pinned_weights("image-transform")
    assert pinned
    for pin in pinned:
        loaded = load_weights("image-transform", pin.digest)
        assert loaded.digest == pin.digest == bytes.fromhex(pin.sha256)[:DIGEST_BYTES]
        assert set(json.loads(loaded.metadata["spec"])) >= {"latent", "groups", "rates"}
    assert load_weights("image-transform").digest == pinned[0].digest


def test_the_first_pin_encodes_and_older_ones_decode(folder: Path) -> None:
    digests = {name: hashlib.sha256(raw).digest()[:DIGEST_BYTES] for name, raw in FILES.items()}
    assert load_weights("toy").digest == digests["new.safetensors"]
    assert load_weights("toy").metadata == {"spec": "{}"}
    old = load_weights("toy", digests["old.safetensors"])
    assert old.tensors["a"].tolist() == [0, 1, 2, 3, 4]
    assert (old.digest, old.metadata) == (digests["old.safetensors"], {})


def test_codecs_and_digests_without_weights(folder: Path) -> None:
    assert pinned_weights("jpeg") == ()
    with pytest.raises(WeightsMissing, match="for jpeg"):
        load_weights("jpeg")
    with pytest.raises(WeightsMissing, match="digest 0101010101010101 for toy"):
        load_weights("toy", b"\1" * DIGEST_BYTES)


def test_missing_file(folder: Path) -> None:
    (folder / "new.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"new\.safetensors is not installed"):
        load_weights("toy")


def test_changed_file(folder: Path) -> None:
    damaged = bytearray(FILES["new.safetensors"])
    damaged[-1] ^= 1
    (folder / "new.safetensors").write_bytes(damaged)
    with pytest.raises(WeightsMismatch, match="differs from the pinned"):
        load_weights("toy")


def test_pinned_file_that_is_no_safetensors(folder: Path) -> None:
    (folder / "new.safetensors").write_bytes(b"pickle")
    (folder / "pins.json").write_text(pins({"new.safetensors": b"pickle"}))
    with pytest.raises(WeightsMismatch, match="does not open"):
        load_weights("toy")


def test_no_list_of_pins(folder: Path) -> None:
    (folder / "pins.json").unlink()
    assert pinned_weights("toy") == ()
    with pytest.raises(WeightsMissing, match="no weights for toy"):
        load_weights("toy")


def test_no_folder_of_weights(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def missing(package: str) -> Path:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(weights, "files", missing)
    with pytest.raises(WeightsMissing, match="no weights for toy"):
        load_weights("toy")


@pytest.mark.parametrize("text", ["{", "[]", '{"toy": [1]}', '{"toy": [{"file": "a"}]}'])
def test_damaged_list_of_pins(folder: Path, text: str) -> None:
    (folder / "pins.json").write_text(text)
    with pytest.raises(WeightsMismatch, match="pins"):
        load_weights("toy")
