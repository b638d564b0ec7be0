"""The process that fits one group of frames: a plan and frames on standard input, lines of JSON on standard output."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from .inr_group import GroupPlan, fit_group

__all__ = ["main"]


def main() -> None:
    """Fit what standard input asks for into its folder; ends at once when standard input does, as its writer has ended then."""
    source = sys.stdin.buffer
    asked = json.loads(source.readline())
    plan = TypeAdapter(GroupPlan).validate_python(asked["plan"])
    kind = np.dtype(asked["type"])
    content = source.read(math.prod(asked["shape"]) * kind.itemsize)
    frames = np.frombuffer(bytearray(content), kind).reshape(asked["shape"])
    threading.Thread(target=_end_with_writer, daemon=True).start()
    torch.set_num_threads(1)
    try:
        fit_group(plan, frames, asked["device"], Path(asked["folder"]), asked["name"], _tell)
    except Exception as error:  # all of them are the other process's to report
        print(json.dumps({"error": str(error) or type(error).__name__}), flush=True)
        raise SystemExit(1) from error


def _tell(part: float, stage: str) -> None:
    print(json.dumps({"part": part, "stage": stage}), flush=True)


def _end_with_writer() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through a buffer, whose lock would be missed when this process ends
    os._exit(1)
