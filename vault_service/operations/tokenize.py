"""Tokenize: many calls in one transaction, from permission to the recorded tokens.

    decide and parse each call -> look up all numbers by blind index -> insert the new ones -> read back
    what others inserted meanwhile -> put newer traits in place -> record one event a call

`prepare` does what needs no database, under the state that the server knows; `perform` runs inside the
transaction, which has made sure that this state is the one in force. Whether a number was there already
changes neither the answer nor what is recorded (promise 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from vault_service.errors import CallError, ItemCode, ItemError, Reason
from vault_service.keys.envelope import Place, index_maker, seal
from vault_service.keys.keyring import Key
from vault_service.keys.names import KeyKind
from vault_service.linkage.traits import encode_traits
from vault_service.operations.call import TokenizeCall
from vault_service.operations.context import Context, check_reference, check_request_id, require
from vault_service.orders.keys import Keys
from vault_service.policy.decide import TokenizeGrant, permit_tokenize, size_reason
from vault_service.policy.model import Domain
from vault_service.ssn import Ssn, parse_ssn
from vault_service.storage.engine import Statement
from vault_service.storage.records import (
    NewRecord,
    find_tokens,
    insert_records,
    lock_records,
    look_up,
    replace_payloads,
)
from vault_service.tokens import Token, draw_token


class LostRaceError(Exception):
    """A row that was there is gone or was moved: the batch is tried again from its look-up."""


@dataclass(slots=True)
class _Number:
    """One number of a batch: its traits (the last that came), and who waits for its token."""

    ssn: Ssn
    traits: bytes | None = None
    wanted_by: list[tuple[TokenizeCall, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Wanted:
    """All numbers that a batch wants in one domain. `by_index` has them under every live index version."""

    domain_name: str
    domain: Domain
    data_key: Key
    index_keys: list[Key]  # the active one first
    numbers: dict[Ssn, _Number] = field(default_factory=dict)
    by_index: dict[bytes, Ssn] = field(default_factory=dict)
    active: dict[bytes, Ssn] = field(default_factory=dict)  # under the active version only


@dataclass(slots=True)
class Prepared:
    """What a batch comes to before its transaction. `ahead` may be sent together with its first statements."""

    permitted: list[tuple[TokenizeCall, TokenizeGrant]]
    refused: list[tuple[TokenizeCall, CallError]]
    wanted: list[_Wanted]
    ahead: list[Statement]


def prepare(keys: Keys, calls: Sequence[TokenizeCall], items_per_call: int) -> Prepared:
    """Decide and parse every call, and make the blind indexes of its numbers."""
    permitted: list[tuple[TokenizeCall, TokenizeGrant]] = []
    refused: list[tuple[TokenizeCall, CallError]] = []
    by_domain: dict[str, _Wanted] = {}
    for call in calls:
        try:
            grant = _permit(keys, call, items_per_call)
            # Keys first: a call that cannot be served leaves nothing behind in the batch.
            wanted = by_domain.get(call.domain)
            if wanted is None:
                data_key, index_keys = keys.active(call.domain, KeyKind.DATA), keys.live(call.domain, KeyKind.INDEX)
                wanted = by_domain[call.domain] = _Wanted(call.domain, grant.domain, data_key, index_keys)
        except CallError as error:
            refused.append((call, error))
            continue
        _parse(call, grant.domain, wanted.numbers)
        permitted.append((call, grant))
    all_wanted = [wanted for _, wanted in sorted(by_domain.items()) if wanted.numbers]
    for wanted in all_wanted:
        for key in wanted.index_keys:
            index = index_maker(key.secret)
            wanted.by_index.update({index(ssn): ssn for ssn in wanted.numbers})
            wanted.active = wanted.active or dict(wanted.by_index)
    return Prepared(permitted, refused, all_wanted, [_look_up(wanted) for wanted in all_wanted])


def perform(context: Context, prepared: Prepared) -> None:
    """Give every permitted call its tokens; refuse the others."""
    for call, error in prepared.refused:
        context.refuse(call, error, domain=call.domain)
    for number, wanted in enumerate(prepared.wanted):
        ahead = context.tx.ahead
        found = dict(ahead[number]) if ahead else _find(context, wanted)
        _give_tokens(context, wanted, found)
    for call, grant in prepared.permitted:
        errors = sum(isinstance(result, ItemError) for result in call.results)
        facts = {
            "domain": call.domain,
            "person": grant.person,
            "items": len(call.numbers),
            "errors": errors,
            "outcome": "ok",
        }
        context.record(call, facts, [])


def _permit(keys: Keys, call: TokenizeCall, items_per_call: int) -> TokenizeGrant:
    require(domain=call.domain, items=call.numbers)
    state = keys.state
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


def _look_up(wanted: _Wanted) -> Statement:
    return look_up(wanted.domain_name, [key.version for key in wanted.index_keys], list(wanted.by_index))


def _find(context: Context, wanted: _Wanted) -> dict[bytes, Token]:
    versions = [key.version for key in wanted.index_keys]
    return find_tokens(context.tx, wanted.domain_name, versions, list(wanted.by_index))


def _give_tokens(context: Context, wanted: _Wanted, stored: Mapping[bytes, Token]) -> None:
    """`stored` has the tokens of those blind indexes that are there."""
    tx, domain_name, numbers, data_key = context.tx, wanted.domain_name, wanted.numbers, wanted.data_key
    active_version = wanted.index_keys[0].version
    found = {wanted.by_index[index]: token for index, token in stored.items()}
    known = [ssn for ssn in found if numbers[ssn].traits is not None]

    new_indexes = [index for index, ssn in wanted.active.items() if ssn not in found]
    context.encryptions.take(tx, domain_name, data_key.version, len(new_indexes) + len(known))

    def sealed(token: Token, index: bytes, number: _Number) -> bytes:
        place = Place(domain_name, data_key.version, token, index)
        return seal(data_key.cipher, place, ssn=number.ssn, traits=number.traits)

    drawn: dict[bytes, Token] = {}
    new: list[NewRecord] = []
    for index in new_indexes:
        token = drawn[index] = draw_token(domain_name, wanted.domain.token_format)
        new.append(NewRecord(index, token, sealed(token, index, numbers[wanted.active[index]])))
    if new:
        inserted = insert_records(
            tx,
            domain_name,
            index_version=active_version,
            data_version=data_key.version,
            destroy_by=(context.today + timedelta(days=wanted.domain.retention_days)).isoformat(),
            records=new,
        )
        found |= {wanted.active[index]: drawn[index] for index in inserted}
        if lost := [index for index in drawn if index not in inserted]:
            others = find_tokens(tx, domain_name, [active_version], lost)
            if len(others) < len(lost):
                raise LostRaceError
            found |= {wanted.active[index]: token for index, token in others.items()}
            newer = [wanted.active[index] for index in lost if numbers[wanted.active[index]].traits is not None]
            context.encryptions.take(tx, domain_name, data_key.version, len(newer))
            known += newer
    if known:
        # A re-encryption may have moved a record since it was looked up: lock, look again, encrypt to what is locked.
        places = lock_records(tx, [found[ssn] for ssn in known])
        if len(places) < len(known):
            raise LostRaceError
        payloads = [NewRecord(places[t], t, sealed(t, places[t], numbers[ssn])) for ssn in known for t in [found[ssn]]]
        if replace_payloads(tx, data_key.version, payloads) != len(payloads):
            raise LostRaceError
    for ssn, number in numbers.items():
        for call, position in number.wanted_by:
            call.results[position] = found[ssn]
