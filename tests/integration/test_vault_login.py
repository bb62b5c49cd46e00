"""How a login at a real OpenBao is kept: renewed, replaced, read again; and answers no Vault should give.

The server is this file's own.
"""

import socket
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from vault_service.dev.bootstrap import KEY_ADMIN_POLICY, login_person, prepare_vault, server_approle
from vault_service.dev.openbao import OpenBao
from vault_service.keys.methods import Token
from vault_service.keys.transit import (
    AppRole,
    TokenFile,
    TokenValue,
    Vault,
    VaultBadAnswer,
    VaultDenied,
    VaultRefused,
    VaultStandby,
    VaultTimeout,
    person_key_name,
)

KEY = "ssn-vault-k12-data-1"


@dataclass(frozen=True)
class World:
    """One prepared OpenBao, root's and the server's login, and a data key wrapped under KEY."""

    bao: OpenBao
    root: Vault
    server: Vault
    wrapped: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("login")
    with OpenBao(home / "openbao") as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {"records-officer": [], "key-admin-b": [KEY_ADMIN_POLICY]})
        files = AppRole(home / "role_id", home / "secret_id")
        for path, secret in zip((files.role_id_file, files.secret_id_file), server_approle(root), strict=True):
            path.write_text(secret)
        root.create_wrapping_key(KEY)
        server = Vault(bao.address, files)
        yield World(bao, root, server, root.new_wrapped_key(KEY))
        server.close()
        root.close()


def test_nothing_is_taken_from_the_surroundings(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text(world.bao.root_token)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password something")
    for name, value in {
        "HOME": str(tmp_path),
        "VAULT_TOKEN": world.bao.root_token,
        "VAULT_ADDR": world.bao.address,
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "token").write_text("s.nobody")
    vault = Vault(world.bao.address, TokenFile(tmp_path / "token"))
    with pytest.raises(VaultDenied):
        vault.read("sys/mounts")
    vault.close()


def test_a_revoked_server_login_is_replaced_once_and_unseen(world: World) -> None:
    server = world.server
    assert 3000 < server.seconds_left <= 3600 or server.seconds_left == 0
    server.unwrap(KEY, world.wrapped)
    _revoke_logins(world)
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: server.unwrap(KEY, world.wrapped), range(32)))
    assert len(keys) == 1
    assert len(_server_logins(world)) == 1


def test_a_call_that_is_not_allowed_costs_no_login(world: World) -> None:
    world.server.unwrap(KEY, world.wrapped)
    before = _server_logins(world)
    for _ in range(3):
        with pytest.raises(VaultDenied):
            world.server.sign(person_key_name("records-officer"), b"order")
    assert _server_logins(world) == before


@pytest.fixture
def short_login(world: World, tmp_path: Path) -> AppRole:
    """An AppRole whose token lives 2 seconds, and 5 when it is renewed."""
    path = "auth/approle/role/short"
    world.root.write(path, token_ttl="2s", token_max_ttl="5s", token_policies=["ssn-vault-server"])
    role_id = world.root.read(f"{path}/role-id")
    assert role_id is not None
    (tmp_path / "role").write_text(role_id["role_id"])
    (tmp_path / "secret").write_text(world.root.write(f"{path}/secret-id")["secret_id"] + "\n")
    return AppRole(tmp_path / "role", tmp_path / "secret")


def test_a_login_is_renewed_and_then_replaced_before_it_ends(world: World, short_login: AppRole) -> None:
    vault = Vault(world.bao.address, short_login)
    seen: dict[float, str] = {}
    start = time.monotonic()
    while (age := time.monotonic() - start) < 6.5:
        seen[age] = _accessor(vault)
        assert vault.seconds_left > 0
        time.sleep(0.1)
    first = seen[min(seen)]
    assert {accessor for age, accessor in seen.items() if age < 3} == {first}, "renewed, past its first 2 seconds"
    assert len(set(seen.values())) == 2, "replaced once when it could not be renewed any longer"
    vault.close()


def test_renew_makes_a_login_live_on(world: World, short_login: AppRole) -> None:
    vault = Vault(world.bao.address, short_login)
    before = _accessor(vault)
    time.sleep(1)
    assert vault.seconds_left < 1.1
    vault.renew()
    assert vault.seconds_left > 1.5
    assert _accessor(vault) == before
    vault.close()


def test_a_login_that_is_refused_is_denied_and_not_tried_for_ever(world: World, short_login: AppRole) -> None:
    short_login.secret_id_file.write_text("00000000-0000-0000-0000-000000000000")
    vault = Vault(world.bao.address, short_login)
    with pytest.raises(VaultDenied, match="secret id"):
        vault.unwrap(KEY, world.wrapped)
    short_login.secret_id_file.unlink()
    with pytest.raises(VaultDenied, match="cannot be read"):
        vault.unwrap(KEY, world.wrapped)
    vault.close()


def test_a_token_file_that_was_replaced_is_read_again(world: World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(login_person(world.root, "key-admin-b") + "\n")
    vault = Vault(world.bao.address, TokenFile(file))
    assert vault.person_name() == "key-admin-b"
    world.root.write("auth/token/revoke-accessor", accessor=_accessor(vault))
    with pytest.raises(VaultDenied):
        vault.person_name()
    file.write_text(login_person(world.root, "key-admin-b"))
    assert vault.person_name() == "key-admin-b"
    vault.close()


# Answers that no Vault should give


class _Strange(BaseHTTPRequestHandler):
    """Answers what the path says: something between the caller and Vault that is not Vault."""

    def do_GET(self) -> None:
        status, kind, body = {
            "html": (200, "text/html", b"<p>078-05-1120</p>"),
            "list": (200, "application/json", b'["078-05-1120"]'),
            "empty-data": (200, "application/json", b'{"data": "078-05-1120"}'),
            "odd-error": (418, "application/json", b'["078-05-1120"]'),
            "redirect": (307, "text/plain", b""),
            "elsewhere": (200, "application/json", b'{"data": {}}'),
            "refusal": (400, "application/json", b'{"errors": ["078-05-1120"]}'),
        }[self.path.rsplit("/", 1)[-1]]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 307:
            self.send_header("Location", "/v1/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def strange() -> Iterator[Vault]:
    with HTTPServer(("127.0.0.1", 0), _Strange) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        vault = _logged_in_nowhere(f"http://127.0.0.1:{server.server_port}")
        yield vault
        vault.close()
        server.shutdown()
        thread.join()


def _logged_in_nowhere(address: str) -> Vault:
    """A Vault object whose login needs no call."""
    vault = Vault(address, TokenValue("x"), timeout=2)
    vault._keeper._token = Token("x")
    return vault


@pytest.mark.parametrize("path", ["html", "list", "empty-data", "odd-error"])
def test_a_malformed_answer_is_a_typed_error_that_repeats_nothing(strange: Vault, path: str) -> None:
    with pytest.raises(VaultBadAnswer) as caught:
        strange.read(path)
    assert "078" not in _everything(caught.value)


def test_a_standby_that_sends_elsewhere_is_told_apart_and_not_followed(strange: Vault) -> None:
    """A redirect would carry the token to another host; it may pass, when that node is active again."""
    with pytest.raises(VaultStandby) as caught:
        strange.read("redirect")
    assert caught.value.transient


def test_an_error_repeats_nothing_of_a_refusal(strange: Vault) -> None:
    with pytest.raises(VaultRefused) as caught:
        strange.read("refusal")
    assert "078" not in _everything(caught.value)


def test_a_vault_that_does_not_answer_is_a_timeout_within_the_time_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        vault = Vault(f"http://127.0.0.1:{silent.getsockname()[1]}", TokenValue("x"), timeout=0.5)
        start = time.monotonic()
        with pytest.raises(VaultTimeout):
            vault.unwrap(KEY, "vault:v1:AAAA")
        assert time.monotonic() - start < 1.0
        vault.close()


def _accessor(vault: Vault) -> str:
    found = vault.read("auth/token/lookup-self")
    assert found is not None
    return str(found["accessor"])


def _server_logins(world: World) -> set[str]:
    """The accessors of every living token that the server's AppRole gave."""
    every = world.root.read("auth/token/accessors", list="true")
    assert every is not None
    looked_up = {key: world.root.write("auth/token/lookup-accessor", accessor=key) for key in every["keys"]}
    return {key for key, data in looked_up.items() if data["meta"] == {"role_name": "ssn-vault-server"}}


def _revoke_logins(world: World) -> None:
    for accessor in _server_logins(world):
        world.root.write("auth/token/revoke-accessor", accessor=accessor)


def _everything(error: BaseException) -> str:
    """All that a careless log could print of an error: its chain, with every argument."""
    texts = []
    step: BaseException | None = error
    while step is not None:
        texts.append("".join(traceback.format_exception(step)) + repr(vars(step)))
        step = step.__context__
    return "".join(texts)
