"""A login that a real OpenBao refuses: tried rarely, named, healed by a good file, told beforehand where it can be.

The server is this file's own; so is the stack of the last test.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from tests.support.authority import Authority
from tests.support.servers import http, until
from tests.support.stack import Stack
from vault_service.dev.bootstrap import login_person, prepare_vault, server_approle
from vault_service.dev.openbao import OpenBao
from vault_service.keys import ends as ends_module
from vault_service.keys import refusals as refusals_module
from vault_service.keys.credentials import Life
from vault_service.keys.transit import (
    AppRole,
    Certificate,
    Jwt,
    Kubernetes,
    Login,
    TokenFile,
    TokenValue,
    Vault,
    VaultDenied,
    VaultLockedOut,
    VaultLoginRefused,
)

KEY = "ssn-vault-k12-data-1"
WRONG = "00000000-0000-0000-0000-000000000000"
ROLE = "auth/approle/role/ssn-vault-server"
DAY = 86400.0


@dataclass(frozen=True)
class World:
    """One prepared OpenBao, root's login, its audit log, and a data key wrapped under KEY."""

    bao: OpenBao
    root: Vault
    log: Path
    wrapped: str

    def logins(self, mount: str) -> int:
        """How often a login at `mount` was tried so far; for tokens, how often one was looked at."""
        path = "auth/token/lookup-self" if mount == "token" else f"auth/{mount}/login"
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return sum(line["type"] == "request" and line["request"]["path"] == path for line in lines)

    def unlock(self) -> None:
        """End every lockout, as an operator may."""
        for namespace in (self.root.read("sys/locked-users") or {}).get("by_namespace") or ():
            for mount in namespace["mount_accessors"]:
                for alias in mount["alias_identifiers"]:
                    self.root.write(f"sys/locked-users/{mount['mount_accessor']}/unlock/{alias}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("refused")
    with OpenBao(home / "openbao") as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {"clerk": []})
        for kind in ("jwt", "kubernetes", "cert"):
            root.write(f"sys/auth/{kind}", type=kind)
        root.create_wrapping_key(KEY)
        yield World(bao, root, home / "openbao" / "audit.log", root.new_wrapped_key(KEY))
        root.close()


@pytest.fixture
def approle(world: World, tmp_path: Path) -> Iterator[AppRole]:
    """A login of a role of its own, with a good secret id."""
    path = f"auth/approle/role/{tmp_path.name.replace('_', '-')[:60]}"
    world.root.write(path, token_policies=["ssn-vault-server"], token_period="1h", secret_id_ttl="10m")
    role_id = world.root.read(f"{path}/role-id")
    assert role_id is not None
    (tmp_path / "role").write_text(role_id["role_id"])
    (tmp_path / "secret").write_text(world.root.write(f"{path}/secret-id")["secret_id"])
    yield AppRole(tmp_path / "role", tmp_path / "secret")
    world.unlock()


@pytest.fixture
def opened(world: World) -> Iterator[Callable[[Login], Vault]]:
    """Opens logins that are closed at the end."""
    vaults: list[Vault] = []

    def open_login(login: Login) -> Vault:
        vaults.append(Vault(world.bao.address, login))
        return vaults[-1]

    yield open_login
    for vault in vaults:
        vault.close()


def unwraps(world: World, vault: Vault) -> bool:
    try:
        return len(vault.unwrap(KEY, world.wrapped)) == 32
    except VaultDenied:
        return False


def test_a_wrong_secret_id_costs_one_try_and_the_role_stays_open_for_others(
    world: World, approle: AppRole, opened: Callable[[Login], Vault]
) -> None:
    good, before = approle.secret_id_file.read_text(), world.logins("approle")
    approle.secret_id_file.write_text(WRONG)
    vault = opened(approle)
    with pytest.raises(VaultLoginRefused, match="secret id"):
        vault.unwrap(KEY, world.wrapped)
    for _ in range(50):
        assert not unwraps(world, vault)
    assert world.logins("approle") == before + 1
    assert "secret id is not accepted" in (vault.login_problem or "")
    other = approle.secret_id_file.with_name("other")
    other.write_text(good)
    assert unwraps(world, opened(AppRole(approle.role_id_file, other)))
    approle.secret_id_file.write_text(good)
    assert unwraps(world, vault)
    assert vault.login_problem is None


def test_wrong_secret_ids_one_after_the_other_do_not_lock_the_role(
    world: World, approle: AppRole, opened: Callable[[Login], Vault]
) -> None:
    good, before = approle.secret_id_file.read_text(), world.logins("approle")
    vault = opened(approle)
    for number in range(20):
        approle.secret_id_file.write_text(f"{number:08}{WRONG[8:]}")
        assert not unwraps(world, vault)
    assert world.logins("approle") - before < 5
    other = approle.secret_id_file.with_name("other")
    other.write_text(good)
    assert unwraps(world, opened(AppRole(approle.role_id_file, other)))


def test_a_lockout_is_recognised_named_and_outlived(
    world: World, approle: AppRole, opened: Callable[[Login], Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    role_id = approle.role_id_file.read_text()
    for _ in range(5):
        with pytest.raises(Exception, match="400"):
            world.root.login_at("auth/approle/login", role_id=role_id, secret_id=WRONG)
    vault = opened(approle)
    with capture_logs() as logs, pytest.raises(VaultLockedOut, match="locked the role"):
        vault.unwrap(KEY, world.wrapped)
    assert [log["locked"] for log in logs if log["event"] == "Vault refuses the login"] == [True]
    assert "locked" in (vault.login_problem or "")
    before = world.logins("approle")
    assert not any(unwraps(world, vault) for _ in range(20))
    assert world.logins("approle") == before
    world.unlock()
    monkeypatch.setattr(vault._keeper._refusals, "_clock", lambda: time.monotonic() + 200)
    assert unwraps(world, vault)
    assert vault.login_problem is None


@pytest.fixture
def refused_login(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Login]:
    """A login that Vault refuses, with where it is mounted."""
    kind = str(request.param)
    token = tmp_path / "token"
    now = int(time.time())
    token.write_text(
        jwt.encode({"sub": "x", "iat": now, "exp": now + 600}, ec.generate_private_key(ec.SECP256R1()), "ES256")
    )
    if kind == "cert":
        return kind, Certificate(*Authority(tmp_path / "ca").issue("x", []))
    logins: dict[str, Login] = {
        "token": TokenFile(token),
        "jwt": Jwt("server", token),
        "kubernetes": Kubernetes("server", token),
    }
    return kind, logins[kind]


@pytest.mark.parametrize("refused_login", ["token", "jwt", "kubernetes", "cert"], indirect=True)
def test_whatever_the_method_a_refused_login_is_not_repeated_and_heals(
    world: World,
    refused_login: tuple[str, Login],
    opened: Callable[[Login], Vault],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, login = refused_login
    vault, before = opened(login), world.logins(kind)
    for _ in range(30):
        assert not unwraps(world, vault)
    assert world.logins(kind) == before + 1
    assert vault.login_problem is not None
    monkeypatch.setattr(vault._keeper._refusals, "_clock", lambda: time.monotonic() + 10)
    assert not unwraps(world, vault)
    assert world.logins(kind) == before + 2, "tried again later: Vault may have been wrong"


def test_a_token_that_was_revoked_is_not_sent_again_and_again(
    world: World, approle: AppRole, opened: Callable[[Login], Vault]
) -> None:
    vault = opened(approle)
    assert unwraps(world, vault)
    approle.secret_id_file.write_text(WRONG)
    assert vault._keeper._token is not None
    world.root.write("auth/token/revoke", token=vault._keeper._token.value)
    assert not unwraps(world, vault)
    lines = len(world.log.read_text().splitlines())
    for _ in range(20):
        assert not unwraps(world, vault)
    assert len(world.log.read_text().splitlines()) == lines


# Ends that are known beforehand


def left(of: str) -> float:
    value = REGISTRY.get_sample_value("ssn_vault_login_seconds_left", {"of": of})
    assert value is not None
    return value


def test_the_end_of_the_servers_secret_id_is_known_and_a_metric(
    world: World, tmp_path: Path, opened: Callable[[Login], Vault]
) -> None:
    files = AppRole(tmp_path / "role", tmp_path / "secret")
    for path, secret in zip((files.role_id_file, files.secret_id_file), server_approle(world.root), strict=True):
        path.write_text(secret)
    vault = opened(files)
    vault.keep_login_alive()
    assert math.isnan(vault.credential_seconds_left)
    assert unwraps(world, vault)
    until(lambda: not math.isnan(vault.credential_seconds_left))
    assert 29 * DAY < left("credential") <= 30 * DAY
    assert 3000 < left("token") <= 3600
    assert vault.login_problem is None


@pytest.fixture
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault_service.keys.login.LOOK_SECONDS", 0.05)
    monkeypatch.setattr(ends_module, "_ASK_SECONDS", 0.0)


def give_right(world: World, name: str) -> None:
    """Let the role ask about its own secret ids."""
    path = f"auth/approle/role/{name}"
    world.root.put_policy(name, f'path "{path}/secret-id/lookup" {{\n capabilities = ["update"]\n}}')
    world.root.write(path, token_policies=["ssn-vault-server", name])


@pytest.mark.usefixtures("looked_at_often")
def test_a_secret_id_that_ends_is_told_before_anybody_must_log_in_again(
    world: World, approle: AppRole, tmp_path: Path, opened: Callable[[Login], Vault]
) -> None:
    name = tmp_path.name.replace("_", "-")[:60]
    vault = opened(approle)
    vault.keep_login_alive()
    assert unwraps(world, vault)
    assert math.isnan(vault.credential_seconds_left), "the role may not ask"
    give_right(world, name)
    vault.close()
    vault = opened(approle)
    vault.keep_login_alive()
    with capture_logs() as logs:
        assert unwraps(world, vault)
        until(lambda: 500 < vault.credential_seconds_left <= 600)
        assert not [log for log in logs if log["log_level"] == "warning"]
        world.root.write(f"auth/approle/role/{name}/secret-id/destroy", secret_id=approle.secret_id_file.read_text())
        until(lambda: vault.login_problem is not None)
        assert unwraps(world, vault), "the token lives"
        assert vault.credential_seconds_left == 0
        warnings = [log for log in logs if log["log_level"] == "warning"]
        assert len(warnings) == 1
        approle.secret_id_file.write_text(world.root.write(f"auth/approle/role/{name}/secret-id")["secret_id"])
        until(lambda: vault.login_problem is None)
    assert vault.credential_seconds_left > 500


@pytest.mark.parametrize(
    ("method", "spent", "warned"), [(Jwt, 0.7, 0), (Jwt, 0.85, 1), (Kubernetes, 0.85, 0), (Kubernetes, 0.95, 1)]
)
@pytest.mark.usefixtures("looked_at_often")
def test_a_fifth_of_a_life_before_the_end_of_a_signed_token_there_is_one_warning(
    world: World,
    tmp_path: Path,
    method: type[Jwt] | type[Kubernetes],
    spent: float,
    warned: int,
    opened: Callable[[Login], Vault],
) -> None:
    now = int(time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    claims = {"sub": "x", "iat": now - int(10_000 * spent), "exp": now + int(10_000 * (1 - spent))}
    (tmp_path / "token").write_text(jwt.encode(claims, key, "ES256"))
    vault = opened(method("server", tmp_path / "token"))
    with capture_logs() as logs:
        vault.keep_login_alive()
        until(lambda: not math.isnan(vault.credential_seconds_left))
        asked = vault._keeper._look_at
        until(lambda: vault._keeper._look_at > asked + 0.3)
    assert sum(log["log_level"] == "warning" for log in logs) == warned
    assert abs(vault.credential_seconds_left - 10_000 * (1 - spent)) < 60


@pytest.mark.usefixtures("looked_at_often")
def test_the_end_of_a_certificate_and_of_a_token_in_a_file_is_known(
    world: World, tmp_path: Path, opened: Callable[[Login], Vault]
) -> None:
    vault = opened(Certificate(*Authority(tmp_path / "ca").issue("x", [])))
    vault.keep_login_alive()
    until(lambda: DAY - 600 < vault.credential_seconds_left <= DAY)
    file = tmp_path / "token"
    file.write_text(login_person(world.root, "clerk"))
    person = opened(TokenFile(file))
    person.keep_login_alive()
    assert person.person_name() == "clerk"
    for options, low, high in (
        ({"ttl": "1h", "renewable": False}, 3500, 3600),
        ({"ttl": "1h", "explicit_max_ttl": "5h"}, 17_900, 18_000),
        ({"period": "1h"}, math.inf, math.inf),
    ):
        created = world.root._call("POST", "auth/token/create", {"policies": ["ssn-vault-person"], **options})
        file.write_text(created["auth"]["client_token"])
        until(lambda: low <= person.credential_seconds_left <= high)  # noqa: B023 - called at once
    assert person.login_problem is None
    file.write_text("s.nobody")
    until(lambda: person.login_problem is not None)


def test_looking_a_secret_id_up_is_no_login_that_counts(world: World) -> None:
    """Else asking about its end would bring the role nearer to a lockout."""
    role_id, secret_id = server_approle(world.root)
    for _ in range(8):
        assert world.root.write(f"{ROLE}/secret-id/lookup", secret_id=WRONG) == {}
    assert world.root.login_at("auth/approle/login", role_id=role_id, secret_id=secret_id)


def test_a_life_that_is_over_has_nothing_left() -> None:
    assert Life(1.0, 10.0).left == 0


# A whole server


def test_a_server_whose_secret_id_is_wrong_tries_rarely_and_serves_again_with_a_good_one(tmp_path: Path) -> None:
    with Stack(tmp_path / "home", settings={"SSN_VAULT_KEYS__LEASE_SECONDS": "2"}) as stack:
        secret = stack.home.directory / "server" / "secret-id"
        good, log = secret.read_text(), stack.home.openbao_directory / "audit.log"
        root = stack.root()

        def tried() -> int:
            return log.read_text().count('"path":"auth/approle/login"')

        secret.write_text(WRONG)
        before = tried()
        for accessor in (root.read("auth/token/accessors", list="true") or {})["keys"]:
            found = root.write("auth/token/lookup-accessor", accessor=accessor)
            if found["meta"] == {"role_name": "ssn-vault-server"}:
                root.write("auth/token/revoke-accessor", accessor=accessor)
        until(lambda: not stack.server.is_ready())
        until(lambda: stack.log.read_text().count("Vault refuses the login") > 0)
        # It has asked for its keys through a whole lease; before, each time was a try.
        until(lambda: "ssn_vault_key_seconds_left 0.0" in http(stack.server, "/metrics")[1])
        until(lambda: '"key lease ended"' in stack.log.read_text())
        assert "ssn_vault_login_refused 1.0" in http(stack.server, "/metrics")[1]
        assert (tried() - before) // 2 < 5  # each stands there twice: as a request, and with its answer
        secret.write_text(good)
        stack.server.wait_ready()
        assert "ssn_vault_login_refused 0.0" in http(stack.server, "/metrics")[1]
        root.close()


def test_the_pauses_are_longer_than_vault_counts() -> None:
    assert min(refusals_module._APPROLE_PAUSES) > 15 * 60
