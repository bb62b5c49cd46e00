"""Field by field: the bounds of the contract, the paths that a refusal names, and what a repeated request costs."""

import pytest

from ssn_vault_client import Profile
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.support.stack import JUSTIFICATION, Stack
from tests.support.wire import SECONDS, Failure, person, refused, stub_of
from vault_service.tokens import TokenFormat, draw_token

NUMBER = "931-01-0001"
WRONG_IDS = ("x" * 65, "with space", "a/b", "line\nbreak", "\N{ARABIC-INDIC DIGIT ONE}", "931-01-0001", "r.931.01.0001")


def tokenize_request(**fields: object) -> pb.TokenizeRequest:
    request = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=NUMBER)])
    request.MergeFrom(pb.TokenizeRequest(**fields))  # type: ignore[arg-type]  # fields of the message
    return request


def detokenize_request(token: str, **fields: object) -> pb.DetokenizeRequest:
    request = pb.DetokenizeRequest(
        domain="k12", tokens=[token], purpose="transcript-verification", justification=JUSTIFICATION
    )
    request.MergeFrom(pb.DetokenizeRequest(**fields))  # type: ignore[arg-type]  # fields of the message
    return request


def linkage_request(token: str, **fields: object) -> pb.LinkageMatchRequest:
    request = pb.LinkageMatchRequest(agreement="college-outcomes", items=[pb.LinkageItem(token=token)])
    request.MergeFrom(pb.LinkageMatchRequest(**fields))  # type: ignore[arg-type]  # fields of the message
    return request


@pytest.fixture(scope="module")
def token(vault: Stack) -> str:
    with stub_of(vault.profile("sis")) as sis:
        return sis.Tokenize(tokenize_request(), timeout=SECONDS).results[0].token


def send(vault: Stack, request: pb.TokenizeRequest | pb.DetokenizeRequest | pb.LinkageMatchRequest) -> None:
    """As the client that may; gRPC's error when it fails."""
    client = "k12-research" if isinstance(request, pb.LinkageMatchRequest) else "sis"
    with stub_of(vault.profile(client)) as stub:
        if isinstance(request, pb.TokenizeRequest):
            stub.Tokenize(request, timeout=SECONDS)
        elif isinstance(request, pb.DetokenizeRequest):
            stub.Detokenize(request, timeout=SECONDS)
        else:
            stub.LinkageMatch(request, timeout=SECONDS)


def wrong(
    vault: Stack, request: pb.TokenizeRequest | pb.DetokenizeRequest | pb.LinkageMatchRequest, *paths: str
) -> Failure:
    """The refusal, which names exactly `paths`."""
    failure = refused(lambda: send(vault, request))
    assert (failure.reason, failure.status, failure.paths) == ("FIELD_INVALID", "INVALID_ARGUMENT", paths)
    return failure


def test_every_missing_field_is_named_at_once(vault: Stack) -> None:
    wrong(vault, pb.TokenizeRequest(), "domain", "items")
    wrong(vault, pb.TokenizeRequest(domain="k12"), "items")
    wrong(vault, pb.DetokenizeRequest(), "domain", "tokens", "purpose", "justification")
    wrong(vault, pb.DetokenizeRequest(domain="k12", purpose="x", justification="y"), "tokens")
    wrong(vault, pb.LinkageMatchRequest(), "agreement", "items")
    wrong(vault, pb.LinkageMatchRequest(agreement="college-outcomes"), "items")


def test_missing_fields_come_before_the_client_and_nothing_else_does(vault: Stack, stranger: Profile) -> None:
    with stub_of(stranger) as nobody:
        missing = refused(lambda: nobody.Tokenize(pb.TokenizeRequest(domain="k12"), timeout=SECONDS))
        bad = pb.TokenizeItem(reference="r" * 129, ssn=NUMBER)
        misformed = refused(
            lambda: nobody.Tokenize(tokenize_request(request_id="no good", items=[bad] * 1001), timeout=SECONDS)
        )
        late = pb.DetokenizeRequest(domain="k12", tokens=["x"], purpose="none", justification="short", view=7)  # type: ignore[arg-type]  # unknown on purpose
        unseen = refused(lambda: nobody.Detokenize(late, timeout=SECONDS, metadata=person("a.b.c")))
    assert missing.reason == "FIELD_INVALID"
    assert {misformed.reason, unseen.reason} == {"NOT_PERMITTED"}


def test_a_reference_has_at_most_128_bytes_of_utf_8(vault: Stack, token: str) -> None:
    for reference, fits in (("r" * 128, True), ("é" * 64, True), ("r" * 129, False), ("é" * 64 + "r", False)):
        numbers = tokenize_request(items=[pb.TokenizeItem(ssn=NUMBER, reference=reference)])
        tokens = linkage_request(token, items=[pb.LinkageItem(token=token, reference=reference)])
        if fits:
            send(vault, numbers)
            send(vault, tokens)
        else:
            wrong(vault, numbers, "items[1].reference")
            wrong(vault, tokens, "items[1].reference")


@pytest.mark.parametrize("request_id", WRONG_IDS)
def test_a_request_id_of_the_wrong_form_is_refused_everywhere(vault: Stack, token: str, request_id: str) -> None:
    texts = {
        wrong(vault, tokenize_request(request_id=request_id), "request_id").text,
        wrong(vault, detokenize_request(token, request_id=request_id), "request_id").text,
        wrong(vault, linkage_request(token, request_id=request_id), "request_id").text,
    }
    (text,) = texts
    assert request_id not in text


def test_the_longest_request_id_stands_in_the_record(vault: Stack, token: str) -> None:
    longest = "A.b_c-" + "9x" * 29
    assert len(longest) == 64
    for request in (
        tokenize_request(request_id=longest),
        detokenize_request(token, request_id=longest),
        linkage_request(token, request_id=longest),
    ):
        send(vault, request)
    bodies = [body for (body,) in vault.query("SELECT body FROM event") if f'"request_id":"{longest}"' in body]
    assert len(bodies) == 3


def test_a_justification_has_10_to_500_characters(vault: Stack, token: str) -> None:
    for length, fits in ((9, False), (10, True), (500, True), (501, False)):
        for letter in "jé":
            request = detokenize_request(token, justification=letter * length)
            if fits:
                send(vault, request)
            else:
                wrong(vault, request, "justification")


def test_spaces_around_a_justification_count_neither_for_it_nor_past_its_bound(vault: Stack, token: str) -> None:
    wrong(vault, detokenize_request(token, justification=" " * 20), "justification")
    wrong(vault, detokenize_request(token, justification=f"   short{' ' * 10}"), "justification")
    wrong(vault, detokenize_request(token, justification=JUSTIFICATION + " " * 501), "justification")


@pytest.mark.parametrize("shape", ["931010002", "931-01-0002", "931 01 0002", "931.01.0002", "931\u2013 01\u2013 0002"])
def test_a_justification_with_the_shape_of_a_number_is_refused(vault: Stack, token: str, shape: str) -> None:
    failure = wrong(vault, detokenize_request(token, justification=f"the parent of {shape} asks"), "justification")
    assert "0002" not in failure.text


def test_an_unknown_view_is_refused(vault: Stack, token: str) -> None:
    wrong(vault, detokenize_request(token, view=7), "view")


def test_a_purpose_that_gives_the_last_four_never_gives_all(vault: Stack, token: str) -> None:
    failure = refused(lambda: send(vault, detokenize_request(token, view=pb.VIEW_FULL)))
    assert (failure.reason, failure.text) == ("NOT_PERMITTED", "Not permitted.")
    with stub_of(vault.profile("sis")) as stub:
        for view in (pb.VIEW_UNSPECIFIED, pb.VIEW_LAST4):
            answer = stub.Detokenize(detokenize_request(token, view=view), timeout=SECONDS)
            assert answer.results[0].ssn == "0001"


def test_a_call_takes_a_thousand_items_and_no_more(vault: Stack, token: str) -> None:
    items, links = [pb.TokenizeItem(ssn=NUMBER)], [pb.LinkageItem(token=token)]
    with stub_of(vault.profile("sis")) as sis, stub_of(vault.profile("k12-research")) as research:
        answer = sis.Tokenize(tokenize_request(items=items * 999), timeout=SECONDS)
        assert [result.token for result in answer.results] == [token] * 1000
        assert len(research.LinkageMatch(linkage_request(token, items=links * 999), timeout=SECONDS).results) == 1000
    for request in (
        tokenize_request(items=items * 1000),
        linkage_request(token, items=links * 1000),
        detokenize_request(token, tokens=[token] * 100),  # the purpose allows 100
    ):
        failure = refused(lambda: send(vault, request))  # noqa: B023 - called at once
        assert (failure.reason, failure.fields) == ("BATCH_TOO_LARGE", ())


def test_a_stream_ends_with_the_failure_of_a_message_and_answered_ones_stand(vault: Stack, token: str) -> None:
    with stub_of(vault.profile("sis")) as sis, stub_of(vault.profile("k12-research")) as research:
        numbers = sis.TokenizeStream(iter([tokenize_request(), pb.TokenizeRequest(domain="k12")]), timeout=SECONDS)
        assert next(numbers).results[0].token == token
        assert refused(lambda: next(numbers)).paths == ("items",)
        links = research.LinkageMatchStream(
            iter([linkage_request(token), linkage_request(token, agreement="large")]), timeout=SECONDS
        )
        assert next(links).results[0].status == pb.NO_MATCH
        assert refused(lambda: next(links)).paths == ("agreement",)


def test_a_bad_item_leaves_the_others_alone_and_references_come_back(vault: Stack) -> None:
    items = [
        pb.TokenizeItem(reference="a", ssn=NUMBER),
        pb.TokenizeItem(reference="b", ssn="931-01-000"),
        pb.TokenizeItem(reference="c", ssn=NUMBER, traits=pb.Traits(date_of_birth="2001-02-30")),
        pb.TokenizeItem(reference="", ssn="078-05-1120"),
        pb.TokenizeItem(reference="a", ssn=NUMBER.replace("-", " ")),
    ]
    with stub_of(vault.profile("sis")) as sis:
        results = sis.Tokenize(pb.TokenizeRequest(domain="k12", items=items), timeout=SECONDS).results
    assert [result.reference for result in results] == ["a", "b", "c", "", "a"]
    assert [result.error.code for result in results] == [
        pb.ItemError.CODE_UNSPECIFIED,
        pb.ItemError.INVALID_SSN,
        pb.ItemError.INVALID_TRAITS,
        pb.ItemError.INVALID_SSN,
        pb.ItemError.CODE_UNSPECIFIED,
    ]
    assert results[0].token == results[4].token


def test_a_repeated_request_spends_once_and_is_recorded_each_time(vault: Stack, token: str) -> None:
    """The purpose `repeated` gives two tokens a day."""

    def ask(request_id: str, *tokens: str) -> pb.DetokenizeResponse:
        request = detokenize_request(token, tokens=tokens, request_id=request_id)
        request.purpose = "repeated"
        with stub_of(vault.profile("sis")) as stub:
            return stub.Detokenize(request, timeout=SECONDS)

    other = draw_token("k12", TokenFormat.STANDARD)
    answers = [ask("again", other) for _ in range(3)]
    assert {answer.results[0].ssn for answer in answers} == {"0001"}
    assert len({answer.disclosure_id for answer in answers}) == 3
    recorded = [body for (body,) in vault.query("SELECT body FROM event") if '"request_id":"again"' in body]
    assert len(recorded) == 3
    assert vault.query("SELECT count(*) FROM disclosure WHERE token = :token", token=token)[0][0] >= 3
    reused = refused(lambda: ask("again"))
    assert (reused.reason, reused.paths) == ("FIELD_INVALID", ("request_id",))
    assert refused(lambda: ask("fresh")).reason == "BUDGET_EXCEEDED"
    assert ask("again", other).results[0].ssn == "0001"
