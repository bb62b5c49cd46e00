"""`ssn-vault approvals`: the second person; and a bulk detokenization asked for beforehand."""

import time
from typing import Annotated, Any

import typer

from vault_service.audit.event import hash_name
from vault_service.cli.admin import Where, admin
from vault_service.cli.common import (
    As,
    Config,
    Exit,
    Home,
    Json,
    Second,
    TokenFileOption,
    Yes,
    command,
    confirm,
    console,
    print_json,
    print_table,
    stop,
)
from vault_service.cli.ordering import carry_out
from vault_service.errors import OrderRefusedError
from vault_service.orders.order import REMOVED, TEXTS, Action, parse_order, text_of
from vault_service.orders.state import ControlState
from vault_service.policy.file import parse_policy
from vault_service.policy.model import LARGEST_COUNT
from vault_service.policy.plan import differences
from vault_service.storage.orders import OrderRow, newest_orders

app = typer.Typer(help="Orders that need a second person.", no_args_is_help=True)
OrderOption = Annotated[str, typer.Argument(help="The order's id, or its first characters.")]
_SHOWN = 200


@app.command("list")
@command
def list_(
    home: Home = None, config: Config = None, as_: As = None, token_file: TokenFileOption = None, json: Json = False
) -> None:
    """Orders that wait for another person, and approvals in force."""
    with admin(Where(home, config, as_, token_file)) as one:
        state = one.state()
        with one.store.reading() as connection:
            rows = newest_orders(connection, _SHOWN)
        now = time.time_ns() // 1_000_000
        waiting = []
        for row in rows:
            try:
                order = parse_order(row.body)
            except OrderRefusedError:
                continue
            open_still = row.outcome is None and order.expires > now and order.id not in state.denied
            if open_still and one.needs_another(row, state):
                waiting.append(_described(row, state))
    if json:
        approvals = [
            {"id": a.id, "client": a.client, "purpose": a.purpose, "person": a.person, "tokens": a.tokens}
            for a in state.approvals.values()
            if a.expires > now
        ]
        print_json({"waiting": waiting, "approvals": approvals})
        return
    print_table(
        "Waiting",
        ["id", "action", "asked by", "what"],
        [[one["id"], one["action"], one["actor"], one["what"]] for one in waiting],
    )
    print_table(
        "Approved bulk detokenizations",
        ["id", "client", "purpose", "person", "tokens"],
        [[a.id, a.client, a.purpose, a.person, a.tokens] for a in state.approvals.values() if a.expires > now],
    )


@app.command()
@command
def show(
    order_id: OrderOption,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    json: Json = False,
) -> None:
    """One order: what is asked, who signed, what became of it."""
    with admin(Where(home, config, as_, token_file)) as one:
        described = _described(one.find(order_id), one.state())
    if json:
        print_json(described)
    else:
        _print(described)


@app.command()
@command
def grant(
    order_id: OrderOption,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Sign another person's order: it takes effect."""
    with admin(Where(home, config, as_, token_file)) as one:
        row = one.find(order_id)
        _print(_described(row, one.state()))
        confirm(f"Sign this order as {one.person}?", yes=yes)
        order = one.sign(row.id)
        outcome = one.wait(order)
        if outcome is None:
            stop(Exit.REFUSED, "signed; it waits for one more person")
        if outcome.outcome != "done":
            stop(Exit.REFUSED, f"refused: {outcome.detail}")
        console.print(f"done: {order.action.value}, order {order.id}")


@app.command()
@command
def deny(
    order_id: OrderOption,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Refuse another person's order: it can no longer take effect."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        row = one.find(order_id)
        confirm(f"Deny order {row.id}?", yes=yes)
        carry_out(one, where, Action.DENY, {"order_id": row.id}, None)


@app.command()
@command
def request(
    client: Annotated[str, typer.Option("--client", help="The client that will ask for the numbers.")],
    purpose: Annotated[str, typer.Option("--purpose", help="For which purpose.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, max=LARGEST_COUNT, help="How many tokens, exactly.")],
    justification: Annotated[str, typer.Option("--justification", help="Why.")],
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """Ask, as the person who will act, for a bulk detokenization above the purpose's threshold."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        confirm(f"Ask, as {one.person}, for {tokens} tokens through {client} for {purpose}?", yes=yes)
        arguments = {"client": client, "purpose": purpose, "tokens": tokens, "justification": justification}
        carry_out(one, where, Action.APPROVE_BULK, arguments, second)


def _print(described: dict[str, Any]) -> None:
    for name, value in described.items():
        lines = value if isinstance(value, list) else [value]
        for line in lines:
            console.print(f"{name}: {line}", markup=False, soft_wrap=True)


def _described(row: OrderRow, state: ControlState) -> dict[str, Any]:
    """What a second person must see before signing; of a policy, what it changes."""
    order = parse_order(row.body)
    hidden = {"policy", "wrapped", *map(hash_name, TEXTS)}
    arguments = {name: value for name, value in order.arguments.items() if name not in hidden}
    for name in TEXTS:
        if hash_name(name) in order.arguments:
            arguments[name] = text_of(order, name, row.texts) or REMOVED
    described: dict[str, Any] = {
        "id": order.id,
        "action": order.action.value,
        "actor": order.actor,
        "what": arguments,
        "signed by": [signature.person for signature in row.signatures],
        "outcome": f"{row.outcome.outcome} {row.outcome.detail}".strip() if row.outcome else "waiting",
    }
    if order.action is Action.APPLY_POLICY and row.outcome is None:
        old = state.policy if state.policy_version else None
        described["change"] = differences(old, parse_policy(str(order.arguments.get("policy", ""))))
    return described
