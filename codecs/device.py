"""Which device codecs run on."""

from __future__ import annotations

from .errors import DeviceUnavailable, InvalidSettings

__all__ = ["DEVICES", "check_exact", "resolve"]

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
