"""`ssn-vault incident report`: whom to notify when a client, or a person's login, was in the wrong hands."""

import json as json_module
from collections.abc import Collection
from typing import Any, Final

import typer

from vault_service.cli.admin import Where, policies_by_epoch, role_store
from vault_service.cli.arguments import (
    ClientOption,
    DomainOption,
    OutputOption,
    PersonOption,
    SinceOption,
    UntilOption,
    period,
    span_of,
)
from vault_service.cli.common import Config, Exit, Home, Json, command, errors
from vault_service.cli.output import CSV, destination, write_rows
from vault_service.errors import ConfigurationError
from vault_service.governance.breach import Breach, Row, Suspect
from vault_service.governance.uses import uses_in
from vault_service.orders.state import Signers

_NAMED: Final = 10  # events that cannot be read


@command
def report(
    client: ClientOption = None,
    person: PersonOption = None,
    domain: DomainOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    output: OutputOption = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Every token that was disclosed to a client, through a person or in a domain: the notification list, as CSV.

    One row a token, by domain: how often, first and last time, how much of the number, by whom and for what. Status 1
    when the record holds events that cannot be read.
    """
    unreadable: set[str] = set()
    span = span_of(since, until)
    if client is None and person is None and domain is None:
        raise ConfigurationError("name at least one of --client, --person, --domain")
    settings = Where(home, config).settings()
    with role_store(settings, settings.auditor_database) as store:
        policies = policies_by_epoch(store, Signers(frozenset(settings.policy.signers), settings.policy.signatures))
        _must_be_known("--client", client, policies.clients())
        _must_be_known("--person", person, policies.people())
        _must_be_known("--domain", domain, policies.domains())
        suspect = Suspect(client, person, domain)
        breach = Breach(suspect)
        with destination(output) as out:
            breach.add(uses_in(store, span, suspect.sieve(), domain=domain, unreadable=unreadable))
            rows = [row._asdict() for row in breach.rows()]
            if json:
                made = {"period": period(span), **_summary(breach), "tokens": rows}
                out.write(json_module.dumps(made, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
            else:
                write_rows(out, CSV, "", Row._fields, rows)
    errors.print(f"{period(span)}: {_in_words(breach)}", markup=False, soft_wrap=True)
    if unreadable:
        named = ", ".join(sorted(unreadable)[:_NAMED])
        errors.print(
            f"not on the list: {len(unreadable):,} events that no server wrote so ({named}); ssn-vault audit verify",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(Exit.CHECK_FAILED)


def _must_be_known(option: str, name: str | None, names: Collection[str]) -> None:
    if name is not None and name not in names:
        raise ConfigurationError(f"{option} is a name that no policy there was has")


def _summary(breach: Breach) -> dict[str, Any]:
    return {
        "tokens_by_domain": breach.tokens_by_domain(),
        "calls": breach.calls,
        "refused": breach.refused,
        "unopened": breach.unopened,
    }


def _in_words(breach: Breach) -> str:
    tokens = [f"{count:,} of {domain}" for domain, count in breach.tokens_by_domain().items()]
    words = [f"tokens disclosed: {', '.join(tokens) or 'none'}", f"calls: {breach.calls:,}"]
    words.append(f"refused: {breach.refused:,}")
    if breach.unopened:
        words.append(f"disclosures that did not open, as the record has it: {breach.unopened:,} (also on the list)")
    return "; ".join(words)
