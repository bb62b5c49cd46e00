"""A search finds what has all that was asked for, in calls, refusals, orders and jobs."""

from typing import Any

import pytest

from tests.unit.governance.events import event
from vault_service.governance.search import Question
from vault_service.storage.event_queries import Event

CALL = event("detokenize", client="sis", domain="k12", purpose="tax-reporting", person="tax-clerk")
REFUSED = event("detokenize", client="sis", domain="k12", outcome="NOT_PERMITTED")
FLOOD = event("refusals", client="sis", method="Detokenize", reason="NOT_PERMITTED", count=7, outcome="")
LINKAGE = event("linkagematch", client="k12-research", domain="k12", agreement="college-outcomes")
ORDER = event("order", action="keys.create", actor="key-admin-a", signed_by=["key-admin-a", "key-admin-b"])
BAD_ORDER = event("order", action="keys.create", actor="key-admin-a", outcome="refused")
JOB = event("job", order="x", scope="college-outcomes", outcome="done")
LOSS = event("outcome", client="sis", domain="k12", outcome="DATA_LOSS")
ALL = [CALL, REFUSED, FLOOD, LINKAGE, ORDER, BAD_ORDER, JOB, LOSS]


def passes(one: Event, question: Question) -> bool:
    """What the database does with the sieve."""
    sieve = question.sieve()
    wanted = all(any(text in one.body for text in texts) for texts in sieve.all_of)
    return wanted and not any(text in one.body for text in sieve.none_of)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ALL),
        ({"client": "sis"}, [CALL, REFUSED, FLOOD, LOSS]),
        ({"client": "si"}, []),
        ({"person": "tax-clerk"}, [CALL]),
        ({"person": "key-admin-a"}, [ORDER, BAD_ORDER]),
        ({"person": "key-admin-b"}, [ORDER]),
        ({"person": "key-admin"}, []),
        ({"purpose": "tax-reporting"}, [CALL]),
        ({"agreement": "college-outcomes"}, [LINKAGE, JOB]),
        ({"domain": "k12"}, [CALL, REFUSED, LINKAGE, LOSS]),
        ({"kind": "refusals"}, [FLOOD]),
        ({"outcome": "NOT_PERMITTED"}, [REFUSED, FLOOD]),
        ({"outcome": "DATA_LOSS"}, [LOSS]),
        ({"outcome": "refused"}, [BAD_ORDER]),
        ({"refused": True}, [REFUSED, FLOOD, BAD_ORDER]),
        ({"refused": True, "client": "sis", "kind": "detokenize"}, [REFUSED]),
        ({"client": "k12-research", "domain": "k12", "outcome": "ok"}, [LINKAGE]),
    ],
)
def test_a_question_is_answered_by_what_has_all_of_it(asked: dict[str, Any], found: list[Event]) -> None:
    question = Question(**asked)
    answers = [one for one in ALL if question.is_answered_by(one.facts)]
    assert answers == found
    assert all(passes(one, question) for one in answers)


def test_words_inside_a_text_are_no_facts() -> None:
    quoting = event("detokenize", client="other", justification='"client":"sis" and "person":"tax-clerk"')
    assert not passes(quoting, Question(client="sis"))
    assert not Question(person="tax-clerk").is_answered_by(quoting.facts)
