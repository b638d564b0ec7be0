"""Signed webhooks (standardwebhooks.com), sent only to addresses that were looked at first."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import random
import socket
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

from ..codecs.errors import InvalidSettings
from .settings import variable

__all__ = ["RETRIES", "backoff", "checked_address", "deliver", "signed_headers"]

RETRIES = 4  # after the first try
TIMEOUT_S = 10.0
LONGEST_URL = 2000
_NAT64 = IPv6Network("64:ff9b::/96")


def backoff(tries: int) -> float:
    """Return the seconds to wait after so many failed tries: about 1, 3, 9, 27, and never more than 30."""
    return min(30.0, 3.0 ** (tries - 1) * random.uniform(1.0, 1.2))


def signed_headers(secret: str, message_id: str, sent: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message; a secret that begins with `whsec_` is base64, as Standard Webhooks writes it."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error as error:
            raise InvalidSettings(f"{variable('webhook_secret')} begins with whsec_, but what follows is not base64") from error
    signature = hmac.new(key, f"{message_id}.{sent}.".encode() + body, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "laconic",
        "webhook-id": message_id,
        "webhook-timestamp": str(sent),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


async def checked_address(url: str, allow_private: bool) -> tuple[httpx.URL, str]:
    """Return the parsed URL and the address to connect to for it.

    Raises `InvalidSettings` for what is no http or https URL, does not resolve, or has any address that is not public: private,
    loopback, link-local, multicast or reserved ones, also those inside an IPv6 address.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidSettings(f"callback is no URL: {error}") from error
    if len(url) > LONGEST_URL or parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise InvalidSettings(f"callback is an http or https URL of at most {LONGEST_URL} characters, without user or password")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(parsed.host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise InvalidSettings(f"callback's host {parsed.host!r} has no address: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not (allow_private or _is_public(address)):
            raise InvalidSettings(
                f"callback's host {parsed.host!r} has the address {address}, which is not public; "
                f"{variable('webhook_allow_private')} allows that"
            )
    return parsed, addresses[0]


def _is_public(text: str) -> bool:
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


async def deliver(url: str, allow_private: bool, secret: str, message_id: str, message: Mapping[str, object]) -> str | None:
    """Post a message once; None if the other side answers 2xx, else what went wrong.

    The connection is made to the very address that was checked, so that a name which resolves differently a moment later
    gains nothing. Redirects are not followed, proxies not used, and the answer's body is not read.
    """
    body = json.dumps(message).encode()
    try:
        parsed, address = await checked_address(url, allow_private)
        headers = signed_headers(secret, message_id, int(time.time()), body) | {"Host": parsed.netloc.decode("ascii")}
        extensions = {"sni_hostname": parsed.host} if parsed.scheme == "https" else {}
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client:
            request = client.build_request(
                "POST", parsed.copy_with(host=address), content=body, headers=headers, extensions=extensions
            )
            async with asyncio.timeout(2 * TIMEOUT_S):
                response = await client.send(request, stream=True)
                await response.aclose()
    except (httpx.HTTPError, InvalidSettings, TimeoutError, OSError) as error:
        return str(error) or type(error).__name__
    return None if response.is_success else f"the answer was {response.status_code}"
