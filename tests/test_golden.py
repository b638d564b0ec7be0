"""Golden streams: files written once decode for ever. `scripts/write-golden` writes new ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from laconic.codecs import compress, media

from .golden import write

DIGESTS: dict[str, dict[str, object]] = json.loads((write.FOLDER / write.DIGESTS).read_text())


def test_every_stream_is_there_and_no_other() -> None:
    assert {path.stem for path in write.FOLDER.glob("*.lcn")} == DIGESTS.keys()
    assert DIGESTS.keys() >= write.STREAMS.keys()


@pytest.mark.parametrize("name", sorted(write.STREAMS.keys() | DIGESTS.keys()))
def test_streams_decode_to_what_they_did(name: str) -> None:
    data, expected = (write.FOLDER / f"{name}.lcn").read_bytes(), DIGESTS[name]
    assert hashlib.sha256(data).hexdigest() == expected["file"], "a golden stream was changed"
    decoded = compress.decode(data, device="cpu")
    assert list(decoded.shape) == expected["shape"]
    if "pixels" in expected:
        assert write.pixel_digest(decoded) == expected["pixels"]
    else:  # decoding has compared the symbols with the header's checksum; pixels are floating point until they are rounded
        assert write.symbols_of(data) == expected["symbols"]
        samples = write.kept_samples(name, decoded)
        if samples is not None:
            kept = np.load(write.FOLDER / f"{name}.npy", allow_pickle=False)
        else:
            kept = media.read((write.FOLDER / f"{name}.webp").read_bytes()).array
            samples = decoded.array.reshape(kept.shape)
        assert samples.shape == kept.shape and np.abs(samples.astype(int) - kept).max() <= write.drift(name)


@pytest.mark.parametrize("name", [name for name, (_, settings) in write.STREAMS.items() if "lossless" in settings])
def test_lossless_streams_hold_the_source(name: str) -> None:
    assert DIGESTS[name]["pixels"] == write.pixel_digest(write.source(name))


def test_streams_are_small() -> None:
    assert sum(path.stat().st_size for path in write.FOLDER.iterdir() if path.is_file()) < 150_000


def test_writing_replaces_nothing_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        return write.main(arguments, tmp_path)

    assert run("jpeg-75", "jxl-lossless") == 0
    data = (tmp_path / "jpeg-75.lcn").read_bytes()
    assert json.loads((tmp_path / write.DIGESTS).read_text()).keys() == {"jpeg-75", "jxl-lossless"}
    (tmp_path / "jpeg-75.lcn").write_bytes(b"older")
    assert run("jpeg-75", "webp-lossless") == 1
    assert (tmp_path / "jpeg-75.lcn").read_bytes() == b"older"
    assert not (tmp_path / "webp-lossless.lcn").exists()
    assert "kept, because --replace was not given: jpeg-75" in capsys.readouterr().out
    assert run("jpeg-75", "--replace") == 0
    assert (tmp_path / "jpeg-75.lcn").read_bytes() == data
    with pytest.raises(SystemExit):
        run("mpeg")
