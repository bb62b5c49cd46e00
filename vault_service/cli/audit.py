"""`ssn-vault audit`: reading the disclosure record."""

import json as json_module
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from vault_service.cli.admin import Where, read_state, role_store
from vault_service.cli.common import Config, Home, Json, command, print_json, print_table
from vault_service.errors import ConfigurationError
from vault_service.orders.state import Signers
from vault_service.storage.events import EventRow, after, disclosures_of_token, newest
from vault_service.tokens import TokenFormat, parse_token

app = typer.Typer(help="The disclosure record.", no_args_is_help=True)
_FOLLOW_SECONDS = 0.5


@app.command()
@command
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many events.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """The last events, oldest first; with --json one canonical JSON object a line."""
    settings = Where(home, config).settings()
    with role_store(settings, settings.auditor_database) as store:
        with store.reading() as connection:
            events = newest(connection, lines)
        _print_events(events, json=json)
        last = events[-1].id if events else ""
        while follow:
            time.sleep(_FOLLOW_SECONDS)
            with store.reading() as connection:
                events = after(connection, last, 1000)
            _print_events(events, json=json)
            last = events[-1].id if events else last


@app.command()
@command
def disclosures(
    token: Annotated[str, typer.Option("--token", help="The token of the person who asks.")],
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Who was given this token's number or matched it: when, for which purpose, with what legitimate interest.

    The record of disclosures that 34 CFR 99.32 asks for.
    """
    settings = Where(home, config).settings()
    canonical = parse_token(token, "", TokenFormat.STANDARD) or parse_token(token, "", TokenFormat.SSN_COLUMN)
    if canonical is None:
        raise ConfigurationError("--token is not a well-formed token")
    with role_store(settings, settings.auditor_database) as store:
        policy = read_state(store, Signers(frozenset(settings.policy.signers), settings.policy.signatures)).policy
        found: list[dict[str, Any]] = []
        with store.reading() as connection:
            for row, event in disclosures_of_token(connection, canonical):
                body = json_module.loads(event.body)
                purpose = policy.purposes.get(body.get("purpose", ""))
                agreement = policy.agreements.get(body.get("agreement", ""))
                domain = policy.domains.get(row.domain)
                found.append(
                    {
                        "at": _time(body["at"]),
                        "event": event.id,
                        "how": f"{body['kind']} ({row.outcome})",
                        "client": body.get("client", ""),
                        "person": body.get("person", ""),
                        "purpose": body.get("purpose") or body.get("agreement", ""),
                        "view": body.get("view", ""),
                        "justification": body.get("justification", ""),
                        "authority": agreement.authority if agreement else domain.authority if domain else "",
                        "legitimate_interest": (purpose.interest if purpose else "")
                        or (agreement.purpose if agreement else ""),
                    }
                )
    if json:
        print_json(found)
        return
    columns = ["at", "how", "client", "person", "purpose", "view", "justification", "legitimate_interest"]
    print_table(f"Disclosures of {canonical}", columns, [[row[name] for name in columns] for row in found])


def _print_events(events: list[EventRow], *, json: bool) -> None:
    for event in events:
        typer.echo(event.body if json else " ".join(_words(event)))


def _words(event: EventRow) -> Iterator[str]:
    body = json_module.loads(event.body)
    yield _time(body["at"])
    yield str(body["kind"])
    for name in ("outcome", "client", "person", "domain", "purpose", "agreement", "action", "actor", "reason"):
        if body.get(name):
            yield f"{name}={body[name]}"
    for name in ("items", "errors", "exact", "disclosures", "count"):
        if name in body:
            yield f"{name}={body[name]}"
    yield event.id


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
