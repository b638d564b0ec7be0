"""The README names every command, route, codec and page, and what it tells a reader to type works."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
import typer.main

from laconic.cli import app, main
from laconic.codecs import media
from laconic.codecs.container import is_laconic
from laconic.codecs.registry import codec_ids
from laconic.codecs.signals import Audio
from laconic.demo import running_service

from .clips import clip
from .sounds import voice

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")), Path("training/README.md")]
DEFAULT_URL = "http://127.0.0.1:8000"


def commands() -> list[str]:
    """The command line's subcommands."""
    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def routes() -> list[str]:
    """The service's paths, as its OpenAPI document and its routes outside of it give them."""
    from laconic.service.app import create_app

    service = create_app()
    pages = {service.docs_url, service.redoc_url, service.openapi_url, service.swagger_ui_oauth2_redirect_url}
    paths = {getattr(route, "path", None) for route in service.routes} | set(service.openapi()["paths"])
    return sorted(path for path in paths - pages - {None} if path)


def section(title: str) -> str:
    """The text of one of the README's sections."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the `photo.png`, `clip.mp4` and `speech.wav` that the README's examples speak of."""
    shutil.copy(ROOT / "tests" / "media" / "photograph.png", tmp_path / "photo.png")
    (tmp_path / "clip.mp4").write_bytes(media.write(clip(24, 96, 128), "mp4"))
    Audio.of(voice(20_000), 16_000).save(tmp_path / "speech.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def service_url() -> Iterator[str]:
    """The URL of a service that runs as `laconic serve` runs it."""
    with running_service("cpu") as url:
        yield url


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    assert f"laconic {command}" in README
    assert re.search(rf"^## .*\blaconic {command}\b", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help(command: str) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert found.help
    assert all(option.help for option in found.params if option.param_type_name == "option" and option.name != "help")


def test_every_route_is_documented() -> None:
    for document in (README, (ROOT / "docs" / "service.md").read_text()):
        assert routes() and [path for path in routes() if path not in document] == []


@pytest.mark.parametrize("codec", codec_ids())
def test_every_codec_is_documented(codec: str) -> None:
    assert f"| `{codec}` |" in section("Codecs")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_page_is_linked_from_the_readme(page: Path) -> None:
    assert f"]({page.as_posix()})" in README


@pytest.mark.parametrize("page", [Path("README.md"), Path("CHANGELOG.md"), Path("docker/README.md"), *PAGES], ids=str)
def test_relative_links_lead_somewhere(page: Path) -> None:
    document = ROOT / page
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{page} links to {target}"


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = README[:2_500]
    assert opening.index("scripts/serve") < len(opening) and "scripts/test" in opening and "curl" in opening


def test_the_readme_has_its_marked_section() -> None:
    assert README.count("<!-- kodak:begin -->") == README.count("<!-- kodak:end -->") == 1
    assert README.index("<!-- kodak:begin -->") < README.index("<!-- kodak:end -->")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_lines_bring_the_picture_back(folder: Path, service_url: str) -> None:
    block = README.split("```sh\n")[1].split("```")[0]
    assert block.count("curl") == block.count(DEFAULT_URL) == 2
    subprocess.run(["bash", "-ec", block.replace(DEFAULT_URL, service_url)], check=True, capture_output=True, timeout=60)
    assert is_laconic((folder / "photo.lcn").read_bytes())
    with PIL.Image.open(folder / "photo.png") as before, PIL.Image.open(folder / "back.png") as after:
        assert after.format == "PNG" and after.size == before.size


@pytest.mark.usefixtures("folder")
def test_the_python_examples_run(service_url: str) -> None:
    text = section("Python")
    assert DEFAULT_URL in text
    examples = doctest.DocTestParser().get_doctest(text.replace(DEFAULT_URL, service_url), {}, "README", "README.md", 0)
    result = doctest.DocTestRunner().run(examples)
    assert result.failed == 0 and result.attempted >= 7


@pytest.mark.usefixtures("folder")
def test_the_command_lines_run() -> None:
    lines = re.findall(r"^    laconic (.+)$", section("The command line"), re.MULTILINE)
    run = [shlex.split(line, comments=True) for line in lines if not line.startswith(("bench", "serve", "jobs"))]
    assert len(run) >= 7
    for arguments in run:
        assert main(arguments) == 0, arguments
