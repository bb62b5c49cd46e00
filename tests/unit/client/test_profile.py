"""Profiles: read from a home or a TOML file; every mistake names its field."""

import json
from pathlib import Path

import pytest

from ssn_vault_client import Client, Profile, ProfileError

READY = {
    "address": "localhost:5000",
    "ca": "/home/ca.pem",
    "clients": {"sis": {"cert": "/home/sis.pem", "key": "/home/sis.key", "p12": "/home/sis.p12"}},
}
TABLE = '[profiles.sis]\naddress = "vault:443"\nca = "ca.pem"\ncert = "sis.pem"\nkey = "keys/sis.key"\n'


def test_a_home_gives_the_profile_of_each_client(tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text(json.dumps(READY))
    assert Profile.from_home(tmp_path, "sis") == Profile(
        "localhost:5000", Path("/home/ca.pem"), Path("/home/sis.pem"), Path("/home/sis.key"), None, 10.0
    )


@pytest.mark.parametrize(
    ("change", "client", "field"),
    [
        ({}, "registrar", "clients.registrar"),
        ({"address": None}, "sis", "address"),
        ({"ca": 5}, "sis", "ca"),
        ({"clients": []}, "sis", "clients"),
        ({"clients": {"sis": {"cert": "x"}}}, "sis", "clients.sis.key"),
        ({"clients": {"sis": "x"}}, "sis", "clients.sis"),
    ],
)
def test_a_home_that_is_wrong_is_told_by_field(
    tmp_path: Path, change: dict[str, object], client: str, field: str
) -> None:
    (tmp_path / "ready.json").write_text(json.dumps(READY | change))
    with pytest.raises(ProfileError) as caught:
        Profile.from_home(tmp_path, client)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"])
def test_a_home_that_is_not_ready_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ready.json").write_bytes(content)
    with pytest.raises(ProfileError, match=r"^ready\.json: "):
        Profile.from_home(tmp_path, "sis")


def test_a_toml_file_gives_profiles_with_paths_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "vault.toml"
    file.write_text(TABLE)
    assert Profile.from_toml(file, "sis") == Profile(
        "vault:443", tmp_path / "ca.pem", tmp_path / "sis.pem", tmp_path / "keys" / "sis.key"
    )
    file.write_text(TABLE + 'person_token_file = "/run/person.jwt"\ntimeout = 2.5\n')
    profile = Profile.from_toml(str(file), "sis")
    assert (profile.person_token_file, profile.timeout) == (Path("/run/person.jwt"), 2.5)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("", "profiles"),
        (TABLE.replace("sis]", "other]"), "profiles.sis"),
        ("[profiles]\nsis = 1\n", "profiles.sis"),
        (TABLE.replace("address", "adress"), "profiles.sis.adress"),
        (TABLE.replace('ca = "ca.pem"\n', ""), "profiles.sis.ca"),
        (TABLE.replace('"sis.pem"', '""'), "profiles.sis.cert"),
        (TABLE + "timeout = 0\n", "profiles.sis.timeout"),
        (TABLE + "timeout = true\n", "profiles.sis.timeout"),
        (TABLE + "timeout = inf\n", "profiles.sis.timeout"),
        (TABLE + "person_token_file = 3\n", "profiles.sis.person_token_file"),
    ],
)
def test_a_toml_file_that_is_wrong_is_told_by_field(tmp_path: Path, content: str, field: str) -> None:
    file = tmp_path / "vault.toml"
    file.write_text(content)
    with pytest.raises(ProfileError) as caught:
        Profile.from_toml(file, "sis")
    assert caught.value.field == field


@pytest.mark.parametrize("content", [None, b"[", b"\xff"])
def test_what_is_no_toml_file_is_told_by_its_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "vault.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProfileError, match=r"vault\.toml: "):
        Profile.from_toml(file, "sis")


@pytest.mark.parametrize(
    ("ca", "cert", "key", "field"),
    [
        ("none.pem", "sis.pem", "sis.key", "ca"),
        ("ca.key", "sis.pem", "sis.key", "ca"),
        ("ca.pem", "none.pem", "sis.key", "cert"),
        ("ca.pem", "sis.pem", "none.key", "key"),
        ("ca.pem", "sis.pem", "server.key", "cert, key"),
    ],
)
def test_files_that_cannot_serve_are_told_before_any_call(
    certificates: Path, ca: str, cert: str, key: str, field: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        Client(Profile("localhost:1", certificates / ca, certificates / cert, certificates / key))
    assert caught.value.field == field
