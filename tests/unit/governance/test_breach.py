"""The notification list has every token that was given, once, and nobody who was not."""

from tests.unit.governance.events import TOKEN, detokenized, event, matched
from tests.unit.samples import NOW
from vault_service.governance.breach import Breach, Suspect
from vault_service.governance.uses import Use

SIS = Suspect(client="sis")


def calls_of(*uses: Use) -> list[Use]:
    return [one for use in uses for one in (Use(use.event, None), use)]


def test_a_token_has_one_row_whatever_was_done_with_it() -> None:
    breach = Breach(SIS)
    breach.add(
        calls_of(
            detokenized(at=NOW + 5000, person="tax-clerk", purpose="tax-reporting", view="FULL"),
            detokenized(at=NOW),
            detokenized(at=NOW + 1000),
        )
    )
    (row,) = breach.rows()
    assert (row.domain, row.token, row.disclosures) == ("k12", TOKEN, 3)
    assert (row.first, row.last) == ("2030-03-17T17:46:40.000Z", "2030-03-17T17:46:45.000Z")
    assert (row.views, row.clients, row.persons) == (["FULL", "LAST4"], ["sis"], ["tax-clerk"])
    assert row.purposes == ["tax-reporting", "transcript-verification"]
    assert (breach.calls, breach.refused, breach.tokens_by_domain()) == (3, 0, {"k12": 1})


def test_what_was_not_found_is_not_on_the_list() -> None:
    breach = Breach(SIS)
    breach.add(calls_of(detokenized(outcome="missing")))
    assert (breach.rows(), breach.calls) == ([], 1)


def test_a_later_event_takes_nobody_off_the_list() -> None:
    """Whoever can write into the database could write one, and it is sealed like any other."""
    breach = Breach(SIS)
    breach.add(calls_of(detokenized(lost=True), detokenized(at=NOW + 1000)))
    (row,) = breach.rows()
    assert (row.token, row.disclosures, row.unopened) == (TOKEN, 1, 1)
    breach = Breach(SIS)
    breach.add(calls_of(detokenized(lost=True)))
    (row,) = breach.rows()
    assert (row.token, row.disclosures, row.unopened, row.views) == (TOKEN, 0, 1, ["LAST4"])
    assert (breach.calls, breach.unopened, breach.tokens_by_domain()) == (1, 1, {"k12": 1})


def test_a_time_that_no_calendar_has_stops_nothing() -> None:
    """An event that somebody put into the database must not take the list away on the day that it is needed."""
    breach = Breach(SIS)
    breach.add(calls_of(detokenized(at=10**17), detokenized(at=-1)))
    (row,) = breach.rows()
    assert (row.first, row.last, row.disclosures) == ("-1 ms", "100000000000000000 ms", 2)


def test_others_calls_do_not_count() -> None:
    breach = Breach(Suspect(client="sis", person="tax-clerk"))
    breach.add(calls_of(detokenized(), detokenized(client="other", person="tax-clerk"), matched()))
    assert (breach.rows(), breach.calls) == ([], 0)


def test_refused_calls_are_counted_those_of_a_flood_too() -> None:
    breach = Breach(SIS)
    breach.add([Use(event("detokenize", client="sis", outcome="NOT_PERMITTED"), None)])
    flood = event("refusals", client="sis", method="Detokenize", reason="NOT_PERMITTED", count=40)
    breach.add([Use(flood, None), Use(event("tokenize", client="sis"), None)])
    assert (breach.calls, breach.refused) == (1, 41)


def test_of_a_domain_calls_from_across_an_agreement_count_once() -> None:
    breach = Breach(Suspect(domain="k12"))
    match = matched()
    breach.add([Use(match.event, None), match, match, *calls_of(detokenized())])
    (row,) = breach.rows()
    assert (breach.calls, row.disclosures, row.views) == (2, 3, ["LAST4", "matched"])
    assert row.clients == ["linkage-job", "sis"]
