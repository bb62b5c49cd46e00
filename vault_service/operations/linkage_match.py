"""LinkageMatch: which of the caller's tokens are persons that the agreement's other domain knows.

    decide and charge each call -> fetch the caller's own records, refuse a call with too few of them -> open
    them in memory -> look up the same numbers under the other domain's index keys -> find or make linkage ids
    under the agreement's key -> record one event a call, and a disclosure row for each matched token of the
    other domain

Matching is by the same number (SAME). No number and no token of the other domain leaves this file.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from vault_service.audit.event import Disclosed, new_event_id
from vault_service.errors import CallError, ItemCode, ItemError, Reason, field_invalid
from vault_service.keys.envelope import DoesNotOpenError, Place, index_maker, open_sealed, seal_list
from vault_service.keys.names import KeyKind, KeyName
from vault_service.operations.budget import Charge, charge_all
from vault_service.operations.call import LinkageCall
from vault_service.operations.context import Context, check_reference, check_request_id, require
from vault_service.orders.control import Control
from vault_service.policy.decide import LinkageGrant, permit_linkage, size_reason
from vault_service.randomness import random_bytes
from vault_service.ssn import Ssn
from vault_service.storage.linkages import LinkageRecordRow, find_linkage_ids, insert_linkage_ids
from vault_service.storage.records import StoredPayload, fetch_payloads, find_tokens
from vault_service.storage.rotation import find_old_linkage_ids, move_linkage_ids
from vault_service.tokens import Token, draw_body, parse_token

_NOT_FOUND: Final = ItemError(ItemCode.NOT_FOUND, "no such token in this domain")
_INVALID_TOKEN: Final = ItemError(ItemCode.INVALID_TOKEN, "not a well-formed token")
_DATA_LOSS: Final = ItemError(ItemCode.DATA_LOSS, "the record does not open; the operator was told")


@dataclass(slots=True)
class _Asked:
    """One permitted call: its tokens as they were read, None for what is none, and what each turned out to be."""

    call: LinkageCall
    grant: LinkageGrant
    parsed: list[Token | None]
    own: list[Token | ItemError] = field(default_factory=list)

    def is_enough(self, there: Container[Token] | None = None) -> bool:
        """Whether so many different tokens (of those that are `there`) were asked about as the agreement demands.

        One token in ten spellings, or beside nine that do not exist, is a question about one person. A minimum of 1
        demands nothing: who asks about nobody is told so.
        """
        least = self.grant.agreement.min_items
        if self.call.is_last or least == 1:
            return True
        found = {token for token in self.parsed if token is not None and (there is None or token in there)}
        return len(found) >= least


def perform(context: Context, control: Control, calls: Sequence[LinkageCall], items_per_call: int) -> None:
    """Match every permitted call; refuse the others."""
    asked: dict[int, _Asked] = {}
    charges = []
    for call in calls:
        try:
            one = _permit(context, call, items_per_call)
        except CallError as error:
            if call.is_undecided:
                call.failure = error  # and no refusal: it may be answered yet
            else:
                context.refuse(call, error, agreement=call.agreement)
        else:
            asked[id(call)] = one
            charges.append(_charge_of(call, one.grant))
    passed = charge_all(context, control, charges)
    for charge in charges:
        if isinstance(charge.call.failure, CallError):
            one = asked.pop(id(charge.call))
            context.refuse(one.call, charge.call.failure, agreement=one.call.agreement)
    by_side: dict[tuple[str, str], list[_Asked]] = {}
    for charge in passed:
        one = asked[id(charge.call)]
        by_side.setdefault((one.call.agreement, one.grant.own), []).append(one)
    for _, group in sorted(by_side.items(), key=lambda item: item[0]):
        _match(context, group)


def _permit(context: Context, call: LinkageCall, items_per_call: int) -> _Asked:
    require(agreement=call.agreement, items=call.tokens)
    if call.stream_agreement and call.stream_agreement != call.agreement:
        raise field_invalid("agreement", "must be the one that the stream began with")
    state = context.state
    grant = permit_linkage(state.policy, state.freezes, call.caller, call.agreement, context.today)
    if isinstance(grant, Reason):
        raise CallError(grant)
    check_request_id(call.request_id)
    check_reference(call.longest_reference, call.longest_reference_at)
    if reason := size_reason(len(call.tokens), at_most=items_per_call):
        raise CallError(reason)
    token_format = grant.domains[grant.own].token_format
    asked = _Asked(call, grant, [parse_token(text, grant.own, token_format) for text in call.tokens])
    if not asked.is_enough():  # whatever exists: nothing is looked up and nothing charged
        call.is_undecided = call.may_be_last
        raise CallError(Reason.BATCH_TOO_SMALL)
    context.seal.require()
    context.keys.live(call.agreement, KeyKind.INDEX)
    context.keys.active(grant.own, KeyKind.DATA)
    context.keys.live(grant.other, KeyKind.INDEX)
    return asked


def _charge_of(call: LinkageCall, grant: LinkageGrant) -> Charge[LinkageCall]:
    return Charge(
        call,
        len(call.tokens),
        {f"agreement:{call.agreement}:{grant.own}": grant.agreement.items_per_day},
        call.agreement,
        lambda: json.dumps(["linkage", call.agreement, *call.tokens]).encode(),
    )


def _match(context: Context, group: Sequence[_Asked]) -> None:
    """All calls of one agreement and side."""
    grant = group[0].grant
    wanted = {token for one in group for token in one.parsed if token is not None}
    stored = fetch_payloads(context.tx, grant.own, list(wanted)) if wanted else {}
    group = [one for one in group if _has_enough(context, one, stored)]
    numbers = _open_own(context, grant, group, stored)
    matched = _look_across(context, grant.other, set(numbers.values()))
    ids = _linkage_ids(context, grant, matched)
    for one in group:
        for own in one.own:
            if isinstance(own, ItemError):
                one.call.results.append(own)
            elif (ssn := numbers.get(own)) is None:
                one.call.results.append(_DATA_LOSS)
            else:
                one.call.results.append(ids.get(ssn))
        _record(context, one, numbers, matched)


def _has_enough(context: Context, one: _Asked, stored: Container[Token]) -> bool:
    """Whether enough of the call's tokens exist; else it is refused as a whole.

    It stays charged: what it tells, that there are fewer, costs as much and is recorded as much as NOT_FOUND would be.
    """
    enough = one.is_enough(stored)
    if not enough:
        context.refuse(one.call, CallError(Reason.BATCH_TOO_SMALL), agreement=one.call.agreement)
    return enough


def _open_own(
    context: Context, grant: LinkageGrant, group: Sequence[_Asked], stored: Mapping[Token, StoredPayload]
) -> dict[Token, Ssn]:
    """The numbers behind the caller's tokens, in memory only; says in each `own` what is no token of theirs."""
    numbers: dict[Token, Ssn] = {}
    for token in {token for one in group for token in one.parsed if token is not None and token in stored}:
        payload = stored[token]
        key = context.keys.of(KeyName(grant.own, KeyKind.DATA, payload.data_version))
        if key is None:
            continue
        try:
            place = Place(grant.own, key.version, token, payload.blind_index)
            numbers[token] = open_sealed(key.cipher, payload.ciphertext, place).ssn
        except DoesNotOpenError:
            continue
    for one in group:
        one.own = [
            _INVALID_TOKEN if token is None else token if token in stored else _NOT_FOUND for token in one.parsed
        ]
    return numbers


def _look_across(context: Context, other: str, numbers: Iterable[Ssn]) -> dict[Ssn, Token]:
    """The other domain's tokens of the same numbers, asked for under all live versions in one statement."""
    keys = context.keys.live(other, KeyKind.INDEX)
    wanted = list(numbers)
    by_index = {index(ssn): ssn for index in (index_maker(key.secret) for key in keys) for ssn in wanted}
    if not by_index:
        return {}
    found = find_tokens(context.tx, other, [key.version for key in keys], list(by_index))
    return {by_index[index]: token for index, token in found.items()}


def _linkage_ids(context: Context, grant: LinkageGrant, matched: dict[Ssn, Token]) -> dict[Ssn, str]:
    """The linkage id of each matched number, made where there is none: random, of this agreement alone.

    Keyed on the number held in the agreement's first-named domain, which is the same on both sides here.
    """
    name = grant.agreement_name
    active, *older = context.keys.live(name, KeyKind.INDEX)
    index = index_maker(active.secret)
    wanted = {index(ssn): ssn for ssn in matched}
    for key in older:  # one that is found under an old version moves at once: what stays there is nobody's
        index = index_maker(key.secret)
        moved = {index(ssn): at for at, ssn in wanted.items()}
        there = find_old_linkage_ids(context.tx, name, active.version, list(moved))
        move_linkage_ids(context.tx, name, active.version, {at: moved[at] for at in there})
    found = find_linkage_ids(context.tx, name, active.version, list(wanted))
    new = {at: draw_body() for at in wanted if at not in found}
    if new:
        insert_linkage_ids(context.tx, name, active.version, new)
        found |= find_linkage_ids(context.tx, name, active.version, list(new))
    return {ssn: found[at] for at, ssn in wanted.items()}


def _record(context: Context, one: _Asked, numbers: dict[Token, Ssn], matched: dict[Ssn, Token]) -> None:
    call, grant = one.call, one.grant
    own = [token for token in one.own if not isinstance(token, ItemError)]
    # Sorted, so that the order of the rows does not say which of the caller's tokens each belongs to.
    theirs = sorted({matched[numbers[token]] for token in own if numbers.get(token) in matched})
    exact = sum(isinstance(result, str) for result in call.results)
    errors = sum(isinstance(result, ItemError) for result in call.results)
    call.event_id = new_event_id()
    # Salted, because whoever holds the database knows all tokens and could try which list this is.
    asked = "\n".join([random_bytes(16).hex(), *own])
    facts = {
        "agreement": call.agreement,
        "asked_sha256": sha256(asked.encode()).hexdigest(),
        "domain": grant.own,
        "person": grant.person,
        "items": len(call.tokens),
        "exact": exact,
        "no_match": len(call.results) - exact - errors,
        "errors": errors,
        "outcome": "ok",
    }
    context.record(call, facts, [Disclosed(grant.other, token, "matched") for token in theirs])
    key = context.keys.active(call.agreement, KeyKind.INDEX)
    sealed = seal_list(key.secret, call.agreement, call.event_id, asked)
    context.linkage_records.append(LinkageRecordRow(call.event_id, call.agreement, key.version, sealed))
