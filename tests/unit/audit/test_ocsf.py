"""Every kind of event becomes an OCSF event that its class allows, and no number gets through, wherever one stands."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault_service.audit.event import Facts, new_event_id, record
from vault_service.audit.ocsf import LARGEST_COUNT, SCHEMA_VERSION, missing_entry, to_ocsf
from vault_service.errors import Reason
from vault_service.orders.order import Action
from vault_service.policy.model import View
from vault_service.ssn import contains_ssn_shape

AT = 1_790_000_000_123
ORDER, CALL, APPROVAL = (new_event_id() for _ in range(3))

# OCSF 1.8.0 (github.com/ocsf/ocsf-schema, branch v1.8.0): attributes with "requirement": "required" of each class,
# its parents included, and of each object; and of what an object needs at least one.
SCHEMA = "1.8.0"
_BASE_EVENT = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
REQUIRED = {6003: _BASE_EVENT | {"actor", "api", "src_endpoint"}, 3004: _BASE_EVENT | {"entity"}}
REQUIRED_OF_OBJECTS = {"metadata": {"product", "version"}, "api": {"operation"}}
ONE_OF = {
    "actor": {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
    "src_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"},
    "entity": {"name", "uid", "device", "group", "org", "policy", "user"},
}
ACTIVITIES = {
    6003: {0: "Unknown", 1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
    3004: {
        0: "Unknown",
        1: "Create",
        2: "Read",
        3: "Update",
        4: "Delete",
        5: "Move",
        6: "Enroll",
        7: "Unenroll",
        8: "Enable",
        9: "Disable",
        10: "Activate",
        11: "Deactivate",
        12: "Suspend",
        13: "Resume",
    },
}
SEVERITIES = ["Unknown", "Informational", "Low", "Medium", "High", "Critical", "Fatal"]

# Every path that a line may have.
_AT_THE_TOP = {
    "activity_id", "activity_name", "category_uid", "class_uid", "class_name", "type_uid", "severity_id", "severity",
    "status_id", "status", "status_code", "status_detail", "time", "count",
}  # fmt: skip
_BELOW = {
    "metadata": ["version", "log_name", "sequence", "uid", "event_code", "correlation_uid"],
    "metadata.product": ["name", "vendor_name", "version"],
    "actor": ["app_name"],
    "actor.user": ["name", "type", "type_id"],
    "api": ["operation"],
    "api.service": ["name"],
    "src_endpoint": ["name"],
    "resources": ["name", "type"],
    "entity": ["name", "type", "type_id"],
    "entity.policy": ["name"],
    "unmapped": [
        "disclosures", "epoch", "errors", "exact", "failed", "items", "moved", "no_match",
        "purpose", "view", "action", "signed_by", "approvals",
    ],
}  # fmt: skip
PATHS = _AT_THE_TOP | {f"{above}.{name}" for above, names in _BELOW.items() for name in names}

_CALLER: Facts = {"client": "sis", "certificate": "77:aa", "request_id": "r-1", "epoch": 7, "outcome": "ok"}
TOKENIZE: Facts = {**_CALLER, "domain": "k12", "person": "kim", "items": 3, "errors": 1}
DETOKENIZE: Facts = {
    **_CALLER,
    "domain": "k12",
    "purpose": "financial-aid",
    "justification": "audit of the year",
    "person": "kim",
    "view": "LAST4",
    "items": 2,
    "approvals": [APPROVAL],
}
LINKAGE: Facts = {
    **_CALLER,
    "agreement": "k12-highered",
    "asked_sha256": "00" * 32,
    "domain": "k12",
    "items": 9,
    "exact": 4,
    "no_match": 3,
    "errors": 2,
}
REFUSED: Facts = {"client": "sis", "domain": "k12", "purpose": "invalid", "items": 2, "outcome": "FROZEN", "epoch": 7}
REFUSALS: Facts = {"client": "sis", "method": "Detokenize", "reason": "BUDGET_EXCEEDED", "count": 812}
LOSSES: Facts = {"client": "sis", "domain": "k12", "of": CALL, "outcome": "DATA_LOSS", "epoch": 7}
ORDERED: Facts = {
    "order": ORDER,
    "action": "keys.destroy",
    "actor": "kim",
    "signed_by": ["kim", "lee"],
    "outcome": "done",
    "epoch": 8,
}
JOB: Facts = {"order": ORDER, "scope": "k12", "moved": 120, "failed": 0, "outcome": "done"}
KINDS: list[tuple[str, Facts]] = [
    ("tokenize", TOKENIZE),
    ("detokenize", DETOKENIZE),
    ("linkagematch", LINKAGE),
    ("tokenize", REFUSED),
    ("detokenize", REFUSED),
    ("linkagematch", REFUSED),
    ("refusals", REFUSALS),
    ("outcome", LOSSES),
    ("order", ORDERED),
    ("order", {"order": "no uuid", "outcome": "refused", "epoch": 8}),
    ("job", JOB),
    ("retention", {"domain": "k12", "items": 5, "outcome": "ok"}),
    ("", {}),
]


def body_of(kind: str, facts: Facts, event_id: str = CALL) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(record(event_id, kind, AT, facts).event.body)
    return body


def mapped(kind: str, facts: Facts) -> dict[str, Any]:
    return to_ocsf(41, body_of(kind, facts), "1.2.3")


def paths(value: object, at: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path for name, one in value.items() for path in paths(one, f"{at}.{name}" if at else str(name))}
    if isinstance(value, list):
        return {path for one in value for path in paths(one, at)}
    return {at}


def check_schema(event: dict[str, Any]) -> None:
    """What OCSF asks of an event of its class."""
    uid, activity = event["class_uid"], event["activity_id"]
    assert event.keys() >= REQUIRED[uid]
    assert event["category_uid"] == uid // 1000
    assert event["type_uid"] == uid * 100 + activity
    assert event["activity_name"] == ACTIVITIES[uid][activity] if activity != 99 else event["activity_name"]
    assert event["severity"] == SEVERITIES[event["severity_id"]]
    assert event["status"] == ("Unknown", "Success", "Failure")[event["status_id"]]
    for name, attributes in REQUIRED_OF_OBJECTS.items():
        assert name not in event or event[name].keys() >= attributes
    for name, attributes in ONE_OF.items():
        assert name not in event or event[name].keys() & attributes
    assert event["metadata"]["version"] == SCHEMA_VERSION == SCHEMA
    assert len(json.dumps(event)) < 4096


@pytest.mark.parametrize(("kind", "facts"), KINDS)
def test_every_kind_has_what_its_class_requires_and_nothing_else(kind: str, facts: Facts) -> None:
    event = mapped(kind, facts)
    check_schema(event)
    assert paths(event) <= PATHS
    assert event["time"] == AT
    assert event["metadata"]["uid"] == CALL
    assert event["metadata"]["sequence"] == 41


def test_a_whole_detokenize_call() -> None:
    assert mapped("detokenize", DETOKENIZE) == {
        "activity_id": 2,
        "activity_name": "Read",
        "category_uid": 6,
        "class_uid": 6003,
        "class_name": "API Activity",
        "type_uid": 600302,
        "severity_id": 1,
        "severity": "Informational",
        "status_id": 1,
        "status": "Success",
        "time": AT,
        "metadata": {
            "version": "1.8.0",
            "product": {"name": "ssn-vault", "vendor_name": "ssn-vault", "version": "1.2.3"},
            "log_name": "ssn-vault-audit",
            "sequence": 41,
            "uid": CALL,
            "event_code": "detokenize",
        },
        "actor": {"app_name": "sis", "user": {"name": "kim", "type": "User", "type_id": 1}},
        "api": {"operation": "Detokenize", "service": {"name": "ssnvault.v1.SsnVault"}},
        "src_endpoint": {"name": "sis"},
        "resources": [{"name": "k12", "type": "domain"}],
        "unmapped": {
            "disclosures": 0,
            "epoch": 7,
            "items": 2,
            "purpose": "financial-aid",
            "view": "LAST4",
            "approvals": [APPROVAL],
        },
    }


@pytest.mark.parametrize(
    ("kind", "operation", "activity", "type_uid"),
    [
        ("tokenize", "Tokenize", "Create", 600301),
        ("detokenize", "Detokenize", "Read", 600302),
        ("linkagematch", "LinkageMatch", "Match", 600399),
    ],
)
def test_a_call_is_api_activity_also_when_it_was_refused(
    kind: str, operation: str, activity: str, type_uid: int
) -> None:
    for facts in (TOKENIZE, REFUSED):
        event = mapped(kind, facts)
        assert (event["api"]["operation"], event["activity_name"], event["type_uid"]) == (operation, activity, type_uid)


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_is_a_failure_with_its_reason(reason: Reason) -> None:
    event = mapped("detokenize", {**REFUSED, "outcome": reason.value})
    assert (event["status"], event["status_code"], event["severity"]) == ("Failure", reason.value, "Low")
    assert event["status_detail"]


def test_linkage_counts_and_both_names_are_told() -> None:
    event = mapped("linkagematch", LINKAGE)
    assert event["resources"] == [{"name": "k12", "type": "domain"}, {"name": "k12-highered", "type": "agreement"}]
    assert event["unmapped"] == {"disclosures": 0, "epoch": 7, "errors": 2, "exact": 4, "items": 9, "no_match": 3}


def test_counted_refusals_are_one_failed_call_with_their_count() -> None:
    event = mapped("refusals", REFUSALS)
    assert (event["count"], event["status_code"], event["type_uid"]) == (812, "BUDGET_EXCEEDED", 600302)


def test_a_record_that_did_not_open_is_grave_and_names_its_call() -> None:
    event = mapped("outcome", LOSSES)
    assert (event["status"], event["status_code"], event["severity"]) == ("Failure", "DATA_LOSS", "High")
    assert event["metadata"]["correlation_uid"] == CALL


@pytest.mark.parametrize("action", Action)
def test_every_action_of_an_order_is_known(action: Action) -> None:
    event = mapped("order", {**ORDERED, "action": action.value})
    check_schema(event)
    assert event["unmapped"]["action"] == action.value
    assert event["activity_name"] != "Other"


def test_an_order_names_who_asked_and_who_signed() -> None:
    event = mapped("order", ORDERED)
    assert event["type_uid"] == 300404
    assert event["entity"] == {"name": "key", "type": "key", "type_id": 99}
    assert event["actor"]["user"]["name"] == "kim"
    assert event["unmapped"]["signed_by"] == ["kim", "lee"]
    assert event["metadata"]["correlation_uid"] == ORDER


def test_a_refused_order_is_a_failure_without_words_of_a_person() -> None:
    event = mapped("order", {**ORDERED, "outcome": "refused"})
    assert (event["status"], event["status_detail"]) == ("Failure", "The order was refused.")


def test_a_job_is_told_with_its_order_and_is_grave_when_rows_did_not_open() -> None:
    event = mapped("job", JOB)
    assert (event["type_uid"], event["severity"], event["entity"]["name"]) == (300403, "Informational", "k12")
    assert event["metadata"]["correlation_uid"] == ORDER
    assert mapped("job", {**JOB, "failed": 1})["severity"] == "High"


def test_a_kind_of_the_future_is_another_api_activity() -> None:
    event = mapped("retention", {"domain": "k12", "items": 5, "outcome": "swept"})
    assert (event["type_uid"], event["status"], event["api"]["operation"]) == (600399, "Unknown", "retention")
    assert event["metadata"]["event_code"] == "retention"


@pytest.mark.parametrize("view", View)
def test_every_view_is_known(view: View) -> None:
    assert mapped("detokenize", {**DETOKENIZE, "view": view.value})["unmapped"]["view"] == view.value


def test_a_missing_entry_is_told_at_its_position() -> None:
    for event_id in (CALL, None, "gone"):
        event = missing_entry(7, event_id, "1.2.3")
        check_schema(event)
        assert paths(event) <= PATHS
        assert (event["metadata"]["sequence"], event["status"], event["status_detail"]) == (
            7,
            "Failure",
            "entry missing",
        )
        assert event["metadata"].get("uid") == (CALL if event_id == CALL else None)
    assert missing_entry(7, CALL, "1.2.3")["time"] == int(CALL[:8] + CALL[9:13], 16)


# No number

_SEPARATOR = st.sampled_from(["", "-", " "])
_SSN = st.builds(
    "{}{:03}{}{:02}{}{:04}{}".format,
    st.sampled_from(["", "a", "k-", "ssn "]),
    st.integers(900, 999),
    _SEPARATOR,
    st.integers(0, 49),
    _SEPARATOR,
    st.integers(1, 9999),
    st.sampled_from(["", "-x", "z"]),
)
_VALUES = st.recursive(
    _SSN | st.text(max_size=20) | st.integers() | st.integers(900_000_000, 999_499_999) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_NAMES_OF_FACTS = sorted({name for _, facts in KINDS for name in facts} | {"at", "id", "form", "root", "disclosures"})
_BODIES = st.dictionaries(st.sampled_from(_NAMES_OF_FACTS) | _SSN, _VALUES, max_size=14)
_OWN_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def check_no_number(event: dict[str, Any]) -> None:
    check_schema(event)
    assert paths(event) <= PATHS
    line = json.dumps(event)
    assert not contains_ssn_shape(line)
    plain = re.sub(r'"time": [0-9]{13}(?=[,}])', "", _OWN_UUID.sub("", line))
    assert not re.search(r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}", plain)


@given(_BODIES, st.sampled_from([kind for kind, _ in KINDS]) | _SSN | _VALUES, st.booleans())
def test_no_number_gets_through_wherever_it_stands(body: dict[str, Any], kind: object, whole: bool) -> None:
    base = body_of("detokenize", DETOKENIZE) if whole else {}
    check_no_number(to_ocsf(3, {**base, "kind": kind, **body}, "1.2.3"))


@pytest.mark.parametrize("number", ["900123456", "900-12-3456", "a900123456", "a-900-12-3456", 900_123_456])
@pytest.mark.parametrize(("kind", "facts"), KINDS)
def test_no_fact_of_any_kind_holds_a_number(kind: str, facts: Facts, number: str | int) -> None:
    for name in [*_NAMES_OF_FACTS, "kind"]:
        for value in (number, [number]):
            check_no_number(to_ocsf(3, {**body_of(kind, facts), name: value}, "1.2.3"))


@given(_SSN)
def test_a_name_that_is_a_number_is_told_as_invalid(number: str) -> None:
    facts: Facts = {**DETOKENIZE, "client": number, "person": number, "domain": number, "purpose": number}
    event = mapped("detokenize", {**facts, "agreement": number, "view": number, "approvals": [number]})
    assert event["actor"] == {"app_name": "invalid", "user": {"name": "invalid", "type": "User", "type_id": 1}}
    assert event["resources"] == [{"name": "invalid", "type": "domain"}, {"name": "invalid", "type": "agreement"}]
    assert (event["unmapped"]["purpose"], event["unmapped"]["view"]) == ("invalid", "invalid")
    assert "approvals" not in event["unmapped"]


@pytest.mark.parametrize("name", ["items", "errors", "exact", "no_match", "moved", "failed", "epoch"])
def test_a_count_has_at_most_eight_digits(name: str) -> None:
    assert mapped("tokenize", {**TOKENIZE, name: 900_123_456})["unmapped"][name] == LARGEST_COUNT == 99_999_999


@pytest.mark.parametrize("at", [900_123_456, -1, 10**13, "900123456", None, True])
def test_a_time_that_is_none_is_the_one_of_the_id(at: object) -> None:
    event = to_ocsf(3, {**body_of("tokenize", TOKENIZE), "at": at}, "1.2.3")
    assert event["time"] == int(CALL[:8] + CALL[9:13], 16)


def test_a_long_list_is_cut_off_so_that_a_line_stays_in_one_piece() -> None:
    event = mapped("order", {**ORDERED, "signed_by": ["n" * 63] * 500})
    assert len(event["unmapped"]["signed_by"]) == 16
    assert len(json.dumps(event)) < 4096
