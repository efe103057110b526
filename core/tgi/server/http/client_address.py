"""The client of a request, which is its address. The concurrency slots are shared by client."""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar

from starlette.types import Scope

__all__ = ["client_of", "current_client"]

_IPV6_NETWORK_BITS = 64  # a site usually has all addresses of such a network

current_client: ContextVar[str] = ContextVar("current_client", default="")
"""The client of the request that is handled. `PathRoute` sets it."""


def client_of(scope: Scope) -> str:
    """Return the name of the client of a request. All addresses of one IPv6 network with a 64-bit
    prefix have the same name. Behind a proxy, uvicorn takes the address from `X-Forwarded-For` if
    the proxy is trusted (`FORWARDED_ALLOW_IPS`).
    """
    host = (scope.get("client") or ("", 0))[0]
    if ":" not in host:
        return str(host)
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return str(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _IPV6_NETWORK_BITS), strict=False))
