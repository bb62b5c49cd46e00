"""The blocking client and the asyncio one, over a wire: values out, streams bounded, repeats only where free."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

from ssn_vault_client import (
    AsyncClient,
    Client,
    Disclosure,
    ItemErrorCode,
    KeysUnavailableError,
    Linkage,
    LinkageItem,
    LinkageSummary,
    MatchStatus,
    NotPermittedError,
    OverloadedError,
    Profile,
    ProfileError,
    Ssn,
    SsnRelation,
    SsnVaultError,
    Tokenized,
    TokenizeItem,
    Traits,
    View,
)
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.unit.client.conftest import SmallVault, numbers, refusal, unavailable

CANARY = "900-12-3456"
JWT = "aa.bb.cc"
WHY = "a transcript was asked for"


def blocking(profile: Profile) -> tuple[list[Tokenized], Disclosure, Linkage, list[Linkage], list[list[Tokenized]]]:
    with Client(profile, JWT) as client:
        tokens = client.tokenize("k12", ITEMS, "r-1")
        return (
            tokens,
            client.detokenize("k12", ["k12_0", "k12_9"], purpose="p", justification=WHY, view=View.FULL),
            client.linkage_match("college-outcomes", LINKAGE),
            list(client.linkage_match_stream("college-outcomes", [LINKAGE, LINKAGE], "s")),
            list(client.tokenize_stream("k12", [ITEMS[:1], ITEMS[1:]], "s")),
        )


async def awaited(
    profile: Profile,
) -> tuple[list[Tokenized], Disclosure, Linkage, list[Linkage], list[list[Tokenized]]]:
    async with AsyncClient(profile, lambda: JWT + "\n") as client:
        tokens = await client.tokenize("k12", ITEMS, "r-1")
        return (
            tokens,
            await client.detokenize("k12", ["k12_0", "k12_9"], purpose="p", justification=WHY, view=View.FULL),
            await client.linkage_match("college-outcomes", LINKAGE),
            [answer async for answer in client.linkage_match_stream("college-outcomes", [LINKAGE, LINKAGE], "s")],
            [answer async for answer in client.tokenize_stream("k12", later([ITEMS[:1], ITEMS[1:]]), "s")],
        )


async def later(batches: list[list[TokenizeItem]]) -> AsyncIterator[list[TokenizeItem]]:
    for batch in batches:
        await asyncio.sleep(0)
        yield batch


ITEMS = [TokenizeItem(Ssn(CANARY), "a", Traits("Ana", "Medina", "2008-01-02")), TokenizeItem(Ssn("90012345"), "b")]
LINKAGE = [LinkageItem("k12_0", "a"), LinkageItem("k12_9", "b")]


@pytest.mark.parametrize("run", [blocking, lambda profile: asyncio.run(awaited(profile))])
def test_the_calls_give_values_in_the_order_asked(
    vault: SmallVault, profile: Profile, run: Callable[[Profile], Any]
) -> None:
    tokens, disclosed, linked, streamed, batches = run(profile)

    assert [(result.reference, result.token) for result in tokens] == [("a", "k12_0"), ("b", None)]
    assert tokens[1].error.code is ItemErrorCode.INVALID_SSN
    assert batches == [tokens[:1], tokens[1:]]

    assert disclosed.disclosure_id == "d-1"
    assert [result.token for result in disclosed.results] == ["k12_0", "k12_9"]
    assert disclosed.results[0].ssn == Ssn("900123456")
    assert disclosed.results[1].error.code is ItemErrorCode.NOT_FOUND
    assert "900" not in repr((tokens, disclosed))
    assert "3456" not in repr((tokens, disclosed))

    first, second = linked.results
    assert (first.status, first.linkage_id, first.ssn_relation) == (MatchStatus.EXACT, "l-1", SsnRelation.SAME)
    assert (second.status, second.linkage_id, second.ssn_relation) == (None, None, None)
    assert second.error.code is ItemErrorCode.NOT_FOUND
    assert linked.summary == LinkageSummary(exact=1, probable=0, review=0, ambiguous=0, no_match=0, errors=1)
    assert linked.event_id == "e-1"
    assert streamed == [linked, linked]

    tokenize, detokenize, linkage, *streams = vault.messages
    assert isinstance(tokenize, pb.TokenizeRequest)
    assert tokenize.items[0].traits == pb.Traits(given_name="Ana", family_name="Medina", date_of_birth="2008-01-02")
    assert not tokenize.items[1].HasField("traits")
    assert isinstance(detokenize, pb.DetokenizeRequest)
    assert (detokenize.purpose, detokenize.justification, detokenize.view) == ("p", WHY, pb.VIEW_FULL)
    assert isinstance(linkage, pb.LinkageMatchRequest)
    assert (tokenize.request_id, detokenize.request_id, linkage.request_id) == ("r-1", "", "")
    ids = [message.request_id for message in streams if hasattr(message, "request_id")]
    assert ids == ["s-0", "s-1", "s-0", "s-1"]
    assert [metadata.get("ssn-vault-person") for metadata in vault.metadata] == [None, JWT, *[None] * 5]


def test_the_last_four_digits_are_the_default(vault: SmallVault, profile: Profile) -> None:
    with Client(profile) as client:
        client.tokenize("k12", ITEMS)
        disclosed = client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY)
    assert disclosed.results[0].ssn == Ssn("3456")
    assert "ssn-vault-person" not in vault.metadata[-1]


def test_a_person_token_file_is_read_at_each_call(vault: SmallVault, profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "person.jwt"
    with Client(replace(profile, person_token_file=file)) as client:
        for token in ("aa.bb.cc", "dd.ee.ff"):
            file.write_text(token + "\n")
            client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY)
            assert vault.metadata[-1]["ssn-vault-person"] == token
        file.unlink()
        with pytest.raises(ProfileError, match=r"^person_token_file: "):
            client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY)


@pytest.mark.parametrize("token", ["", "secret", "aa.bb.cc\r\nother: x", "aa.bb.c\u00e9"])
def test_what_is_no_token_is_refused_without_being_shown(profile: Profile, token: str) -> None:
    with Client(profile, token) as client, pytest.raises(ValueError, match=r"^the person's token is not a signed"):
        client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY)


def test_one_text_for_a_list_of_tokens_is_refused(vault: SmallVault, profile: Profile) -> None:
    with Client(profile) as client, pytest.raises(TypeError, match="not one str"):
        client.detokenize("k12", "k12_0", purpose="p", justification=WHY)
    assert not vault.messages


def test_a_traceback_with_its_local_variables_shows_no_number(vault: SmallVault, profile: Profile) -> None:
    async def tokenize() -> None:
        async with AsyncClient(profile) as client:
            await client.tokenize("k12", ITEMS)

    def stream() -> None:
        with Client(profile) as client:
            list(client.tokenize_stream("k12", [ITEMS]))

    def unary() -> None:
        with Client(profile) as client:
            client.tokenize("k12", ITEMS)

    for run in (unary, stream, lambda: asyncio.run(tokenize())):
        vault.faults = [refusal(code_pb2.PERMISSION_DENIED, "NOT_PERMITTED")]
        with pytest.raises(NotPermittedError) as caught:
            run()
        traceback = caught.value.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if "ssn_vault_client" in frame.f_code.co_filename:
                shown = repr(frame.f_locals)
                assert CANARY not in shown
                assert "90012345" not in shown
            traceback = traceback.tb_next


# Repeats


def test_a_call_that_may_be_repeated_is_until_the_vault_is_back(vault: SmallVault, profile: Profile) -> None:
    with Client(profile, retries=2) as client:
        vault.faults = [unavailable(), refusal(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED")]
        assert client.tokenize("k12", ITEMS)[0].token == "k12_0"
        assert len(vault.messages) == 3
        vault.faults = [unavailable()]
        client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY, request_id="r")
        vault.faults = [unavailable()]
        client.linkage_match("college-outcomes", LINKAGE, "r")
        assert len(vault.messages) == 7


def test_a_call_is_not_repeated_where_that_would_cost(vault: SmallVault, profile: Profile) -> None:
    with Client(profile, retries=2) as client:
        vault.faults = [unavailable(), unavailable()]
        with pytest.raises(KeysUnavailableError):
            client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY)
        with pytest.raises(KeysUnavailableError):
            client.linkage_match("college-outcomes", LINKAGE)
        vault.faults = [refusal(code_pb2.PERMISSION_DENIED, "NOT_PERMITTED")]
        with pytest.raises(NotPermittedError):
            client.tokenize("k12", ITEMS)
    assert len(vault.messages) == 3


def test_repeats_end_with_their_number_and_with_the_deadline(vault: SmallVault, profile: Profile) -> None:
    vault.faults = [unavailable() for _ in range(50)]
    with Client(profile) as client, pytest.raises(KeysUnavailableError):
        client.tokenize("k12", ITEMS)
    assert len(vault.messages) == 1
    with Client(profile, retries=1) as client, pytest.raises(KeysUnavailableError):
        client.tokenize("k12", ITEMS)
    assert len(vault.messages) == 3
    started = time.monotonic()
    with Client(replace(profile, timeout=0.5), retries=40) as client, pytest.raises(KeysUnavailableError):
        client.tokenize("k12", ITEMS)
    assert time.monotonic() - started < 0.6


def test_the_asyncio_client_repeats_likewise(vault: SmallVault, profile: Profile) -> None:
    async def run() -> None:
        async with AsyncClient(profile, retries=1) as client:
            vault.faults = [unavailable()]
            assert (await client.tokenize("k12", ITEMS))[0].token == "k12_0"
            vault.faults = [refusal(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED")]
            with pytest.raises(OverloadedError):
                await client.detokenize("k12", ["k12_0"], purpose="p", justification=WHY)

    asyncio.run(run())
    assert len(vault.messages) == 3


# Streams


class Source:
    """Batches without an end, counted as they are taken."""

    def __init__(self, size: int) -> None:
        self.taken = 0
        self._size = size

    def __iter__(self) -> Iterator[list[TokenizeItem]]:
        endless = numbers()
        while True:
            self.taken += 1
            yield [TokenizeItem(Ssn(number), "r" * 100) for number in itertools.islice(endless, self._size)]


def settled(source: Source) -> int:
    """How much was taken, once nothing more is."""
    before = -1
    while before != source.taken:
        before = source.taken
        time.sleep(0.3)
    return before


def test_a_stream_whose_answers_are_not_taken_stops_reading_batches(vault: SmallVault, profile: Profile) -> None:
    source = Source(1000)
    with Client(profile) as client, closing(client.tokenize_stream("k12", source)) as answers:
        next(answers)
        assert settled(source) < 150
        before = source.taken
        for _ in range(before):
            next(answers)
        assert source.taken > before
    assert vault.finished.wait(5)


def test_an_asyncio_stream_whose_answers_are_not_taken_stops_too(vault: SmallVault, profile: Profile) -> None:
    source = Source(1000)

    async def run() -> None:
        async with AsyncClient(profile) as client, aclosing(client.tokenize_stream("k12", source)) as answers:
            await anext(answers)
            before = -1
            while before != source.taken:
                before = source.taken
                await asyncio.sleep(0.3)
            assert before < 150

    asyncio.run(run())
    assert vault.finished.wait(5)


def test_leaving_a_stream_ends_it_and_its_thread(vault: SmallVault, profile: Profile) -> None:
    threads = threading.active_count()
    with Client(profile) as client:
        for answer in client.tokenize_stream("k12", Source(10)):
            assert len(answer) == 10
            break
        assert vault.finished.wait(5)
    deadline = time.monotonic() + 5
    while threading.active_count() > threads + 4 and time.monotonic() < deadline:  # the server's pool has four
        time.sleep(0.05)
    assert threading.active_count() <= threads + 4


class RosterBroken(Exception):
    """What a caller's own iterable may raise."""


def broken() -> Iterator[list[Any]]:
    yield [LinkageItem("k12_0")]
    raise RosterBroken(CANARY)


def test_what_the_batches_raise_reaches_the_caller_and_no_log(
    vault: SmallVault, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with Client(profile) as client, pytest.raises(RosterBroken):
        list(client.linkage_match_stream("college-outcomes", broken()))

    async def run() -> None:
        async with AsyncClient(profile) as client:
            async for _ in client.linkage_match_stream("college-outcomes", broken()):
                pass

    with pytest.raises(RosterBroken):
        asyncio.run(run())
    assert CANARY not in caplog.text


def test_a_stream_that_broke_off_is_not_decided_on(vault: SmallVault, profile: Profile) -> None:
    def broken_late() -> Iterator[list[LinkageItem]]:
        yield [LinkageItem("k12_0")]
        vault.began.wait(5)
        raise RosterBroken

    with Client(profile) as client, pytest.raises(RosterBroken):
        list(client.linkage_match_stream("college-outcomes", broken_late()))
    assert vault.finished.wait(5)
    time.sleep(0.2)
    assert not vault.messages  # a half-close would have had the vault decide on the part that it got


def test_a_refused_message_ends_the_stream_after_the_answers_before_it(vault: SmallVault, profile: Profile) -> None:
    vault.faults = [lambda context: None, unavailable()]
    with Client(profile, retries=3) as client:
        answers = client.tokenize_stream("k12", [ITEMS, ITEMS, ITEMS])
        assert len(next(answers)) == 2
        with pytest.raises(KeysUnavailableError):
            next(answers)

    async def run() -> int | None:
        count = 0
        async with AsyncClient(profile) as client:
            try:
                async for _ in client.tokenize_stream("k12", [ITEMS, ITEMS, ITEMS]):
                    count += 1
            except KeysUnavailableError:
                return count
            except SsnVaultError as error:
                # grpc.aio itself gives this now and then when the server ends a stream that is being written to.
                return None if (error.status, error.reason) == ("INTERNAL", "") else -2
        return -1

    answered: int | None = None
    for _ in range(20):
        vault.faults = [lambda context: None, unavailable()]
        if (answered := asyncio.run(run())) is not None:
            break
    assert answered == 1


def test_a_stream_has_the_deadline_that_it_is_given(vault: SmallVault, profile: Profile) -> None:
    def wait(seconds: float) -> Iterator[list[TokenizeItem]]:
        time.sleep(seconds)
        yield ITEMS

    short = replace(profile, timeout=0.2)
    with Client(short) as client:
        assert len(list(client.tokenize_stream("k12", wait(0.4)))) == 1
        with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
            list(client.tokenize_stream("k12", wait(0.4), timeout=0.2))
