"""Options of questions about the record: text comes in, a value goes out, or an error that never repeats the text."""

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from vault_service.errors import ConfigurationError
from vault_service.governance.accounting import time_text
from vault_service.governance.suppression import SMALLEST_LIMIT
from vault_service.storage.event_queries import Span
from vault_service.tokens import Token, TokenFormat, parse_token

E = TypeVar("E", bound=StrEnum)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MONTH: Final = re.compile(r"[0-9]{4}-[0-9]{2}")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")  # as the policy has them
MOST_EVENTS: Final = 100_000  # that a question shows: all are held in memory; `audit export` has no bound
_LARGEST_LIMIT: Final = 1_000_000_000  # of what is suppressed: hides any month
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DAY: Final = timedelta(days=1)


def _since(text: str) -> int:
    """The first millisecond that is meant."""
    moment = _moment(text)
    return -((_EPOCH - moment) // _MILLISECOND)


def _until(text: str) -> int:
    """The first millisecond that is no longer meant."""
    after = _EPOCH - _moment(text)
    if _DATE.fullmatch(text):
        return (_DAY - after) // _MILLISECOND
    return (-after) // _MILLISECOND + 1


def _moment(text: str) -> datetime:
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    raise typer.BadParameter("must be YYYY-MM-DD, or a date and time with Z or an offset: 2026-11-24T09:30:00Z")


def _month(text: str) -> str:
    if _MONTH.fullmatch(text) and "01" <= text[5:] <= "12" and text[:4] > "0000":
        return text
    raise typer.BadParameter("must be YYYY-MM")


def _name(text: str) -> str:
    if _NAME.fullmatch(text):
        return text
    raise typer.BadParameter("must be a name: small letters, digits and hyphens")


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str | int) -> int:  # a default comes as it is
        if re.fullmatch(r"[0-9]{1,18}", str(text)) and least <= int(text) <= most:
            return int(text)
        raise typer.BadParameter(f"must be a whole number from {least} to {most}")

    return number


def member_of(kinds: type[E]) -> Callable[[str], E]:
    """A parser that takes a member of an enumeration of texts."""

    def member(text: str) -> E:
        try:
            return kinds(text)
        except ValueError:
            raise typer.BadParameter(f"must be one of {', '.join(kinds)}") from None

    return member


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """A parser that takes one of `names`."""

    def choice(text: str) -> str:
        if text in names:
            return text
        raise typer.BadParameter(f"must be one of {', '.join(names)}")

    return choice


SinceOption = Annotated[
    int | None,
    typer.Option("--since", parser=_since, metavar="DATE", help="From this day (UTC) or moment on."),
]
UntilOption = Annotated[
    int | None,
    typer.Option("--until", parser=_until, metavar="DATE", help="Up to this day or moment, which still counts."),
]
ClientOption = Annotated[str | None, typer.Option("--client", parser=_name, metavar="NAME", help="Of this client.")]
PersonOption = Annotated[str | None, typer.Option("--person", parser=_name, metavar="NAME", help="Of this person.")]
PurposeOption = Annotated[str | None, typer.Option("--purpose", parser=_name, metavar="NAME", help="For this purpose.")]
AgreementOption = Annotated[
    str | None, typer.Option("--agreement", parser=_name, metavar="NAME", help="Under this agreement.")
]
DomainOption = Annotated[str | None, typer.Option("--domain", parser=_name, metavar="NAME", help="In this domain.")]
MonthOption = Annotated[str, typer.Option("--month", parser=_month, metavar="YYYY-MM", help="Which month (UTC).")]
LimitOption = Annotated[
    int, typer.Option("--limit", parser=_number(1, MOST_EVENTS), metavar="N", help="The newest so many at most.")
]
SuppressOption = Annotated[
    int | None,
    typer.Option(
        "--suppress",
        parser=_number(SMALLEST_LIMIT, _LARGEST_LIMIT),
        metavar="N",
        help="Hide rows with a count below N (3 or more).",
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Write to this new file (mode 0600) instead of standard output.")
]


def span_of(since: int | None, until: int | None) -> Span:
    """The span of two options. ConfigurationError when it ends before it begins."""
    if since is not None and until is not None and since >= until:
        raise ConfigurationError("--until is before --since")
    return Span(since, until)


def period(span: Span) -> str:
    """A span in words."""
    first = "the first entry" if span.since is None else time_text(span.since)
    return f"from {first} to {'now' if span.until is None else time_text(span.until - 1)}"


def month_span(month: str) -> Span:
    """The span of a month, UTC."""
    year, number = int(month[:4]), int(month[5:])
    first = datetime(year, number, 1, tzinfo=UTC)
    return Span((first - _EPOCH) // _MILLISECOND, (first - _EPOCH + _length(first)) // _MILLISECOND)


def _length(first: datetime) -> timedelta:
    if first.month == 12:
        return 31 * _DAY
    return first.replace(month=first.month + 1) - first


def canonical_token(token: str) -> Token:
    """A token of either form as it stands in the record. ConfigurationError names the option, never the value."""
    canonical = parse_token(token, "", TokenFormat.STANDARD) or parse_token(token, "", TokenFormat.SSN_COLUMN)
    if canonical is None:
        raise ConfigurationError("--token is not a well-formed token")
    return canonical
