"""An address that cannot be listened on is named with the system's own reason."""

import socket

import pytest

from vault_service.api.listening import join, reason, why_not


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("127.0.0.1", "127.0.0.1:5"),
        ("::1", "[::1]:5"),
        ("[::1]", "[::1]:5"),
        ("::", "[::]:5"),
        ("localhost", "localhost:5"),
    ],
)
def test_an_ipv6_address_is_written_in_brackets(host: str, written: str) -> None:
    assert join(host, 5) == written


def test_each_reason_is_told_from_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "listens there already" in why_not("127.0.0.1", taken.getsockname()[1])
    assert "no interface of this machine" in why_not("192.0.2.1", 0)  # RFC 5737: nobody's
    assert "the name is unknown" in why_not("no-such-host.invalid", 0)
    assert "CAP_NET_BIND_SERVICE" in reason(PermissionError(13, "denied"))
    assert why_not("127.0.0.1", 0) == "gRPC does not say why"
