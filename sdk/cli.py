"""The command line: `laconic encode`, `decode`, `bulk`, `inspect`, `test`, `tokens`, `codecs`, `compare`, `serve` and others.

Results go to standard output, everything else to standard error. The exit codes are those of `laconic.errors.EXIT_CODES`.
What a command needs is imported when it runs, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import jobs_cli
from .cli_options import (
    CodecId,
    Effort,
    Force,
    Input,
    Json,
    Lossless,
    Pairs,
    Quality,
    TargetBpp,
    TargetBytes,
    TargetKbps,
    TargetPsnr,
)
from .errors import LaconicError, exit_code
from .terminal import complain, note

__all__ = ["app", "main"]


class Device(StrEnum):
    """Where codecs with networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class BulkEngine(StrEnum):
    """What runs the processes of `laconic bulk`."""

    local = "local"
    ray = "ray"


class _Commands(TyperGroup):
    """Reports the errors that a user can do something about in one line, and turns them into exit codes.

    Here and not in `main`: an end of file, which `TruncatedStream` is, means something else to the option parser.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush to
            raise typer.Exit(1) from error
        except (LaconicError, OSError, MemoryError) as error:
            complain(_message(error))
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as error:
            complain("interrupted")
            raise typer.Exit(exit_code(error)) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Small, exact files from pictures, videos and sound.",
)

app.add_typer(jobs_cli.app, name="jobs")

Stream = Annotated[str, typer.Argument(metavar="IN.lcn", help="The .lcn file; - is standard input.")]
On = Annotated[Device, typer.Option("--device", help="Where codecs with networks run.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    try:
        result = _command().main(arguments, "laconic", standalone_mode=False)
    except typer.Abort:
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # what the option parser raises has it
            raise
        message = error.format_message()
        if not message:  # no arguments at all: the help was printed
            return 2
        complain(message)
        command = getattr(getattr(error, "ctx", None), "command_path", "laconic")
        note(f"Try '{command} --help'.")
        return 2
    return result if isinstance(result, int) else 0


@cache
def _command() -> Any:
    return typer.main.get_command(app)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"laconic {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Small, exact files from pictures, videos and sound."""


@app.command()
def encode(
    source: Input,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="Default: IN with .lcn.")] = None,
    codec: CodecId = "auto",
    quality: Quality = None,
    effort: Effort = None,
    lossless: Lossless = False,
    target_bpp: TargetBpp = None,
    target_psnr: TargetPsnr = None,
    target_bytes: TargetBytes = None,
    target_kbps: TargetKbps = None,
    pairs: Pairs = None,
    device: On = Device.auto,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compress a picture, a video or sound to an .lcn file."""
    from .coding_commands import run_encode
    from .options import EncodeOptions

    options = EncodeOptions(codec, quality, effort, lossless, target_bpp, target_psnr, target_bytes, target_kbps, pairs or ())
    run_encode(source, output, options, device.value, force, as_json)


@app.command()
def decode(
    source: Stream,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="Its extension is the format.")] = None,
    frames: Annotated[str | None, typer.Option(metavar="A:B", help="Only frames A to before B of a video.")] = None,
    seconds: Annotated[str | None, typer.Option(metavar="A:B", help="Only seconds A to before B of sound.")] = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Decode what damage has left of a video or sound.")] = False,
    device: On = Device.auto,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Restore the picture, video or sound of an .lcn file, by default as PNG, MP4 or WAV."""
    from .coding_commands import run_decode

    run_decode(source, output, frames, seconds, salvage, device.value, force, as_json)


@app.command()
def inspect(source: Stream, as_json: Json = False) -> None:
    """Describe an .lcn file without decoding it."""
    from .coding_commands import run_inspect

    run_inspect(source, as_json)


@app.command()
def test(
    sources: Annotated[list[str], typer.Argument(metavar="FILE...", help=".lcn files; - is standard input.")],
    device: On = Device.auto,
) -> None:
    """Decode .lcn files without writing anything, and check their checksums."""
    from .coding_commands import run_test

    raise typer.Exit(run_test(sources, device.value))


@app.command()
def tokens(
    sources: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Sounds, .lcn files, .npz files of tokens; - is stdin.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="A file; of several IN, a folder.")
    ] = None,
    quality: Quality = None,
    effort: Effort = None,
    pairs: Pairs = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the tokens of a sound or .lcn file as .npz, for models that are trained on them; of .npz files, the .lcn file."""
    from .options import EncodeOptions
    from .token_commands import run_tokens

    options = EncodeOptions("audio-rvq", quality, effort, pairs=pairs or ())
    raise typer.Exit(run_tokens(sources, output, options, force, as_json))


@app.command()
def codecs(as_json: Json = False) -> None:
    """List the codecs and their settings."""
    from .commands import run_codecs

    run_codecs(as_json)


@app.command()
def compare(
    source: Input,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="Default: IN with -compare.html.")] = None,
    target_psnr: Annotated[float | None, typer.Option(help="dB; default: what image-transform gives at quality 50.")] = None,
    only: Annotated[list[str] | None, typer.Option("--codec", metavar="ID", help="Only this codec; repeat for more.")] = None,
    device: On = Device.auto,
    force: Force = False,
) -> None:
    """Write an HTML report of every codec: on one picture or video at the same PSNR, on one sound at several rates."""
    from .commands import run_compare

    run_compare(source, output, target_psnr, only, device.value, force)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Which measurements: see docs/cli.md.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")] = None,
) -> None:
    """Run a suite of measurements; options that are not listed here go to the suite, `-- --help` shows them."""
    from .commands import run_bench

    raise typer.Exit(run_bench(suite, output, context.args))


@app.command()
def bulk(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="The folder of inputs, with those in it, or s3://bucket/prefix.")
    ],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The folder of outputs, or s3://bucket/prefix.")],
    codec: CodecId = "auto",
    quality: Quality = None,
    effort: Effort = None,
    lossless: Lossless = False,
    target_bpp: TargetBpp = None,
    target_psnr: TargetPsnr = None,
    target_bytes: TargetBytes = None,
    target_kbps: TargetKbps = None,
    pairs: Pairs = None,
    backwards: Annotated[bool, typer.Option("--decode", help="Decode the .lcn files of SRC.")] = False,
    forms: Annotated[
        list[str] | None, typer.Option("--to", metavar="EXT", help="With --decode: the outputs' extension; repeat.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="PATTERN", help="Names like *.png; repeat.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes; default one for each core.")] = None,
    engine: Annotated[BulkEngine, typer.Option(help="What runs the processes; ray needs laconic[ray].")] = BulkEngine.local,
    gpus: Annotated[float | None, typer.Option(help="With --engine ray: GPUs of each process, or a part of one.")] = None,
    device: On = Device.auto,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compress, or decode, all files of a folder or of object storage into another; what is there already stays."""
    from .codecs.errors import InvalidSettings
    from .commands import run_bulk
    from .options import EncodeOptions

    options = EncodeOptions(codec, quality, effort, lossless, target_bpp, target_psnr, target_bytes, target_kbps, pairs or ())
    if backwards and options != EncodeOptions():
        raise InvalidSettings("--decode takes no options of encoding: a file says itself how it was made")
    chosen = None if backwards else options
    how: dict[str, Any] = {"forms": forms or (), "patterns": only or (), "jobs": jobs, "engine": engine.value, "gpus": gpus}
    raise typer.Exit(run_bulk(source, destination, chosen, device=device.value, force=force, as_json=as_json, **how))


@app.command()
def doctor(
    as_json: Json = False,
    warm: Annotated[bool, typer.Option("--warm", help="Compile all codecs' kernels first, for a few minutes.")] = False,
) -> None:
    """Check devices, weights, codecs, kernels, libraries, settings and folders of this installation."""
    from .commands import run_doctor

    raise typer.Exit(run_doctor(as_json, warm))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default 8000; 0 takes a free one.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where codecs with networks run.")] = None,
    engine: Annotated[str, typer.Option(metavar="uvicorn|ray", help="What serves; ray needs laconic[ray].")] = "uvicorn",
    demo: Annotated[bool, typer.Option("--demo", help="Serve one photograph to itself, compare, and exit.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without keys.")] = False,
) -> None:
    """Run the REST service until SIGTERM or Ctrl-C; LACONIC_* variables set the rest."""
    from .commands import run_serve

    run_serve(host, port, device.value if device else None, engine, demo, insecure)


keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys that a service asks for.")
app.add_typer(keys, name="keys")
KeysFile = Annotated[
    Path, typer.Option("--file", metavar="F", envvar="LACONIC_KEYS_FILE", help="The keys file; default $LACONIC_KEYS_FILE.")
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose keys: letters, digits and ._-")]


@keys.command("add")
def keys_add(
    name: KeyName,
    file: KeysFile,
    scopes: Annotated[list[str] | None, typer.Option("--scope", help="encode, decode, jobs (the default), metrics.")] = None,
    expires: Annotated[float | None, typer.Option(metavar="DAYS", min=0, help="When it ends; default never.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Default: no limit.")] = None,
    bytes_per_hour: Annotated[int | None, typer.Option(min=1, help="Of bodies; default: no limit.")] = None,
) -> None:
    """Make a key and print it: this once, as the file keeps only its SHA-256."""
    from .keys import run_add

    run_add(file, name, scopes or ("encode", "decode", "jobs"), expires, requests_per_minute, bytes_per_hour)


@keys.command("list")
def keys_list(file: KeysFile, as_json: Json = False) -> None:
    """List the keys, without what would let anyone use them."""
    from .keys import run_list

    run_list(file, as_json)


@keys.command("revoke")
def keys_revoke(
    name: KeyName,
    file: KeysFile,
    identity: Annotated[str | None, typer.Option("--id", help="Only the key with this id.")] = None,
) -> None:
    """Take a name's keys away; a running service notices within a second or two."""
    from .keys import run_revoke

    run_revoke(file, name, identity)


if __name__ == "__main__":
    sys.exit(main())
