"""The names of commands and options that scripts rely on."""

import pytest
import typer

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
    "keys destroy",
    "keys compromised",
    "vault-setup",
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
    assert READ_ONLY | WRITING | CHANGING | {"database migrate", "certs issue"} == installed
    assert {name for name in installed if {"--home", "--config"} <= found[name]} == installed
    assert {name for name in found if "--json" in found[name]} == READ_ONLY | {"vault-setup"}
    assert {name for name in found if "--yes" in found[name]} == CHANGING
    assert {name for name in found if "--second" in found[name]} == {
        "policy apply",
        "approvals request",
        "incident thaw",
        "keys destroy",
        "keys compromised",
    }
    assert "--config" in found["serve"]
    assert "--home" in found["dev person-token"]


def test_help_is_given_without_an_installation() -> None:
    for name, _ in leaves(typer.main.get_command(app)):
        assert "Usage" in ssn_vault(None, *name.split(), "--help").output


@pytest.mark.parametrize(
    "typed",
    [
        *("NUMBER", "audit NUMBER", "audit search NUMBER", "keys rotate NUMBER NUMBER"),
        *("--NUMBER", "audit verify --NUMBER", "audit verify -NUMBER", "audit tail --lines NUMBER"),
        *("audit report --month NUMBER", "audit disclosures --format NUMBER", "audit verify --json=NUMBER"),
        *("audit search --since NUMBER", "audit disclosures --token NUMBER", "approvals request --tokens NUMBER"),
    ],
)
@pytest.mark.parametrize("number", ["912-34-5678", "912345678"])
def test_a_number_in_a_wrong_place_is_not_repeated(typed: str, number: str) -> None:
    result = ssn_vault(None, *typed.replace("NUMBER", number).split())
    assert result.exit_code == USAGE
    assert len(result.output) > 20
    assert number not in result.output
    assert number[-4:] not in result.output
