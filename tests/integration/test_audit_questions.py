"""The questions that people ask of the record, on a running stack: the accounting, search, the month's report."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from ssn_vault_client import Ssn, TokenizeItem, View
from tests.support.asking import csv_rows, look_up, match, now, refused_call, tokens_of, unreadable
from tests.support.commands import AWAY, DONE, USAGE, parsed, policy_in_force, restored, ssn_vault, succeeds
from tests.support.stack import JUSTIFICATION, Stack, free_port
from vault_service.tokens import TokenFormat, draw_token

K12_AUTHORITY = "State education code, student identification (sample)"
TAX_INTEREST = "The tax office prepares tuition statements for the tax authority"
FORMULA = "=HYPERLINK(1) <b>&amp; [red] [/]"


# Disclosures


def test_the_accounting_of_a_token_says_what_was_disclosed_to_whom_and_why(stack: Stack) -> None:
    (token,) = tokens_of(stack, "938-01-0001")
    (theirs,) = tokens_of(stack, "938-01-0001", client="registrar", domain="highered")
    look_up(stack, token)
    look_up(stack, token, view=View.FULL)
    match(stack, "linkage-job", theirs)
    with unreadable(stack, token):
        look_up(stack, token, view=View.FULL)
    last4, full, linked, lost = parsed(stack, "audit", "disclosures", "--token", token.lower())
    assert last4.pop("at").endswith("Z")
    assert last4.pop("event")
    assert last4 == {
        "domain": "k12",
        "token": token,
        "call": "detokenize",
        "how": "last four digits",
        "client": "sis",
        "person": "tax-clerk",
        "purpose": "tax-reporting",
        "view": "LAST4",
        "justification": JUSTIFICATION,
        "authority": K12_AUTHORITY,
        "legitimate_interest": TAX_INTEREST,
    }
    assert (full["how"], full["view"]) == ("full number", "FULL")
    assert (linked["how"], linked["client"], linked["purpose"]) == (
        "is known to the other side of agreement college-outcomes",
        "linkage-job",
        "college-outcomes",
    )
    assert linked["authority"] == "Written agreement under 34 CFR 99.31(a)(6) (sample)"
    assert linked["legitimate_interest"].startswith("Study of college enrollment")
    assert (lost["how"], lost["person"], lost["call"]) == (
        "nothing (the record did not open)",
        "tax-clerk",
        "detokenize",
    )
    assert parsed(stack, "audit", "disclosures", "--token", draw_token("k12", TokenFormat.STANDARD)) == []


def test_a_period_holds_its_first_and_last_moment_and_no_more(stack: Stack) -> None:
    (token,) = tokens_of(stack, "938-01-0002")
    look_up(stack, token)
    between = now()
    look_up(stack, token, view=View.FULL)
    after = now()

    def views(*arguments: str) -> list[str]:
        return [row["view"] for row in parsed(stack, "audit", "disclosures", "--token", token, *arguments)]

    assert views() == views("--since", "2020-01-01", "--until", "2199-12-31") == ["LAST4", "FULL"]
    assert views("--until", between) == ["LAST4"]
    assert views("--since", between) == ["FULL"]
    assert views("--since", after) == views("--until", "2020-01-01") == []
    first = parsed(stack, "audit", "disclosures", "--token", token)[0]["at"]
    assert views("--since", first, "--until", between) == views("--until", first) == ["LAST4"]
    today = [row["at"][:10] for row in parsed(stack, "audit", "disclosures", "--token", token)]
    assert views("--since", today[0], "--until", today[1]) == ["LAST4", "FULL"]


def test_authority_and_interest_are_those_of_the_time(stack: Stack, tmp_path: Path) -> None:
    (token,) = tokens_of(stack, "938-01-0003")
    (theirs,) = tokens_of(stack, "938-01-0003", client="registrar", domain="highered")
    before = tmp_path / "before.yaml"
    before.write_text(policy_in_force(stack))
    look_up(stack, token)
    with restored(stack, before):
        stack.apply_policy(
            lambda text: (
                text.replace(TAX_INTEREST, "Another interest")
                .replace("Written agreement under", "New agreement under")
                .replace(K12_AUTHORITY, "Another code")
            )
        )
        look_up(stack, token)
        match(stack, "linkage-job", theirs)
    look_up(stack, token)
    rows = parsed(stack, "audit", "disclosures", "--token", token)
    assert [(row["authority"], row["legitimate_interest"]) for row in rows if row["call"] == "detokenize"] == [
        (K12_AUTHORITY, TAX_INTEREST),
        ("Another code", "Another interest"),
        (K12_AUTHORITY, TAX_INTEREST),
    ]
    assert [row["authority"][:4] for row in rows if row["call"] == "linkagematch"] == ["New "]


def test_the_accounting_of_a_domain_has_misses_and_refusals_too(stack: Stack) -> None:
    token, other = tokens_of(stack, "938-01-0004", "938-01-0005")
    (theirs,) = tokens_of(stack, "938-01-0004", client="registrar", domain="highered")
    start = now()
    look_up(stack, token, other, draw_token("k12", TokenFormat.STANDARD))
    refused_call(stack, token)
    match(stack, "linkage-job", theirs)
    match(stack, "k12-research", token)
    with unreadable(stack, other):
        look_up(stack, other)
    rows = parsed(stack, "audit", "disclosures", "--domain", "k12", "--since", start)
    assert [(row["token"], row["how"]) for row in rows] == [
        (token, "last four digits"),
        (other, "last four digits"),
        ("invalid", "nothing (no such token)"),
        ("", "nothing (refused: NOT_PERMITTED)"),
        (token, "is known to the other side of agreement college-outcomes"),
        (other, "nothing (the record did not open)"),
    ]
    assert {row["domain"] for row in rows} == {"k12"}
    highered = parsed(stack, "audit", "disclosures", "--domain", "highered", "--since", start)
    assert [(row["token"], row["client"]) for row in highered] == [(theirs, "k12-research")]


def test_every_format_tells_the_same_and_takes_no_orders_from_the_record(stack: Stack, tmp_path: Path) -> None:
    (token,) = tokens_of(stack, "938-01-0006")
    look_up(stack, token, justification=FORMULA)
    asked = ["audit", "disclosures", "--token", token]
    (row,) = parsed(stack, *asked)
    assert row["justification"] == FORMULA
    assert parsed(stack, *asked, "--format", "json") == [row]
    (cells,) = csv_rows(succeeds(stack, *asked, "--format", "csv"))
    assert cells == {**row, "justification": f"'{FORMULA}"}
    table = succeeds(stack, *asked)
    assert token in table
    assert "\x1b" not in table
    page = succeeds(stack, *asked, "--format", "html")
    assert page.startswith("<!DOCTYPE html>")
    for text in (token, "34 CFR 99.32", "ssn-vault audit prove", row["event"], row["at"], "last four digits"):
        assert text in page
    assert "HYPERLINK" not in page
    empty = succeeds(stack, *asked, "--until", "2020-01-01", "--format", "html")
    assert "Nobody asked for" in empty
    for name in ("table", "csv", "json", "html"):
        file = tmp_path / name
        result = ssn_vault(stack, *asked, "--format", name, "--output", file)
        assert result.exit_code == DONE, result.output
        assert (result.stdout, result.stderr) == ("", "written\n")
        assert file.stat().st_mode & 0o777 == 0o600
        written = file.read_bytes()
        assert token.encode() in written
        again = ssn_vault(stack, *asked, "--format", name, "--output", file)
        assert (again.exit_code, "exists already" in again.output) == (USAGE, True)
        assert file.read_bytes() == written
    assert json.loads((tmp_path / "json").read_text()) == [row]


def test_a_file_of_an_answer_that_failed_does_not_stay(stack: Stack, tmp_path: Path) -> None:
    elsewhere = {
        f"SSN_VAULT_{role}__URL": f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing"
        for role in ("DATABASE", "AUDITOR_DATABASE")
    }
    file = tmp_path / "report"
    result = ssn_vault(stack, "audit", "report", "--month", "2026-11", "--output", file, settings=elsewhere)
    assert (result.exit_code, file.exists()) == (AWAY, False)


# Search


def test_a_search_finds_by_everything_that_an_event_has(stack: Stack) -> None:
    start = now()
    (token,) = tokens_of(stack, "938-01-0007")
    look_up(stack, token)
    refused_call(stack, token)
    match(stack, "k12-research", token)
    succeeds(stack, "keys", "rotate", "--domain", "highered", "--kind", "wrapping", "--yes", "--as", "key-admin-b")
    end = now()
    tokens_of(stack, "938-01-0008")

    def found(*arguments: str) -> list[str]:
        lines = succeeds(stack, "audit", "search", "--since", start, "--until", end, "--json", *arguments).splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        assert [rfc8785.dumps(event).decode() for event in events] == [line for line in lines if line[0] == "{"]
        assert [event["id"] for event in events] == sorted(event["id"] for event in events)
        return [event["kind"] for event in events]

    calls = ["tokenize", "detokenize", "detokenize", "linkagematch"]
    assert found()[:4] == calls
    assert set(found()[4:]) == {"order"}
    assert found("--client", "sis") == calls[:3]
    assert found("--person", "tax-clerk") == ["detokenize"]
    assert set(found("--person", "key-admin-b")) == {"order"}
    assert found("--person", "key-admin-a") == []
    assert found("--purpose", "tax-reporting") == ["detokenize"]
    assert found("--agreement", "college-outcomes") == ["linkagematch"]
    assert found("--domain", "k12") == calls
    assert found("--kind", "detokenize", "--outcome", "ok") == ["detokenize"]
    assert found("--refused") == found("--outcome", "NOT_PERMITTED") == ["detokenize"]
    assert found("--client", "sis", "--person", "auditor") == []
    result = ssn_vault(stack, "audit", "search", "--since", start, "--client", "sis", "--limit", "2")
    assert (result.exit_code, "more events match" in result.stderr) == (DONE, True)
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["detokenize", "tokenize"]
    none = ssn_vault(stack, "audit", "search", "--client", "nobody")
    assert (none.exit_code, none.stdout, none.stderr) == (DONE, "", "no event matches\n")


# The month


def month() -> str:
    return datetime.now(UTC).strftime("%Y-%m")


def test_a_month_is_counted_by_client_purpose_person_and_outcome(stack: Stack) -> None:
    def counts() -> dict[str, Any]:
        made: dict[str, Any] = parsed(stack, "audit", "report", "--month", month())
        return made

    def one(rows: list[dict[str, Any]], measure: str, **wanted: str) -> int:
        return sum(int(row[measure]) for row in rows if wanted.items() <= row.items())

    before = counts()
    tokens = tokens_of(stack, "938-01-0010", "938-01-0011", "938-01-0012")
    with stack.client("sis") as sis:
        sis.tokenize("k12", [TokenizeItem(Ssn("938-01-0010")), TokenizeItem(Ssn("000-12-3456"))])
    look_up(stack, *tokens, draw_token("k12", TokenFormat.STANDARD))
    with unreadable(stack, tokens[0]):
        look_up(stack, tokens[0])
    refused_call(stack, tokens[0])
    match(stack, "k12-research", *tokens)
    after = counts()
    for table, measure, wanted, more in (
        ("clients", "calls", {"client": "sis"}, 5),
        ("clients", "items", {"client": "sis"}, 3 + 2 + 4 + 1 + 1),
        ("clients", "disclosed", {"client": "sis"}, 3),
        ("clients", "refused", {"client": "sis"}, 1),
        ("purposes", "calls", {"purpose": "tax-reporting"}, 2),
        ("purposes", "items", {"agreement": "college-outcomes"}, 3),
        ("persons", "disclosed", {"person": "tax-clerk"}, 3),
        ("outcomes", "calls", {"outcome": "NOT_PERMITTED"}, 1),
        ("rows", "calls", {"client": "sis", "call": "tokenize", "outcome": "ok"}, 2),
        ("tokenize", "items", {"client": "sis"}, 5),
        ("tokenize", "errors", {"client": "sis"}, 1),
        ("linkage", "no_match", {"agreement": "college-outcomes", "side": "k12"}, 3),
    ):
        assert one(after[table], measure, **wanted) - one(before[table], measure, **wanted) == more, (table, wanted)
    total = after["total"]
    assert total["refusal_rate"] == total["refused"] / total["calls"]
    (valid,) = [row for row in after["tokenize"] if row["client"] == "sis"]
    assert valid["validity_rate"] == pytest.approx(1 - valid["errors"] / valid["items"])
    rows = csv_rows(succeeds(stack, "audit", "report", "--month", month(), "--format", "csv"))
    assert {row["table"] for row in rows} == {
        "total",
        *(name for name, rows in after.items() if isinstance(rows, list)),
    }
    assert [int(row["calls"]) for row in rows if row["table"] == "total"] == [total["calls"]]
    assert "total, " in succeeds(stack, "audit", "report", "--month", month())
    assert parsed(stack, "audit", "report", "--month", "2020-01")["total"]["calls"] == 0


def test_a_month_shows_no_small_count_when_asked_not_to(stack: Stack) -> None:
    tokens_of(stack, "938-01-0013")
    made = parsed(stack, "audit", "report", "--month", month(), "--suppress", "5")
    assert made["suppressed_below"] == 5
    cells = [
        value
        for rows in ([made["total"]], *(rows for rows in made.values() if isinstance(rows, list)))
        for row in rows
        for value in row.values()
    ]
    assert not [cell for cell in cells if isinstance(cell, int) and 0 < cell < 5]
    everything = succeeds(stack, "audit", "report", "--month", month(), "--suppress", "1000000", "--format", "csv")
    total = csv_rows(everything)[0]
    assert (total["calls"], total["items"], total["hidden"]) == ("*", "*", "all")


# Mistakes


def test_mistakes_in_a_question_are_usage_and_never_repeated(stack: Stack, tmp_path: Path) -> None:
    token = draw_token("k12", TokenFormat.STANDARD)
    number = "900-12-3456"
    for arguments in (
        ["audit", "disclosures"],
        ["audit", "disclosures", "--token", token, "--domain", "k12"],
        ["audit", "disclosures", "--token", number],
        ["audit", "disclosures", "--domain", number],
        ["audit", "disclosures", "--domain", "nowhere"],
        ["audit", "disclosures", "--token", token, "--format", number],
        ["audit", "disclosures", "--token", token, "--format", "csv", "--json"],
        ["audit", "disclosures", "--token", token, "--since", "2026-11-24T09:30:00"],
        ["audit", "disclosures", "--token", token, "--since", "2026-11-24", "--until", "2026-11-23"],
        ["audit", "disclosures", "--token", token, "--output", tmp_path / "no" / number],
        ["audit", "search", "--client", number],
        ["audit", "search", "--person", number],
        ["audit", "search", "--kind", number],
        ["audit", "search", "--outcome", number],
        ["audit", "search", "--limit", number],
        ["audit", "search", "--limit", "0"],
        ["audit", "report"],
        ["audit", "report", "--month", number],
        ["audit", "report", "--month", "2026-11", "--suppress", "2"],
        ["audit", "report", "--month", "2026-11", "--format", "html"],
        ["incident", "report"],
        ["incident", "report", "--client", "nobody"],
        ["incident", "report", "--client", number],
        ["incident", "report", "--person", "nobody"],
        ["incident", "report", "--domain", "nowhere"],
        ["incident", "report", "--client", "sis", "--until", number],
    ):
        result = ssn_vault(stack, *arguments)
        assert result.exit_code == USAGE, (arguments, result.output)
        assert number not in result.output
        assert result.output.strip()


def test_a_database_that_is_away_has_its_status(stack: Stack) -> None:
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing"
    away = {f"SSN_VAULT_{role}__URL": url for role in ("DATABASE", "AUDITOR_DATABASE")}
    for arguments in (
        ["audit", "disclosures", "--domain", "k12"],
        ["audit", "search"],
        ["audit", "report", "--month", "2026-11"],
        ["incident", "report", "--client", "sis"],
    ):
        assert ssn_vault(stack, *arguments, settings=away).exit_code == AWAY, arguments
