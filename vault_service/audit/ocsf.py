"""An entry of the log as one event of the Open Cybersecurity Schema Framework (OCSF), for collectors elsewhere.

An entry's position and body come in, a dictionary for JSON goes out. Pure, and an allow-list: nothing gets
through but names of the policy's form, words known here, counts, times, positions and this service's own UUIDs.
Never justification, request id, token, certificate, hash, or any text that a person wrote.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from vault_service.audit.event import INVALID
from vault_service.errors import ANSWERS, ItemCode, Reason

SCHEMA_VERSION: Final = "1.8.0"  # of OCSF: what `metadata.version` says
LARGEST_COUNT: Final = 99_999_999  # nine digits could pass for a number: a larger count is told as this one

_PRODUCT: Final = "ssn-vault"
_SERVICE: Final = "ssnvault.v1.SsnVault"
_LOG_NAME: Final = "ssn-vault-audit"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_DIGITS_OF_A_NUMBER: Final = 9
_OWN_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIMES: Final = range(10**12, 10**13)  # 13 digits of milliseconds: the years 2001 to 2286
_LISTED: Final = 16  # of a list; with it a line stays below 4,096 bytes

_UNKNOWN, _OTHER = 0, 99  # of activity_id, severity_id, status_id
_SUCCESS, _FAILURE = 1, 2
_INFORMATIONAL, _LOW, _HIGH, _CRITICAL = 1, 2, 4, 5
_SEVERITIES: Final = {0: "Unknown", 1: "Informational", 2: "Low", 4: "High", 5: "Critical"}
_STATUSES: Final = {0: "Unknown", 1: "Success", 2: "Failure"}
_POLICY_ENTITY: Final = 5  # managed_entity.type_id


class _Class(NamedTuple):
    uid: int
    category: int
    caption: str


_API_ACTIVITY: Final = _Class(6003, 6, "API Activity")
_ENTITY_MANAGEMENT: Final = _Class(3004, 3, "Entity Management")


class _Activity(NamedTuple):
    """What was done: OCSF's activity, and the API's operation or the entity that it was done to."""

    id: int
    caption: str
    what: str


_CALLS: Final = {
    "tokenize": _Activity(1, "Create", "Tokenize"),
    "detokenize": _Activity(2, "Read", "Detokenize"),
    "linkagematch": _Activity(_OTHER, "Match", "LinkageMatch"),
}
_ORDERS: Final = {
    "keys.set-aside": _Activity(3, "Update", "key"),
    "policy.apply": _Activity(3, "Update", "policy"),
    "keys.create": _Activity(1, "Create", "key"),
    "keys.activate": _Activity(10, "Activate", "key"),
    "keys.rewrap": _Activity(3, "Update", "key"),
    "keys.reencrypt": _Activity(3, "Update", "key"),
    "keys.retire": _Activity(11, "Deactivate", "key"),
    "keys.destroy": _Activity(4, "Delete", "key"),
    "incident.freeze": _Activity(12, "Suspend", "access"),
    "incident.thaw": _Activity(13, "Resume", "access"),
    "incident.drill": _Activity(_OTHER, "Rehearse", "procedure"),
    "approvals.bulk": _Activity(1, "Create", "approval"),
    "approvals.deny": _Activity(_OTHER, "Deny", "approval"),
    "audit.accept-loss": _Activity(_OTHER, "Accept Loss", "record"),
}
_COUNTS: Final = ("disclosures", "epoch", "errors", "exact", "failed", "items", "moved", "no_match")
_VIEWS: Final = frozenset({"LAST4", "FULL"})


class _Ending(NamedTuple):
    """How it ended: status, severity, the reason's word and its fixed text."""

    status: int
    severity: int
    code: str | None = None
    detail: str | None = None


_ENDINGS: Final = {
    "ok": _Ending(_SUCCESS, _INFORMATIONAL),
    "done": _Ending(_SUCCESS, _INFORMATIONAL),
    "refused": _Ending(_FAILURE, _LOW, "refused", "The order was refused."),
    ItemCode.DATA_LOSS.value: _Ending(_FAILURE, _HIGH, ItemCode.DATA_LOSS.value, "A record did not open."),
    **{reason.value: _Ending(_FAILURE, _LOW, reason.value, ANSWERS[reason].text) for reason in Reason},
}
_NOT_KNOWN: Final = _Ending(_UNKNOWN, _UNKNOWN)
_MISSING: Final = _Ending(_FAILURE, _CRITICAL, None, "entry missing")


def to_ocsf(position: int, body: Mapping[str, Any], product_version: str) -> dict[str, Any]:
    """The entry at `position` (from 0) with the body `body` as an event of OCSF 1.8.0; never raises for a body.

    Calls and their refusals are API Activity (6003), which is for create, read and other calls of an API.
    Counted refusals (`refusals`) are the same with a `count`, because they are those calls, only not told one by one.
    Records that did not open (`outcome`) are a failed Read of API Activity: they say how a call ended that stands in
    the log (`metadata.correlation_uid`), where a Finding would claim an analysis that nobody made.
    Orders are Entity Management (3004), because a person changes a policy, key, access or approval that is managed.
    Finished jobs are an Update of Entity Management, because they complete an order, on nobody's call.
    Kinds that are not known here are API Activity, Other.

    `metadata.uid` is the event's id and `metadata.sequence` its position, both the same in every repetition. A name
    that has not the policy's form, or nine digits, is told as `invalid`; a UUID that is not of version 7 is left out.
    """
    kind = _text(body.get("kind"))
    match kind:
        case "order":
            event = _order(body)
        case "job":
            event = _job(body)
        case "refusals":
            activity = _CALLS.get(_text(body.get("method")).lower(), _Activity(_OTHER, "Other", INVALID))
            event = _call(body, activity, _ending(body.get("reason")))
            event |= _present(count=_count(body.get("count")))
        case "outcome":
            event = _call(body, _CALLS["detokenize"], _ending(body.get("outcome")))
        case _:
            activity = _CALLS.get(kind, _Activity(_OTHER, "Other", _name(kind)))
            event = _call(body, activity, _ending(body.get("outcome")))
    event_id = _own_uuid(body.get("id"))
    at = body.get("at")
    time = at if type(at) is int and at in _TIMES else _time_of(event_id)
    related = _own_uuid(body.get("order")) or _own_uuid(body.get("of"))
    about = _metadata(position, event_id, product_version) | _present(event_code=_name(kind), correlation_uid=related)
    return event | {"time": time, "metadata": about} | _present(unmapped=_unmapped(body))


def missing_entry(position: int, event_id: str | None, product_version: str) -> dict[str, Any]:
    """What is told of an entry that cannot be read: an event of its position that failed with `entry missing`.

    `event_id` is the one that the log holds there, None when it holds none. Unlike an order nobody asked for it,
    and like a call of a kind that cannot be told it is API Activity, Unknown. The time is the one in the id, or 0.
    """
    uid = _own_uuid(event_id)
    event = _call({}, _Activity(_UNKNOWN, "Unknown", INVALID), _MISSING)
    return event | {"time": _time_of(uid), "metadata": _metadata(position, uid, product_version)}


def _call(body: Mapping[str, Any], activity: _Activity, ending: _Ending) -> dict[str, Any]:
    client = _name(body.get("client"))
    resources = [{"name": _name(body[kind]), "type": kind} for kind in ("domain", "agreement") if kind in body]
    return {
        **_classified(_API_ACTIVITY, activity, ending),
        "actor": {"app_name": client} | _user(body.get("person")),
        "api": {"operation": activity.what, "service": {"name": _SERVICE}},
        "src_endpoint": {"name": client},
        **_present(resources=resources),
    }


def _order(body: Mapping[str, Any]) -> dict[str, Any]:
    activity = _ORDERS.get(_text(body.get("action")), _Activity(_OTHER, "Other", "order"))
    entity: dict[str, Any] = {"name": activity.what, "type": activity.what, "type_id": _OTHER}
    if activity.what == "policy":
        entity = {"name": "policy", "type": "Policy", "type_id": _POLICY_ENTITY, "policy": {"name": "policy"}}
    event = _classified(_ENTITY_MANAGEMENT, activity, _ending(body.get("outcome"))) | {"entity": entity}
    return event | _present(actor=_user(body.get("actor")))


def _job(body: Mapping[str, Any]) -> dict[str, Any]:
    ending = _ending(body.get("outcome"))
    if _count(body.get("failed")):
        ending = ending._replace(severity=_HIGH)  # rows that did not open: it is done, but somebody has to look
    entity = {"name": _name(body.get("scope")), "type": "key", "type_id": _OTHER}
    return _classified(_ENTITY_MANAGEMENT, _Activity(3, "Update", "key"), ending) | {"entity": entity}


def _classified(of: _Class, activity: _Activity, ending: _Ending) -> dict[str, Any]:
    return {
        "activity_id": activity.id,
        "activity_name": activity.caption,
        "category_uid": of.category,
        "class_uid": of.uid,
        "class_name": of.caption,
        "type_uid": of.uid * 100 + activity.id,
        "severity_id": ending.severity,
        "severity": _SEVERITIES[ending.severity],
        "status_id": ending.status,
        "status": _STATUSES[ending.status],
        **_present(status_code=ending.code, status_detail=ending.detail),
    }


def _metadata(position: int, event_id: str | None, product_version: str) -> dict[str, Any]:
    return {
        "version": SCHEMA_VERSION,
        "product": {"name": _PRODUCT, "vendor_name": _PRODUCT, "version": product_version},
        "log_name": _LOG_NAME,
        "sequence": position,
        **_present(uid=event_id),
    }


def _unmapped(body: Mapping[str, Any]) -> dict[str, Any]:
    """What OCSF has no attribute for, under the names that the event has for it."""
    found = _present(**{name: _count(body.get(name)) for name in _COUNTS})
    if "purpose" in body:
        found["purpose"] = _name(body["purpose"])
    for name, known in (("view", _VIEWS), ("action", _ORDERS)):
        if name in body:
            word = _text(body[name])
            found[name] = word if word in known else INVALID
    people, approvals = _list(body.get("signed_by")), _list(body.get("approvals"))
    ids = [own for approval in approvals if (own := _own_uuid(approval))]
    return found | _present(signed_by=[_name(person) for person in people], approvals=ids)


def _user(person: object) -> dict[str, Any]:
    return {} if person is None else {"user": {"name": _name(person), "type": "User", "type_id": 1}}


def _present(**attributes: object) -> dict[str, Any]:
    """Those that have a value."""
    return {name: value for name, value in attributes.items() if value not in (None, [], {})}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value[:_LISTED] if isinstance(value, list) else []


def _name(value: object) -> str:
    text = _text(value)
    digits = sum(map(text.count, "0123456789"))
    return text if _NAME.fullmatch(text) and digits < _DIGITS_OF_A_NUMBER else INVALID


def _count(value: object) -> int | None:
    return min(value, LARGEST_COUNT) if type(value) is int and value >= 0 else None


def _own_uuid(value: object) -> str | None:
    text = _text(value)
    return text if _OWN_UUID.fullmatch(text) else None


def _time_of(event_id: str | None) -> int:
    """The milliseconds that a UUIDv7 carries (RFC 9562, section 5.7); 0 without one of our time."""
    time = int(event_id[:8] + event_id[9:13], 16) if event_id else 0
    return time if time in _TIMES else 0


def _ending(word: object) -> _Ending:
    return _ENDINGS.get(_text(word), _NOT_KNOWN)
