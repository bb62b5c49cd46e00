"""Between the contract's messages and the operations' calls. No decision is made here, nothing is logged."""

from collections.abc import Sequence
from typing import Final, TypeVar

from ssnvault.v1 import ssn_vault_pb2 as pb
from vault_service.errors import ItemError
from vault_service.identity.caller import Caller
from vault_service.operations.call import DetokenizeCall, LinkageCall, TokenizeCall, TraitsText
from vault_service.policy.model import View

MOST_ITEMS: Final = 1000  # of one Tokenize or LinkageMatch message (contract)
_Item = TypeVar("_Item")

_VIEWS: Final[dict[int, View]] = {
    pb.VIEW_UNSPECIFIED: View.LAST4,
    pb.VIEW_LAST4: View.LAST4,
    pb.VIEW_FULL: View.FULL,
}


def tokenize_call(request: pb.TokenizeRequest, caller: Caller) -> TokenizeCall:
    """The call that a message asks for."""
    items = _bounded(request.items)
    longest, at = _longest_reference([item.reference for item in items])
    return TokenizeCall(
        caller=caller,
        request_id=request.request_id,
        domain=request.domain,
        numbers=[item.ssn for item in items],
        traits={
            position: TraitsText(item.traits.given_name, item.traits.family_name, item.traits.date_of_birth)
            for position, item in enumerate(items)
            if item.HasField("traits")
        },
        longest_reference=longest,
        longest_reference_at=at,
    )


def tokenize_response(request: pb.TokenizeRequest, call: TokenizeCall) -> pb.TokenizeResponse:
    """The answer to a message, in its order, with its references."""
    response = pb.TokenizeResponse()
    add = response.results.add
    for item, result in zip(request.items, call.results, strict=True):
        if isinstance(result, ItemError):
            add(reference=item.reference, error=_item_error(result))
        else:
            add(reference=item.reference, token=result)
    return response


def detokenize_call(request: pb.DetokenizeRequest, caller: Caller) -> DetokenizeCall:
    """The call that a message asks for."""
    return DetokenizeCall(
        caller=caller,
        request_id=request.request_id,
        domain=request.domain,
        tokens=list(request.tokens),
        purpose=request.purpose,
        justification=request.justification,
        view=_VIEWS.get(request.view),
    )


def detokenize_response(request: pb.DetokenizeRequest, call: DetokenizeCall) -> pb.DetokenizeResponse:
    """The answer to a message, in its order."""
    response = pb.DetokenizeResponse(disclosure_id=call.event_id)
    add = response.results.add
    for token, result in zip(request.tokens, call.results, strict=True):
        if isinstance(result, ItemError):
            add(token=token, error=_item_error(result))
        else:
            add(token=token, ssn=result)
    return response


def linkage_call(request: pb.LinkageMatchRequest, caller: Caller, stream_agreement: str = "") -> LinkageCall:
    """The call that a message asks for; `stream_agreement` is what the stream's first message named."""
    items = _bounded(request.items)
    longest, at = _longest_reference([item.reference for item in items])
    return LinkageCall(
        caller=caller,
        request_id=request.request_id,
        agreement=request.agreement,
        tokens=[item.token for item in items],
        stream_agreement=stream_agreement,
        longest_reference=longest,
        longest_reference_at=at,
    )


def linkage_response(request: pb.LinkageMatchRequest, call: LinkageCall) -> pb.LinkageMatchResponse:
    """The answer to a message, in its order, with its references and counts."""
    response = pb.LinkageMatchResponse(event_id=call.event_id)
    add = response.results.add
    summary = response.summary
    for item, result in zip(request.items, call.results, strict=True):
        if isinstance(result, ItemError):
            add(reference=item.reference, error=_item_error(result))
            summary.errors += 1
        elif result is None:
            add(reference=item.reference, status=pb.NO_MATCH)
            summary.no_match += 1
        else:
            add(reference=item.reference, status=pb.EXACT, linkage_id=result, ssn_relation=pb.SAME, score=1.0)
            summary.exact += 1
    return response


def _bounded(items: Sequence[_Item]) -> Sequence[_Item]:
    """The items, or one more than a call may carry: enough to refuse it without looking at a million."""
    return items if len(items) <= MOST_ITEMS else items[: MOST_ITEMS + 1]


def _item_error(error: ItemError) -> pb.ItemError:
    return pb.ItemError(code=pb.ItemError.Code.Value(error.code.value), message=error.message)


def _longest_reference(references: Sequence[str]) -> tuple[int, int]:
    """Bytes and position of the longest reference."""
    if not references:
        return 0, 0
    lengths = [len(reference.encode()) for reference in references]
    longest = max(lengths)
    return longest, lengths.index(longest)
