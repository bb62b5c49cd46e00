"""`ssn-vault incident`: stop disclosures at once, and let them go on."""

from typing import Annotated

import typer

from vault_service.cli.admin import Where, admin
from vault_service.cli.common import As, Config, Exit, Home, Second, TokenFileOption, Yes, command, confirm, stop
from vault_service.cli.ordering import carry_out
from vault_service.orders.order import Action

app = typer.Typer(help="Breach response.", no_args_is_help=True)


@app.command()
@command
def freeze(
    reason: Annotated[str, typer.Option("--reason", help="Why, in words.")],
    client: Annotated[str | None, typer.Option("--client")] = None,
    person: Annotated[str | None, typer.Option("--person")] = None,
    domain: Annotated[str | None, typer.Option("--domain")] = None,
    everything: Annotated[bool, typer.Option("--all")] = False,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Refuse every call of a client, a person, in a domain, or all; holds when this returns."""
    named = {"client": client, "person": person, "domain": domain, "all": "all" if everything else None}
    chosen = [(kind, name) for kind, name in named.items() if name]
    if len(chosen) != 1:
        stop(Exit.USAGE, "name one of --client, --person, --domain, --all")
    kind, name = chosen[0]
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        confirm(f"Freeze {kind} {name}?", yes=yes)
        carry_out(one, where, Action.FREEZE, {"kind": kind, "name": name, "reason": reason}, None)


@app.command()
@command
def thaw(
    freeze_id: Annotated[str, typer.Argument(help="The freeze order's id, as `status` shows it.")],
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """End a freeze: two people sign."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        row = one.find(freeze_id)
        confirm(f"End freeze {row.id}?", yes=yes)
        carry_out(one, where, Action.THAW, {"freeze": row.id}, second)
