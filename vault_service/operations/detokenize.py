"""Detokenize: many calls in one transaction that only records; what it allows is decrypted after the commit.

    decide each call -> charge budget and approvals -> fetch ciphertexts -> record one event a call and one
    disclosure row a requested token -> COMMIT -> decrypt

`perform` runs inside the transaction and cannot decrypt; `deliver` runs when the commit has returned
(promise 2).
"""

import json
from collections.abc import Sequence

from vault_service.audit.event import INVALID, Disclosed, Recorded, new_event_id, record
from vault_service.errors import CallError, ItemCode, ItemError, Reason, field_invalid
from vault_service.keys.envelope import DoesNotOpenError, Place, open_sealed
from vault_service.keys.names import KeyKind, KeyName
from vault_service.operations.budget import Charge, charge_all
from vault_service.operations.call import DetokenizeCall
from vault_service.operations.context import Context, check_request_id, require
from vault_service.orders.control import Control
from vault_service.policy.decide import DetokenizeGrant, permit_detokenize, size_reason, view_fits
from vault_service.policy.model import View
from vault_service.ssn import contains_ssn_shape
from vault_service.storage.records import StoredPayload, fetch_payloads
from vault_service.text import LONGEST_JUSTIFICATION, SHORTEST_JUSTIFICATION, text_problem
from vault_service.tokens import Token, parse_token

_NOT_FOUND = ItemError(ItemCode.NOT_FOUND, "no such token in this domain")
_INVALID_TOKEN = ItemError(ItemCode.INVALID_TOKEN, "not a well-formed token")
_DATA_LOSS = ItemError(ItemCode.DATA_LOSS, "the record does not open; the operator was told")


def perform(context: Context, control: Control, calls: Sequence[DetokenizeCall]) -> None:
    """Record every permitted call and fetch what it asked for; refuse the others. Decrypts nothing."""
    charges = []
    for call in calls:
        try:
            call.grant = _permit(context, call)
        except CallError as error:
            context.refuse(call, error, domain=call.domain, purpose=call.purpose)
        else:
            charges.append(_charge_of(context, call, call.grant))
    passed = charge_all(context, control, charges)
    for charge in charges:
        if isinstance(charge.call.failure, CallError):
            refused = charge.call
            context.refuse(refused, charge.call.failure, domain=refused.domain, purpose=refused.purpose)
    _fetch(context, [charge.call for charge in passed])
    for charge in passed:
        _record(context, charge.call, charge.used_approvals)


def deliver(context: Context, calls: Sequence[DetokenizeCall]) -> list[Recorded]:
    """Decrypt what was recorded, after the commit; the events of rows that do not open, still to be written."""
    losses = []
    for call in calls:
        if call.failure is not None:
            continue
        lost: list[Disclosed] = []
        for fetched in call.fetched:
            if isinstance(fetched, ItemError):
                call.results.append(fetched)
                continue
            token, stored = fetched
            try:
                if stored.data_version not in call.ciphers:
                    raise DoesNotOpenError
                place = Place(call.domain, stored.data_version, token, stored.blind_index)
                payload = open_sealed(call.ciphers[stored.data_version].cipher, stored.ciphertext, place)
            except DoesNotOpenError:
                call.results.append(_DATA_LOSS)
                lost.append(Disclosed(call.domain, token, "unopened"))
                continue
            call.results.append(payload.ssn.digits if call.view is View.FULL else payload.ssn.last4)
        if lost:
            facts = {
                "client": call.caller.client,
                "domain": call.domain,
                "of": call.event_id,
                "outcome": "DATA_LOSS",
                "epoch": context.state.epoch,
            }
            losses.append(record(new_event_id(), "outcome", context.tx.now_ms, facts, lost))
    return losses


def _permit(context: Context, call: DetokenizeCall) -> DetokenizeGrant:
    require(domain=call.domain, tokens=call.tokens, purpose=call.purpose, justification=call.justification)
    state = context.state
    grant = permit_detokenize(state.policy, state.freezes, call.caller, call.domain, call.purpose)
    if isinstance(grant, Reason):
        raise CallError(grant)
    if call.view is None:
        raise field_invalid("view", "is not a known view")
    if not view_fits(call.view, grant.purpose):
        raise CallError(Reason.NOT_PERMITTED)
    if problem := text_problem(call.justification, SHORTEST_JUSTIFICATION, LONGEST_JUSTIFICATION):
        raise field_invalid("justification", problem)
    if contains_ssn_shape(call.justification):
        raise field_invalid("justification", "holds what looks like a Social Security number")
    check_request_id(call.request_id)
    if reason := size_reason(len(call.tokens), at_most=grant.purpose.per_call):
        raise CallError(reason)
    context.seal.require()
    # Now, so that a call whose keys are away spends and records nothing.
    key = context.keys.active(call.domain, KeyKind.DATA)
    call.ciphers[key.version] = key
    return grant


def _charge_of(context: Context, call: DetokenizeCall, grant: DetokenizeGrant) -> Charge[DetokenizeCall]:
    purpose = grant.purpose
    limits = {f"client:{grant.client}:{grant.purpose_name}": purpose.per_day}
    if grant.person is not None:
        limits[f"person:{grant.person}:{grant.purpose_name}"] = purpose.per_day
    charge = Charge(
        call,
        len(call.tokens),
        limits,
        call.domain,
        lambda: json.dumps(["detokenize", call.domain, call.purpose, call.view, grant.person, *call.tokens]).encode(),
    )
    if purpose.approval_above is not None:
        charge.approval_account = f"unapproved:{grant.client}:{grant.purpose_name}:{grant.person}"
        charge.approval_above = purpose.approval_above
        charge.approvals = [
            approval
            for approval in context.state.approvals.values()
            if (approval.client, approval.purpose, approval.person) == (grant.client, grant.purpose_name, grant.person)
        ]
    return charge


def _fetch(context: Context, calls: Sequence[DetokenizeCall]) -> None:
    parsed: dict[int, list[Token | None]] = {}
    wanted: dict[str, set[Token]] = {}
    for call in calls:
        token_format = context.state.policy.domains[call.domain].token_format
        tokens = [parse_token(text, call.domain, token_format) for text in call.tokens]
        parsed[id(call)] = tokens
        wanted.setdefault(call.domain, set()).update(token for token in tokens if token)
    stored: dict[str, dict[Token, StoredPayload]] = {
        domain: fetch_payloads(context.tx, domain, list(tokens)) if tokens else {} for domain, tokens in wanted.items()
    }
    for call in calls:
        for token in parsed[id(call)]:
            if token is None:
                call.fetched.append(_INVALID_TOKEN)
            elif (payload := stored[call.domain].get(token)) is None:
                call.fetched.append(_NOT_FOUND)
            else:
                if payload.data_version not in call.ciphers:
                    key = context.keys.of(KeyName(call.domain, KeyKind.DATA, payload.data_version))
                    if key is not None:
                        call.ciphers[key.version] = key
                call.fetched.append((token, payload))


def _record(context: Context, call: DetokenizeCall, approvals: list[str]) -> None:
    grant = call.grant
    assert grant is not None  # noqa: S101 - set for every call that was charged
    missing = Disclosed(call.domain, INVALID, "missing")
    disclosed = [
        missing if isinstance(fetched, ItemError) else Disclosed(call.domain, fetched[0], "found")
        for fetched in call.fetched
    ]
    facts = {
        "domain": call.domain,
        "purpose": call.purpose,
        "person": grant.person,
        "view": call.view.value if call.view else None,
        "items": len(call.tokens),
        "approvals": approvals or None,
        "outcome": "ok",
    }
    context.record(call, facts, disclosed, {"justification": call.justification})
