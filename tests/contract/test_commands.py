"""The names of commands and options that scripts rely on."""

import pytest
import typer
import typer.testing

from tests.support.commands import USAGE, leaves, ssn_vault
from vault_service.__main__ import app

READ_ONLY = {
    "status",
    "policy show",
    "policy plan",
    "keys status",
    "approvals list",
    "approvals show",
    "audit tail",
    "audit disclosures",
    "audit search",
    "audit report",
    "audit verify",
    "audit check-proof",
    "incident report",
}
WRITING = {  # a file, standard output, or a process: they change nothing of the installation
    "audit export",
    "audit prove",
    "audit key",
    "audit witness",
}
CHANGING = {
    "policy apply",
    "keys rotate",
    "keys reencrypt",
    "keys retire",
    "keys set-aside",
    "keys destroy",
    "keys compromised",
    "vault-setup",
    "audit accept-loss",
    "approvals grant",
    "approvals deny",
    "approvals request",
    "incident freeze",
    "incident thaw",
    "incident drill",
}


def test_every_command_takes_its_options_on_its_own() -> None:
    found = {
        name: {option for p in command.params for option in p.opts}
        for name, command in leaves(typer.main.get_command(app))
    }
    installed = {name for name in found if not name.startswith(("dev", "demo", "serve"))}
    assert READ_ONLY | WRITING | CHANGING | {"database migrate", "database rebuild-tree", "certs issue"} == installed
    assert {name for name in installed if {"--home", "--config"} <= found[name]} == installed
    assert {name for name in found if "--json" in found[name]} == READ_ONLY | {"vault-setup"}
    assert {name for name in found if "--yes" in found[name]} == CHANGING
    assert {name for name in found if "--second" in found[name]} == {
        "policy apply",
        "approvals request",
        "incident thaw",
        "audit accept-loss",
        "keys set-aside",
        "keys destroy",
        "keys compromised",
    }
    assert "--config" in found["serve"]
    assert "--home" in found["dev person-token"]


def test_help_is_given_without_an_installation() -> None:
    for name, _ in leaves(typer.main.get_command(app)):
        assert "Usage" in ssn_vault(None, *name.split(), "--help").output


@pytest.mark.parametrize("number", ["912-34-5678", "912345678"])
def test_a_number_in_a_wrong_place_is_not_repeated(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of every option's value, of an option, of an argument and of a command."""
    program = typer.main.get_command(app)
    monkeypatch.setattr(typer.testing, "_get_command", lambda _app: program)  # the one whose commands do nothing
    tried = [[number], [f"--{number}"]]
    for name, command in leaves(program):
        monkeypatch.setattr(command, "callback", lambda **_: None)
        words = name.split()
        tried += [[*words[:-1], number], [*words, f"--{number}"], [*words, f"-{number}"], [*words, *[number] * 4]]
        for option in (option for p in command.params for option in p.opts if option.startswith("--")):
            tried += [[*words, option, number], [*words, f"{option}={number}"]]
    assert len(tried) > 500
    said = {" ".join(words): typer.testing.CliRunner().invoke(app, words).output for words in tried}
    assert [words for words, output in said.items() if "5678" in output] == []
    assert "No such command" in said[number]


@pytest.mark.parametrize(
    "words",
    [
        *(["policy", "apply"], ["policy", "plan"], ["vault-setup"]),
        *(["audit", "check-proof"], ["audit", "check-proof", "--public-key"]),
        *(["audit", "verify", "--public-key"], ["keys", "status", "--token-file"], ["audit", "prove", "--token"]),
    ],
)
def test_a_number_in_the_place_of_a_file_or_token_is_not_repeated(words: list[str]) -> None:
    result = ssn_vault(None, *words, "912-34-5678")
    assert result.exit_code == USAGE
    assert len(result.output) > 20
    assert "5678" not in result.output
