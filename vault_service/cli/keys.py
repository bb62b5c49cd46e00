"""`ssn-vault keys`: the key hierarchy."""

import time
from typing import Annotated

import sqlalchemy as sa
import typer

from vault_service.cli.admin import Admin, Where, admin
from vault_service.cli.common import (
    As,
    Config,
    Exit,
    Home,
    Json,
    TokenFileOption,
    Yes,
    command,
    confirm,
    print_json,
    print_table,
    stop,
)
from vault_service.cli.ordering import carry_out
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.order import Action

app = typer.Typer(help="The key hierarchy.", no_args_is_help=True)
_DAY_MS = 24 * 3600 * 1000


@app.command()
@command
def status(
    home: Home = None, config: Config = None, as_: As = None, token_file: TokenFileOption = None, json: Json = False
) -> None:
    """Every key version: state, age, records that use it."""
    with admin(Where(home, config, as_, token_file)) as one:
        state = one.state()
        with one.store.reading() as connection:
            usage = {
                (domain, kind, version): records
                for domain, kind, version, records in connection.execute(
                    sa.text("SELECT domain, kind, version, records FROM key_usage")
                )
            }
        missing = state.missing_keys()
    now = time.time_ns() // 1_000_000
    rows = [
        {
            "scope": version.name.scope,
            "kind": version.name.kind.value,
            "version": version.name.version,
            "state": "active" if version is versions[-1] else "opens old records",
            "age_days": (now - version.since) // _DAY_MS,
            "records": usage.get(version.name, 0),
            "wrapping_key": version.name.transit,
        }
        for _, versions in sorted(state.keys.items())
        for version in versions
    ]
    if json:
        print_json({"keys": rows, "missing": [name.transit for name in missing]})
    else:
        print_table("Keys", list(rows[0]) if rows else ["none"], [list(row.values()) for row in rows])
        for name in missing:
            typer.echo(f"missing: {name.transit}: ssn-vault policy apply creates it")


@app.command()
@command
def rotate(
    domain: Annotated[str, typer.Option("--domain", help="Domain whose key is rotated.")],
    kind: Annotated[KeyKind, typer.Option("--kind", help="Which key.")],
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Make a new version of a data key: new records use it, old ones still open."""
    if kind is not KeyKind.DATA:
        stop(Exit.USAGE, "only data keys can be rotated yet")
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        versions = one.state().versions(domain, kind)
        if not versions:
            stop(Exit.USAGE, "there is no such domain, or it has no keys")
        name = KeyName(domain, kind, versions[-1].name.version + 1)
        confirm(f"Make {name.transit} the active key of {domain}?", yes=yes)
        _create(one, where, name)


def create_missing_keys(one: Admin, where: Where) -> None:
    """Make the first version of every key that the policy needs."""
    for name in one.state().missing_keys():
        _create(one, where, name)


def _create(one: Admin, where: Where, name: KeyName) -> None:
    """A wrapping key in Vault, a new key wrapped under it that nobody has seen, and the order that uses it."""
    one.vault.create_wrapping_key(name.transit)
    arguments = {
        "scope": name.scope,
        "kind": name.kind.value,
        "version": name.version,
        "wrapped": one.vault.new_wrapped_key(name.transit),
    }
    carry_out(one, where, Action.CREATE_KEY, arguments, None)
