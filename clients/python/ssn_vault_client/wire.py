"""Owns the way from the caller's values to the contract's messages and back. Pure: no channel, no clock. A
message prints the numbers in it, so none leaves this package."""

from collections.abc import Iterable, Sequence

from ssn_vault_client.ssn import Ssn
from ssn_vault_client.text import text
from ssn_vault_client.values import (
    Detokenized,
    Disclosure,
    ItemError,
    ItemErrorCode,
    Linkage,
    LinkageItem,
    LinkageSummary,
    Linked,
    MatchStatus,
    SsnRelation,
    Tokenized,
    TokenizeItem,
    Traits,
    View,
)
from ssnvault.v1 import ssn_vault_pb2 as pb


def message_id(stream_id: str | None, number: int) -> str | None:
    """The request id of a stream's message, counted from 0: the same stream sent again has the same ids."""
    return None if stream_id is None else f"{stream_id}-{number}"


def tokenize_request(domain: str, items: Iterable[TokenizeItem], request_id: str | None) -> pb.TokenizeRequest:
    """The message for `items`, in order."""
    return pb.TokenizeRequest(
        domain=text("domain", domain),
        items=[
            pb.TokenizeItem(reference=item.reference, ssn=item.ssn.reveal(), traits=_traits(item.traits))
            for item in items
        ],
        request_id=_optional("request_id", request_id),
    )


def detokenize_request(
    domain: str, tokens: Sequence[str], purpose: str, justification: str, view: View, request_id: str | None
) -> pb.DetokenizeRequest:
    """The message for `tokens`, in order. One string for a list is refused."""
    if isinstance(tokens, str):
        raise TypeError("tokens must be a sequence of str, not one str")
    return pb.DetokenizeRequest(
        domain=text("domain", domain),
        tokens=[text("tokens", token) for token in tokens],
        purpose=text("purpose", purpose),
        justification=text("justification", justification),
        view=pb.VIEW_FULL if view is View.FULL else pb.VIEW_LAST4,
        request_id=_optional("request_id", request_id),
    )


def linkage_request(agreement: str, items: Iterable[LinkageItem], request_id: str | None) -> pb.LinkageMatchRequest:
    """The message for `items`, in order."""
    return pb.LinkageMatchRequest(
        agreement=text("agreement", agreement),
        items=[pb.LinkageItem(reference=item.reference, token=item.token) for item in items],
        request_id=_optional("request_id", request_id),
    )


def tokenized(response: pb.TokenizeResponse) -> list[Tokenized]:
    """The results of a message, in its order."""
    return [
        Tokenized(result.reference, None, _error(result.error))
        if result.HasField("error")
        else Tokenized(result.reference, result.token, None)
        for result in response.results
    ]


def disclosure(response: pb.DetokenizeResponse) -> Disclosure:
    """The results of a message, in its order, with the name of its entry in the record."""
    return Disclosure(
        response.disclosure_id,
        tuple(
            Detokenized(result.token, None, _error(result.error))
            if result.HasField("error")
            else Detokenized(result.token, Ssn(result.ssn), None)
            for result in response.results
        ),
    )


def linkage(response: pb.LinkageMatchResponse) -> Linkage:
    """The results of a message, in its order, with their counts and the name of its entry in the record."""
    counts = response.summary
    return Linkage(
        response.event_id,
        tuple(_linked(result) for result in response.results),
        LinkageSummary(
            exact=counts.exact,
            probable=counts.probable,
            review=counts.review,
            ambiguous=counts.ambiguous,
            no_match=counts.no_match,
            errors=counts.errors,
        ),
    )


def _linked(result: pb.LinkageResult) -> Linked:
    if result.HasField("error"):
        return Linked(result.reference, None, None, None, 0.0, _error(result.error))
    return Linked(
        result.reference,
        MatchStatus(result.status),
        result.linkage_id or None,
        SsnRelation(result.ssn_relation) if result.ssn_relation else None,
        result.score,
        None,
    )


def _error(error: pb.ItemError) -> ItemError:
    return ItemError(ItemErrorCode(error.code), error.message)


def _traits(traits: Traits | None) -> pb.Traits | None:
    if traits is None:
        return None
    return pb.Traits(given_name=traits.given_name, family_name=traits.family_name, date_of_birth=traits.date_of_birth)


def _optional(field: str, value: str | None) -> str:
    return "" if value is None else text(field, value)
