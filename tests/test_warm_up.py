"""What a service does before the first request for a codec: no request waits for kernels to be compiled."""

from __future__ import annotations

import io
import json

import pytest

from laconic.service.catalogue import open_catalogue, warm_late
from laconic.service.logs import make_log
from laconic.service.settings import ServiceSettings


@pytest.mark.parametrize("name", ["image-overfit", "video-inr"])
def test_codecs_that_fit_are_warmed_after_the_others(name: str) -> None:
    said = io.StringIO()
    log = make_log(said)
    catalogue = open_catalogue(ServiceSettings(codecs=(name, "jpeg"), threads=1), log, lambda *_: None)
    warm_late(catalogue, "cpu", log)
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [(event["event"], event["codec"]) for event in events] == [
        ("codec ready", name),
        ("codec ready", "jpeg"),
        ("codec warm", name),
    ]
