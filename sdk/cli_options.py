"""Options that several commands have, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "CodecId",
    "Effort",
    "Force",
    "Input",
    "Json",
    "Lossless",
    "Pairs",
    "Quality",
    "TargetBpp",
    "TargetBytes",
    "TargetKbps",
    "TargetPsnr",
]

Input = Annotated[str, typer.Argument(metavar="IN", help="The input file; - is standard input.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite OUT; send bytes to a terminal.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
CodecId = Annotated[str, typer.Option("--codec", metavar="ID", help="A codec's id, or auto: see `laconic codecs`.")]
Quality = Annotated[float | None, typer.Option("--quality", "-q", min=0, max=100, help="0 (small) to 100 (good).")]
Effort = Annotated[int | None, typer.Option("--effort", "-e", min=1, max=9, help="1 (fast) to 9 (small).")]
Lossless = Annotated[bool, typer.Option("--lossless", help="Give back every sample exactly.")]
TargetBpp = Annotated[float | None, typer.Option(help="At most so many bits per pixel.")]
TargetPsnr = Annotated[float | None, typer.Option(help="At least so many dB.")]
TargetBytes = Annotated[int | None, typer.Option(help="At most so many bytes.")]
TargetKbps = Annotated[float | None, typer.Option(help="At most so many kbit per second: videos and sound.")]
Pairs = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A codec's setting; repeat.")]
