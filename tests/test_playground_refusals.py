"""The playground when things go otherwise: refusals, a busy or absent service, keys, work that is long or cancelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.codecs import compress
from laconic.codecs.signals import Image

from .playground_desk import PHOTOGRAPH, SAMPLES, Desk, expect


def refused(desk: Desk, status: int) -> None:
    """Take out what a browser itself notes of a refusal that a test provokes."""
    desk.complaints = [text for text in desk.complaints if f"status of {status}" not in text]


def test_refusals_are_told_in_the_services_words(desk: Desk, tmp_path: Path) -> None:
    page = desk.open().page
    text = tmp_path / "notes.txt"
    text.write_text("no picture at all, and <b>no markup</b> either")
    page.set_input_files("#file", text)
    expect(page.locator("#problem")).to_contain_text("Unsupported media")
    expect(page.locator("#encode")).to_be_disabled()
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2_000_001))
    page.set_input_files("#file", large)
    expect(page.locator("#problem")).to_contain_text("the service takes at most 2,000,000 bytes")
    desk.take(PHOTOGRAPH)
    page.select_option("#aim", "target_bytes")
    page.fill("#set-target_bytes", "20")
    page.press("#set-target_bytes", "Enter")
    expect(page.locator("#problem")).to_contain_text("Invalid settings")
    page.fill("#set-target_bytes", "5000")
    page.press("#set-target_bytes", "Enter")
    desk.coded("webp")
    expect(page.locator("#problem")).to_be_hidden()
    for status in (415, 422):
        refused(desk, status)


def test_a_busy_service_is_asked_again(desk: Desk) -> None:
    page = desk.open().page
    answers: list[int] = []

    def answer(route: Any) -> None:
        answers.append(len(answers))
        if len(answers) > 1:
            route.continue_()
            return
        problem = {"title": "Too many requests", "detail": "full", "code": "queue-full"}
        route.fulfill(
            status=429, headers={"Retry-After": "1"}, content_type="application/problem+json", body=json.dumps(problem)
        )

    page.route("**/v1/encode*", answer)
    page.select_option("#codec", "webp")
    page.set_input_files("#file", PHOTOGRAPH)
    expect(page.locator("#status")).to_contain_text("busy; asking again in 2 s")
    desk.coded("webp")
    assert len(answers) == 2
    refused(desk, 429)


@pytest.mark.parametrize("closed", ["**/v1/**", "**/v1/encode*"])
def test_a_key_is_asked_for_and_sent(desk: Desk, closed: str) -> None:
    """Where the list of codecs is open the key is asked for with the first picture, which is then coded."""
    page = desk.page
    keys: list[str | None] = []

    def answer(route: Any) -> None:
        keys.append(route.request.headers.get("authorization"))
        if keys[-1] == "Bearer secret-1":
            route.continue_()
        else:
            problem = {"title": "A key is needed", "detail": "send one", "code": "unauthorised"}
            route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))

    page.route(closed, answer)
    page.goto(f"{desk.url}/playground")
    if closed == "**/v1/encode*":
        expect(page.locator("#codec option")).to_have_count(4)
        page.set_input_files("#file", PHOTOGRAPH)
    expect(page.locator("#problem")).to_contain_text("A key is needed: send one")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("secret-1")
    page.keyboard.press("Enter")
    expect(page.locator("#codec option")).to_have_count(4)
    if closed == "**/v1/**":
        page.set_input_files("#file", PHOTOGRAPH)
    desk.coded()
    assert keys[0] is None and set(keys[1:]) == {"Bearer secret-1"}
    for kind in ("curl", "python", "cli"):
        page.select_option("#copy-kind", kind)
        text = str(page.text_content("#copy-text"))
        assert "secret-1" not in text and ("API_KEY" in text) == (kind != "cli")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    refused(desk, 401)


def test_a_service_that_is_gone_is_said_to_be(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH)
    page.route("**/v1/**", lambda route: route.abort())
    page.click("#encode")
    expect(page.locator("#problem")).to_contain_text("The service does not answer")
    desk.complaints = [text for text in desk.complaints if "ERR_FAILED" not in text]


def test_work_can_be_cancelled(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH)
    page.route("**/v1/encode*", lambda route: None)
    page.click("#encode")
    expect(page.locator("#activity")).to_be_visible()
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#activity")).to_be_hidden()
    expect(page.locator("#encode")).to_be_focused()


class Jobs:
    """A service's jobs as the page sees them: one that is half done, breaks the connection, and is done when asked again."""

    def __init__(self, page: Any, ends: bool) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ends = ends
        self.stream = compress.encode(Image(SAMPLES), "webp", {"quality": 75}).data
        page.route("**/openapi.json", lambda route: route.fulfill(json={"paths": {"/v1/jobs": {}}}))
        page.route("**/v1/jobs**", self.answer)

    def status(self, state: str, progress: float) -> dict[str, object]:
        times = {"started": "2026-01-01T10:00:00.000Z", "finished": "2026-01-01T10:00:01.500Z"}
        return {
            "id": "j1",
            "state": state,
            "stage": "transform",
            "progress": progress,
            "eta_s": 2.4,
            "queue_position": 3,
            **times,
        }

    def answer(self, route: Any) -> None:
        path = route.request.url.split("/v1/jobs")[1]
        self.asked.append((route.request.method, path))
        if path.endswith("/result"):
            headers = {"X-Laconic-Codec": "webp", "Content-Type": "application/vnd.laconic"}
            route.fulfill(body=self.stream, headers=headers)
        elif path.endswith("/events"):
            done = self.ends and sum(path.endswith("/events") for _, path in self.asked) > 1
            statuses = [self.status("running", 0.5)] + [self.status("succeeded", 1.0)] * done
            events = "".join(f"id: {n}\nevent: status\ndata: {json.dumps(status)}\n\n" for n, status in enumerate(statuses))
            route.fulfill(body=f"retry: 1000\n\n: ping\n\n{events}", content_type="text/event-stream")
        else:
            state = ("queued", 0.0) if path.startswith("?") else ("running", 0.5)
            route.fulfill(json=self.status(*state), status=202 if path.startswith("?") else 200)


@pytest.mark.parametrize("ends", [True, False])
def test_a_job_tells_how_far_it_is_and_can_be_cancelled(desk: Desk, ends: bool) -> None:
    jobs = Jobs(desk.page, ends)
    page = desk.open().page
    page.select_option("#codec", "webp")
    page.check("#as-job")
    page.set_input_files("#file", PHOTOGRAPH)
    expect(page.locator("#status")).to_have_text("transform, 50 %, about 3 s left …")
    assert page.evaluate("document.getElementById('activity').style.getPropertyValue('--part')") == "50%"
    if ends:
        desk.coded("webp")
        assert desk.download("stream") == jobs.stream and desk.figure("encode") == "1.50 s"
        asked = [("POST", "?op=encode&codec=webp&quality=75"), ("GET", "/j1/events"), ("GET", "/j1")]
        assert jobs.asked == [*asked, ("GET", "/j1/events"), ("GET", "/j1/result")]
    else:
        with page.expect_request(lambda request: request.method == "DELETE") as deleted:
            page.click("#cancel")
        assert deleted.value.url.endswith("/v1/jobs/j1")
        expect(page.locator("#status")).to_have_text("Cancelled.")


def test_the_services_own_jobs_give_the_same_file(desk: Desk) -> None:
    page = desk.open().page
    page.select_option("#codec", "webp")
    page.check("#as-job")
    page.set_input_files("#file", PHOTOGRAPH)
    desk.coded("webp")
    assert desk.download("stream") == compress.encode(Image(SAMPLES), "webp", {"quality": 75}).data
    assert any(target.endswith("/events") for target in desk.asked)


def test_without_jobs_none_is_offered(desk: Desk) -> None:
    desk.page.route("**/openapi.json", lambda route: route.fulfill(json={"paths": {}}))
    desk.open()
    expect(desk.page.locator("#status")).to_contain_text("Choose a picture")
    expect(desk.page.locator("#job-choice")).to_be_hidden()
