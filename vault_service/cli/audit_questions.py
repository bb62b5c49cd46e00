"""`ssn-vault audit disclosures`, `search` and `report`: the questions that people ask of the record."""

import json as json_module
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from vault_service.cli.admin import Where, policies_by_epoch, role_store
from vault_service.cli.arguments import (
    AgreementOption,
    ClientOption,
    DomainOption,
    LimitOption,
    MonthOption,
    OutputOption,
    PersonOption,
    PurposeOption,
    SinceOption,
    SuppressOption,
    UntilOption,
    canonical_token,
    month_span,
    one_of,
    period,
    span_of,
)
from vault_service.cli.audit import print_events
from vault_service.cli.common import Config, Home, Json, command, errors, visible
from vault_service.cli.output import (
    CSV,
    HTML,
    JSON,
    TABLE,
    chosen_format,
    destination,
    write_rows,
    write_table,
)
from vault_service.errors import ConfigurationError
from vault_service.governance.accounting import Line, lines_of_domain, lines_of_token
from vault_service.governance.accounting_page import page
from vault_service.governance.report import count_month, report_of
from vault_service.governance.search import KINDS, OUTCOMES, Question
from vault_service.orders.state import Signers
from vault_service.storage.engine import Store
from vault_service.storage.event_queries import Event, Span, events_in

TokenOption = Annotated[str | None, typer.Option("--token", help="The token of the person who asks.")]
_SHOWN: Final = ["event", "at", "how", "client", "person", "purpose"]  # what fits on a screen; the rest stands below


def _format(*names: str) -> Any:
    return typer.Option("--format", parser=one_of(names), metavar="|".join(names), help="How to show it.")


@command
def disclosures(
    token: TokenOption = None,
    domain: DomainOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    format_: Annotated[str | None, _format(TABLE, CSV, JSON, HTML)] = None,
    output: OutputOption = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Who asked for this token's number, was given it, or matched it: when, for what, with what legitimate interest.

    The record of requests and disclosures that 34 CFR 99.32 asks for, of one token or of a whole domain; as HTML a
    page to print for a parent. Requests that were refused name no token: they stand in a domain's record.
    """
    span = span_of(since, until)
    form = chosen_format(format_, TABLE, json=json)
    if (token is None) == (domain is None):
        raise ConfigurationError("name one of --token, --domain")
    canonical = None if token is None else canonical_token(token)
    settings = Where(home, config).settings()
    with role_store(settings, settings.auditor_database) as store:
        policies = policies_by_epoch(store, Signers(frozenset(settings.policy.signers), settings.policy.signatures))
        if canonical is not None:
            subject: str = canonical
            lines = lines_of_token(store, policies, canonical, span)
        elif domain is not None and domain in policies.domains():
            subject, lines = domain, lines_of_domain(store, policies, domain, span)
        else:
            raise ConfigurationError("--domain is no domain of any policy there was")
        with destination(output) as out:
            if form == HTML:
                made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
                for piece in page(lines, subject=subject, period=period(span), made=made, with_token=canonical is None):
                    out.write(piece)
                return
            columns = _SHOWN if canonical is not None else [*_SHOWN, "token"]
            title = f"Disclosures of {subject}, {period(span)}"
            grounds: dict[tuple[str, str, str], None] = {}

            def rows() -> Iterator[dict[str, Any]]:
                for line in lines:
                    grounds[line.purpose, line.legitimate_interest, line.authority] = None
                    yield line._asdict()

            write_rows(out, form, title, columns if form == TABLE else Line._fields, rows())
            if form == TABLE:
                for purpose, interest, authority in grounds:
                    ground = f"{purpose or 'no purpose'}: {interest or '-'} (authority: {authority or '-'})"
                    out.write(visible(ground) + "\n")


@command
def search(
    client: ClientOption = None,
    person: PersonOption = None,
    purpose: PurposeOption = None,
    agreement: AgreementOption = None,
    domain: DomainOption = None,
    kind: Annotated[
        str | None, typer.Option("--kind", parser=one_of(KINDS), metavar="KIND", help="Of this kind.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", parser=one_of(OUTCOMES), metavar="OUTCOME", help="ok, or the reason of a refusal."),
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Every refusal.")] = False,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 100,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """The events that have all of this, refusals included, newest last; with --json one canonical object a line.

    A person is found in what they did through a client, and in the orders that they asked for or signed.
    """
    span = span_of(since, until)
    question = Question(
        client=client,
        person=person,
        purpose=purpose,
        agreement=agreement,
        domain=domain,
        kind=kind,
        outcome=outcome,
        refused=refused,
    )
    settings = Where(home, config).settings()
    with role_store(settings, settings.auditor_database) as store:
        found, more = _newest(store, question, span, limit)
    print_events(reversed(found), json=json)
    if more:
        errors.print(f"more events match: these are the newest {limit}", markup=False)
    elif not found:
        errors.print("no event matches", markup=False)


@command
def report(
    month: MonthOption,
    suppress: SuppressOption = None,
    format_: Annotated[str | None, _format(TABLE, CSV, JSON)] = None,
    output: OutputOption = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """A month in counts: by client, purpose, person and outcome, with the rates of refusals and of valid numbers.

    With --suppress a row with a count from 1 to below N is shown as *, and every sum and rate is of the other rows; its
    column "hidden" says whether that leaves none, some or all of its rows out.
    """
    form = chosen_format(format_, TABLE, json=json)
    settings = Where(home, config).settings()
    with role_store(settings, settings.auditor_database) as store, destination(output) as out:
        made = report_of(count_month(store, month_span(month)), month, suppress or 0)
        if form == JSON:
            out.write(json_module.dumps(made, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
            return
        tables = {name: rows for name, rows in made.items() if isinstance(rows, list)}
        if form == CSV:
            rows = [
                {"table": name, **row} for name, rows in {"total": [made["total"]], **tables}.items() for row in rows
            ]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            write_rows(out, CSV, "", columns, rows)
            return
        for name, rows in {"total": [made["total"]], **tables}.items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            write_table(out, f"{name}, {month}", columns, ([row[c] for c in columns] for row in rows))


def _newest(store: Store, question: Question, span: Span, limit: int) -> tuple[list[Event], bool]:
    """The newest events that answer, newest first, and whether there are more."""
    found: list[Event] = []
    for events in events_in(store, span, question.sieve(), newest_first=True):
        found += [event for event in events if question.is_answered_by(event.facts)]
        if len(found) > limit:
            return found[:limit], True
    return found, False
