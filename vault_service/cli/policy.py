"""`ssn-vault policy`: the policy as a reviewed file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vault_service.cli.admin import DEFAULT_PERSON, Admin, Where, admin
from vault_service.cli.common import (
    As,
    Config,
    Home,
    Json,
    Second,
    TokenFileOption,
    Yes,
    command,
    confirm,
    console,
    print_json,
)
from vault_service.cli.key_work import KeyWork
from vault_service.cli.ordering import carry_out
from vault_service.errors import ConfigurationError
from vault_service.orders.order import Action
from vault_service.policy.file import parse_policy
from vault_service.policy.model import Role
from vault_service.policy.plan import differences

app = typer.Typer(help="The policy as a reviewed file.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="The policy, YAML.")]


@app.command()
@command
def show(
    home: Home = None, config: Config = None, as_: As = None, token_file: TokenFileOption = None, json: Json = False
) -> None:
    """Show the policy in force."""
    with admin(Where(home, config, as_, token_file)) as one:
        state = one.state()
    if json:
        print_json({"version": state.policy_version, "policy": state.policy.model_dump(mode="json")})
    else:
        console.print(
            f"# policy version {state.policy_version}\n{state.policy_text}", markup=False, soft_wrap=True, end=""
        )


@app.command()
@command
def plan(
    file: File,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    json: Json = False,
) -> None:
    """Check a policy file and show what would change."""
    with admin(Where(home, config, as_, token_file)) as one:
        lines = _plan(one, _read(file))
    if json:
        print_json(lines)
    else:
        _print_plan(lines)


@app.command()
@command
def apply(
    file: File,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """Put a policy in force: its signers sign. A key admin makes the keys that it needs (in development at once)."""
    where = Where(home, config, as_, token_file)
    if home is not None and as_ is None:
        where = replace(where, person=where.settings().policy.signers[0])
    text = _read(file)
    with admin(where) as one:
        lines = _plan(one, text)
        _print_plan(lines)
        if lines:
            confirm("Put this policy in force?", yes=yes)
            arguments = {"base": one.state().policy_version, "policy": text}
            carry_out(one, where, Action.APPLY_POLICY, arguments, second)
        missing = one.state().missing_keys()
        if Role.KEY_ADMIN in one.roles():
            KeyWork(one, where).create_missing()
            missing = []
    if missing and home is not None:
        where = replace(where, person=DEFAULT_PERSON)
        with admin(where) as key_admin:
            KeyWork(key_admin, where).create_missing()
    elif missing:
        console.print(f"{len(missing)} keys are still missing: a key admin makes them with this same command")


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("the policy file cannot be read as text") from None


def _plan(one: Admin, text: str) -> list[str]:
    new = parse_policy(text)
    state = one.state()
    return differences(state.policy if state.policy_version else None, new)


def _print_plan(lines: list[str]) -> None:
    for line in lines or ["no change"]:
        console.print(line, markup=False, soft_wrap=True)
