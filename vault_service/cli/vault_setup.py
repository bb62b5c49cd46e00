"""`ssn-vault vault-setup`: prepares a Vault for production from a reviewed file, every change shown first."""

from pathlib import Path
from typing import Annotated

import typer

from vault_service.app import open_vault
from vault_service.cli.admin import Where
from vault_service.cli.common import (
    Config,
    Exit,
    Home,
    Json,
    Yes,
    command,
    confirm,
    console,
    print_json,
    stop,
)
from vault_service.config import Settings
from vault_service.errors import ConfigurationError
from vault_service.keys.resources import Change, SetupRefusedError, carry_out, plan
from vault_service.keys.setup import wanted
from vault_service.keys.setup_file import load_setup
from vault_service.keys.transit import Login, TokenFile

VaultTokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="File with a Vault token (else VAULT_TOKEN, ~/.vault-token).")
]


@command
def vault_setup(
    file: Annotated[Path, typer.Argument(help="What the Vault should be, TOML; see docs/vault.md.")],
    home: Home = None,
    config: Config = None,
    token_file: VaultTokenFile = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Prepare Vault: engines, policies, logins, people, certificates. May be run again; then it shows what differs.

    Takes the login of whoever administers Vault; a token of no person will do. With --json nothing is changed
    unless --yes stands there too.
    """
    where = Where(home, config, token_file=token_file)
    settings = where.settings()
    setup = load_setup(file)
    if setup.trust_domain != settings.server.trust_domain:
        raise ConfigurationError("trust_domain is another one than the server's (server.trust_domain)")
    vault = open_vault(settings.vault, vault_admin(where))
    try:
        changes = plan(vault, wanted(setup))
        _show(changes, settings, json=json)
        if changes and not (json and not yes):
            confirm(f"Make {len(changes)} changes in this Vault?", yes=yes)
            carry_out(vault, changes)
            if not json:
                console.print("done")
    except SetupRefusedError as error:
        stop(Exit.REFUSED, f"refused: {error}")
    finally:
        vault.close()


def vault_admin(where: Where) -> Login:
    """The login of whoever prepares Vault. In a development home that is its root token."""
    if where.home is not None and where.token_file is None:
        return TokenFile(where.home / "openbao" / "root.token")
    return where.login()


def _show(changes: list[Change], settings: Settings, *, json: bool) -> None:
    if json:
        print_json([{"path": change.path, "change": change.words} for change in changes])
        return
    for change in changes:
        console.print(f"{change.path}: {change.words}", markup=False, soft_wrap=True)
    if not changes:
        console.print(f"nothing to change in {settings.vault.address}", markup=False, soft_wrap=True)
