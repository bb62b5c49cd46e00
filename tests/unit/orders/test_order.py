"""An order is exactly the canonical text that was signed; nothing else parses, and no other signature holds."""

import json
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import NOW
from vault_service.audit.event import text_hash
from vault_service.errors import OrderRefusedError
from vault_service.orders.order import (
    LIFE_MS,
    Action,
    Order,
    check_new,
    new_order,
    parse_order,
    signature_holds,
    text_of,
)
from vault_service.storage.orders import SignatureRow
from vault_service.storage.texts import TextRow

FREEZE = {"kind": "all", "name": "", "reason": "drill"}


def _order(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW).body)
    return {**fields, **changes}


def _canonical(fields: Any) -> str:
    return rfc8785.dumps(fields).decode()


# The text


def test_a_new_order_is_canonical_and_lives_for_a_day() -> None:
    order = new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW)
    fields = json.loads(order.body)
    assert order.body == _canonical(fields)
    (text,) = order.texts
    assert (text.of, text.name, text.text) == (order.id, "reason", "drill")
    assert fields == {
        "form": 2,
        "id": order.id,
        "action": "incident.freeze",
        "actor": "key-admin-a",
        "arguments": {"kind": "all", "name": "", "reason_sha256": text_hash(text)},
        "issued": NOW,
        "expires": NOW + 24 * 3600 * 1000,
    }
    assert order.message == b"ssn-vault order 1\n" + order.body.encode()


def test_an_order_parses_to_itself() -> None:
    order = new_order(Action.FREEZE, "key-admin-a", {**FREEZE, "reason": "Verdacht: \u00fcbergriffe \U0001f512"}, NOW)
    assert parse_order(order.body) == order


def test_what_a_person_wrote_is_beside_the_order_and_can_be_gone() -> None:
    order = new_order(Action.FREEZE, "key-admin-a", {**FREEZE, "reason": "stolen laptop"}, NOW)
    assert "laptop" not in order.body
    parsed = parse_order(order.body)
    assert text_of(parsed, "reason", order.texts) == "stolen laptop"
    assert text_of(parsed, "reason", []) is None
    (row,) = order.texts
    for other in (row._replace(text="lost laptop"), row._replace(salt="00" * 16), row._replace(of="another")):
        assert text_of(parsed, "reason", [other]) is None


def test_an_order_of_form_1_has_its_text_in_its_body() -> None:
    old = parse_order(_canonical(_order(form=1, arguments=FREEZE)))
    assert text_of(old, "reason", []) == "drill"


def test_a_new_order_is_decided_only_with_the_texts_that_were_signed() -> None:
    order = new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW)
    (row,) = order.texts
    check_new(order, order.texts)
    check_new(order, [row._replace(name="justification"), row, row._replace(of="another")])
    for rows in ([], [row._replace(text="drilL")]):
        with pytest.raises(OrderRefusedError, match="reason is missing"):
            check_new(order, rows)
    with pytest.raises(OrderRefusedError, match="older form"):
        check_new(parse_order(_canonical(_order(form=1, arguments=FREEZE))), [])


@pytest.mark.parametrize("text", ["900-12-3456", "two\nlines", "x" * 501, "\u202egnisrever"])
def test_a_text_that_may_not_be_recorded_is_refused_also_when_it_was_signed(text: str) -> None:
    order_id = new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW).id
    row = TextRow(order_id, "reason", "00" * 16, text)
    arguments = {"kind": "all", "name": "", "reason_sha256": text_hash(row)}
    forged = parse_order(_canonical(_order(id=order_id, arguments=arguments)))
    assert text_of(forged, "reason", [row]) == text
    with pytest.raises(OrderRefusedError, match="no text that may be recorded"):
        check_new(forged, [row])


def test_no_two_orders_share_an_id() -> None:
    ids = {new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW).id for _ in range(1000)}
    assert len(ids) == 1000


@pytest.mark.parametrize(
    "spelling",
    [
        lambda fields: json.dumps(fields),
        lambda fields: json.dumps(fields, sort_keys=True),
        lambda fields: json.dumps(dict(reversed(fields.items())), separators=(",", ":")),
        lambda fields: _canonical(fields) + "\n",
        lambda fields: " " + _canonical(fields),
        lambda fields: _canonical(fields).replace("freeze", "fr\\u0065eze"),
        lambda fields: _canonical(fields).replace('"form":2', '"form":2.0'),
        lambda fields: _canonical(fields).replace('"form":2', '"form":2,"form":2'),
        lambda fields: _canonical(fields).replace(str(NOW), f"{NOW}.0"),
        lambda fields: _canonical(fields)[:-1],
    ],
)
def test_the_same_order_spelled_otherwise_is_refused(spelling: Any) -> None:
    with pytest.raises(OrderRefusedError):
        parse_order(spelling(_order()))


@pytest.mark.parametrize(
    "changes",
    [
        {"form": 0},
        {"form": 3},
        {"form": True},
        {"form": "1"},
        {"id": "01890a5d"},
        {"id": "01890A5D-AC96-774B-BCCE-B302099A8057"},
        {"id": 5},
        {"action": "policy.remove"},
        {"action": None},
        {"action": ["policy.apply"]},
        {"actor": None},
        {"actor": ["key-admin-a"]},
        {"arguments": []},
        {"arguments": "all"},
        {"issued": True},
        {"issued": str(NOW)},
        {"expires": None},
        {"expires": NOW},
        {"expires": NOW - 1},
        {"expires": NOW + LIFE_MS + 1},
        {"note": "one field more"},
    ],
)
def test_a_field_of_the_wrong_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OrderRefusedError):
        parse_order(_canonical(_order(**changes)))


@pytest.mark.parametrize("missing", ["form", "id", "action", "actor", "arguments", "issued", "expires"])
def test_a_missing_field_is_refused(missing: str) -> None:
    fields = _order()
    del fields[missing]
    with pytest.raises(OrderRefusedError):
        parse_order(_canonical(fields))


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "{}", "1", '"order"', "\x00", "{", '{"form":NaN}', '"\\ud800"', "9" * 5000, "{}{}"],
)
def test_what_is_no_order_is_refused(body: str) -> None:
    with pytest.raises(OrderRefusedError):
        parse_order(body)


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_an_order_without_bottom_is_refused(body: str) -> None:
    """Anyone who may insert orders could otherwise stop the work on everybody's."""
    with pytest.raises(OrderRefusedError):
        parse_order(body)


@given(st.text(max_size=60) | st.text(alphabet='{}[]":,1a', max_size=40))
def test_arbitrary_text_is_refused(body: str) -> None:
    with pytest.raises(OrderRefusedError):
        parse_order(body)


@pytest.mark.parametrize("text", ["900-12-3456", "900123456", "see 900 12 3456", "\uff19\uff10\uff10123456"])
def test_an_order_cannot_carry_what_looks_like_a_number(text: str) -> None:
    with pytest.raises(OrderRefusedError) as caught:
        new_order(Action.FREEZE, "key-admin-a", {**FREEZE, "reason": text}, NOW)
    assert text not in str(caught.value)


def test_digits_may_stand_in_a_wrapped_key_and_in_a_policy() -> None:
    wrapped = {"scope": "k12", "kind": "data", "version": 1, "wrapped": "vault:v1:900123456+"}
    assert new_order(Action.CREATE_KEY, "key-admin-a", wrapped, NOW).arguments == wrapped
    policy = {"base": 0, "policy": 'refuse_numbers: ["900123456"]'}
    assert new_order(Action.APPLY_POLICY, "signer-a", policy, NOW).arguments == policy


# The signature


def _raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _signed(order: Order, key: Ed25519PrivateKey, version: int = 1) -> SignatureRow:
    return SignatureRow("key-admin-a", version, key.sign(order.message))


@pytest.fixture
def order() -> Order:
    return new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_the_persons_signature_holds(order: Order, key: Ed25519PrivateKey) -> None:
    assert signature_holds(order, _signed(order, key), {1: _raw(key)})


def test_a_signature_holds_under_its_own_key_version_only(order: Order, key: Ed25519PrivateKey) -> None:
    other = Ed25519PrivateKey.generate()
    keys = {1: _raw(other), 2: _raw(key)}
    assert signature_holds(order, _signed(order, key, 2), keys)
    assert not signature_holds(order, _signed(order, key, 1), keys)
    assert not signature_holds(order, _signed(order, key, 3), keys)
    assert not signature_holds(order, _signed(order, key), {})


def test_another_persons_signature_does_not_hold(order: Order, key: Ed25519PrivateKey) -> None:
    assert not signature_holds(order, _signed(order, Ed25519PrivateKey.generate()), {1: _raw(key)})


@pytest.mark.parametrize(
    "prefix", [b"", b"ssn-vault order 2\n", b"ssn-vault order 1", b"SSN-vault order 1\n", b"ssn-vault checkpoint 1\n"]
)
def test_a_signature_over_another_kind_of_text_does_not_hold(
    order: Order, key: Ed25519PrivateKey, prefix: bytes
) -> None:
    row = SignatureRow("key-admin-a", 1, key.sign(prefix + order.body.encode()))
    assert not signature_holds(order, row, {1: _raw(key)})


def test_a_signature_does_not_hold_for_another_order(order: Order, key: Ed25519PrivateKey) -> None:
    other = new_order(Action.FREEZE, "key-admin-a", FREEZE, NOW)
    assert not signature_holds(other, _signed(order, key), {1: _raw(key)})


def test_a_changed_byte_of_the_order_breaks_the_signature(order: Order, key: Ed25519PrivateKey) -> None:
    row = _signed(order, key)
    for before, after in (('"all"', '"alL"'), ("key-admin-a", "key-admin-b"), (str(NOW), str(NOW + 1))):
        changed = parse_order(order.body.replace(before, after, 1))
        assert changed.body != order.body
        assert not signature_holds(changed, row, {1: _raw(key)})


def test_any_changed_bit_of_the_signature_breaks_it(order: Order, key: Ed25519PrivateKey) -> None:
    row = _signed(order, key)
    for bit in range(512):
        changed = bytearray(row.signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not signature_holds(order, row._replace(signature=bytes(changed)), {1: _raw(key)})


@pytest.mark.parametrize("signature", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65])
def test_what_is_no_signature_does_not_hold(order: Order, key: Ed25519PrivateKey, signature: bytes) -> None:
    assert not signature_holds(order, SignatureRow("key-admin-a", 1, signature), {1: _raw(key)})
