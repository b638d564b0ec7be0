"""Which device codecs run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import DeviceUnavailable, InvalidSettings

__all__ = ["DEVICES", "check_exact", "one_thread", "resolve"]

DEVICES = ("auto", "cpu", "cuda")


def resolve(device: str = "auto") -> str:
    """Return "cpu" or "cuda"; "auto" is "cuda" where there is a GPU that torch can use.

    Raises `DeviceUnavailable` for "cuda" without one, `InvalidSettings` for any other name. torch is imported only to look
    for a GPU.
    """
    if device not in DEVICES:
        raise InvalidSettings(f"no device is called {device!r}; there are {', '.join(DEVICES)}")
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise DeviceUnavailable("there is no CUDA device that torch can use; use the device cpu or auto")
    return "cpu"


def check_exact(device: str) -> None:
    """Raise `DeviceUnavailable` where a device ("cpu" or "cuda") does not compute integer networks exactly."""
    from ..entropy.errors import InexactDevice  # these import torch
    from ..entropy.integer_network import self_test

    try:
        self_test(device)
    except InexactDevice as error:
        raise DeviceUnavailable(str(error)) from error


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Run torch on one thread of the CPU: with more, sums come in another order, and what is fitted in another result."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
