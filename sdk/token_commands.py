"""What `laconic tokens` does, once its options are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .codecs.errors import InvalidSettings, LaconicError
from .errors import exit_code
from .files import LIMITS, STANDARD, check_output, output_path, place_name, read_input, write_output
from .options import EncodeOptions, settings_and_target
from .terminal import complain, note, print_json, progress_bar

if TYPE_CHECKING:
    from .codecs.audio.rvq import Tokens

__all__ = ["run_tokens"]

CODE_BITS = 8


@dataclass(frozen=True)
class _Result:
    """A file to write, the tokens in it, and the bytes that they take as .lcn file."""

    content: bytes
    tokens: Tokens
    coded_bytes: int


def run_tokens(sources: Sequence[str], output: str | None, options: EncodeOptions, force: bool, as_json: bool) -> int:
    """Write the tokens of each source, or the .lcn file of tokens; returns the highest exit code of all.

    One source that fails raises its error; of several, the others go on.
    """
    settings, _ = settings_and_target(options)
    if len(sources) == 1 and not (output and output != STANDARD and Path(output).is_dir()):
        _run_one(sources[0], output, settings, force, as_json)
        return 0
    if output is not None and not Path(output).is_dir():
        raise InvalidSettings(f"{output} is no folder: of several files, -o is the folder for what is made of them")
    names = {Path(source).stem if output else str(Path(source).with_suffix("")) for source in sources}
    if len(names) < len(sources):
        raise InvalidSettings("what is made of two of the files would have the same name: give one at a time")
    worst = 0
    for source in sources:
        try:
            _run_one(source, output, settings, force, as_json)
        except (LaconicError, OSError) as error:
            complain(f"{source}: {error.strerror.lower() if isinstance(error, OSError) and error.strerror else error}")
            worst = max(worst, exit_code(error))
    return worst


def _run_one(source: str, output: str | None, settings: dict[str, object], force: bool, as_json: bool) -> None:
    from .codecs.audio.rvq_token_files import holds_tokens

    content = read_input(source, LIMITS.max_input_bytes)
    back = holds_tokens(content)
    ending = ".lcn" if back else ".npz"
    if output is not None and output != STANDARD and Path(output).is_dir():
        output = str(Path(output) / f"{'tokens' if source == STANDARD else Path(source).stem}{ending}")
    path = output_path(source, output, ending, as_json)
    check_output(path, force)
    result = _file_of(content, settings) if back else _tokens_of(content, settings)
    write_output(path, result.content, force, times_of=source)
    _report(result, path, as_json)


def _tokens_of(content: bytes, settings: dict[str, object]) -> _Result:
    from .codecs import container
    from .codecs.audio.rvq import tokens_of
    from .codecs.audio.rvq_token_files import token_file
    from .sound_tokens import token_stream

    with progress_bar() as progress:
        stream = token_stream(content, settings, limits=LIMITS, progress=progress)
        tokens = tokens_of(container.read(stream, LIMITS))
    return _Result(token_file(tokens), tokens, len(stream))


def _file_of(content: bytes, settings: dict[str, object]) -> _Result:
    from .codecs.audio.rvq_token_files import tokens_in
    from .sound_tokens import check_no_settings, from_tokens

    check_no_settings(settings)
    found = tokens_in(content, LIMITS)
    stream = from_tokens(found)
    return _Result(stream, found, len(stream))


def _report(result: _Result, path: str, as_json: bool) -> None:
    tokens = result.tokens
    channels, levels, frames = tokens.codes.shape
    seconds = tokens.shape[1] / tokens.audio.rate
    bits = CODE_BITS * tokens.codes.size
    kbps = [round(size / 1000 / seconds, 3) if seconds else 0.0 for size in (bits, 8 * result.coded_bytes)]
    if as_json:
        facts = {"rate": tokens.rate, "seconds": seconds, "bits": bits, "coded_bytes": result.coded_bytes}
        print_json(output=path, shape=[channels, levels, frames], **facts, kbps=kbps[0], coded_kbps=kbps[1])
        return
    note(
        f"{place_name(path)}: {channels} channel{'s' * (channels > 1)}, {levels} levels, {frames:,} frames, {tokens.rate:g} a "
        f"second; {bits:,} bits at {CODE_BITS} a code, {kbps[0]:.3f} kbps; coded {8 * result.coded_bytes:,}, {kbps[1]:.3f} kbps"
    )
