"""The command line as tests type it: run in this process, on a stack's home, with nothing of the surroundings."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from tests.support.stack import JUSTIFICATION, Stack
from vault_service.__main__ import app

DONE, CHECK_FAILED, USAGE, REFUSED, AWAY, INTERRUPTED = 0, 1, 2, 4, 5, 130


def ssn_vault(
    stack: Stack | None, *arguments: object, answer: str = "", settings: Mapping[str, str] | None = None
) -> Result:
    """Run a command, on the stack's home if one is given; whatever it does not handle fails the test."""
    home = ["--home", str(stack.home.directory)] if stack else []
    surroundings = {"VAULT_TOKEN": None, "SSN_VAULT_CONFIG": None, **(settings or {})}
    result = CliRunner().invoke(app, [*map(str, arguments), *home], input=answer, env=surroundings)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def succeeds(stack: Stack, *arguments: object) -> str:
    """What a command prints that must succeed."""
    result = ssn_vault(stack, *arguments)
    assert result.exit_code == DONE, result.output
    return result.output


def parsed(stack: Stack, *arguments: object) -> Any:
    """The same, as JSON."""
    return json.loads(succeeds(stack, *arguments, "--json"))


def waiting_order(result: Result) -> str:
    """The id of an order that waits for another person, from what the command says to do next."""
    assert result.exit_code == REFUSED, result.output
    words = result.output.split()
    assert "grant" in words, result.output
    return words[words.index("grant") + 1]


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words; typer gives click's own kinds."""
    if hasattr(command, "commands"):
        for part, found in command.commands.items():
            yield from leaves(found, f"{name} {part}".strip())
    else:
        yield name, command


def bulk(client: str = "sis", purpose: str = "tax-reporting", justification: str = JUSTIFICATION) -> list[str]:
    """The arguments that ask, as the tax clerk, for seven tokens."""
    asked = ["--client", client, "--purpose", purpose, "--tokens", "7", "--justification", justification]
    return ["approvals", "request", *asked, "--as", "tax-clerk", "--yes"]


@contextmanager
def restored(stack: Stack, policy: Path) -> Iterator[None]:
    """At the end the policy is `policy` again, and no order waits."""
    try:
        yield
    finally:
        succeeds(stack, "policy", "apply", policy, "--yes", "--second", "privacy-officer")
        _deny_all(stack)


@contextmanager
def thawed(stack: Stack) -> Iterator[None]:
    """At the end nothing is frozen, and no order waits."""
    try:
        yield
    finally:
        for freeze in parsed(stack, "status")["freezes"]:
            succeeds(stack, "incident", "thaw", freeze["id"], "--yes", "--second", "key-admin-b")
        _deny_all(stack)


def _deny_all(stack: Stack) -> None:
    for order in parsed(stack, "approvals", "list")["waiting"]:
        succeeds(stack, "approvals", "deny", order["id"], "--yes")


def policy_in_force(stack: Stack) -> str:
    """The policy in force, as its file."""
    header, _, text = succeeds(stack, "policy", "show").partition("\n")
    assert header.startswith("# policy version")
    return text
