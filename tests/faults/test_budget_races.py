"""Budgets and approvals are exact under races, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ssn_vault_client import ApprovalRequiredError, BudgetExceededError, Client, Ssn, TokenizeItem, View
from tests.conftest import new_database_url
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.orders.order import Action

CALLERS = 200


@pytest.fixture(scope="module")
def bounded(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack where transcripts may be verified 150 times a day."""
    directory = tmp_path_factory.mktemp(f"bounded-{database}")
    url = new_database_url(database, request)
    with Stack(
        directory, database_url=url, policy=lambda text: text.replace("per_day: 1000000", "per_day: 150")
    ) as running:
        yield running


def some_tokens(stack: Stack, area: int, count: int) -> list[str]:
    with stack.client("sis") as client:
        results = client.tokenize("k12", [TokenizeItem(Ssn(f"{area}-15-{n:04}")) for n in range(count)])
    return [result.token or "" for result in results]


def race(stack: Stack, client_of: Client, tokens: list[str], purpose: str, view: View) -> tuple[int, list[str]]:
    """200 callers, one token each, at once: how many got a number, and the reasons of the others."""
    together = Barrier(CALLERS)

    def one(number: int) -> str:
        together.wait(60)
        try:
            disclosure = client_of.detokenize(
                "k12", [tokens[number % len(tokens)]], purpose=purpose, justification=JUSTIFICATION, view=view
            )
        except (BudgetExceededError, ApprovalRequiredError) as error:
            return str(error.reason)
        return "" if disclosure.results[0].ssn is not None else "no number"

    with ThreadPoolExecutor(CALLERS) as pool:
        outcomes = list(pool.map(one, range(CALLERS)))
    return outcomes.count(""), [outcome for outcome in outcomes if outcome]


def test_200_callers_at_the_end_of_a_budget_overshoot_it_by_nothing(bounded: Stack) -> None:
    tokens = some_tokens(bounded, 941, 50)
    second = bounded.add_server()
    with bounded.client("sis", timeout=60) as client, bounded.client("sis", server=second, timeout=60) as other:
        for number in range(100):  # spend most of it, through both replicas
            (client, other)[number % 2].detokenize(
                "k12", tokens[:1], purpose="transcript-verification", justification=JUSTIFICATION
            )
        with ThreadPoolExecutor(2) as pool:
            runs = list(
                pool.map(lambda one: race(bounded, one, tokens, "transcript-verification", View.LAST4), (client, other))
            )
    assert sum(given for given, _ in runs) == 50
    assert {reason for _, reasons in runs for reason in reasons} == {"BUDGET_EXCEEDED"}
    found = bounded.query(
        "SELECT count(*) FROM disclosure JOIN event ON event.id = disclosure.event_id"
        " WHERE event.body LIKE '%transcript-verification%' AND disclosure.outcome = 'found'"
    )
    assert found[0][0] == 150


def test_an_approval_for_150_tokens_is_worth_exactly_150(bounded: Stack) -> None:
    tokens = some_tokens(bounded, 942, 151)
    with bounded.client("sis", "tax-clerk", timeout=60) as client:

        def ask(count: int, request_id: str | None = None) -> int:
            disclosure = client.detokenize(
                "k12",
                tokens[:count],
                purpose="tax-reporting",
                justification=JUSTIFICATION,
                view=View.FULL,
                request_id=request_id,
            )
            return sum(result.ssn is not None for result in disclosure.results)

        assert ask(100) == 100
        with pytest.raises(ApprovalRequiredError):
            ask(1)
        arguments = {
            "client": "sis",
            "purpose": "tax-reporting",
            "tokens": 150,
            "justification": "year-end statements of one school",
        }
        bounded.order(Action.APPROVE_BULK, arguments, "tax-clerk", "records-officer")
        with pytest.raises(ApprovalRequiredError):
            ask(151)
        given, reasons = race(bounded, client, tokens, "tax-reporting", View.FULL)
    assert given == 150
    assert set(reasons) == {"APPROVAL_REQUIRED"}


def test_a_repeated_request_spends_once_and_is_recorded_each_time(bounded: Stack) -> None:
    tokens = some_tokens(bounded, 943, 10)
    arguments = {"client": "sis", "purpose": "tax-reporting", "tokens": 10, "justification": "a single class list"}
    bounded.order(Action.APPROVE_BULK, arguments, "tax-clerk", "records-officer")
    # Whatever other tests spent, this much is covered by the approval alone once the first hundred are gone.
    with bounded.client("sis", "tax-clerk") as client:

        def ask(request_id: str) -> str:
            return client.detokenize(
                "k12",
                tokens,
                purpose="tax-reporting",
                justification=JUSTIFICATION,
                view=View.FULL,
                request_id=request_id,
            ).disclosure_id

        events = {ask("class-list-7") for _ in range(3)}
        assert len(events) == 3
        spent = bounded.query("SELECT sum(amount) FROM budget_spend WHERE key = 'client:sis:tax-reporting'")[0][0]
        ask("class-list-7")
        again = bounded.query("SELECT sum(amount) FROM budget_spend WHERE key = 'client:sis:tax-reporting'")[0][0]
    assert again == spent
