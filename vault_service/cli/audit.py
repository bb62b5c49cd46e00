"""`ssn-vault audit`: reading the disclosure record."""

import time
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from vault_service.cli.admin import Where, role_store
from vault_service.cli.arguments import MOST_EVENTS
from vault_service.cli.common import Config, Home, Json, command
from vault_service.errors import TamperedError
from vault_service.governance.accounting import time_text
from vault_service.storage.event_queries import Event, parsed_event
from vault_service.storage.events import EventRow, after, newest

app = typer.Typer(help="The disclosure record.", no_args_is_help=True)
_FOLLOW_SECONDS = 0.5


@app.command()
@command
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=MOST_EVENTS, help="How many events.")] = 20,
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
        print_events(events, json=json)
        last = events[-1].id if events else ""
        while follow:
            time.sleep(_FOLLOW_SECONDS)
            with store.reading() as connection:
                events = after(connection, last, 1000)
            print_events(events, json=json)
            last = events[-1].id if events else last


def print_events(events: Iterable[EventRow | Event], *, json: bool) -> None:
    """A line each: the canonical JSON, or its main facts in words."""
    for event in events:
        typer.echo(event.body if json else " ".join(_words(event)))


def _words(event: EventRow | Event) -> Iterator[str]:
    try:
        body = parsed_event(event.id, event.body).facts
    except TamperedError as error:
        yield str(error)
        return
    yield time_text(body["at"])
    yield str(body["kind"])
    for name in ("outcome", "client", "person", "domain", "purpose", "agreement", "action", "actor", "reason"):
        if body.get(name):
            yield f"{name}={body[name]}"
    for name in ("items", "errors", "exact", "disclosures", "count"):
        if name in body:
            yield f"{name}={body[name]}"
    yield event.id
