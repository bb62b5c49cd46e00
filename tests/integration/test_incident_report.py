"""`ssn-vault incident report`: whom to notify, on a running stack."""

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ssn_vault_client import View
from tests.support.asking import csv_rows, look_up, match, now, refused_call, tokens_of, unreadable
from tests.support.commands import CHECK_FAILED, DONE, ssn_vault
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.audit.event import canonical, new_event_id


def test_the_notification_list_has_each_token_that_was_given_by_domain(stack: Stack) -> None:
    one, two, lost = tokens_of(stack, "938-01-0020", "938-01-0021", "938-01-0022")
    (theirs,) = tokens_of(stack, "938-01-0020", client="registrar", domain="highered")
    start = now()
    look_up(stack, one, two)
    look_up(stack, one, view=View.FULL)
    with stack.client("sis") as sis:
        sis.detokenize("k12", [one], purpose="transcript-verification", justification=JUSTIFICATION)
    refused_call(stack, two)
    with unreadable(stack, lost):
        look_up(stack, lost)
    match(stack, "linkage-job", theirs)
    match(stack, "k12-research", one)
    end = now()
    look_up(stack, lost)
    period = ["--since", start, "--until", end]
    result = ssn_vault(stack, "incident", "report", "--client", "sis", *period)
    assert result.exit_code == DONE, result.output
    rows = {row["token"]: row for row in csv_rows(result.stdout)}
    assert rows.keys() == {
        one,
        two,
        lost,
    }  # an event says that the last did not open: whoever writes it is believed less
    assert (rows[lost]["disclosures"], rows[lost]["unopened"]) == ("0", "1")
    assert (
        rows[one].items()
        >= {
            "domain": "k12",
            "disclosures": "3",
            "views": "FULL LAST4",
            "clients": "sis",
            "persons": "tax-clerk",
            "purposes": "tax-reporting transcript-verification",
        }.items()
    )
    assert rows[one]["first"] < rows[one]["last"]
    assert (rows[two]["first"], rows[two]["disclosures"]) == (rows[two]["last"], "1")
    for words in ("tokens disclosed: 3 of k12", "calls: 4", "refused: 1", "as the record has it: 1"):
        assert words in result.stderr
    made = parsed_on_stdout(stack, "incident", "report", "--client", "linkage-job", *period)
    assert [(row["token"], row["views"], row["purposes"]) for row in made["tokens"]] == [
        (one, ["matched"], ["college-outcomes"])
    ]
    assert (made["tokens_by_domain"], made["calls"], made["refused"]) == ({"k12": 1}, 1, 0)
    of_person = parsed_on_stdout(stack, "incident", "report", "--person", "tax-clerk", *period)
    assert {row["token"]: row["disclosures"] for row in of_person["tokens"]} == {one: 2, two: 1, lost: 0}
    of_domain = parsed_on_stdout(stack, "incident", "report", "--domain", "highered", *period)
    assert [(row["token"], row["clients"]) for row in of_domain["tokens"]] == [(theirs, ["k12-research"])]


def test_an_event_that_cannot_be_read_does_not_take_the_list_away(stack: Stack) -> None:
    (token,) = tokens_of(stack, "938-01-0023")
    start = now()
    look_up(stack, token)
    end = now()
    planted = new_event_id()
    body = canonical({"at": "soon", "id": planted, "kind": "outcome"})
    with stack.superuser() as engine, engine.begin() as connection:
        values = {"id": planted, "body": body, "hash": b"0" * 32}
        connection.execute(sa.text("INSERT INTO event (id, body, hash) VALUES (:id, :body, :hash)"), values)
    try:
        result = ssn_vault(stack, "incident", "report", "--client", "sis", "--since", start, "--until", end)
        assert [row["token"] for row in csv_rows(result.stdout)] == [token]
        assert result.exit_code == CHECK_FAILED
        assert f"1 events that no server wrote so ({planted})" in result.stderr
        assert planted in ssn_vault(stack, "audit", "tail").output
    finally:
        with stack.superuser() as engine, engine.begin() as connection:
            if stack.database_url is None:
                connection.execute(sa.text("DROP TRIGGER IF EXISTS event_no_delete"))
            else:
                connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            connection.execute(sa.text("DELETE FROM event WHERE id = :id"), {"id": planted})


def test_the_notification_list_of_nobody_is_empty(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    arguments = ["--client", "registrar", "--domain", "k12", "--person", "auditor", "--output", file]
    result = ssn_vault(stack, "incident", "report", *arguments)
    assert (result.exit_code, result.stdout) == (DONE, "")
    assert csv_rows(file.read_text("utf-8-sig")) == []
    assert file.read_text().startswith("\ufeffdomain,token,disclosures,unopened,first,last,views")


def parsed_on_stdout(stack: Stack, *arguments: object) -> Any:
    result = ssn_vault(stack, *arguments, "--json")
    assert result.exit_code == DONE, result.output
    return json.loads(result.stdout)
