"""Keep reading for a moment when a request is answered before its body has ended.

A server that answers early and closes makes the network throw the answer away, together with what the client still sends:
the client sees a broken connection in place of the reason. So the end of such an answer waits, for a short time, until the
body ends or the client leaves; what is read meanwhile is thrown away.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LINGER_S", "Linger"]

LINGER_S = 2.0


class Linger:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = dict(scope.get("headers", ()))
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        ended = False

        async def receive_noting() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or not message.get("more_body", False)
            return message

        async def send_lingering(message: Message) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False) or ended:
                await send(message)
                return
            await send({**message, "more_body": True})
            try:
                async with asyncio.timeout(LINGER_S):
                    while not ended:
                        await receive_noting()
            except TimeoutError:
                pass  # long enough
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self.app(scope, receive_noting, send_lingering)
