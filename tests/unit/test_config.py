"""Settings: unknown names are refused, variables win, and no secret shows."""

import os
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from vault_service.config import DatabaseSettings, Settings, load_settings
from vault_service.errors import ConfigurationError

SECRET = "hunter2-and-more"
FILE = f"""\
[server]
cert = "/etc/ssn-vault/server.crt"
key = "/etc/ssn-vault/server.pem"
client_ca = "/etc/ssn-vault/clients.crt"
trust_domain = "vault.example"
port = 6000

[database]
url = "postgresql+psycopg://server:{SECRET}@127.0.0.1/vault"

[vault]
address = "https://127.0.0.1:8200"
token_file = "/run/secrets/vault"

[policy]
signers = ["signer-a", "signer-b"]
"""


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("SSN_VAULT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


def _refused(file: Path | None, text: str | None = None) -> str:
    if file is not None and text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    assert SECRET not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_a_file_gives_its_settings_and_defaults_the_rest(file: Path) -> None:
    settings = load_settings(file)
    assert settings.server.port == 6000
    assert settings.server.host == "127.0.0.1"
    assert settings.limits.items_per_call == 1000
    assert settings.keys.lease_seconds == 300
    assert settings.policy.signers == ("signer-a", "signer-b")
    assert settings.policy.signatures == 2
    assert settings.issuers == ()
    assert settings.admin_database is None


def test_the_file_can_be_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSN_VAULT_CONFIG", str(file))
    assert load_settings().server.port == 6000


def test_a_file_that_is_named_wins_over_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSN_VAULT_CONFIG", "/nowhere/config.toml")
    assert load_settings(file).server.port == 6000


def test_a_variable_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSN_VAULT_SERVER__PORT", "7000")
    monkeypatch.setenv("SSN_VAULT_KEYS__LEASE_SECONDS", "5")
    monkeypatch.setenv("SSN_VAULT_POLICY__SIGNERS", '["x", "y", "z"]')
    settings = load_settings(file)
    assert settings.server.port == 7000
    assert settings.server.trust_domain == "vault.example"  # the rest of the section stays
    assert settings.keys.lease_seconds == 5
    assert settings.policy.signers == ("x", "y", "z")


def test_variables_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SERVER__CERT": "/c",
        "SERVER__KEY": "/k",
        "SERVER__CLIENT_CA": "/a",
        "SERVER__TRUST_DOMAIN": "vault.example",
        "DATABASE__URL": "sqlite:////db",
        "VAULT__ADDRESS": "http://127.0.0.1:8200",
        "POLICY__SIGNERS": '["a", "b"]',
        "ADMIN_DATABASE__URL": "sqlite:////db",
        "ISSUERS": '[{"issuer": "i", "audience": "a", "jwks_url": "https://i/keys"}]',
    }.items():
        monkeypatch.setenv(f"SSN_VAULT_{name}", value)
    settings = load_settings()
    assert settings.database.url == "sqlite:////db"
    assert settings.admin_database is not None
    assert settings.issuers[0].jwks_url == "https://i/keys"
    assert settings.issuers[0].longest_life == 600


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("[sever]\nport = 1\n", "sever"),
        ("[limits]\nitem_per_call = 5\n", "limits.item_per_call"),
        ("[keys]\nlease = 5\n", "keys.lease"),
        ("[[issuers]]\nissuer = 'i'\naudience = 'a'\nkeys = 'x'\n", "issuers.0.keys"),
        ("[audit.sink]\nfile = 'x'\n", "audit.sink"),
    ],
)
def test_an_unknown_name_in_the_file_is_refused_and_named(file: Path, extra: str, name: str) -> None:
    assert f"{name}: " in _refused(file, FILE + extra)


def test_a_server_that_could_never_take_on_the_largest_call_is_refused(file: Path) -> None:
    assert "limits: " in _refused(file, FILE + "[limits]\nitems_at_once = 999\n")
    file.write_text(FILE + "[limits]\nitems_at_once = 999\nitems_per_call = 999\n")
    assert load_settings(file).limits.items_at_once == 999


# What Kubernetes gives every container of a namespace that has a Service `ssn-vault`, and one `ssn-vault-server`.
SERVICE_LINKS = {
    "SSN_VAULT_SERVICE_HOST": "10.96.0.17",
    "SSN_VAULT_SERVICE_PORT": "50051",
    "SSN_VAULT_SERVICE_PORT_GRPC": "50051",
    "SSN_VAULT_PORT": "tcp://10.96.0.17:50051",
    "SSN_VAULT_PORT_50051_TCP": "tcp://10.96.0.17:50051",
    "SSN_VAULT_PORT_50051_TCP_PROTO": "tcp",
    "SSN_VAULT_PORT_50051_TCP_PORT": "50051",
    "SSN_VAULT_PORT_50051_TCP_ADDR": "10.96.0.17",
    "SSN_VAULT_SERVER_SERVICE_HOST": "fd00::17",
    "SSN_VAULT_SERVER_PORT": "tcp://[fd00::17]:50051",
    "SSN_VAULT_SERVER_PORT_9090_UDP_PROTO": "udp",
}


def test_the_variables_of_a_kubernetes_service_are_no_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert load_settings(file).server.port == 6000


@pytest.mark.parametrize("name", SERVICE_LINKS)
def test_what_only_looks_like_one_is_refused(file: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    assert f"{name} is not a setting" in _refused(file)


def test_every_mistake_is_named_at_once(file: Path) -> None:
    text = FILE.replace('trust_domain = "vault.example"\n', "").replace("port = 6000", "port = 70000")
    found = _refused(file, text + "[keys]\nlease_seconds = 0\n")
    assert all(f"{name}: " in found for name in ("server.trust_domain", "server.port", "keys.lease_seconds"))


@pytest.mark.parametrize(
    "name",
    [
        "SSN_VAULT_SEVER__PORT",
        "SSN_VAULT_SERVER__PROT",
        "SSN_VAULT_SERVER_PORT",
        "SSN_VAULT_SERVER__PORT__X",
        "SSN_VAULT_LIMITS__ITEMS",
        "SSN_VAULT_ADMIN_DATABASE__URI",
        "SSN_VAULT_",
        "SSN_VAULT_PASSWORD",
        "ssn_vault_server__prot",
        "Ssn_Vault_Sever__Port",
    ],
)
def test_an_unknown_variable_is_refused_and_named(file: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    assert f"{name} is not a setting" in _refused(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVER__PORT", SECRET),
        ("SERVER__REFLECTION", SECRET),
        ("POLICY__SIGNERS", SECRET),
        ("ISSUERS", SECRET),
        ("ISSUERS", f'[{{"issuer": "{SECRET}"}}]'),
        ("KEYS__LEASE_SECONDS", "-1"),
        ("LIMITS__ITEMS_PER_CALL", "1001"),
        ("POLICY__SIGNATURES", "1"),
        ("SERVER", SECRET),
        ("LIMITS", f'{{"calls_at_once": "{SECRET}"}}'),
    ],
)
def test_a_wrong_value_is_refused_without_being_shown(
    file: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SSN_VAULT_{name}", value)
    _refused(file)


def test_no_error_shows_a_value_of_the_file(file: Path) -> None:
    for text in (
        FILE.replace("port = 6000", f'port = "{SECRET}"'),
        FILE.replace('signers = ["signer-a", "signer-b"]', f'signers = "{SECRET}"'),
        FILE + f'secret = "{SECRET}"\n',
        FILE.replace('url = "', f'url = 5\npassword = "{SECRET}"\nother = "'),
        f"{SECRET}",
        f'[server\nkey = "{SECRET}"',
    ):
        _refused(file, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.toml"
    assert str(path) in _refused(path)
    assert str(tmp_path) in _refused(tmp_path)


def test_a_file_that_cannot_be_read_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    _refused(file)


def test_neither_repr_nor_str_shows_the_database_url(file: Path) -> None:
    settings = load_settings(file)
    assert SECRET in settings.database.url
    for shown in (repr(settings), str(settings), repr(settings.database), f"{settings.database}"):
        assert SECRET not in shown
        assert "postgresql" not in shown
    assert SECRET not in repr(settings.database.full_url())


def test_settings_are_frozen(file: Path) -> None:
    settings = load_settings(file)
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "policy", settings.policy)  # noqa: B010 - mypy knows already that it cannot be set


def test_the_password_comes_from_its_file_and_stands_nowhere_else(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(f"{SECRET}/@:%\n")
    settings = DatabaseSettings(url="postgresql+psycopg://server@127.0.0.1/vault", password_file=password)
    url = settings.full_url()
    assert url.password == f"{SECRET}/@:%"
    assert (url.username, url.host, url.database) == ("server", "127.0.0.1", "vault")
    for shown in (repr(settings), str(settings), repr(url), str(url)):
        assert SECRET not in shown


def test_without_a_password_file_the_url_is_as_it_stands() -> None:
    assert str(DatabaseSettings(url="sqlite:////db").full_url()) == "sqlite:////db"


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe")]
)
def test_a_password_file_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path, make: object) -> None:
    assert callable(make)
    path = tmp_path / "password"
    make(path)
    settings = DatabaseSettings(url="postgresql+psycopg://server@127.0.0.1/vault", password_file=path)
    with pytest.raises(ConfigurationError, match="password_file"):
        settings.full_url()


def test_a_url_that_is_none_is_a_mistake_of_the_configuration_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        DatabaseSettings(url=f"not a url {SECRET}").full_url()
    assert SECRET not in str(caught.value)


def test_a_policy_needs_two_signatures_whatever_the_file_says(file: Path) -> None:
    assert "policy.signatures: " in _refused(file, FILE + "signatures = 1\n")


def test_every_setting_has_a_section_that_refuses_unknown_names() -> None:
    assert Settings.model_config["extra"] == "forbid"
    sections: list[type[BaseModel]] = [
        part
        for field in Settings.model_fields.values()
        for part in (get_args(field.annotation) or (field.annotation,))
        if isinstance(part, type) and issubclass(part, BaseModel)
    ]
    assert len(sections) == len(Settings.model_fields)
    for section in sections:
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["hide_input_in_errors"], section
