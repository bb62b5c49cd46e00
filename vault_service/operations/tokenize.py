"""Tokenize: many calls in one transaction, from permission to the recorded tokens.

    decide and parse each call -> look up all numbers by blind index -> insert the new ones -> read back
    what others inserted meanwhile -> put newer traits in place -> record one event a call

Whether a number was there already changes neither the answer nor what is recorded (promise 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from vault_service.errors import CallError, ItemCode, ItemError, Reason
from vault_service.keys.envelope import Place, blind_index, seal
from vault_service.keys.names import KeyKind
from vault_service.linkage.traits import encode_traits
from vault_service.operations.call import TokenizeCall
from vault_service.operations.context import Context, check_reference, check_request_id, require
from vault_service.policy.decide import TokenizeGrant, permit_tokenize, size_reason
from vault_service.policy.model import Domain
from vault_service.ssn import Ssn, parse_ssn
from vault_service.storage.records import NewRecord, find_tokens, insert_records, replace_payloads
from vault_service.tokens import Token, draw_token


class LostRaceError(Exception):
    """A row that another call had inserted is gone again: the batch is tried anew."""


@dataclass(slots=True)
class _Number:
    """One number of a batch: its traits (the last that came), and who waits for its token."""

    ssn: Ssn
    traits: bytes | None = None
    wanted_by: list[tuple[TokenizeCall, int]] = field(default_factory=list)


def perform(context: Context, calls: Sequence[TokenizeCall], items_per_call: int) -> None:
    """Give every permitted call its tokens; refuse the others."""
    by_domain: dict[str, dict[Ssn, _Number]] = {}
    permitted: list[tuple[TokenizeCall, TokenizeGrant]] = []
    for call in calls:
        try:
            grant = _permit(context, call, items_per_call)
            # Keys first: a call that cannot be served leaves nothing behind in the batch.
            context.active_key(call.domain, KeyKind.DATA)
            context.live_keys(call.domain, KeyKind.INDEX)
        except CallError as error:
            context.refuse(call, error, domain=call.domain)
            continue
        _parse(call, grant.domain, by_domain.setdefault(call.domain, {}))
        permitted.append((call, grant))
    for domain_name, numbers in sorted(by_domain.items()):
        if numbers:
            _give_tokens(context, domain_name, context.state.policy.domains[domain_name], numbers)
    for call, grant in permitted:
        errors = sum(isinstance(result, ItemError) for result in call.results)
        facts = {
            "domain": call.domain,
            "person": grant.person,
            "items": len(call.numbers),
            "errors": errors,
            "outcome": "ok",
        }
        context.record(call, facts, [])


def _permit(context: Context, call: TokenizeCall, items_per_call: int) -> TokenizeGrant:
    require(domain=call.domain, items=call.numbers)
    state = context.state
    grant = permit_tokenize(state.policy, state.freezes, call.caller, call.domain)
    if isinstance(grant, Reason):
        raise CallError(grant)
    check_request_id(call.request_id)
    check_reference(call.longest_reference, call.longest_reference_at)
    if reason := size_reason(len(call.numbers), at_most=items_per_call):
        raise CallError(reason)
    return grant


def _parse(call: TokenizeCall, domain: Domain, numbers: dict[Ssn, _Number]) -> None:
    """Fill in the call's errors, and add its numbers to those of the batch."""
    pending = ItemError(ItemCode.NOT_FOUND, "")  # replaced below by a token or the item's own error
    call.results = [pending] * len(call.numbers)
    fictitious, refuse = domain.accept_fictitious, domain.refuse_numbers
    for position, text in enumerate(call.numbers):
        ssn = parse_ssn(text, accept_fictitious=fictitious, refuse=refuse)
        if isinstance(ssn, ItemError):
            call.results[position] = ssn
            continue
        traits: bytes | None = None
        if sent := call.traits.get(position):
            encoded = encode_traits(sent.given_name, sent.family_name, sent.date_of_birth)
            if isinstance(encoded, ItemError):
                call.results[position] = encoded
                continue
            traits = encoded if domain.keep_traits else None
        number = numbers.get(ssn)
        if number is None:
            number = numbers[ssn] = _Number(ssn)
        number.traits = traits or number.traits
        number.wanted_by.append((call, position))


def _give_tokens(context: Context, domain_name: str, domain: Domain, numbers: dict[Ssn, _Number]) -> None:
    tx = context.tx
    index_keys = context.live_keys(domain_name, KeyKind.INDEX)
    data_key = context.active_key(domain_name, KeyKind.DATA)
    found: dict[Ssn, Token] = {}
    found_at: dict[Ssn, bytes] = {}
    active: dict[bytes, Ssn] = {}
    for key in index_keys:
        by_index = {blind_index(key.secret, ssn): ssn for ssn in numbers if ssn not in found}
        active = active or by_index  # the first key is the active one, and was asked for every number
        for index, token in find_tokens(tx, domain_name, key.version, list(by_index)).items():
            found[by_index[index]] = token
            found_at[by_index[index]] = index
    known = [ssn for ssn in found if numbers[ssn].traits is not None]

    def sealed(token: Token, index: bytes, number: _Number) -> bytes:
        place = Place(domain_name, data_key.version, token, index)
        return seal(data_key.cipher, place, ssn=number.ssn, traits=number.traits)

    drawn: dict[bytes, Token] = {}
    new: list[NewRecord] = []
    for index, ssn in active.items():
        if ssn not in found:
            token = drawn[index] = draw_token(domain_name, domain.token_format)
            new.append(NewRecord(index, token, sealed(token, index, numbers[ssn])))
    if new:
        inserted = insert_records(
            tx,
            domain_name,
            index_version=index_keys[0].version,
            data_version=data_key.version,
            destroy_by=(context.today + timedelta(days=domain.retention_days)).isoformat(),
            records=new,
        )
        found |= {active[index]: drawn[index] for index in inserted}
        if lost := [index for index in drawn if index not in inserted]:
            others = find_tokens(tx, domain_name, index_keys[0].version, lost)
            if len(others) < len(lost):
                raise LostRaceError
            found |= {active[index]: token for index, token in others.items()}
            found_at |= {active[index]: index for index in others}
            known += [active[index] for index in lost if numbers[active[index]].traits is not None]
    newer = {found[ssn]: sealed(found[ssn], found_at[ssn], numbers[ssn]) for ssn in known}
    replace_payloads(tx, data_key.version, newer)
    for ssn, number in numbers.items():
        for call, position in number.wanted_by:
            call.results[position] = found[ssn]
