"""Addresses to listen on: how they are written, and why one cannot be had."""

import errno
import os
import socket
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Final

_MEND: Final = {
    errno.EADDRINUSE: "something listens there already: end it, or take another port",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address",
    errno.EACCES: "ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)",
}


def join(host: str, port: int) -> str:
    """`host:port`, as URLs and gRPC write it: an IPv6 address in brackets, whether it came so or not."""
    bare = bare_host(host)
    with suppress(ValueError):
        IPv6Address(bare)
        return f"[{bare}]:{port}"
    return f"{host}:{port}"


def bare_host(host: str) -> str:
    """The host without the brackets of an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def family_of(host: str) -> socket.AddressFamily:
    """Which kind of socket listens on `host`. OSError for a name that is unknown."""
    found = socket.getaddrinfo(bare_host(host), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return found[0][0]


def why_not(host: str, port: int) -> str:
    """Why nothing can listen there, as the system says it when it is asked again."""
    try:
        found = socket.getaddrinfo(bare_host(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in found:
            with socket.socket(family, kind, protocol) as attempt:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                attempt.bind(where)
                attempt.listen()
    except (OSError, UnicodeError) as error:
        return reason(error)
    return "gRPC does not say why"


def reason(error: Exception) -> str:
    """What an error of `bind` means, and what mends it."""
    if isinstance(error, socket.gaierror):
        return f"the name is unknown ({error.strerror})"
    if not isinstance(error, OSError) or error.errno is None:
        return "that is no host"
    said = os.strerror(error.errno)
    return f"{said}: {_MEND[error.errno]}" if error.errno in _MEND else said
