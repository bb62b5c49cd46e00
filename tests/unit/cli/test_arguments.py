"""Times, names and numbers of questions: what is meant, and that a mistake is never repeated."""

from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vault_service.cli.arguments import (
    ClientOption,
    LimitOption,
    MonthOption,
    SinceOption,
    SuppressOption,
    UntilOption,
    month_span,
    one_of,
    period,
    span_of,
)
from vault_service.errors import ConfigurationError
from vault_service.storage.event_queries import Span

app = typer.Typer()
seen: dict[str, Any] = {}


@app.command()
def ask(
    since: SinceOption = None,
    until: UntilOption = None,
    client: ClientOption = None,
    month: MonthOption = "2026-11",
    limit: LimitOption = 100,
    suppress: SuppressOption = None,
) -> None:
    seen.update(since=since, until=until, client=client, month=month, limit=limit, suppress=suppress)


def asked(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return seen


def ms(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11-01", ms(2026, 11, 1), ms(2026, 11, 2)),
        ("2026-12-31", ms(2026, 12, 31), ms(2027, 1, 1)),
        ("2026-11-01T12:00:00Z", ms(2026, 11, 1, 12), ms(2026, 11, 1, 12) + 1),
        ("2026-11-01t12:00z", ms(2026, 11, 1, 12), ms(2026, 11, 1, 12) + 1),
        ("2026-11-01 12:00:00.250+02:00", ms(2026, 11, 1, 10) + 250, ms(2026, 11, 1, 10) + 251),
        ("2026-11-01T00:00:00-05:00", ms(2026, 11, 1, 5), ms(2026, 11, 1, 5) + 1),
        ("0001-01-01T00:00+14:00", -62_135_647_200_000, -62_135_647_199_999),
        ("9999-12-31", ms(9999, 12, 31), ms(9999, 12, 31) + 86_400_000),
    ],
)
def test_a_day_is_meant_whole_and_a_moment_exactly(text: str, since: int, until: int) -> None:
    assert asked("--since", text)["since"] == since
    assert asked("--until", text)["until"] == until


WRONG = ["900-12-3456", "900123456", ""]
WRONG_TIMES = ["2026-11-01T12:00:00", "2026-13-01", "2026-11-31", "20261101", "2026-W01-1", "\uff12026-11-01", "now"]


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        ("--since", [*WRONG, *WRONG_TIMES, "2026-11-01T25:00Z", "2026-11-01T12:00:00+99:00"]),
        ("--until", [*WRONG, *WRONG_TIMES]),
        ("--client", [*WRONG, "Sis", "a_b", "%", "a" * 64]),
        ("--month", [*WRONG, "2026-00", "2026-13", "0000-01", "2026-1"]),
        ("--limit", [*WRONG[::2], "0", "-1", "1.5", "1234567890"]),
        ("--suppress", [*WRONG[::2], "2", "x"]),
    ],
)
def test_a_mistake_is_named_by_its_option_and_not_repeated(option: str, texts: list[str]) -> None:
    for text in texts:
        result = CliRunner().invoke(app, [f"{option}={text}"])
        assert result.exit_code == 2, text
        assert option in result.output
        assert len(text) < 4 or text not in result.output


def test_one_of_takes_what_there_is() -> None:
    choice = one_of(("table", "csv"))
    assert choice("csv") == "csv"
    with pytest.raises(typer.BadParameter, match="one of table, csv"):
        choice("xml")


def test_a_month_ends_where_the_next_begins() -> None:
    assert month_span("2026-11") == Span(ms(2026, 11, 1), ms(2026, 12, 1))
    assert month_span("2024-02") == Span(ms(2024, 2, 1), ms(2024, 3, 1))
    assert month_span("9999-12").since == ms(9999, 12, 1)


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--until"):
        span_of(2, 2)
    assert span_of(1, 2) == Span(1, 2)
    assert period(Span(0, 86_400_000)) == "from 1970-01-01T00:00:00.000Z to 1970-01-01T23:59:59.999Z"
    assert period(Span()) == "from the first entry to now"
