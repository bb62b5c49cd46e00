"""Events are canonical JSON with the root over their disclosure rows: anybody's verifier comes to the same bytes."""

import json
import re
import time
import uuid
from hashlib import sha256

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from vault_service.audit.event import (
    Disclosed,
    canonical,
    disclosure_leaf,
    new_event_id,
    record,
)
from vault_service.storage.events import DisclosureRow

# RFC 8785 is for I-JSON (RFC 7493): no lone surrogates, integers that a double can hold.
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
_INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
_NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
_FACTS = st.dictionaries(_NAMES, _TEXTS | _INTEGERS | st.lists(_TEXTS, max_size=4), max_size=8)


@given(_FACTS)
def test_the_body_is_canonical_as_the_full_library_has_it(facts: dict[str, str | int | list[str]]) -> None:
    assert canonical(facts).encode() == rfc8785.dumps(facts)


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(0x20))),
        "\x7f\x80\x9f\u2028\u2029\ufeff",
        "\"\\/<>&'",
        "Justificaci\u00f3n: revisi\u00f3n de beca \u2014 \u5b66\u751f \U0001f393",
        "e\u0301 \u00e9",
    ],
)
def test_awkward_texts_are_canonical_too(text: str) -> None:
    assert canonical({"justification": text}).encode() == rfc8785.dumps({"justification": text})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_know_is_never_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"score": value})


# Ids


def test_an_event_id_is_a_uuid_of_version_7() -> None:
    for _ in range(500):
        text = new_event_id()
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)


def test_an_event_id_carries_its_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    carried = uuid.UUID(new_event_id()).int >> 80
    assert before <= carried <= time.time_ns() // 1_000_000


def test_event_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for millisecond in (0, 1, 255, 256, 2**32, 1_900_000_000_000, 1_900_000_000_001, 2**47):
        monkeypatch.setattr(time, "time_ns", lambda at=millisecond: at * 1_000_000)
        ids += sorted(new_event_id() for _ in range(20))
    assert ids == sorted(ids)


def test_the_74_bits_after_the_time_are_random() -> None:
    ids = [uuid.UUID(new_event_id()).int & ((1 << 80) - 1) for _ in range(3000)]
    ever, always = 0, (1 << 80) - 1
    for value in ids:
        ever |= value
        always &= value
    assert ever & ~always == (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
    assert len(set(ids)) == len(ids)


# Events


def _leaf(row: DisclosureRow) -> bytes:
    """RFC 6962, section 2.1, over the full library's bytes."""
    return sha256(b"\x00" + rfc8785.dumps(row._asdict())).digest()


_DISCLOSED = [Disclosed("k12", "k12_A", "found"), Disclosed("k12", "invalid", "missing")]


def test_an_event_carries_its_facts_and_the_root_over_its_disclosure_rows() -> None:
    event_id = new_event_id()
    recorded = record(event_id, "detokenize", 1_900_000_000_000, {"client": "sis", "person": None}, _DISCLOSED)
    assert json.loads(recorded.event.body) == {
        "at": 1_900_000_000_000,
        "client": "sis",
        "disclosures": 2,
        "form": 3,
        "id": event_id,
        "kind": "detokenize",
        "root": sha256(b"\x01" + _leaf(recorded.disclosures[0]) + _leaf(recorded.disclosures[1])).hexdigest(),
    }
    assert recorded.event.body.encode() == rfc8785.dumps(json.loads(recorded.event.body))
    assert recorded.event.hash == sha256(recorded.event.body.encode()).digest()
    assert recorded.event.id == event_id


def test_a_text_is_kept_beside_the_event_which_carries_its_salted_hash() -> None:
    first, second = (record("e", "detokenize", 1, {}, (), {"justification": "a transcript"}) for _ in range(2))
    (row,) = first.texts
    assert (row.of, row.name, row.text) == ("e", "justification", "a transcript")
    assert re.fullmatch(r"[0-9a-f]{32}", row.salt)
    assert "transcript" not in first.event.body
    body = json.loads(first.event.body)
    assert body["justification_sha256"] == sha256(rfc8785.dumps(row._asdict())).hexdigest()
    assert body["justification_sha256"] != json.loads(second.event.body)["justification_sha256"]


@pytest.mark.parametrize("name", ["client", "person", "request_id", "purpose", "action", "actor"])
def test_nothing_that_looks_like_a_number_is_recorded_wherever_it_came_from(name: str) -> None:
    for text in ("900-12-3456", "see 900%2D12%2D3456"):
        body = record("e", "detokenize", 1, {name: text, "signed_by": ["a", text]}).event.body
        assert (json.loads(body)[name], json.loads(body)["signed_by"]) == ("invalid", ["a", "invalid"])
        with pytest.raises(ValueError, match=f"^{name} holds") as caught:
            record("e", "detokenize", 1, {}, (), {name: text})
        assert "12" not in str(caught.value)


def test_the_random_names_of_things_are_recorded_as_they_are() -> None:
    facts = {
        "certificate": "4a" + "912345678" * 3,
        "order": "912345678",
        "of": "912345678",
        "asked_sha256": "912345678",
    }
    assert json.loads(record("e", "detokenize", 1, facts).event.body).items() >= facts.items()


def test_a_disclosure_row_stands_in_the_order_asked_with_a_salt_of_its_own() -> None:
    rows = record("e", "detokenize", 1, {}, _DISCLOSED * 50).disclosures
    assert [row.position for row in rows] == list(range(100))
    assert [(row.domain, row.token, row.outcome) for row in rows] == [tuple(d) for d in _DISCLOSED * 50]
    assert all(re.fullmatch(r"[0-9a-f]{32}", row.salt) for row in rows)
    assert len({row.salt for row in rows}) == 100


def test_a_leaf_is_the_hash_of_its_row_as_canonical_json() -> None:
    row = DisclosureRow("e", 3, "k12", "k12_A", "found", "00" * 16)
    assert disclosure_leaf(row) == _leaf(row)


def test_an_event_without_disclosures_has_the_empty_root() -> None:
    body = json.loads(record("e", "tokenize", 1, {}).event.body)
    assert (body["disclosures"], body["root"]) == (0, sha256(b"").hexdigest())


@pytest.mark.parametrize("name", ["at", "disclosures", "form", "id", "kind", "root"])
def test_a_fact_cannot_replace_what_an_event_is(name: str) -> None:
    body = json.loads(record("e", "tokenize", 1, {name: "forged"}).event.body)
    assert body[name] != "forged"
