"""Workers of a program that is killed do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from laconic.codecs.orphans import end_with_parent

if __name__ == "__main__":
    watched = {"initializer": end_with_parent} if sys.argv[1] == "watched" else {}
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **watched)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 300)
    time.sleep(300)
"""


def kill_and_wait(way: str, seconds: float) -> None:
    """Start the program and kill it; returns once all that hold its output have ended."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, way], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        program.kill()
        try:
            program.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.kill(int(line), signal.SIGKILL)
            raise


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_workers_end_with_the_one_that_started_them() -> None:
    kill_and_wait("watched", 20)
    with pytest.raises(subprocess.TimeoutExpired):  # what would happen else
        kill_and_wait("alone", 2)
