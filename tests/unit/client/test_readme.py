"""What the client's README shows does what it says."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from ssn_vault_client import Profile
from tests.unit.client.conftest import SmallVault

README = (Path(__file__).parents[3] / "clients" / "python" / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_runs(
    vault: SmallVault,
    profile: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / ".home" / "dev"
    home.mkdir(parents=True)
    files = {"cert": str(profile.cert), "key": str(profile.key), "p12": ""}
    ready = {"address": profile.address, "ca": str(profile.ca), "clients": {"sis": files}}
    (home / "ready.json").write_text(json.dumps(ready))
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "k12_0 d-1 Ssn(***) 3456\n"
    assert len(vault.messages) == 2


def test_the_profile_is_read(tmp_path: Path) -> None:
    file = tmp_path / "vault.toml"
    file.write_text(block("toml"))
    profile = Profile.from_toml(file, "sis")
    assert set(tomllib.loads(block("toml"))["profiles"]["sis"]) == set(Profile.__slots__)
    assert profile.person_token_file == tmp_path / "person.jwt"
