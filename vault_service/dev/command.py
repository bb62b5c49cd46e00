"""`ssn-vault dev` and `dev person-token`."""

from pathlib import Path
from typing import Annotated

import typer

from vault_service.app import open_vault
from vault_service.cli.common import Exit, command, console, stop
from vault_service.config import load_settings
from vault_service.dev.bootstrap import OIDC_ROLE
from vault_service.dev.home import Home
from vault_service.dev.stack import run_stack
from vault_service.errors import ConfigurationError
from vault_service.keys.transit import TokenFile

app = typer.Typer(help="The whole stack on one machine, for development.", invoke_without_command=True)
HomeDirectory = Annotated[Path | None, typer.Option("--home", help="Directory that holds everything; made if need be.")]


@app.callback()
@command
def dev(
    context: typer.Context,
    home: HomeDirectory = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="gRPC port; 0 takes a free one.")] = 0,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", help="PostgreSQL database to use in place of SQLite; its owner's URL."),
    ] = None,
) -> None:
    """Run OpenBao, the database, and the server with the sample policy, until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    if home is None:
        stop(Exit.USAGE, "--home DIR says where everything is kept")

    def ready(address: str) -> None:
        typer.echo(f"ready: {address}")
        console.print(_HOW_TO_CALL.format(home=home), markup=False, soft_wrap=True)

    run_stack(home, port=port, database_url=database_url, on_ready=ready)


@app.command("person-token")
@command
def person_token(
    name: Annotated[str, typer.Argument(help="A person of the policy.")],
    home: HomeDirectory = None,
) -> None:
    """A signed token that names a person, valid for ten minutes, alone on standard output."""
    if home is None:
        stop(Exit.USAGE, "--home DIR says which stack")
    login = Home(home).directory / "people" / f"{name}.token"
    if not login.is_file():
        raise ConfigurationError("there is no such person in this home")
    vault = open_vault(load_settings(Home(home).config_file).vault, TokenFile(login))
    typer.echo(vault.person_token(OIDC_ROLE))
    vault.close()


_HOW_TO_CALL = """
The stack runs; Ctrl-C ends it. In another terminal, from the same directory:

.venv/bin/python - <<'PYTHON'
from ssn_vault_client import Client, Profile, Ssn, TokenizeItem

with Client(Profile.from_home("{home}", "sis")) as client:
    for result in client.tokenize("k12", [TokenizeItem(Ssn("900-12-3456"))]):
        print(result.token)
PYTHON

.venv/bin/ssn-vault status --home {home}
.venv/bin/ssn-vault audit tail --home {home}
"""
