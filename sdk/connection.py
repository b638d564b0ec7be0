"""Carry out what `laconic.protocol` wants done: send requests and wait, in a thread or in an event loop.

The protocol is written once, as generators: a flow yields a request and is sent its response (or has the error thrown in), or
yields seconds and is resumed after them; what it returns is the result. Only the two classes here differ between the clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar, cast

import httpx

__all__ = ["AsyncConnection", "Connection", "Flow"]

T = TypeVar("T")
Flow = Generator[httpx.Request | float, httpx.Response, T]


class Connection:
    """Drives flows with an `httpx.Client`."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def run(self, flow: Flow[T]) -> T:
        """Return what the flow returns."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, httpx.Request):
                    try:
                        response = self.http.send(step)
                    except httpx.HTTPError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(response)
                else:
                    time.sleep(step)
                    step = next(flow)
        except StopIteration as end:
            return cast(T, end.value)


class AsyncConnection:
    """Drives flows with an `httpx.AsyncClient`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def run(self, flow: Flow[T]) -> T:
        """Return what the flow returns."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, httpx.Request):
                    try:
                        response = await self.http.send(step)
                    except httpx.HTTPError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(response)
                else:
                    await asyncio.sleep(step)
                    step = next(flow)
        except StopIteration as end:
            return cast(T, end.value)
