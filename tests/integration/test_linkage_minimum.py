"""An agreement's minimum counts persons that are asked about: different tokens that exist, in each message."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from ssn_vault_client import BatchTooSmallError, LinkageItem, Ssn, TokenizeItem
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.conftest import new_database_url
from tests.support.stack import Stack
from tests.support.wire import stub_of
from vault_service.tokens import TokenFormat, draw_token

AGREEMENT = "college-outcomes"


@pytest.fixture(scope="module")
def own(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = new_database_url(database, request)
    directory: Path = tmp_path_factory.mktemp("minimum") / "home"
    with Stack(
        directory, database_url=url, policy=lambda text: text.replace("min_items: 1 ", "min_items: 4 ")
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def tokens(own: Stack) -> list[str]:
    """Of persons that both domains know."""
    items = [TokenizeItem(Ssn(f"936-10-{n:04}")) for n in range(8)]
    with own.client("registrar") as registrar, own.client("sis") as sis:
        registrar.tokenize("highered", items)
        return [result.token or "" for result in sis.tokenize("k12", items)]


def unknown(count: int) -> list[str]:
    """Well-formed tokens that nobody was given."""
    return [draw_token("k12", TokenFormat.STANDARD) for _ in range(count)]


def spellings(token: str) -> list[str]:
    """The same token, written in four ways."""
    domain, body = token.split("_")
    letters = [at for at, char in enumerate(body) if char.isalpha()][:3]
    return [token, *(f"{domain}_{body[:at]}{body[at].lower()}{body[at + 1 :]}" for at in letters)]


def events(stack: Stack) -> list[dict[str, Any]]:
    """The events of linkage calls, in the order of their ids."""
    rows = stack.query("SELECT body FROM event WHERE body LIKE '%linkagematch%' ORDER BY id")
    return [json.loads(body) for (body,) in rows]


def outcomes_of(stack: Stack, before: int) -> list[str]:
    return sorted(event["outcome"] for event in events(stack)[before:])


def ask(stack: Stack, asked: Sequence[str]) -> list[str]:
    """What each token is answered with."""
    with stack.client("k12-research") as client:
        results = client.linkage_match(AGREEMENT, [LinkageItem(token) for token in asked]).results
    return [result.error.code.name if result.error else str(result.status and result.status.name) for result in results]


def stream(stack: Stack, messages: Iterable[Sequence[str]]) -> tuple[list[int], str]:
    """How many items each answered message had, and how the stream ended."""
    answered: list[int] = []
    requests = (
        pb.LinkageMatchRequest(agreement=AGREEMENT, items=[pb.LinkageItem(token=token) for token in message])
        for message in messages
    )
    with stub_of(stack.profile("k12-research")) as stub:
        try:
            for answer in stub.LinkageMatchStream(requests, timeout=30):
                answered.append(len(answer.results))
        except grpc.RpcError as error:
            return answered, str(error.details())
    return answered, ""


def too_few(tokens: list[str]) -> dict[str, list[str]]:
    return {
        "one token, four times": tokens[:1] * 4,
        "one token, in four spellings": spellings(tokens[0]),
        "one token beside what is none": [tokens[0], "x1", "x2", "x3"],
        "three tokens beside one that does not exist": [*tokens[:3], *unknown(1)],
        "three tokens beside one of the other domain": [*tokens[:3], "highered_" + tokens[3].split("_")[1]],
        "four that do not exist": unknown(4),
    }


def test_spellings_junk_and_tokens_that_do_not_exist_do_not_count(own: Stack, tokens: list[str]) -> None:
    for what, asked in too_few(tokens).items():
        before = len(events(own))
        with pytest.raises(BatchTooSmallError):
            ask(own, asked)
        assert outcomes_of(own, before) == ["BATCH_TOO_SMALL"], what


def test_beside_enough_the_others_are_answered_as_what_they_are(own: Stack, tokens: list[str]) -> None:
    asked = [*tokens[:4], tokens[0], *unknown(1), "x1"]
    assert ask(own, asked) == ["EXACT"] * 5 + ["NOT_FOUND", "INVALID_TOKEN"]


def test_that_tokens_do_not_exist_is_told_for_the_price_of_asking(own: Stack, tokens: list[str]) -> None:
    """Else it would be free to find out which tokens exist; what shows without a look costs nothing."""
    spent = "SELECT coalesce(sum(amount), 0) FROM budget_spend WHERE key LIKE 'agreement:%'"

    def price(asked: Sequence[str]) -> int:
        ((before,),) = own.query(spent)
        with pytest.raises(BatchTooSmallError):
            ask(own, asked)
        ((after,),) = own.query(spent)
        return int(after - before)

    assert price([*tokens[:3], *unknown(2)]) == 5
    assert price(tokens[:3]) == 0
    assert price(spellings(tokens[0])) == 0


def test_a_streams_last_message_may_be_small_behind_one_that_had_enough(own: Stack, tokens: list[str]) -> None:
    before = len(events(own))
    assert stream(own, [tokens[:4], tokens[4:8], tokens[:1]]) == ([4, 4, 1], "")
    assert outcomes_of(own, before) == ["ok", "ok", "ok"]


def test_no_other_message_of_a_stream_may_be_small(own: Stack, tokens: list[str]) -> None:
    for messages, answered in (
        ([tokens[:1]], []),  # the last, but none before it had enough
        ([unknown(4), tokens[:1]], []),
        ([tokens[:1], tokens[:4]], []),
        ([tokens[:4], tokens[:1], tokens[4:8]], [4]),  # in the middle
        ([tokens[:4], tokens[:1], tokens[:1]], [4]),
    ):
        before = len(events(own))
        found, details = stream(own, messages)
        assert (found, "different tokens" in details) == (answered, True)
        assert outcomes_of(own, before) == ["BATCH_TOO_SMALL"] + ["ok"] * len(answered)


def test_a_last_message_of_tokens_that_mostly_do_not_exist_is_answered_too(own: Stack, tokens: list[str]) -> None:
    """That it was looked at before the stream ended stands in the record."""
    before = len(events(own))
    assert stream(own, [tokens[:4], [tokens[0], *unknown(3)]]) == ([4, 4], "")
    assert outcomes_of(own, before) == ["BATCH_TOO_SMALL", "ok", "ok"]
    before = len(events(own))
    found, details = stream(own, [tokens[:4], [tokens[0], *unknown(3)], tokens[:4]])
    assert (found, "different tokens" in details) == ([4], True)
    assert outcomes_of(own, before) == ["BATCH_TOO_SMALL", "ok"]
