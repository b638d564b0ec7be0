"""Processes that work for another, and what becomes of them when that one is killed."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """Have this process end when the one that started it by `multiprocessing` has gone; elsewhere nothing happens.

    The processes of a pool wait for work by themselves: a killed program would leave them behind, with all they have loaded.
    """
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True, name="end-with-parent").start()
